"""Extent of a decision region along rays, before and after smoothing.

    t_base = inf {t : f(x + t u) != A},
    t_smooth = inf {t : P[f(x + t u + eps) = A] < tau},

with eps ~ N(0, sigma^2 I). The same noise is used at every point of a ray, so the votes
for its class are a fixed function of the distance t, and where they pass a level can be
found by bisection.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate
from robustjax.hidden_cost.regions import exits, point_decisions
from robustjax.smoothing.sampling import (
    base_classifier,
    noise_blocks,
    streams,
    vote_counts,
)


class RayShrinkage(NamedTuple):
    """Exits of n rays from the region of their class, base and smoothed.

    Distances are in input units, float64. An exit is inf where it is censored, and nan
    where the ray does not start inside.
    """

    base_exit: NDArray[np.float64]  # [n], first t where f(x + t u) is another class
    smoothed_exit: NDArray[np.float64]  # [n], estimate of first t with p(t) < threshold
    lower: NDArray[np.float64]  # [n], confidence interval of the smoothed exit
    upper: NDArray[np.float64]  # [n], inf if it may lie beyond max_distance
    ratio: NDArray[np.float64]  # [n], smoothed_exit / base_exit, nan unless both finite
    difference: NDArray[np.float64]  # [n], smoothed_exit - base_exit, or nan
    label: NDArray[np.int32]  # [n], num_classes where a logit at x is not finite
    is_outside: NDArray[np.bool_]  # [n], f(x) is not `label`
    is_empty: NDArray[np.bool_]  # [n], share of the votes at x < threshold
    is_base_censored: NDArray[np.bool_]  # [n], not left up to max_distance
    is_censored: NDArray[np.bool_]  # [n], smoothed region not left up to max_distance
    base_crossings: NDArray[np.int32]  # [n], changes between neighbours of the grid
    smoothed_crossings: NDArray[np.int32]  # [n]
    start_votes: NDArray[np.int32]  # [n], of num_samples, at x
    num_samples: int
    grid_step: float  # what is narrower may be missed


def ray_shrinkage(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    directions: ArrayLike,
    sigma: float,
    num_classes: int,
    max_distance: float,
    num_samples: int = 1000,
    threshold: float = 0.5,
    num_grid: int = 64,
    num_bisections: int = 16,
    alpha: float = 0.05,
    labels: ArrayLike | None = None,
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> RayShrinkage:
    """Distances at which rays leave the region of a class, before and after smoothing.

    [host] Ray i is x[i] + t u[i], 0 <= t <= max_distance, with u the direction made of
    length 1, and p(t) the probability of its class under N(0, sigma^2 I) noise there.
    The base exit is the first t where the classifier returns another class, the
    smoothed exit the first t with p(t) < threshold, t = 0 included. Both are sought on
    a grid and then by bisection in the first cell whose ends differ. Rays may leave
    [0, 1]: regions are measured in R^d, and nothing is clipped.

    Guarantee:
        For each ray, an interval that misses the smoothed exit is returned with
        probability at most alpha over the noise, as far as the grid resolves it.

        Why: bounds of p taken at a t that the same noise has chosen would not be valid,
        for the choice looks for a t where the votes are few. So a test is inverted
        instead. At the true exit, a point that does not depend on the noise,
        p = threshold, and the votes there are Binomial(num_samples, threshold). They
        lie in the acceptance region of the two-sided Clopper-Pearson test but with
        probability 9/10 alpha, and so the exit lies among all t with accepted votes,
        however these t are found. The interval is the hull of those before the first
        grid point where the votes are too few for p >= threshold at any of the grid
        points at once; that costs the last tenth of alpha, and keeps a ray that enters
        the region again from widening the interval.

        The grid is assumed to be fine enough: a stay outside (or inside) that lies
        between two neighbours on it is missed, by the exits, the counted crossings and
        the hull; and in a cell, votes that pass a level several times are taken to pass
        it where the bisection ends. The base exit has no statistical error, so
        (lower - base_exit, upper - base_exit) is an interval of the difference.

    Edge cases:
        =================================  =============================================
        Case                               Result
        =================================  =============================================
        not left up to max_distance        exit inf and `is_base_censored`, or
                                           `is_censored`; upper inf if it may be so
        f(x) is not labels                 base exit nan, `is_outside`
        share of votes at x < threshold    smoothed exit, lower, upper nan, `is_empty`
        =================================  =============================================

    Args:
        key: random key, `jax.random.key(seed)`; a stream of its own is used.
        apply_fn: maps `[m, ...]` inputs to `[m, num_classes]` logits; one with
            parameters as a `jax.tree_util.Partial`.
        x: `[n, ...]` finite floats, where the rays start; in or out of [0, 1].
        directions: `[n, ...]` of the shape of x, not zero, of any length.
        sigma: noise level, in the units of x, positive.
        num_classes: number of classes, an integer >= 2.
        max_distance: where rays end, in the units of x, positive.
        num_samples: noise samples at every point.
        threshold: the level of p that bounds the smoothed region, in (0, 1): 1/2 for
            what can be certified, 1 / num_classes for what contains the predictions.
        num_grid: cells of the grid, an integer >= 1.
        num_bisections: by which a cell is halved; exits are right to half of
            max_distance / num_grid / 2^num_bisections, and the interval rounds outward.
        alpha: failure probability for each ray, in (0, 1).
        labels: `[n]` classes of the rays; default: that of the classifier at x.
        example_ids: `[n]` integers >= 0; default arange(n). Rays with equal ids share
            their noise.
        chunk_size: samples in one forward batch, a multiple of 128.
        mesh: devices that share the samples.

    Returns:
        The `RayShrinkage`.

    Raises:
        ValueError: if an argument is out of range, shapes differ or a direction is 0.

    Example:
        >>> disc = lambda x: jnp.stack([1 - (x**2).sum(1), (x**2).sum(1) - 1], axis=1)
        >>> rays = ray_shrinkage(
        ...     jax.random.key(0), disc, jnp.zeros((1, 2)), directions=[[1.0, 1.0]],
        ...     sigma=0.6, num_classes=2, max_distance=2.0, num_samples=4000,
        ... )
        >>> print(rays.base_exit.round(3), rays.smoothed_exit.round(1))  # exact: 0.768
        [1.] [0.8]

    Reference: ours, `docs/papers/hidden_cost.md`, "Measurement"; in the spirit of
        Mohapatra et al. (2021), AISTATS, arXiv 2003.01249.
    """
    _validate.positive(max_distance=max_distance)
    _validate.open_interval(0, 1, threshold=threshold, alpha=alpha)
    _validate.integer(1, num_grid=num_grid)
    _validate.integer(0, num_bisections=num_bisections)
    start = point_decisions.finite_floats(x=x)
    work = point_decisions.prepare(
        key,
        apply_fn,
        start,
        stream=streams.RAYS,
        sigma=sigma,
        num_samples=num_samples,
        num_classes=num_classes,
        example_ids=example_ids,
    )
    rays = vote_counts.replicate(
        _Rays(work, _unit(directions, shape=start.shape)), mesh
    )
    options = dict(num_classes=num_classes, chunk_size=chunk_size)
    grid = np.linspace(0, max_distance, num_grid + 1, dtype=np.float32)

    def base_class(t: exits.Distances) -> NDArray[np.int32]:
        return np.asarray(_base_class(rays, t, **options))

    def votes(t: exits.Distances) -> NDArray[np.int32]:
        return np.asarray(_votes(rays, t, label, mesh=mesh, **options))

    at_grid = np.repeat(grid[:, None], len(start), axis=1)
    scanned_class = np.stack([base_class(t) for t in at_grid])
    label = scanned_class[0]
    if labels is not None:
        label = point_decisions.check_labels(
            labels, num=len(start), num_classes=num_classes
        )
    scanned_votes = np.stack([votes(t) for t in at_grid])

    first_exit = functools.partial(
        exits.first_exit, grid, num_bisections=num_bisections
    )
    level = exits.vote_levels(num_samples, threshold, alpha=alpha, num_points=len(grid))
    is_base = scanned_class == label
    is_in = scanned_votes >= level.inside
    is_possible = scanned_votes >= level.low
    is_possible &= np.logical_and.accumulate(scanned_votes >= level.cut)
    is_before_last = np.logical_or.accumulate(is_possible[::-1])[::-1]
    return _result(
        base=first_exit(is_base, lambda t: base_class(t) == label),
        smoothed=first_exit(is_in, lambda t: votes(t) >= level.inside),
        lower=first_exit(
            scanned_votes > level.high, lambda t: votes(t) > level.high
        ).inner,
        upper=first_exit(is_before_last, lambda t: votes(t) >= level.low).outer,
        is_base=is_base,
        is_in=is_in,
        label=label,
        start_votes=scanned_votes[0],
        num_samples=num_samples,
        grid_step=float(max_distance / num_grid),
    )


class _Rays(NamedTuple):
    work: noise_blocks.SampleJob
    directions: jax.Array  # [n, ...], of length 1

    def points(self, t: jax.Array) -> jax.Array:
        """The point at distance t[i] of each ray."""
        x = self.work.x
        return x + t.reshape(-1, *[1] * (x.ndim - 1)) * self.directions


@functools.partial(jax.jit, static_argnames=("num_classes", "chunk_size"))
def _base_class(
    rays: _Rays, t: jax.Array, *, num_classes: int, chunk_size: int | None
) -> jax.Array:
    return point_decisions.base_labels(
        rays.work.apply_fn,
        rays.points(t),
        num_classes=num_classes,
        chunk_size=chunk_size,
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "chunk_size", "mesh"))
def _votes(
    rays: _Rays,
    t: jax.Array,
    label: jax.Array,
    *,
    num_classes: int,
    chunk_size: int | None,
    mesh: Mesh | None,
) -> jax.Array:
    votes = point_decisions.class_votes(
        rays.work._replace(x=rays.points(t)),
        num_classes=num_classes,
        chunk_size=chunk_size,
        mesh=mesh,
    )
    return jnp.take_along_axis(votes, label[:, None], axis=1)[:, 0]


def _result(
    *,
    base: exits.Exit,
    smoothed: exits.Exit,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    is_base: NDArray[np.bool_],
    is_in: NDArray[np.bool_],
    **rest: Any,
) -> RayShrinkage:
    """The exits, with nan where a ray does not start inside."""
    base_exit = np.where(is_base[0], base.middle, np.nan)
    smoothed_exit = np.where(is_in[0], smoothed.middle, np.nan)
    both = np.isfinite(base_exit) & np.isfinite(smoothed_exit)
    known_base = np.where(both, base_exit, np.nan)
    return RayShrinkage(
        base_exit=base_exit,
        smoothed_exit=smoothed_exit,
        lower=np.where(is_in[0], lower, np.nan),
        upper=np.where(is_in[0], upper, np.nan),
        ratio=smoothed_exit / known_base,
        difference=smoothed_exit - known_base,
        is_outside=~is_base[0],
        is_empty=~is_in[0],
        is_base_censored=base_exit == np.inf,
        is_censored=smoothed_exit == np.inf,
        base_crossings=exits.crossings(is_base),
        smoothed_crossings=exits.crossings(is_in),
        **rest,
    )


def _unit(directions: ArrayLike, *, shape: tuple[int, ...]) -> jax.Array:
    """Directions of length 1, of the shape of x."""
    array = point_decisions.finite_floats(directions=np.asarray(directions, np.float64))
    if array.shape != shape:
        raise ValueError(
            f"Expected directions of the shape of x, {shape}, got {array.shape}."
        )
    length = np.sqrt(np.sum(array**2, axis=tuple(range(1, array.ndim)), keepdims=True))
    if not length.all():
        zero = np.argmin(length.ravel())
        raise ValueError(f"Expected directions that are not zero, got row {zero} = 0.")
    return jnp.asarray(array / length, jnp.float32)
