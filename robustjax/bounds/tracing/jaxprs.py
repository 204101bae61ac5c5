"""From a JAX function to a short list of nodes that bounds are carried through.

The function is traced once. Calls inside it are inlined, and what does not depend on
the bounded input is computed on the spot. Every node that is left is affine in what is
bounded, an elementwise function of it, a product, or known to intervals alone.

The only module that touches `jax.extend.core`.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from robustjax.bounds import integers, operations
from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.operations import Affine, Operation, UnsupportedError
from robustjax.bounds.rules import (
    affine,
    complex_numbers,
    curves,
    elementwise,
    indexing,
    logic,
    narrow_floats,
    ordering,
    products,
    sigmoidal,
    steps,
)
from robustjax.bounds.rules.special import curved, monotone
from robustjax.bounds.tracing import (
    calls,
    control_flow,
    functions,
    primitives,
)
from robustjax.bounds.tracing.primitives import Bind

_PLACE = re.compile(r"\(.+:\d+\)|\(source unknown\)")
_RULE_MODULES = (
    affine, curved, curves, elementwise, indexing, logic, monotone, narrow_floats,
    ordering, products, sigmoidal, steps,
)  # fmt: skip


def trace(
    fn: Callable[[jax.Array], jax.Array],
    x: jax.ShapeDtypeStruct,
    *,
    casts: str = "cover",
    covers_rounding: bool = False,
) -> Graph:
    """The graph of a function of one array. [device].

    Args:
        fn: maps an array like x to an array.
        x: shape and dtype of the input.
        casts: what to do about narrower floats than those of x. "cover": results that
            the function has in such floats may be rounded either way; "ignore":
            conversions between floats are left out, so that every node computes in the
            dtype of x, and so does what does not depend on x.
        covers_rounding: whether bounds have to cover that of the dtype of x.

    Returns:
        Its nodes, in order.

    Raises:
        UnsupportedError: if a primitive has no rule, names it.
        TypeError: if the function does not return one array.
    """
    closed = jax.make_jaxpr(fn)(x)
    if len(closed.out_avals) != 1:
        raise TypeError(
            f"Expected fn to return one array, got {len(closed.out_avals)}."
        )
    unit = float(jnp.finfo(x.dtype).eps) if covers_rounding else 0.0
    builder = _Builder(x, casts=casts, unit=unit)
    (output,) = builder.inline(closed.jaxpr, closed.consts, [builder.input], [True])
    value = builder.as_value(output)  # may add a node
    return _of_needed(builder.nodes, value, x.shape, unit=unit)


def _of_needed(
    nodes: Sequence[Node], output: int, shape: Sequence[int], *, unit: float
) -> Graph:
    """The graph of the nodes that the output depends on."""
    needed = {output}
    for value in range(output, 0, -1):
        if value in needed:
            needed.update(nodes[value - 1].inputs)
    kept = sorted(needed - {0})
    place = {0: 0} | {value: k for k, value in enumerate(kept, start=1)}
    own = [
        nodes[v - 1]._replace(inputs=tuple(place[i] for i in nodes[v - 1].inputs))
        for v in kept
    ]
    return Graph(tuple(own), place[output], tuple(shape), unit)


def without_casts(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """fn(x) as bounds see it, in the dtype of x; as it is where they have no rule."""
    try:
        graph = trace(fn, jax.typeof(x), casts="ignore")
    except UnsupportedError:
        return fn(x)
    return graph.at(x)


class _Builder:
    """Collects nodes while it reads a jaxpr."""

    def __init__(self, x: jax.ShapeDtypeStruct, *, casts: str, unit: float) -> None:
        self.nodes: list[Node] = []
        self.sizes: dict[int, int] = {}  # of integers, the largest they can get
        self.dtype = x.dtype  # of all that is bounded, but for counts and truth values
        self.wide = x.dtype if casts == "ignore" else None  # also of constants
        self.unit = unit
        self.input = operations.Bounded(0, tuple(x.shape), x.dtype)

    def inline(
        self,
        jaxpr: core.Jaxpr,
        consts: Sequence[Any],
        arguments: Sequence[Any],
        is_needed: Sequence[bool],
        site: str = "",
    ) -> list[Any]:
        """The results of a jaxpr that is called at a site, constants or `Bounded`.

        None stands for those that are not needed, and equations of which no result is
        are left out: a derivative keeps much of what it never uses.
        """
        known: dict[Any, Any] = {}
        known |= zip(jaxpr.constvars, consts, strict=True)
        known |= zip(jaxpr.invars, arguments, strict=True)

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else known[atom]

        outputs = zip(jaxpr.outvars, is_needed, strict=True)
        needed = {v for v, is_used in outputs if is_used and isinstance(v, core.Var)}
        equations = []
        for equation in reversed(jaxpr.eqns):
            used = [v in needed for v in equation.outvars]
            if any(used) or equation.effects:
                equations.append((equation, used))
                needed |= {v for v in equation.invars if isinstance(v, core.Var)}
        for equation, used in reversed(equations):
            here = calls.source(equation) or site
            values = [read(atom) for atom in equation.invars]
            results = self._apply(equation, values, used, site=here)
            known |= zip(equation.outvars, results, strict=True)
        return [
            read(atom) if is_used else None
            for atom, is_used in zip(jaxpr.outvars, is_needed, strict=True)
        ]

    def _apply(
        self,
        equation: core.JaxprEqn,
        arguments: list[Any],
        is_needed: list[bool],
        *,
        site: str,
    ) -> list[Any]:
        if equation.primitive.name in control_flow.KINDS and not equation.effects:
            return self._written_out(equation, arguments, site=site)
        called = calls.called(equation, site)
        if called is not None:
            return self._call(called, arguments, is_needed, site=site)
        has_narrow = primitives.has_narrow_floats(equation, self.dtype)
        is_narrow = has_narrow and self.wide is None
        is_bounded = not all(map(_is_constant, arguments))
        wide = self.dtype if is_narrow and is_bounded else self.wide
        bind = Bind(equation.primitive, equation.params, wide)
        if self.wide is not None:
            self._check_bits(equation, site)
        if wide is not None:  # rules see constants of the one dtype
            arguments = [
                primitives.cast(a, wide) if _is_constant(a) else a for a in arguments
            ]
        if self.wide is not None and primitives.rounds(equation):
            return arguments[:1]
        if not is_bounded:
            return self._of_constants(equation, bind, arguments)
        if complex_numbers.makes(equation) or complex_numbers.has_any(arguments):
            return [self._complex(bind, arguments, site)]
        found = self._by_rule(bind, arguments, site)
        return self._rounded(equation, found) if is_narrow else found

    def _of_constants(
        self, equation: core.JaxprEqn, bind: Bind, arguments: list[Any]
    ) -> list[Any]:
        known = primitives.folded(equation, arguments) if bind.wide is None else None
        if known is not None:
            return [known]
        with primitives.at_once(equation, arguments):
            results = bind(*arguments)
        return list(results) if equation.primitive.multiple_results else [results]

    def _call(
        self,
        called: core.ClosedJaxpr,
        arguments: list[Any],
        is_needed: list[bool],
        *,
        site: str,
    ) -> list[Any]:
        """The results of a call: by the rule of a function of JAX, or what it calls."""
        dtypes = [aval.dtype for aval in called.out_avals]
        is_narrow = any(narrow_floats.are_narrower(d, self.dtype) for d in dtypes)
        rule = None if is_narrow and self.wide is None else functions.rule_of(called)

        def call(*values: Any) -> Any:  # of constants
            return self.inline(
                called.jaxpr, called.consts, values, [True] * len(dtypes), site
            )

        if rule is not None and any(
            isinstance(a, operations.Bounded) for a in arguments
        ):
            found = rule(self._add, call, arguments)
            if found is not None:
                return [found]
        return self.inline(called.jaxpr, called.consts, arguments, is_needed, site)

    def _check_bits(self, equation: core.JaxprEqn, site: str) -> None:
        """Raises where floats of more bits would give something else."""
        name = equation.primitive.name
        if primitives.is_of_bits(equation, self.wide):
            raise UnsupportedError(
                f"What {name!r} gives may be far from it in {self.wide}, in which this "
                "is decided; compute it outside of the function "
                f"({site or 'source unknown'})."
            )

    def _by_rule(self, bind: Bind, arguments: list[Any], site: str) -> list[Any]:
        name = bind.primitive.name
        rule = operations.for_primitive(name)
        if rule is None:
            raise UnsupportedError(
                f"No rule to carry bounds through the primitive {name!r} "
                f"({site or 'source unknown'}). If it is a function of single numbers, "
                f"register one: robustjax.bounds.register({name!r}, ...)."
            )
        try:
            return _as_list(rule(self._add, bind, arguments))
        except UnsupportedError as error:
            raise UnsupportedError(f"{error} ({site or 'source unknown'})") from None

    def _complex(self, bind: Bind, arguments: list[Any], site: str) -> Any:
        """A result of complex numbers, of which rules see the parts."""

        def by_rule(name: str, parts: Sequence[Any]) -> Any:
            if not any(isinstance(p, operations.Bounded) for p in parts):
                return bind(*parts)
            return self._by_rule(bind, list(parts), site)[0]

        try:
            return complex_numbers.through(self._add, bind, arguments, by_rule=by_rule)
        except UnsupportedError as error:
            raise UnsupportedError(f"{error} ({site or 'source unknown'})") from None

    def _rounded(self, equation: core.JaxprEqn, results: list[Any]) -> list[Any]:
        """Results as they are in narrower floats, rounded once."""
        if narrow_floats.is_exact(equation):
            return results
        dtypes = primitives.dtypes(equation.outvars)
        return [
            self._add(narrow_floats.rounding_to(dtype), [result])
            if isinstance(result, operations.Bounded)
            and narrow_floats.are_narrower(dtype, self.dtype)
            else result
            for result, dtype in zip(results, dtypes, strict=True)
        ]

    def _written_out(
        self, equation: core.JaxprEqn, arguments: list[Any], *, site: str
    ) -> list[Any]:
        """The results of a loop or of branches."""
        is_bounded = any(isinstance(a, operations.Bounded) for a in arguments)
        if not is_bounded and self.wide is None:
            with primitives.at_once(equation, arguments):
                return list(equation.primitive.bind(*arguments, **equation.params))

        def inline(jaxpr: Any, values: Sequence[Any]) -> list[Any]:
            closed = calls.closed(jaxpr)
            needed = [True] * len(closed.out_avals)
            return self.inline(closed.jaxpr, closed.consts, values, needed, site)

        try:
            return control_flow.written_out(
                equation.primitive.name,
                equation.params,
                arguments,
                add=self._add,
                inline=inline,
            )
        except UnsupportedError as error:
            if _PLACE.search(str(error)):  # inside of the body
                raise
            where = site or "source unknown"
            raise UnsupportedError(f"{error} ({where})") from None

    def _add(
        self, operation: Operation, arguments: Sequence[Any]
    ) -> operations.Bounded:
        bounded = [a for a in arguments if isinstance(a, operations.Bounded)]
        structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in bounded]
        result = jax.eval_shape(operation.point, *structs)
        inputs = tuple(a.value for a in bounded)
        shapes = [result.shape, *(a.shape for a in bounded)]
        num_terms = max(map(math.prod, shapes))
        is_float = bool(jnp.issubdtype(result.dtype, jnp.floating))
        added = operations.Bounded(len(self.nodes) + 1, result.shape, result.dtype)
        integers.check(operation, bounded)
        if integers.is_integer(added):
            self.sizes[added.value] = integers.largest(
                operation, bounded, added, sizes=self.sizes
            )
        unit = self.unit
        if unit and is_float:
            unit = max(unit, float(jnp.finfo(result.dtype).eps))
        self.nodes.append(
            Node(operation, inputs, result.shape, unit, num_terms, is_float)
        )
        return added

    def as_value(self, result: Any) -> int:
        """The value of a result; a constant becomes a node that ignores the input."""
        if isinstance(result, operations.Bounded):
            return result.value
        if isinstance(result, complex_numbers.Complex):
            raise UnsupportedError("Expected fn to return real numbers, got complex.")
        constant = Affine(
            lambda _: jnp.asarray(result), lambda _: jnp.zeros_like(result), signs=(1,)
        )
        return self._add(constant, [self.input]).value


def _as_list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


def _is_constant(argument: Any) -> bool:
    kinds = operations.Bounded | complex_numbers.Complex
    return not isinstance(argument, kinds)
