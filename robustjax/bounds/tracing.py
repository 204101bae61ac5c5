"""From a JAX function to a short list of nodes that bounds are carried through.

The function is traced once. Calls inside it are inlined, and what does not depend on
the bounded input is computed on the spot. Every node that is left is affine in what is
bounded, an elementwise function of it, a product, or known to intervals alone.

The only module that touches `jax.extend.core`.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from robustjax.bounds import integers, operations
from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.operations import Affine, Operation, UnsupportedError
from robustjax.bounds.rules import affine, elementwise, logic, ordering, sigmoidal

_RULE_MODULES = (
    affine, elementwise, sigmoidal, ordering, logic,
)  # fmt: skip
# Primitives that do nothing but call. Others have jaxprs for other ends: the step of a
# reduction, the body of a loop.
CALLS = (
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2",
)  # fmt: skip
CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # their parameters
# Parameters that say which floats a result has.
_RESULT_DTYPES = {
    "convert_element_type": "new_dtype",
    "conv_general_dilated": "preferred_element_type",
    "dot_general": "preferred_element_type",
    "ragged_dot_general": "preferred_element_type",
}
# What they give of floats of more bits is not near what they give of the caller's.
_OF_BITS = (
    "bitcast_convert_type", "eig", "eigh", "nextafter", "random_gamma", "rng_uniform",
    "schur", "svd",
)  # fmt: skip
_CONTROL = ("while", "cond", "scan", "custom_root", "custom_linear_solve")


def trace(
    fn: Callable[[jax.Array], jax.Array],
    x: jax.ShapeDtypeStruct,
    *,
    ignores_casts: bool = False,
    covers_rounding: bool = False,
) -> Graph:
    """The graph of a function of one array. [device].

    Args:
        fn: maps an array like x to an array.
        x: shape and dtype of the input.
        ignores_casts: leave out conversions between floats, so that every node computes
            in the dtype of x, whatever that of the function is; what does not depend
            on x as well.
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
    builder = _Builder(x, wide=x.dtype if ignores_casts else None, unit=unit)
    (output,) = builder.inline(closed.jaxpr, closed.consts, [builder.input], [True])
    value = builder.as_value(output)  # may add a node
    return Graph(tuple(builder.nodes), value, tuple(x.shape), unit)


def without_casts(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """fn(x) as bounds see it, in the dtype of x; as it is where they have no rule."""
    try:
        graph = trace(fn, jax.typeof(x), ignores_casts=True)
    except UnsupportedError:
        return fn(x)
    return graph.at(x)


class _Builder:
    """Collects nodes while it reads a jaxpr."""

    def __init__(self, x: jax.ShapeDtypeStruct, *, wide: Any, unit: float) -> None:
        self.nodes: list[Node] = []
        self.sizes: dict[int, int] = {}  # of integers, the largest they can get
        self.wide = wide  # the one dtype, None where that of the function is kept
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
            here = _source(equation) or site
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
        primitive, params = equation.primitive, equation.params
        called = _called(equation, site)
        if called is not None:
            rule = _rule_of(called)
            if rule is not None and isinstance(arguments[0], operations.Bounded):

                def call(*values: Any) -> Any:  # of constants
                    needed = [True] * len(called.out_avals)
                    return self.inline(
                        called.jaxpr, called.consts, values, needed, site
                    )

                return _as_list(rule(self._add, call, arguments))
            return self.inline(called.jaxpr, called.consts, arguments, is_needed, site)
        bind = _Bind(primitive, params, self.wide)
        if self.wide is not None:  # rules see constants of the one dtype
            if primitive.name in _OF_BITS and _widens(equation, self.wide):
                raise UnsupportedError(
                    f"What {primitive.name!r} gives may be far from it in {self.wide}, "
                    "in which this is decided; compute it outside of the function "
                    f"({site or 'source unknown'})."
                )
            arguments = [
                a if isinstance(a, operations.Bounded) else _cast(a, self.wide)
                for a in arguments
            ]
        if not any(isinstance(a, operations.Bounded) for a in arguments):
            if self.wide is not None and _rounds(equation):
                return arguments[:1]
            with _at_once(equation, arguments):
                results = bind(*arguments)
            return list(results) if primitive.multiple_results else [results]
        if self.wide is not None and _rounds(equation):
            return arguments[:1]
        rule = operations.for_primitive(primitive.name)
        if rule is None:
            raise UnsupportedError(
                f"No rule to carry bounds through the primitive {primitive.name!r} "
                f"({site or 'source unknown'}). If it is a function of single numbers, "
                f"register one: robustjax.bounds.register({primitive.name!r}, ...)."
            )
        try:
            found = rule(self._add, bind, arguments)
        except UnsupportedError as error:
            raise UnsupportedError(f"{error} ({site or 'source unknown'})") from None
        return _as_list(found)

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
        constant = Affine(
            lambda _: jnp.asarray(result), lambda _: jnp.zeros_like(result), signs=(1,)
        )
        return self._add(constant, [self.input]).value


def _as_list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [found]


class _Bind(NamedTuple):
    """A primitive with its parameters, as a function."""

    primitive: core.Primitive
    params: Mapping[str, Any]
    wide: Any = None  # a dtype for all floats, None where they keep theirs

    def __call__(self, *arguments: Any) -> Any:
        params = dict(self.params)
        if self.wide is not None:
            arguments = tuple(_cast(a, self.wide) for a in arguments)
            name = _RESULT_DTYPES.get(self.primitive.name, "")
            dtype = params.get(name)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
                params[name] = self.wide
        return self.primitive.bind(*arguments, **params)


def _widens(equation: core.JaxprEqn, wide: Any) -> bool:
    """Whether floats that an equation takes would have another dtype."""
    dtypes = _dtypes(equation.invars)
    return any(jnp.issubdtype(d, jnp.floating) and d != wide for d in dtypes)


def _dtypes(variables: Sequence[Any]) -> list[Any]:
    return [variable.aval.dtype for variable in variables]


def _cast(argument: Any, dtype: Any) -> Any:
    is_float = jnp.issubdtype(jnp.result_type(argument), jnp.floating)
    return jnp.asarray(argument, dtype) if is_float else argument


def _at_once(
    equation: core.JaxprEqn, arguments: Sequence[Any]
) -> contextlib.AbstractContextManager[Any]:
    """Evaluates integers and masks of known ones now, where rules can see them."""
    kinds = (jnp.integer, jnp.bool_)
    dtypes = _dtypes(equation.outvars)
    are_integers = all(any(jnp.issubdtype(d, k) for k in kinds) for d in dtypes)
    if are_integers and not any(isinstance(a, jax.core.Tracer) for a in arguments):
        return jax.ensure_compile_time_eval()
    return contextlib.nullcontext()


def _rounds(equation: core.JaxprEqn) -> bool:
    """Whether an equation does nothing but round floats to others."""
    if equation.primitive.name == "reduce_precision":
        return True
    if equation.primitive.name != "convert_element_type":
        return False
    avals: list[Any] = [equation.invars[0].aval, equation.outvars[0].aval]
    return all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in avals)


