"""The compatibility layer with which jax_verify 1.0 runs on current JAX.

Its modules are executed with an `__import__` of their own, which hands them overlays of
`jax` and `jax.lax`: the real modules with the names of 2021 on top. JAX itself is never
changed. Traced functions reach jax_verify as one flat list of equations with fresh
variables, whatever calls they contain. Its backward CROWN rules are replaced.
"""

import builtins
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import abc, machinery
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import tracing

_PACKAGE = "jax_verify"


class Literal:
    """A constant of a program; not a pytree, jax_verify maps over these."""

    def __init__(self, val: Any) -> None:
        self.val, self.shape = val, jnp.shape(val)


class Var:
    """A result in a program."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype


class Equation(NamedTuple):
    """One primitive applied to results and constants."""

    primitive: Any
    params: dict[str, Any]
    invars: list[Var | Literal]
    outvars: list[Var]


class Program(NamedTuple):
    """A function as equations, in the order in which jax_verify makes jaxprs."""

    constvars: list[Var]
    invars: list[Var]
    outvars: list[Var | Literal]
    eqns: list[Equation]


def flat_program(closed: Any) -> Program:
    """A closed jaxpr as a program without calls. [host].

    Every call gets variables of its own: JAX hands out one and the same jaxpr for
    equal calls, and a graph keyed by its variables would confuse their results.
    """
    equations: list[Equation] = []

    def walk(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        known = dict(zip(jaxpr.constvars, map(Literal, consts), strict=True))
        known |= zip(jaxpr.invars, arguments, strict=True)

        def read(atom: Any) -> Any:
            return Literal(atom.val) if hasattr(atom, "val") else known[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            called = _called(equation)
            if called is None:
                results = [_var(atom) for atom in equation.outvars]
                primitive, params = equation.primitive, equation.params
                equations.append(Equation(primitive, params, values, results))
            else:
                results = walk(*called, values)
            known |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    inputs = [_var(atom) for atom in closed.jaxpr.invars]
    outputs = walk(closed.jaxpr, closed.consts, inputs)
    return Program([], inputs, outputs, equations)


def import_package() -> ModuleType:
    """Imports jax_verify 1.0 so that it sees the overlays. [host].

    Raises:
        ImportError: if jax_verify was imported before by other means.
    """
    with _finder():
        module = importlib.import_module(_PACKAGE)
    if not isinstance(module.__loader__, _Loader):
        raise ImportError(
            "jax_verify is imported already and not by robustjax: call "
            "robustjax.bounds.jax_verify.load() first."
        )
    return module


class _Overlay:
    """A module with further names on top."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Gone:
    """A primitive that no program contains."""

    def def_impl(self, _: Callable[..., Any]) -> None:
        """Takes how the primitive would be computed."""


class _Loader(machinery.SourceFileLoader):
    """Runs a module with an `__import__` of its own and mends it."""

    def exec_module(self, module: ModuleType) -> None:
        """Executes the module."""
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": _import}
        super().exec_module(module)
        mend = _MENDS.get(module.__name__)
        if mend is not None:
            mend(module)


