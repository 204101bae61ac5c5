"""Decision regions on a plane through three inputs, before and after smoothing.

    base[i, j] = f(v),                                        (1)
    smoothed[i, j] = argmax of the votes of f(v + sigma z),   (2)
    v = points[0] + x[j] basis[0] + y[i] basis[1].            (3)

Arrays only: `robustjax.plotting` draws them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate
from robustjax.hidden_cost.regions import point_decisions
from robustjax.smoothing.sampling import (
    base_classifier,
    noise_blocks,
    streams,
    vote_counts,
)

_COLLINEAR = 1e-5  # distance from the line, as a share of the length; float32 input


class SliceMap(NamedTuple):
    """Labels on a square grid of h rows and as many columns of a plane.

    The pixel [i, j] lies at points[0] + y[i] basis[1] + x[j] basis[0], so row 0 is the
    lowest (`origin="lower"` in plots).
    """

    base: NDArray[np.int32]  # [h, w], num_classes where a logit is not finite
    smoothed: NDArray[np.int32]  # [h, w], most votes; num_classes if invalid ones win
    counts: NDArray[np.int32]  # [h, w, num_classes + 1], the last column: invalid
    x: NDArray[np.float64]  # [w], centres of pixels, from points[0], in input units
    y: NDArray[np.float64]  # [h]
    coordinates: NDArray[np.float64]  # [3, 2], x and y of the three points
    basis: NDArray[np.float64]  # [2, ...], orthonormal


class AreaFractions(NamedTuple):
    """Shares of a slice that each class takes; the last entry is `invalid`."""

    base: NDArray[np.float64]  # [k + 1], sums to 1
    smoothed: NDArray[np.float64]  # [k + 1]
    ratio: NDArray[np.float64]  # [k + 1], smoothed / base, nan for a class without area


def slice_map(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    points: ArrayLike,
    *,
    sigma: float,
    num_classes: int,
    resolution: int = 64,
    num_samples: int = 1000,
    margin: float = 0.25,
    common_noise: bool = True,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> SliceMap:
    """Base and smoothed decisions on the plane through three inputs.

    [host] A square of resolution^2 pixels around the three points. Noise is that of
    R^d, not of the plane. Pixels may lie outside [0, 1]: regions are measured in R^d,
    and nothing is clipped. Memory is that of one row of pixels and of the counts.

    The first axis points from points[0] to points[1]; the second is orthogonal to it,
    on the side of points[2].

    Guarantee:
        The counts of each pixel are of `num_samples` independent draws. With
        `common_noise` all pixels share these: borders come out smooth, since
        neighbours err together, and so does all of the map; without it every pixel has
        its own, borders look frayed, and errors average out in areas. No confidence is
        stated for the map as a whole.

    Args:
        key: random key, `jax.random.key(seed)`; a stream of its own is used.
        apply_fn: maps `[m, ...]` inputs to `[m, num_classes]` logits; one with
            parameters as a `jax.tree_util.Partial`.
        points: `[3, ...]` finite floats, in or out of [0, 1].
        sigma: noise level, in the units of the points, positive.
        num_classes: number of classes, an integer >= 2.
        resolution: pixels along each side, an integer >= 1.
        num_samples: noise samples at every pixel.
        margin: what to add on each side, as a share of the longer side of the smallest
            rectangle around the points; >= 0.
        common_noise: whether all pixels see the same noise.
        chunk_size: samples in one forward batch, a multiple of 128.
        mesh: devices that share the samples.

    Returns:
        The `SliceMap`.

    Raises:
        ValueError: if an argument is out of range, or the points lie on a line.

    Example:
        >>> disc = lambda x: jnp.stack([1 - (x**2).sum(1), (x**2).sum(1) - 1], axis=1)
        >>> corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]
        >>> found = slice_map(
        ...     jax.random.key(0), disc, corners, sigma=0.6, num_classes=2,
        ...     resolution=16,
        ... )
        >>> print(area_fractions(found).ratio[:2].round(1))
        [0.6 1.2]

    Reference:
        ours; in the spirit of Mohapatra et al. (2021), AISTATS, arXiv 2003.01249.
    """
    _validate.integer(1, resolution=resolution)
    if not 0 <= margin < np.inf:
        raise ValueError(f"Expected margin >= 0 and finite, got {margin}.")
    corners = point_decisions.finite_floats(points=points)
    basis, coordinates = _plane(corners)
    x, y = _axes(coordinates, resolution=resolution, margin=margin)
    work = point_decisions.prepare(
        key,
        apply_fn,
        np.repeat(corners[:1], resolution, axis=0),  # a row, moved to its place later
        stream=streams.SLICES,
        sigma=sigma,
        num_samples=num_samples,
        num_classes=num_classes,
        example_ids=np.zeros(resolution, np.int32),
    )
    ids = np.arange(resolution**2, dtype=np.uint32) * (not common_noise)
    plane = _Plane(
        basis=jnp.asarray(basis, jnp.float32),
        x=jnp.asarray(x, jnp.float32),
        y=jnp.asarray(y, jnp.float32),
        ids=jnp.asarray(ids.reshape(resolution, resolution)),
    )
    base, counts = _decide(
        *vote_counts.replicate((work, plane), mesh),
        num_classes=num_classes,
        chunk_size=chunk_size,
        mesh=mesh,
    )
    counts = np.asarray(counts)
    return SliceMap(
        base=np.asarray(base),
        smoothed=np.argmax(counts, axis=-1).astype(np.int32),  # (2)
        counts=counts,
        x=x,
        y=y,
        coordinates=coordinates,
        basis=basis,
    )


def area_fractions(decided: SliceMap) -> AreaFractions:
    """The share of a slice that each class takes, before and after smoothing.

    [host] Shares of pixels: right to about the pixels on borders.

    Args:
        decided: from `slice_map`.

    Returns:
        The `AreaFractions`; a ratio below 1 tells that the class has lost area.

    Example:
        >>> disc = lambda x: jnp.stack([1 - (x**2).sum(1), (x**2).sum(1) - 1], axis=1)
        >>> corners = [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]
        >>> found = slice_map(
        ...     jax.random.key(0), disc, corners, sigma=0.6, num_classes=2,
        ...     resolution=32, num_samples=100,
        ... )
        >>> print(area_fractions(found).base.round(2))
        [0.35 0.65 0.  ]

    Reference:
        ours; in the spirit of Mohapatra et al. (2021), AISTATS, arXiv 2003.01249.
    """
    num_columns = decided.counts.shape[-1]
    base, smoothed = (
        np.bincount(labels.ravel(), minlength=num_columns) / labels.size
        for labels in (decided.base, decided.smoothed)
    )
    return AreaFractions(base, smoothed, smoothed / np.where(base > 0, base, np.nan))


def transition_matrix(
    base: ArrayLike, smoothed: ArrayLike, *, num_classes: int
) -> NDArray[np.float64]:
    """Where each class goes: the shares of smoothed labels among its base labels.

    [host]

    Args:
        base: integers in [0, num_classes), of any shape. Pass num_classes + 1 where
            invalid logits, labelled num_classes, are to be a class as well.
        smoothed: integers of the same shape.
        num_classes: number of classes, an integer >= 1.

    Returns:
        float64 `[num_classes, num_classes]`; the row of a class sums to 1, and is nan
        where no base label is of that class.

    Raises:
        ValueError: if shapes differ or a label is out of range.

    Example:
        >>> transition_matrix([0, 0, 1, 1], [0, 1, 1, 1], num_classes=2).tolist()
        [[0.5, 0.5], [0.0, 1.0]]

    Reference:
        ours; in the spirit of Mohapatra et al. (2021), AISTATS, arXiv 2003.01249.
    """
    _validate.integer(1, num_classes=num_classes)
    rows, columns = np.asarray(base), np.asarray(smoothed)
    if rows.shape != columns.shape:
        raise ValueError(
            f"Expected base and smoothed of one shape, got {rows.shape} and "
            f"{columns.shape}."
        )
    rows, columns = (
        point_decisions.check_labels(
            labels.ravel(), num=labels.size, num_classes=num_classes
        )
        for labels in (rows, columns)
    )
    num = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    num = num.reshape(num_classes, num_classes)
    total = num.sum(axis=1, keepdims=True)
    return num / np.where(total > 0, total, np.nan)


class _Plane(NamedTuple):
    basis: jax.Array  # [2, ...]
    x: jax.Array  # [w]
    y: jax.Array  # [h]
    ids: jax.Array  # [h, w], example ids of the pixels


@functools.partial(jax.jit, static_argnames=("num_classes", "chunk_size", "mesh"))
def _decide(
    work: noise_blocks.SampleJob,
    plane: _Plane,
    *,
    num_classes: int,
    chunk_size: int | None,
    mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    """Base labels `[h, w]` and counts `[h, w, num_classes + 1]`, row after row."""
    along, across = plane.basis
    row_of_x = work.x + jnp.multiply.outer(plane.x, along)

    def row(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        y, ids = row
        pixels = row_of_x + y * across[None]  # (3)
        counts = point_decisions.class_votes(
            work._replace(x=pixels, example_ids=ids),
            num_classes=num_classes,
            chunk_size=chunk_size,
            mesh=mesh,
        )
        base = point_decisions.base_labels(  # (1)
            work.apply_fn, pixels, num_classes=num_classes, chunk_size=chunk_size
        )
        return base, counts

    return jax.lax.map(row, (plane.y, plane.ids))


def _plane(
    points: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orthonormal basis `[2, ...]` by Gram-Schmidt, and coordinates `[3, 2]`."""
    if len(points) != 3:
        raise ValueError(f"Expected three points [3, ...], got shape {points.shape}.")
    sides = (points[1:] - points[0]).reshape(2, -1)
    first, second = sides
    length = np.linalg.norm(first)
    along = first / (length or 1)
    across = second - (second @ along) * along
    across -= (across @ along) * along  # twice is enough for orthogonality in float64
    height = np.linalg.norm(across)
    if not height > _COLLINEAR * max(length, np.linalg.norm(second)) or not length:
        raise ValueError(
            f"Expected points that span a plane, got three on a line: {points}."
        )
    basis = np.stack([along, across / height])
    coordinates = np.concatenate([np.zeros((1, 2)), sides @ basis.T])
    return basis.reshape(2, *points.shape[1:]), coordinates


def _axes(
    coordinates: NDArray[np.float64], *, resolution: int, margin: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of the pixels along both axes of a square around the three points."""
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    side = (1 + 2 * margin) * (high - low).max()
    steps = (np.arange(resolution) + 0.5) / resolution - 0.5
    x, y = (low + high)[:, None] / 2 + side * steps
    return x, y
