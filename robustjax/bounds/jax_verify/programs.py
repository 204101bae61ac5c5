"""Functions as flat lists of equations, in the form in which jax_verify makes jaxprs.

    x1 = p1(x0, c),   x2 = p2(x1, x0),   ...

Both layouts of jax_verify build and edit jaxprs with constructors that JAX no longer
has; these classes take their place. A program contains no calls.
"""

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
from jax import lax

from robustjax.bounds import tracing

# Primitives with the parameter `accuracy`, which jax_verify does not know.
_ACCURATE = (
    "cbrt", "cos", "exp", "exp2", "expm1", "log", "log1p", "logistic", "rsqrt", "sin",
    "sqrt", "tan", "tanh",
)  # fmt: skip


class Literal:
    """A constant of a program; not a pytree, jax_verify maps over these."""

    def __init__(self, val: Any) -> None:
        self.val = val

    @property
    def aval(self) -> Any:
        """Shape and dtype."""
        return jax.typeof(self.val)


class Var:
    """A result in a program."""

    count, suffix = 0, ""  # by which the head of jax_verify names new ones

    def __init__(self, *parts: Any) -> None:
        """Its shape and dtype are the last part; the head puts a name before it."""
        self.aval = parts[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(self.aval.shape)


class Equation(NamedTuple):
    """One primitive applied to results and constants."""

    primitive: Any
    params: dict[str, Any]
    invars: list[Var | Literal]
    outvars: list[Var]

    @property
    def source_info(self) -> None:
        """Where it stands in the code of a user, which is not kept."""


class Program(NamedTuple):
    """A function as equations, in the order in which jax_verify makes jaxprs."""

    constvars: list[Var]
    invars: list[Var]
    outvars: list[Var | Literal]
    eqns: list[Equation]


class Shortened:
    """A primitive that gained a parameter later, without it."""

    def __init__(self, primitive: Any) -> None:
        self.name, self.multiple_results = primitive.name, primitive.multiple_results
        self._primitive = primitive

    def bind(self, *operands: Any, **params: Any) -> Any:
        """Applies the primitive in the accuracy that is usual."""
        return self._primitive.bind(*operands, **{"accuracy": None} | params)

    def __repr__(self) -> str:
        return str(self.name)


@functools.cache
def shortened() -> dict[Any, Shortened]:
    """Primitives of JAX that have a shortened form. [host]."""
    primitives = [getattr(lax, f"{name}_p") for name in _ACCURATE]
    return {primitive: Shortened(primitive) for primitive in primitives}


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
                results = [Var(atom.aval) for atom in equation.outvars]
                equations.append(Equation(*_plain(equation), values, results))
            else:
                results = walk(*called, values)
            known |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    inputs = [Var(atom.aval) for atom in closed.jaxpr.invars]
    outputs = walk(closed.jaxpr, closed.consts, inputs)
    return Program([], inputs, outputs, equations)


def make_jaxpr(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.make_jaxpr` for jax_verify: the jaxpr is a program. [host]."""

    def make(*arguments: Any) -> SimpleNamespace:
        program = flat_program(jax.make_jaxpr(fn)(*arguments))
        return SimpleNamespace(jaxpr=program, literals=[])

    return make


def evaluate(program: Program, consts: Sequence[Any], *arguments: Any) -> list[Any]:
    """The results of a program. [device].

    Args:
        program: of primitives, or of primitives of jax_verify.
        consts: values of its constants.
        arguments: values of its inputs.
    """
    known = dict(zip(program.constvars, consts, strict=True))
    known |= zip(program.invars, arguments, strict=True)

    def read(atom: Var | Literal) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for primitive, params, operands, variables in program.eqns:
        found = primitive.bind(*map(read, operands), **params)
        several = found if isinstance(found, list | tuple) else [found]
        known |= zip(variables, several, strict=True)
    return [read(atom) for atom in program.outvars]


def _plain(equation: Any) -> tuple[Any, dict[str, Any]]:
    """Primitive and parameters as jax_verify knows them."""
    primitive, params = equation.primitive, dict(equation.params)
    if params.get("accuracy", ...) is None:
        del params["accuracy"]
        primitive = shortened().get(primitive, primitive)
    return primitive, params


def _called(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """Jaxpr and constants of a plain call, None for other primitives."""
    if equation.primitive.name not in tracing.CALLS:
        return None
    inner = next(equation.params[k] for k in tracing.CALLED if k in equation.params)
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
