"""Kinds of operations that bounds are carried through, and rules that build them.

A rule gets `add`, which appends an operation and returns its `Bounded` result, the
primitive as a function, and the arguments, each a constant or `Bounded`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Interval = tuple[jax.Array, jax.Array]
_ROUNDINGS = 256  # of the largest number, that may add up in a bound


class UnsupportedError(NotImplementedError):
    """Bounds cannot be carried through an operation; the text names it."""


class About(NamedTuple):
    """What a result is of another value: see `shares`."""

    kind: str
    value: int  # that it is of
    axes: tuple[int, ...]
    shape: tuple[int, ...]  # of that value
    factor: Any = None  # constants that it is multiplied by
    source: Any = None  # the bounded value before its largest entry was subtracted


class Formula(NamedTuple):
    """A result as p(x), or as c0 + c1 gate(p(x)), of one value x: see `gates`."""

    value: int | None  # x; None for a number alone
    polynomial: tuple[float, ...]  # of p, from the constant on
    gate: str = ""  # tanh, erf, erfc or logistic; empty: none
    ends: tuple[float, float] = (0.0, 1.0)  # c0 and c1


class Bounded(NamedTuple):
    """A result that depends on the bounded input."""

    value: int
    shape: tuple[int, ...]
    dtype: Any
    about: About | None = None
    formula: Formula | None = None


class Lines(NamedTuple):
    """Two lines slope * z + offset, below and above a function on an interval."""

    lower_slope: jax.Array
    lower_offset: jax.Array
    upper_slope: jax.Array
    upper_offset: jax.Array


def outward(interval: Interval) -> Interval:
    """Bounds moved apart by what rounding may do: for functions that jump. [device]."""
    lower, upper = interval
    if not jnp.issubdtype(lower.dtype, jnp.floating):
        return interval
    size = jnp.maximum(jnp.abs(lower), jnp.abs(upper))
    limits = jnp.finfo(lower.dtype)
    slack = _ROUNDINGS * limits.eps * size + limits.tiny
    return lower - slack, upper + slack


def _middle(lower: jax.Array, upper: jax.Array) -> jax.Array:
    return jnp.full_like(lower, 0.5)


def _is_point(lower: jax.Array, upper: jax.Array) -> jax.Array:
    return lower == upper


class Affine(NamedTuple):
    """A function that is affine in its inputs."""

    point: Callable[..., jax.Array]  # of the bounded inputs
    radius: Callable[..., jax.Array]  # |J| r, with J its matrix
    is_linear: bool = False  # zero at zero
    signs: tuple[int, ...] | None = None
    """For each input 1 if the result rises in it, -1 if it falls, 0 if either and a
    result takes one number alone; None: sums in which signs differ."""


class Elementwise(NamedTuple):
    """A function of single numbers."""

    name: str
    point: Callable[[jax.Array], jax.Array]
    bounds: Callable[[jax.Array, jax.Array], Interval]
    lines: Callable[[jax.Array, jax.Array, jax.Array], Lines] | None = None
    """(lower, upper, mix): all mix in [0, 1] give sound lines."""
    start: Callable[[jax.Array, jax.Array], jax.Array] = _middle
    """(lower, upper): the mix that is used unless it is optimised."""
    is_settled: Callable[[jax.Array, jax.Array], jax.Array] = _is_point
    """(lower, upper): where the lines are exact, no better bounds are needed."""
    is_finite: bool = False
    """Whether lines are finite on every finite interval, which saves a pass."""
    breakpoint: Any = None
    """Where the function bends, if it is linear on both sides of that."""


class Product(NamedTuple):
    """The elementwise product of two bounded values of one shape."""

    point: Callable[[jax.Array, jax.Array], jax.Array]


class Contraction(NamedTuple):
    """A matrix product or convolution of two bounded values: sums of their products."""

    name: str
    point: Callable[[jax.Array, jax.Array], jax.Array]
    bounds: Callable[[Interval, Interval], Interval]  # in centre and radius form
    spread: tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array]]
    """Each factor, copied to the shape of all products: linear."""
    total: Callable[[jax.Array], jax.Array]
    """From all products to their sums: linear."""


class IntervalOnly(NamedTuple):
    """Any other function with an interval rule."""

    name: str
    point: Callable[..., jax.Array]
    bounds: Callable[..., Interval]  # of one interval an input


class Narrowed(NamedTuple):
    """The first input itself, with intervals that also follow from the others."""

    bounds: Callable[..., Interval]  # of one interval an input but the first

    def point(self, first: jax.Array, *others: jax.Array) -> jax.Array:
        """The first input."""
        del others
        return first


Operation = Affine | Elementwise | Product | Contraction | IntervalOnly | Narrowed
Add = Callable[[Operation, Sequence[Any]], Bounded]
Rule = Callable[[Add, Any, Sequence[Any]], Bounded | list[Bounded]]
FunctionRule = Callable[[Add, Any, Sequence[Any]], Bounded | None]
_SomeRule = TypeVar("_SomeRule", bound=Rule)
_SomeFunctionRule = TypeVar("_SomeFunctionRule", bound=FunctionRule)

_RULES: dict[str, Rule] = {}
_NAMED: dict[str, Elementwise] = {}
_FUNCTIONS: dict[str, list[tuple[Callable[..., Any], FunctionRule]]] = {}


def rule(*primitives: str) -> Callable[[_SomeRule], _SomeRule]:
    """Registers a rule for primitives by name. [host]."""

    def store(function: _SomeRule) -> _SomeRule:
        _RULES.update(dict.fromkeys(primitives, function))
        return function

    return store


def elementwise(primitive: str, operation: Elementwise) -> None:
    """Registers an elementwise function for a primitive. [host]."""
    rule(primitive)(lambda add, bind, arguments: add(operation, arguments))


def register(
    primitive: str,
    *,
    point: Callable[[jax.Array], jax.Array],
    interval: Callable[[jax.Array, jax.Array], Interval],
    linear: Callable[[jax.Array, jax.Array, jax.Array], Lines] | None = None,
) -> Callable[[], None]:
    """Adds a rule for a primitive that is a function of single numbers.

    [host] The rule is trusted: what it claims is not checked. It replaces a rule that
    is there. The primitive must have one operand.

    Args:
        primitive: its name, as error messages give it.
        point: the function itself, elementwise.
        interval: maps lower and upper bounds of the operand to those of the result.
        linear: maps lower and upper bounds and mix, numbers in [0, 1], to `Lines`
            below and above on the interval, sound for every mix; default: none, and
            linear bounds use the interval.

    Returns:
        A function that takes the rule back, and puts the one before in its place.

    Example:
        >>> take_back = register(
        ...     "cbrt", point=jnp.cbrt,
        ...     interval=lambda low, high: (jnp.cbrt(low), jnp.cbrt(high)))
        >>> from robustjax import bounds
        >>> found = bounds.interval_bounds(jnp.cbrt, jnp.zeros(1), 8 * jnp.ones(1))
        >>> print(found.upper)
        [2.]
        >>> take_back()
    """
    before = _RULES.get(primitive)
    elementwise(primitive, Elementwise(primitive, point, interval, linear))

    def take_back() -> None:
        _RULES.pop(primitive)
        if before is not None:
            _RULES[primitive] = before

    return take_back


def function(
    original: Callable[..., Any], *, name: str = ""
) -> Callable[[_SomeFunctionRule], _SomeFunctionRule]:
    """Registers a rule for calls of a function that JAX compiles. [host].

    The rule gives None for arguments that it cannot follow: what is called is read.

    Args:
        original: the function, or a `functools.partial` of it.
        name: of what JAX compiles; default: that of the function.
    """
    known = name or getattr(original, "func", original).__name__

    def store(rule: _SomeFunctionRule) -> _SomeFunctionRule:
        _FUNCTIONS.setdefault(known, []).append((original, rule))
        return rule

    return store


def named(name: str, operation: Elementwise) -> None:
    """Keeps an elementwise function that rules are built from. [host]."""
    _NAMED[name] = operation


def for_primitive(name: str) -> Rule | None:
    """Returns the rule of a primitive, or None. [host]."""
    return _RULES.get(name)


def for_function(name: str) -> list[tuple[Callable[..., Any], FunctionRule]]:
    """The functions that are compiled under a name, and their rules. [host]."""
    return _FUNCTIONS.get(name, [])


def for_name(name: str) -> Elementwise:
    """An elementwise function that was kept by `named`. [host]."""
    return _NAMED[name]


def primitives() -> tuple[str, ...]:
    """Names of all primitives that have a rule. [host]."""
    return tuple(sorted(_RULES))