def _called(equation: core.JaxprEqn, site: str) -> core.ClosedJaxpr | None:
    """What a call calls; None for other primitives.

    Raises:
        UnsupportedError: for control flow.
    """
    name = equation.primitive.name
    if name in _CONTROL or equation.effects:
        raise UnsupportedError(
            f"Bounds cannot be carried through {name!r} ({site or 'source unknown'}): "
            "loops, branches and side effects are not followed."
        )
    if name not in CALLS:
        return None
    inner = next(equation.params[k] for k in CALLED if k in equation.params)
    return inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())


def _rule_of(called: core.ClosedJaxpr) -> operations.Rule | None:
    """The rule of a function of JAX, None for anybody else's.

    Its derivatives are calls of the same name, and so may others be: the call has to do
    to the letter what the function does that has the rule.
    """
    info = getattr(called.jaxpr, "debug_info", None)
    name, _, _ = str(getattr(info, "func_src_info", "") or "").partition(" at ")
    found = operations.for_function(name)
    if found is None or len(called.out_avals) != 1 or called.consts:
        return None
    original, rule = found
    avals: list[Any] = list(called.in_avals)
    structs = [(a.shape, jnp.dtype(a.dtype), bool(a.weak_type)) for a in avals]
    body = str(called.jaxpr)  # traced with or without x64
    bodies = (_body_of(original, tuple(structs), has_x64) for has_x64 in (True, False))
    return rule if body in bodies else None


@functools.lru_cache(maxsize=256)
def _body_of(original: Callable[..., Any], structs: Any, has_x64: bool) -> str | None:
    """The jaxpr that a compiled function of JAX calls for such arguments."""
    if not has_x64 and any(dtype.itemsize > 4 for _, dtype, _ in structs):
        return None
    try:
        with jax.enable_x64(has_x64):
            arguments = [
                jax.ShapeDtypeStruct(shape, dtype, weak_type=weak)
                for shape, dtype, weak in structs
            ]
            (equation,) = jax.make_jaxpr(original)(*arguments).jaxpr.eqns
    except (TypeError, ValueError):
        return None  # it takes no such arguments, or does more than to call
    called = _called(equation, "")
    return None if called is None else str(called.jaxpr)


def _source(equation: core.JaxprEqn) -> str:
    """File and line of the user's code, "" where JAX does not know them."""
    frame = getattr(equation.source_info, "traceback", None)
    for entry in frame.frames if frame is not None else ():
        if "/jax/" not in entry.file_name and "/robustjax/" not in entry.file_name:
            return f"{entry.file_name}:{entry.line_num}"
    return ""
