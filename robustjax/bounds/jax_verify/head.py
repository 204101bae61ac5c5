"""Corrections for the head of jax_verify's repository (2023, never released).

Four of its rules change. A chord above a convex function f is computed as

    f(l) + s (x - l),   s = (f(u) - f(l)) / (u - l),

where the head has the offset (f(l) u - f(u) l) / (u - l), of which rounding leaves
nothing in a narrow interval: its bounds of ReLU missed values by .1. CROWN gets bounds
of what goes into tanh and softplus, without which it gives NaN. Lines of exp are NaN
where it may be taken beyond 12: the head replaces it by a line that lies below it.
Tangents of tanh and sigmoid are moved until nothing is beyond them: far from zero their
slopes are rounded to something else than zero.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from robustjax.bounds.jax_verify import programs, release

_EXP_LIMIT = 12.0  # of the head's stable_exp
_Line = Callable[[jax.Array], jax.Array]


class _Saturating(NamedTuple):
    """tanh(a x), up to an affine map."""

    function: _Line
    factor: float  # a
    steepest: float  # slope at zero

    def where_as_steep(self, slope: jax.Array) -> jax.Array:
        """The point x >= 0 at which the function has a slope."""
        root = jnp.sqrt(jnp.clip(1 - slope / self.steepest, 0.0, 1.0))
        largest = 1 - jnp.finfo(root.dtype).eps
        return jnp.arctanh(jnp.minimum(root, largest)) / self.factor


_TANH = _Saturating(lax.tanh, factor=1.0, steepest=1.0)
_SIGMOID = _Saturating(lax.logistic, factor=0.5, steepest=0.25)


def _correct_operations(synthetic: Any) -> None:
    """More operations that are linear, and patterns of activations in order.

    New variables have no number.
    """
    known = synthetic.LINEAR_OP
    known.extend(p for p in release.MOVING if p not in known)
    synthetic._get_count_and_suffix = lambda _: (0, "")
    specs = functools.cache(synthetic.activation_specs)
    synthetic.activation_specs = lambda: sorted(specs(), key=_shortness)


def _shortness(spec: Any) -> int:
    """Long patterns first: in a program, softplus begins as ReLU does."""
    return -len(spec.graph.eqns)


def _correct_tables(bound_propagation: Any) -> None:
    known = bound_propagation.RESHAPE_PRIMITIVES
    known.extend(p for p in release.MOVING if p not in known)


def _correct_chords(activations: Any) -> None:
    original = activations.convex_fn_relaxation

    @functools.wraps(original)
    def relaxed(primitive: Any, *inputs: Any, **params: Any) -> tuple[_Line, _Line]:
        function, _ = original(primitive, *inputs, **params)
        (bound,) = [value for value in inputs if hasattr(value, "lower")]
        return function, _chord(function, bound)

    activations.convex_fn_relaxation = relaxed
    for entry in activations.relaxation_fns.values():
        if getattr(entry.relaxation_fn, "func", None) is original:
            (primitive,) = entry.relaxation_fn.args
            entry.relaxation_fn = functools.partial(relaxed, primitive)


def _chord(function: _Line, bound: Any) -> _Line:
    low, high = function(bound.lower), function(bound.upper)
    width = bound.upper - bound.lower
    slope = jnp.where(width > 0, (high - low) / jnp.where(width > 0, width, 1.0), 0.0)
    return lambda x: low + slope * (x - bound.lower)


def _correct_relaxations(linear_relaxations: Any) -> None:
    chord = linear_relaxations.ElementwiseChord
    chord.linearize = lambda self, _, bound: _chord(self._fn, bound)
    exp, tanh = (programs.shortened()[p] for p in (lax.exp_p, lax.tanh_p))
    sigmoid = linear_relaxations.synthetic_primitives.sigmoid_p
    for table in (linear_relaxations._crown_mapper, linear_relaxations._fastlin_mapper):
        table[exp] = functools.partial(_lines_of_exp, table[exp])
        table[tanh] = functools.partial(_moved_lines, _TANH, table[tanh])
        table[sigmoid] = functools.partial(_moved_lines, _SIGMOID, table[sigmoid])


def _lines_of_exp(rule: Callable[..., Any], bound: Any) -> tuple[_Line, ...]:
    """NaN where the upper line would be too low, through all that is added to it."""
    missing = jnp.where(bound.upper > _EXP_LIMIT, jnp.nan, 0.0)
    return tuple(_shifted(line, missing) for line in rule(bound))


def _moved_lines(
    shape: _Saturating, rule: Callable[..., Any], bound: Any
) -> tuple[_Line, ...]:
    """Lines moved until no point of the function is beyond them.

    The points are the ends and those where the function is as steep as the line.
    """
    moved = []
    for line, sign in zip(rule(bound), (-1.0, 1.0), strict=True):
        point = shape.where_as_steep(_slope(line, bound.lower))
        inside = [jnp.clip(p, bound.lower, bound.upper) for p in (point, -point)]
        points = (bound.lower, bound.upper, *inside)
        beyond = [sign * (shape.function(p) - line(p)) for p in points]
        gap = functools.reduce(jnp.maximum, beyond, jnp.zeros_like(point))
        moved.append(_shifted(line, sign * gap))
    return tuple(moved)


def _slope(line: _Line, x: jax.Array) -> jax.Array:
    return jax.jvp(line, (x,), (jnp.ones_like(x),))[1]


def _shifted(line: _Line, offset: jax.Array) -> _Line:
    return lambda x: line(x) + offset


def _correct_backward_rules(backward_crown: Any) -> None:
    synthetic = backward_crown.synthetic_primitives
    missing = programs.shortened()[lax.tanh_p], synthetic.softplus_p
    backward_crown.CONCRETIZE_ARGS_PRIMITIVE += missing
    for transform in (
        backward_crown.backward_crown_transform,
        backward_crown.backward_fastlin_transform,
    ):
        transform._primitive_needs_concrete_bounds += missing


# What is done to a module after its import, by its name.
CORRECTIONS: dict[str, Callable[[Any], None]] = {
    "jax_verify.src.synthetic_primitives": _correct_operations,
    "jax_verify.src.bound_propagation": _correct_tables,
    "jax_verify.src.activation_relaxation": _correct_chords,
    "jax_verify.src.linear.linear_relaxations": _correct_relaxations,
    "jax_verify.src.linear.backward_crown": _correct_backward_rules,
}
