"""Counterexamples: the smallest moves found that change the class.

    right >= min {t > 0 : argmax f(g(t)) != y},   left the same for -t,

found on a grid that is refined in front of the first loss; along rays, if there are
several parameters.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _validate, bounds
from robustjax._precision import as_run, cpu, float64_on_cpu, own_copies
from robustjax.bounds import tracing
from robustjax.semantic import attributes, color, parameter_ranges
from robustjax.semantic.attributes import Attribute

_CHUNK = 64  # moves at a time: one shape, so that the model is compiled once
_NUM_PARTS = 32  # in which a gap is divided, again and again


class Attack(NamedTuple):
    """The nearest counterexamples; float64 on the host."""

    left: float  # of one parameter: the model loses the label at -left; inf: not found
    right: float
    share: float  # smallest share of the limits that holds a counterexample
    witnesses: np.ndarray  # [m, d], the moves found, the nearest first
    classes: np.ndarray  # [m], what the model says there; -1: logits are not finite


def attack(
    apply_fn: Callable[[jax.Array], jax.Array],
    image: ArrayLike,
    label: int,
    *,
    attribute: str | Attribute,
    limit: parameter_ranges.Limit | None = None,
    num_points: int = 512,
    num_rounds: int = 4,
) -> Attack:
    """The smallest moves of an attribute that change the class, by a refined grid.

    [host] One parameter: a grid on both sides, then finer ones before the first loss.
    Several: rays from zero to the faces of the box of limits.

    Guarantee:
        Where a move is given, the model loses the label there: a counterexample, and
        an upper bound of every certified range. Decided in float64, casts to narrower
        floats left out as in `certify`; a model that bounds cannot be carried through
        is run as it is. That none is given proves nothing.

    Args:
        apply_fn: maps `[n, h, w, c]` to logits `[n, k]`.
        image: `[h, w, c]` in [0, 1].
        label: the class, an integer.
        attribute: see `semantic.attribute`.
        limit: how far to go; see `certify`.
        num_points: of the first grid, to each side; of all rays together, if several.
        num_rounds: of refinement, each 32 times finer.

    Returns:
        An `Attack`; the move is 0 where another class wins there.

    Raises:
        ValueError: as `certify`.

    Example:
        >>> model = lambda x: jnp.stack([x[:, 0, 0, 0], 0.6 - x[:, 0, 0, 0]], axis=-1)
        >>> found = attack(model, np.full((1, 1, 1), 0.5), 0, attribute="brightness")
        >>> print(round(found.left, 4), found.right)
        0.2 inf

    Reference: the grid is that of Mohapatra et al. (2020), arXiv 1912.09533; rays and
        refinement are ours.
    """
    moving = attributes.resolve(attribute)
    ranges = parameter_ranges.resolve(moving, limit)
    _validate.integer(2, num_points=num_points)
    _validate.integer(0, num_rounds=num_rounds)
    x = color.on_host(image, is_color=moving.is_color)
    fn: Any = as_run(bounds.single(apply_fn))
    _validate.labels(len(logits_of(fn, x)), label=label)
    model = Model(fn, moving, x, int(label))
    ends = _rays(ranges, num_points)
    steps = np.linspace(0, 1, num_points + 1 if len(ranges) == 1 else _NUM_PARTS + 1)
    shares = np.array([_first_loss(model, end, steps, num_rounds) for end in ends])
    is_hit = np.isfinite(shares)
    witnesses = shares[is_hit, None] * ends[is_hit]
    return nearest(model, ranges, witnesses)


def logits_of(fn: Partial, image: np.ndarray) -> np.ndarray:
    """Logits of an image as it is, in float64. [host].

    Args:
        fn: maps one image to logits `[k]`.
        image: `[h, w, c]`.

    Returns:
        `[k]`.
    """
    with float64_on_cpu():
        return np.asarray(
            _of_image(*jax.device_put((own_copies(fn), jnp.asarray(image)), cpu()))
        )


@jax.jit
def _of_image(fn: Partial, image: jax.Array) -> jax.Array:
    return tracing.without_casts(fn, image)


class Model(NamedTuple):
    """What is attacked."""

    fn: Any  # a Partial
    attribute: Attribute
    image: np.ndarray
    label: int

    def logits(self, moves: np.ndarray) -> np.ndarray:
        """Logits in float64 at moves `[n, d]`."""
        found = []
        with float64_on_cpu():
            fn, image = jax.device_put(
                (own_copies(self.fn), jnp.asarray(self.image)), cpu()
            )
            for first in range(0, len(moves), _CHUNK):
                own = moves[first : first + _CHUNK]
                filled = np.resize(own, (_CHUNK, own.shape[1]))
                logits = _logits(fn, image, filled, attribute=self.attribute)
                found.append(np.asarray(logits)[: len(own)])
        return np.concatenate(found)

    def is_lost(self, moves: np.ndarray) -> np.ndarray:
        """Whether the label is not the only largest one, or a logit is not finite."""
        margin = margins_of(self.logits(moves), self.label)
        margin = np.delete(margin, self.label, axis=1)
        return ~(margin.min(axis=1) > 0)


def margins_of(logits: np.ndarray, label: int) -> np.ndarray:
    """The label's logit less each, `[n, k]`; NaN where a logit is not finite. [host].

    Args:
        logits: `[n, k]`.
        label: the class.

    Returns:
        `[n, k]`.
    """
    is_finite = np.isfinite(logits).all(axis=1, keepdims=True)
    known = np.where(is_finite, logits, np.nan)
    return known[:, [label]] - known


@functools.partial(jax.jit, static_argnames="attribute")
def _logits(
    fn: Partial, image: jax.Array, moves: jax.Array, *, attribute: Attribute
) -> jax.Array:
    def one(move: jax.Array) -> jax.Array:
        return tracing.without_casts(fn, attribute(image, move))

    return jax.vmap(one)(moves)


def _rays(ranges: list[tuple[float, float]], num_points: int) -> np.ndarray:
    """Ends of rays `[r, d]`: the two limits, or points of the faces of their box."""
    if len(ranges) == 1:
        return np.array([[-ranges[0][0]], [ranges[0][1]]])
    num_rays = max(num_points // _NUM_PARTS, 2 * len(ranges))
    each = (
        2 * int(np.ceil((num_rays / 2 / len(ranges)) ** (1 / (len(ranges) - 1)) / 2))
        + 1
    )
    line = np.linspace(-1, 1, each)
    faces = []
    for axis, side in itertools.product(range(len(ranges)), (-1.0, 1.0)):
        grids = [line] * len(ranges)
        grids[axis] = np.array([side])
        faces.append(np.stack(np.meshgrid(*grids), axis=-1).reshape(-1, len(ranges)))
    directions = np.unique(np.concatenate(faces), axis=0)
    low, high = np.array(ranges).T
    return np.where(directions < 0, directions * low, directions * high)


def _first_loss(
    model: Model, end: np.ndarray, steps: np.ndarray, num_rounds: int
) -> float:
    """Smallest share of the way to an end that is found to be lost, inf if none."""
    for _ in range(num_rounds + 1):
        is_lost = model.is_lost(steps[:, None] * end)
        if not is_lost.any():
            return np.inf
        at = int(np.argmax(is_lost))
        if at == 0:
            break
        steps = np.linspace(steps[at - 1], steps[at], _NUM_PARTS + 1)
    return float(steps[0] if at == 0 else steps[-1])


def nearest(
    model: Model, ranges: Sequence[tuple[float, float]], witnesses: np.ndarray
) -> Attack:
    """Those of some moves that are lost, as an attack. [host].

    Args:
        model: what is attacked.
        ranges: from `parameter_ranges.resolve`.
        witnesses: `[m, d]`, each evaluated once more, as it is returned.

    Returns:
        The `Attack`.
    """
    dimension = len(ranges)
    if len(witnesses):
        witnesses = witnesses[model.is_lost(witnesses)]
    if not len(witnesses):
        none = np.zeros((0, dimension)), np.zeros(0, int)
        return Attack(np.inf, np.inf, np.inf, none[0], none[1])
    share = parameter_ranges.share_of(witnesses, ranges)
    order = np.argsort(share, kind="stable")
    witnesses, share = witnesses[order], share[order]
    logits = model.logits(witnesses)
    classes = np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)
    sides = [np.inf, np.inf]
    if dimension == 1:
        moves = witnesses[:, 0]
        sides = [
            float(np.min(np.abs(moves[side]), initial=np.inf))
            for side in (moves <= 0, moves >= 0)
        ]
    return Attack(sides[0], sides[1], float(share[0]), witnesses, classes)
