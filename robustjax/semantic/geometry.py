"""Rotation, translation, scaling and shearing of one image.

The value of an output pixel is that of the image at its source, interpolated. Rows and
columns are counted from the centre of rotation:

    rotation by a:  source = (row cos a - column sin a, row sin a + column cos a),   (1)
    others:         source = ((row - shift_r) / factor_r,
                              (column - shift_c - shear row) / factor_c).            (2)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import settled
from robustjax.semantic import color

PADDINGS = ("zero", "edge", "reflect")
INTERPOLATIONS = ("bilinear", "radial")
CENTERS = ("geometric", "integer")


class Sampling(NamedTuple):
    """How an image is read between and beyond its pixels."""

    padding: str = "zero"
    """Beyond the image: "zero", SciPy's grid-constant; "edge", its nearest; "reflect",
    its mirror."""
    interpolation: str = "bilinear"
    """Between pixels: "bilinear"; or "radial", max(0, 1 - distance) as weights, made to
    sum to one, as in the reference code."""
    center: str = "geometric"
    """Centre: "geometric", ((h - 1) / 2, (w - 1) / 2); or "integer", its floor."""


BILINEAR = Sampling()


def rotate(
    image: ArrayLike, degrees: ArrayLike, *, sampling: Sampling = BILINEAR
) -> jax.Array:
    """The image rotated; by 90 degrees it is `jnp.rot90(image, -1)`.

    [device] Pure, jittable, vmappable, differentiable almost everywhere.

    Args:
        image: `[h, w, c]` in [0, 1].
        degrees: a number.
        sampling: how the image is read between and beyond its pixels.

    Returns:
        `[h, w, c]` in [0, 1].

    Raises:
        ValueError: if values are out of range or an option is unknown.

    Example:
        >>> image = jnp.array([[[0.0], [1.0]], [[0.0], [0.0]]])
        >>> print(jax.jit(rotate)(image, 90)[..., 0].round(6))
        [[0. 0.]
         [0. 1.]]

    Reference: Mohapatra et al. (2020), arXiv 1912.09533; its interpolation is "radial".
    """
    x = color.as_image(image)
    angle = jnp.deg2rad(jnp.asarray(degrees, x.dtype))
    rows, columns = grid(x.shape, sampling, x.dtype)
    return read(x, *rotation_source(rows, columns, angle), sampling=sampling)


def translate(
    image: ArrayLike, shift: ArrayLike, *, sampling: Sampling = BILINEAR
) -> jax.Array:
    """The image moved by (rows, columns) pixels, down and to the right.

    [device] Pure, jittable, vmappable, differentiable almost everywhere.

    Args:
        image: `[h, w, c]` in [0, 1].
        shift: `[2]`, in pixels.
        sampling: how the image is read between and beyond its pixels.

    Returns:
        `[h, w, c]` in [0, 1].

    Raises:
        ValueError: as `rotate`.

    Example:
        >>> image = jnp.array([[[0.0], [1.0], [0.0]]])
        >>> print(jax.jit(translate)(image, (0, 0.5))[..., 0])
        [[0.  0.5 0.5]]

    Reference: ours.
    """
    return affine(image, shift=shift, sampling=sampling)


def scale(
    image: ArrayLike, delta: ArrayLike, *, sampling: Sampling = BILINEAR
) -> jax.Array:
    """The image enlarged by the factor 1 + delta about its centre.

    [device] Pure, jittable, vmappable, differentiable almost everywhere.

    Args:
        image: `[h, w, c]` in [0, 1].
        delta: a number above -1.
        sampling: how the image is read between and beyond its pixels.

    Returns:
        `[h, w, c]` in [0, 1].

    Raises:
        ValueError: as `rotate`, and if delta is not above -1.

    Example:
        >>> image = jnp.array([[[0.0], [1.0], [0.0]]])
        >>> print(jax.jit(scale)(image, 1.0)[..., 0])
        [[0.5 1.  0.5]]

    Reference: ours.
    """
    factor = 1 + jnp.asarray(delta)
    _validate.positive(**{"1 + delta": factor})
    return affine(image, factors=jnp.stack([factor, factor]), sampling=sampling)


def shear(
    image: ArrayLike, delta: ArrayLike, *, sampling: Sampling = BILINEAR
) -> jax.Array:
    """The image with each row moved right by delta columns for every row below centre.

    [device] Pure, jittable, vmappable, differentiable almost everywhere.

    Args:
        image: `[h, w, c]` in [0, 1].
        delta: a number, in columns per row.
        sampling: how the image is read between and beyond its pixels.

    Returns:
        `[h, w, c]` in [0, 1].

    Raises:
        ValueError: as `rotate`.

    Example:
        >>> image = jnp.array([[[1.0], [0.0]], [[0.0], [0.0]], [[1.0], [0.0]]])
        >>> print(jax.jit(shear)(image, 1.0)[..., 0])
        [[0. 0.]
         [0. 0.]
         [0. 1.]]

    Reference: ours.
    """
    return affine(image, slant=delta, sampling=sampling)


def affine(
    image: ArrayLike,
    *,
    factors: ArrayLike | tuple[float, float] = (1.0, 1.0),
    slant: ArrayLike = 0.0,
    shift: ArrayLike | tuple[float, float] = (0.0, 0.0),
    sampling: Sampling = BILINEAR,
) -> jax.Array:
    """The image scaled, sheared and moved, interpolated once.

    [device] Pure, jittable, vmappable, differentiable almost everywhere.

    Args:
        image: `[h, w, c]` in [0, 1].
        factors: `[2]`, of rows and columns, > 0.
        slant: a number, in columns per row.
        shift: `[2]`, in pixels.
        sampling: how the image is read between and beyond its pixels.

    Returns:
        `[h, w, c]`: the output at (r, c) is the image at ((r - shift_r) / factor_r,
        (c - shift_c - slant r) / factor_c).

    Raises:
        ValueError: as `rotate`.

    Example:
        >>> image = jnp.array([[[0.0], [1.0], [0.0]]])
        >>> print(jax.jit(affine)(image, factors=(1, 2), shift=(0, 1))[..., 0])
        [[0.  0.5 1. ]]

    Reference: ours.
    """
    x = color.as_image(image)
    factor, move, lean = (jnp.asarray(v, x.dtype) for v in (factors, shift, slant))
    rows, columns = grid(x.shape, sampling, x.dtype)
    # (2)
    source = (rows - move[0]) / factor[0], (columns - move[1] - lean * rows) / factor[1]
    return read(x, *source, sampling=sampling)


def center_of(shape: tuple[int, ...], sampling: Sampling) -> tuple[float, float]:
    """Row and column of the centre of an image `[h, w, ...]`. [host]."""
    _validate.one_of(PADDINGS, padding=sampling.padding)
    _validate.one_of(INTERPOLATIONS, interpolation=sampling.interpolation)
    _validate.one_of(CENTERS, center=sampling.center)
    if sampling.center == "integer":
        return (shape[0] - 1) // 2, (shape[1] - 1) // 2
    return (shape[0] - 1) / 2, (shape[1] - 1) / 2


def grid(
    shape: tuple[int, ...], sampling: Sampling, dtype: jax.typing.DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """Rows and columns of all pixels from the centre, `[h, 1]` and `[1, w]`. [device].

    Args:
        shape: of the image, `[h, w, ...]`.
        sampling: tells the centre.
        dtype: of the result.

    Returns:
        Both.

    Raises:
        ValueError: if an option is unknown.
    """
    row, column = center_of(shape, sampling)
    rows = jnp.arange(shape[0], dtype=dtype)[:, None] - row
    return rows, jnp.arange(shape[1], dtype=dtype)[None] - column


def rotation_source(
    rows: jax.Array, columns: jax.Array, angle: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where pixels of a rotated image come from; angle in radians. [device]."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return rows * cosine - columns * sine, rows * sine + columns * cosine  # (1)


def read(
    x: jax.Array, rows: jax.Array, columns: jax.Array, *, sampling: Sampling
) -> jax.Array:
    """An image between its pixels. [device].

    Args:
        x: `[h, w, c]`.
        rows: `[*s]`, from the centre.
        columns: `[*s]`, from the centre.
        sampling: how it is read.

    Returns:
        `[*s, c]`.
    """
    center = center_of(x.shape, sampling)
    # Settled, or the floor of the indices may not be that of the weights on an edge.
    row, column = settled(rows + center[0]), settled(columns + center[1])
    top, left = jnp.floor(row), jnp.floor(column)
    down, right = (row - top)[..., None], (column - left)[..., None]
    corners = cell_corners(x, top, left, padding=sampling.padding)
    ways = (down, right), (down, 1 - right), (1 - down, right), (1 - down, 1 - right)
    if sampling.interpolation == "bilinear":
        weights = [(1 - a) * (1 - b) for a, b in ways]
        return _weighted(weights, corners)
    weights = [jnp.maximum(0.0, 1 - jnp.hypot(a, b)) for a, b in ways]
    total = weights[0] + weights[1] + weights[2] + weights[3]
    return _weighted(weights, corners) / total


def _weighted(weights: Sequence[jax.Array], corners: Sequence[jax.Array]) -> jax.Array:
    parts = [w * corner for w, corner in zip(weights, corners, strict=True)]
    return parts[0] + parts[1] + parts[2] + parts[3]


def cell_corners(
    x: jax.Array, top: jax.Array, left: jax.Array, *, padding: str
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The four pixels around places: upper two, then lower two. [device].

    Args:
        x: `[h, w, c]`.
        top: `[*s]` rows of the upper two, whole numbers as floats, which hold far ones.
        left: `[*s]` columns of the left two, as well.
        padding: what lies beyond the image.

    Returns:
        `[*s, c]` each.
    """
    return (
        _pixel(x, top, left, padding),
        _pixel(x, top, left + 1, padding),
        _pixel(x, top + 1, left, padding),
        _pixel(x, top + 1, left + 1, padding),
    )


def _pixel(x: jax.Array, row: jax.Array, column: jax.Array, padding: str) -> jax.Array:
    height, width = x.shape[:2]
    inner = _mirrored if padding == "reflect" else _nearest
    found = x[inner(row, height), inner(column, width)]
    if padding != "zero":
        return found
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return jnp.where(is_inside[..., None], found, 0.0)


def _nearest(place: jax.Array, size: int) -> jax.Array:
    """The index inside that is nearest."""
    return jnp.clip(place, 0, size - 1).astype(jnp.int32)


def _mirrored(place: jax.Array, size: int) -> jax.Array:
    """The index inside that reflection at the outer pixels leads to."""
    if size == 1:
        return jnp.zeros_like(place, jnp.int32)
    folded = jnp.mod(place, 2 * (size - 1))
    return jnp.minimum(folded, 2 * (size - 1) - folded).astype(jnp.int32)