class _Finder(abc.MetaPathFinder):
    """Finds jax_verify as usual, for `_Loader`."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        """The spec of a module of jax_verify, None for all others."""
        if fullname.partition(".")[0] != _PACKAGE:
            return None
        spec = machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


@contextmanager
def _finder() -> Iterator[None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _import(name: str, *scopes: Any) -> Any:
    """`__import__` as the import statement calls it, with overlays for JAX."""
    _, _, names, _ = scopes
    top, *rest = name.split(".")
    if top != "jax":
        return builtins.__import__(name, *scopes)
    return functools.reduce(getattr, rest, _jax()) if names else _jax()


@functools.cache
def _jax() -> _Overlay:
    """JAX as jax_verify 1.0 knew it."""
    lax = _Overlay(
        jax.lax,
        select_p=_Gone(),
        standard_naryop=lambda *_: _Gone(),
    )
    core = SimpleNamespace(
        Var=Var,
        Literal=Literal,
        Jaxpr=Program,
        Primitive=object,
        new_jaxpr_eqn=lambda i, o, p, params: Equation(p, params, i, o),
    )
    return _Overlay(
        jax,
        lax=lax,
        core=core,
        make_jaxpr=_make_jaxpr,
        tree_map=jax.tree.map,
        interpreters=SimpleNamespace(ad=None),  # of rules that are replaced
        # Programs contain no calls.
        xla=SimpleNamespace(xla_call_p=_Gone()),
        custom_derivatives=SimpleNamespace(custom_jvp_call_jaxpr_p=_Gone()),
    )


def _make_jaxpr(fn: Callable[..., Any]) -> Callable[..., Any]:
    def make(*arguments: Any) -> SimpleNamespace:
        program = flat_program(jax.make_jaxpr(fn)(*arguments))
        return SimpleNamespace(jaxpr=program, literals=[])

    return make


def _var(atom: Any) -> Var:
    return Var(atom.aval.shape, atom.aval.dtype)


def _called(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """Jaxpr and constants of a plain call, None for other primitives."""
    if equation.primitive.name not in tracing.CALLS:
        return None
    inner = next(equation.params[k] for k in tracing.CALLED if k in equation.params)
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())


def _ignore_parameters(*tables: dict[Any, Callable[..., Any]]) -> None:
    """Lets the rules of binary operations pass over parameters that came later."""
    lax = jax.lax
    for table in tables:
        for primitive in (lax.add_p, lax.sub_p, lax.mul_p, lax.div_p, lax.max_p):
            rule = table[primitive]
            table[primitive] = lambda i, x, y, rule=rule, **_: rule(i, x, y)


def _replace_backward_rules(crown_ibp: Any) -> None:
    """Gives its backward pass one sound rule for all affine primitives.

    The rules of 1.0 call JAX's transposition rules with operands of a form that is
    gone, add a constant that should be subtracted (x - c), and count the offset of a
    sum of two bounds once for each.
    """
    lax = jax.lax
    for primitive in (
        lax.add_p,
        lax.sub_p,
        lax.mul_p,
        lax.div_p,
        lax.reshape_p,
        lax.reduce_sum_p,
        lax.broadcast_in_dim_p,
        lax.dot_general_p,
        lax.conv_general_dilated_p,
    ):
        rule = functools.partial(_backward, crown_ibp, primitive)
        crown_ibp._primitive_transform[primitive] = rule


def _backward(
    crown_ibp: Any, primitive: Any, _: int, out: Any, *invals: Any, **params: Any
) -> list[Any]:
    """Linear forms of the result of an affine primitive as forms of its operands.

    The interval pass has already raised an error for products of two bounds.
    """
    bounded = [i for i, v in enumerate(invals) if hasattr(v, "lower")]

    def forward(*values: jax.Array) -> jax.Array:
        operands = dict(enumerate(invals)) | dict(zip(bounded, values, strict=True))
        return primitive.bind(*operands.values(), **params)

    zeros = [jnp.zeros_like(invals[i].lower) for i in bounded]
    constant, pull = jax.vjp(forward, *zeros)

    def through(form: Any) -> list[Any]:
        num_output_axes = form.offset.ndim - 1
        coefficients = form.lin_coeffs.reshape(
            len(form.lin_coeffs), -1, *constant.shape[1:]
        )
        pulled = jax.vmap(pull, in_axes=1, out_axes=1)(coefficients)
        added = jnp.sum(
            coefficients * constant[:, None], axis=tuple(range(2, coefficients.ndim))
        ).reshape(form.offset.shape)
        offsets = [form.offset + added] + [jnp.zeros_like(added)] * (len(bounded) - 1)
        lead = form.lin_coeffs.shape[: 1 + num_output_axes]
        return [
            crown_ibp.LinearExpression(p.reshape(*lead, *p.shape[2:]), offset)
            for p, offset in zip(pulled, offsets, strict=True)
        ]

    forms = map(
        crown_ibp.CrownBackwardBound, through(out.lower_lin), through(out.upper_lin)
    )
    found = dict(zip(bounded, forms, strict=True))
    return [found.get(i) for i in range(len(invals))]


_MENDS: dict[str, Callable[[Any], None]] = {
    "jax_verify.src.ibp": lambda ibp: _ignore_parameters(ibp._primitive_transform),
    "jax_verify.src.fastlin": lambda fastlin: _ignore_parameters(
        fastlin.fastlin_primitive_transform, fastlin._crown_primitive_transform
    ),
    "jax_verify.src.crown_ibp": _replace_backward_rules,
}
