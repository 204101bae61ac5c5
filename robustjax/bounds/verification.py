"""Verification of classifiers on boxes: bounded on the device, decided in float64.

    margin <= min over x in the box and j != y of f_y(x) - f_j(x),
    verified if margin > 0,   largest epsilon with a verified ball by bisection,

with the logits f and the label y; the margin is bounded by `linear_bounds`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax._precision import as_run, cpu, float64_on_cpu, own_copies
from robustjax.bounds import boxes
from robustjax.bounds.methods import METHODS, linear_bounds

_NUM_RETREATS = 12  # smaller radii that are tried where float64 does not confirm one


class Verification(NamedTuple):
    """What is proven of each box; float64 on the host."""

    is_verified: np.ndarray  # [n], the label wins everywhere in the box
    margin: np.ndarray  # [n], at least the label's logit less any other; nan: unknown
    arithmetic: str = "float64"  # in which verified boxes were decided


class LargestEpsilon(NamedTuple):
    """The largest radii at which the label is proven to win; float64 on the host."""

    epsilon: np.ndarray  # [n], 0 where nothing is proven
    margin: np.ndarray  # [n], at that radius; nan where nothing is proven
    arithmetic: str = "float64"  # in which the radii were confirmed


class _How(NamedTuple):
    """Options of `linear_bounds`; static under jit."""

    method: str
    num_steps: int
    capacity: int | None
    chunk_size: int | None


def margin_rows(label: ArrayLike, *, num_classes: int) -> jax.Array:
    """Rows that turn logits into margins of a class over each other one.

    [device] Pure, jittable, vmappable over the label.

    Args:
        label: a class, an integer in [0, num_classes).
        num_classes: number of classes, >= 2.

    Returns:
        `[num_classes - 1, num_classes]`, a `spec` of `linear_bounds`.

    Example:
        >>> print(margin_rows(1, num_classes=3))
        [[-1.  1.  0.]
         [ 0.  1. -1.]]
    """
    _validate.integer(2, num_classes=num_classes)
    others = jnp.arange(num_classes - 1)
    others += others >= jnp.asarray(label)
    own = jax.nn.one_hot(jnp.full(num_classes - 1, label), num_classes)
    return own - jax.nn.one_hot(others, num_classes)


def worst_case_logits(
    fn: Callable[[Any], jax.Array],
    lower: Any,
    upper: Any,
    *,
    label: ArrayLike,
    method: str = "ibp",
) -> jax.Array:
    """Logits whose cross-entropy bounds that of every input in a box.

    [device] Pure, jittable, vmappable over box and label, differentiable: the loss of
    certified training.

    Guarantee:
        The logit of each class less that of the label is at most the value given, for
        every x in the box, up to rounding of the dtype.

    Args:
        fn: maps one example to logits `[k]`.
        lower: lower corner of the box, an array or a tree as in `linear_bounds`.
        upper: upper corner.
        label: the class, an integer.
        method: as in `linear_bounds`.

    Returns:
        `[k]`, zero for the label.

    Raises:
        ValueError: as `linear_bounds`.

    Example:
        >>> fn = lambda x: jnp.stack([x[0], 0.5 - x[0]])
        >>> worst_fn = jax.jit(functools.partial(worst_case_logits, fn))
        >>> print(worst_fn(jnp.zeros(1), jnp.ones(1), label=0).round(3) + 0.0)
        [0.  0.5]

    Reference: Gowal et al. (2018), arXiv 1810.12715, equation 9; Zhang et al. (2020),
        arXiv 1906.06316, for "crown-ibp".
    """
    layout, (low, high) = boxes.laid_out(lower, upper)
    of_array = layout.function(fn)
    (num_classes,) = jax.eval_shape(of_array, low).shape
    rows = jax.nn.one_hot(label, num_classes)[None] - jnp.eye(num_classes)
    spec = rows.astype(low.dtype)
    return -linear_bounds(of_array, low, high, spec=spec, method=method).lower


def verify(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    labels: ArrayLike,
    method: str = "crown",
    num_steps: int = 20,
    capacity: int | None = None,
    chunk_size: int | None = None,
) -> Verification:
    """Whether a classifier gives its label everywhere in a box.

    [host] Margins are bounded in float32 on the device, for all boxes at once. Boxes
    that seem verified are bounded again in float64 on the host CPU, which decides.

    Guarantee:
        Where `is_verified`, fn in exact arithmetic, with casts to narrower floats left
        out, gives the label the largest logit at every point of the box. The rounding
        of float64 is covered by sums of absolute values, so weights may be of any size.
        NaN and infinity are never verified.

    Args:
        fn: maps one example to logits `[k]`; see `linear_bounds` and `single`.
        lower: `[n, ...]` lower corners of the boxes.
        upper: `[n, ...]` upper corners.
        labels: `[n]` classes.
        method: as in `linear_bounds`.
        num_steps: as in `linear_bounds`.
        capacity: as in `linear_bounds`.
        chunk_size: as in `linear_bounds`.

    Returns:
        A `Verification`.

    Raises:
        ValueError: if shapes do not match, a box is empty or not finite, or an option
            is unknown.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> fn = lambda x: jnp.stack([x[0], 0.5 - x[0]])
        >>> found = verify(fn, np.array([[0.3], [0.2]]), np.ones((2, 1)),
        ...                labels=np.array([0, 0]))
        >>> print(found.is_verified, found.margin.round(3))
        [ True False] [ 0.1 -0.1]

    Reference: ours; the bounds are those of `linear_bounds`.
    """
    _validate.one_of(METHODS, method=method)
    how = _How(method, num_steps, capacity, chunk_size)
    low, high = (np.asarray(corner, np.float64) for corner in (lower, upper))
    classes = _checked_labels(fn, low, labels)
    boxes.check(low, high)
    margin = np.array(_margins(fn, low, high, classes, how), np.float64)
    likely = np.flatnonzero(margin > 0)
    if len(likely):
        margin[likely] = _exact_margins(
            fn, low[likely], high[likely], classes[likely], how
        )
    return Verification(margin > 0, margin)


def largest_epsilon(
    fn: Callable[[jax.Array], jax.Array],
    x: ArrayLike,
    labels: ArrayLike,
    *,
    scale: ArrayLike = 1.0,
    limit: float = 0.5,
    num_halvings: int = 10,
    valid_range: tuple[float, float] = (0.0, 1.0),
    method: str = "crown",
    num_steps: int = 20,
    capacity: int | None = None,
    chunk_size: int | None = None,
) -> LargestEpsilon:
    """The largest linf radius at which a classifier is proven to keep the label.

    [host] Bisection, all examples at once; the radius that is returned is confirmed as
    in `verify`, or lowered until it is.

    Guarantee:
        As `verify`, for all inputs in `valid_range` within epsilon times scale of x in
        every entry.

    Args:
        fn: maps one example to logits `[k]`; see `linear_bounds` and `single`.
        x: `[n, ...]` inputs in `valid_range`.
        labels: `[n]` classes; where fn gives x another one, epsilon is 0.
        scale: radius of an entry in units of epsilon, >= 0: a number, or an array that
            broadcasts against an example. Entries of scale 0 are not perturbed.
        limit: largest radius that is tried.
        num_halvings: steps of the bisection; the radius is known to limit /
            2**num_halvings.
        valid_range: least and largest value of an input.
        method: as in `linear_bounds`.
        num_steps: as in `linear_bounds`.
        capacity: as in `linear_bounds`.
        chunk_size: as in `linear_bounds`.

    Returns:
        A `LargestEpsilon`.

    Raises:
        ValueError: as `verify`, and if an input is outside the valid range.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> fn = lambda x: jnp.stack([x[0], 0.5 - x[0]])
        >>> found = largest_epsilon(fn, np.array([[0.45], [0.2]]), np.array([0, 0]))
        >>> print(found.epsilon.round(2))
        [0.2 0. ]

    Reference: ours.
    """
    _validate.one_of(METHODS, method=method)
    _validate.positive(limit=limit)
    _validate.at_least(0, scale=scale)
    _validate.integer(1, num_halvings=num_halvings)
    how = _How(method, num_steps, capacity, chunk_size)
    centre = np.asarray(x, np.float64)
    if not np.all((valid_range[0] <= centre) & (centre <= valid_range[1])):
        raise ValueError(f"Expected x in {valid_range}; divide bytes by 255.")
    classes = _checked_labels(fn, centre, labels)
    boxes.check_broadcasts(centre.shape[1:], scale=scale)
    factor = np.asarray(scale, np.float64)

    def box(epsilon: np.ndarray, of: Any = slice(None)) -> tuple[Any, Any]:
        radius = epsilon[of].reshape(-1, *(1,) * (centre.ndim - 1))
        reach = np.where(factor == 1, radius, np.nextafter(radius * factor, np.inf))
        sides = (
            np.nextafter(centre[of] - reach, -np.inf),  # outward, as they are rounded
            np.nextafter(centre[of] + reach, np.inf),
        )
        return tuple(np.clip(side, *valid_range) for side in sides)

    def seems_verified(epsilon: np.ndarray) -> np.ndarray:
        return np.asarray(_margins(fn, *box(epsilon), classes, how)) > 0

    good, bad = np.zeros(len(classes)), np.full(len(classes), float(limit))
    good = np.where(seems_verified(bad), bad, good)
    for _ in range(num_halvings):
        middle = 0.5 * (good + bad)
        is_good = seems_verified(middle)
        good, bad = np.where(is_good, middle, good), np.where(is_good, bad, middle)
    margin = np.full(len(classes), np.nan)
    for attempt in range(_NUM_RETREATS):
        open_ones = np.flatnonzero((good > 0) & ~(margin > 0))
        if not len(open_ones):
            break
        good[open_ones] *= 1 - attempt / _NUM_RETREATS
        margin[open_ones] = _exact_margins(
            fn, *box(good, open_ones), classes[open_ones], how
        )
    is_proven = margin > 0
    return LargestEpsilon(
        np.where(is_proven, good, 0.0), np.where(is_proven, margin, np.nan)
    )


def _margins(
    fn: Callable[[jax.Array], jax.Array],
    lower: np.ndarray,
    upper: np.ndarray,
    labels: np.ndarray,
    how: _How,
    *,
    rounding: str = "ignore",
) -> jax.Array:
    """Lower bounds of the minimum margin of each box, in the default float. [n]."""
    dtype = jnp.result_type(float)
    low, high = (jnp.asarray(corner, dtype) for corner in (lower, upper))
    partial = _callables.as_partial(fn)
    return _least_margins(partial, low, high, labels, how=how, rounding=rounding)


def _exact_margins(
    fn: Callable[[jax.Array], jax.Array],
    lower: np.ndarray,
    upper: np.ndarray,
    labels: np.ndarray,
    how: _How,
) -> np.ndarray:
    """Lower bounds of the minimum margins in float64 that cover its rounding. [n].

    Batches are filled up to a power of two, so that few programs are compiled.
    """
    num = len(labels)
    fill = np.resize(np.arange(num), 1 << (num - 1).bit_length())
    run = as_run(_callables.as_partial(fn))
    with float64_on_cpu():
        moved = jax.device_put(own_copies(run), cpu())
        boxes_and_labels = lower[fill], upper[fill], labels[fill]
        found = _margins(moved, *boxes_and_labels, how, rounding="cover")
        return np.asarray(found)[:num]


@functools.partial(jax.jit, static_argnames=("how", "rounding"))
def _least_margins(
    fn: Partial,
    lower: jax.Array,
    upper: jax.Array,
    labels: jax.Array,
    *,
    how: _How,
    rounding: str,
) -> jax.Array:
    (num_classes,) = jax.eval_shape(fn, lower[0]).shape

    def least(low: jax.Array, high: jax.Array, label: jax.Array) -> jax.Array:
        spec = margin_rows(label, num_classes=num_classes).astype(low.dtype)
        found = linear_bounds(
            fn, low, high, spec=spec, casts="ignore", rounding=rounding, **how._asdict()
        )
        return jnp.min(found.lower)

    return jax.vmap(least)(lower, upper, labels)


def _checked_labels(
    fn: Callable[[jax.Array], jax.Array], x: np.ndarray, labels: ArrayLike
) -> np.ndarray:
    classes = np.asarray(labels)
    if x.ndim < 1 or classes.shape != x.shape[:1] or len(classes) == 0:
        raise ValueError(
            f"Expected inputs [n, ...] and labels [n], got {x.shape} and "
            f"{classes.shape}."
        )
    example = jax.ShapeDtypeStruct(x.shape[1:], jnp.float32)
    shape = jax.eval_shape(fn, example).shape
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"Expected fn to give logits [k] with k >= 2, got {shape}.")
    _validate.labels(shape[0], labels=classes)
    return classes
