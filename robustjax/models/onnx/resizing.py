"""Resize and Upsample of ONNX: linear maps along each axis.

An output entry at place y looks at the place x(y) of the input, whose neighbours it
weighs. The weights are known before the network runs, so that an axis is resized by a
product with a constant matrix, or by choosing entries if each row has a single one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robustjax.models.onnx import shaping

_Rule = Callable[..., jax.Array]


class _Axis(NamedTuple):
    """How one axis is resized."""

    length: int  # of the input
    size: int  # of the output
    scale: float
    start: float  # of the region of interest, as a part of the length
    end: float


class _Way(NamedTuple):
    """The attributes that decide on weights."""

    mode: str
    transform: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool


def _resize(
    x: jax.Array,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> jax.Array:
    """To the sizes, or by the scales, of all axes or of those that are given."""
    for what, values in {"roi": roi, "scales": scales, "sizes": sizes}.items():
        if isinstance(values, jax.Array):
            raise ValueError(f"{what} must be a constant of the file.")
    way = _Way(
        mode=mode,
        transform=coordinate_transformation_mode,
        nearest=nearest_mode,
        cubic=cubic_coeff_a,
        exclude_outside=bool(exclude_outside),
        antialias=bool(antialias),
    )
    axes = [a % x.ndim for a in (range(x.ndim) if axes is None else axes)]
    lengths = [x.shape[axis] for axis in axes]
    if sizes is not None and np.size(sizes):
        wanted = shaping.integers("sizes", sizes)
        ratios, found = _fitted(lengths, wanted, keep_aspect_ratio_policy)
    else:
        ratios = [float(v) for v in np.ravel(scales)]
        found = [
            math.floor(ratio * n) for ratio, n in zip(ratios, lengths, strict=True)
        ]
    if way.transform != "tf_crop_and_resize":
        roi = None
    region = np.repeat([0.0, 1.0], len(axes)) if roi is None else np.ravel(roi)
    for i, axis in enumerate(axes):
        of = _Axis(lengths[i], found[i], ratios[i], region[i], region[len(axes) + i])
        x = _resized(x, axis, _weights(of, way), outside=extrapolation_value)
    return x


def _fitted(
    lengths: Sequence[int], sizes: Sequence[int], policy: str
) -> tuple[list[float], list[int]]:
    """Scales and sizes by the policy on the ratio of the sides."""
    pairs = list(zip(sizes, lengths, strict=True))
    scales = [size / length for size, length in pairs]
    if policy == "stretch":
        return scales, list(sizes)
    if policy not in ("not_larger", "not_smaller"):
        raise ValueError(f"keep_aspect_ratio_policy {policy!r} is not supported.")
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(scales), [math.floor(scale * n + 0.5) for n in lengths]


def _resized(
    x: jax.Array, axis: int, weights: np.ndarray, *, outside: float
) -> jax.Array:
    """The product of an axis with weights `[size, length]`; NaN rows are outside."""
    size, length = weights.shape
    is_outside = np.isnan(weights[:, 0])
    weights = np.where(is_outside[:, None], 0, weights)
    if size == length and np.array_equal(weights, np.eye(size)):
        return x
    is_choice = np.all((weights == 0) | (weights == 1)) and not is_outside.any()
    if is_choice:
        return jnp.take(x, weights.argmax(1).astype(np.int32), axis, mode="clip")
    matrix = jnp.asarray(weights, x.dtype)
    moved = jnp.matmul(
        jnp.moveaxis(x, axis, -1), matrix.T, precision=lax.Precision.HIGHEST
    )
    if is_outside.any():
        moved = jnp.where(
            np.broadcast_to(is_outside, moved.shape), moved.dtype.type(outside), moved
        )
    return jnp.moveaxis(moved, -1, axis)


def _places(of: _Axis, transform: str) -> np.ndarray:
    """Places in the input that the entries of the output look at."""
    y = np.arange(of.size, dtype=np.float64)
    n, scale, last = of.length, of.scale, of.length - 1
    gaps = scale * n - 1  # between the entries of the output, as the standard counts
    steps = y * last / gaps if of.size > 1 else np.zeros_like(y)
    centers = (y + 0.5) / scale - 0.5
    middle = n / 2 * (1 - of.size / (scale * n))
    if of.size > 1:
        crop = of.start * last + (of.end - of.start) * steps
    else:
        crop = (of.start + of.end) / 2 * last + steps
    places = {
        "align_corners": steps,
        "asymmetric": y / scale,
        "half_pixel": centers,
        "half_pixel_symmetric": middle + centers,
        "pytorch_half_pixel": centers if of.size > 1 else np.zeros_like(y),
        "tf_crop_and_resize": crop,
    }
    if transform not in places:
        raise ValueError(
            f"coordinate_transformation_mode {transform!r} is not supported."
        )
    return places[transform]


def _weights(of: _Axis, way: _Way) -> np.ndarray:
    """The weights `[size, length]` of the input entries; NaN for rows outside."""
    places = _places(of, way.transform)
    if way.mode == "nearest":
        chosen = np.clip(_nearest(places, way.nearest), 0, of.length - 1)
        weights = np.equal.outer(chosen.astype(int), np.arange(of.length)).astype(float)
    elif way.mode in ("linear", "cubic"):
        weights = _interpolation(places, of, way)
    else:
        raise ValueError(f"mode {way.mode!r} is not supported.")
    if way.transform == "tf_crop_and_resize":
        weights[(places < 0) | (places > of.length - 1)] = np.nan
    return weights


def _nearest(places: np.ndarray, mode: str) -> np.ndarray:
    """Places rounded to entries, by a rule for halves."""
    rounded: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    if mode not in rounded:
        raise ValueError(f"nearest_mode {mode!r} is not supported.")
    return rounded[mode](places)


def _interpolation(places: np.ndarray, of: _Axis, way: _Way) -> np.ndarray:
    """Weights of a kernel around places, those outside moved to the edge or dropped.

    The kernel is as wide as one entry of the output where antialiasing is on.
    """
    stretch = min(of.scale, 1.0) if way.antialias else 1.0
    reach = 1 if way.mode == "linear" else 2
    margin = math.ceil(reach / stretch) + 1
    entries = np.arange(-margin, of.length + margin)
    kernel = _linear if way.mode == "linear" else _cubic
    found = kernel(np.subtract.outer(places, entries) * stretch, way.cubic)
    inside = np.clip(entries, 0, of.length - 1)
    if way.exclude_outside:
        found = np.where(inside == entries, found, 0)
    found = found / found.sum(1, keepdims=True)
    weights = np.zeros((of.size, of.length))
    np.add.at(weights.T, inside, found.T)
    return weights


def _linear(distance: np.ndarray, _: float) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel with parameter a."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _resize_10(x: jax.Array, scales: Any, *, mode: str = "nearest") -> jax.Array:
    """Resize before version 11, which has no other attributes."""
    return _resize(
        x,
        None,
        scales,
        mode={"bilinear": "linear"}.get(mode, mode),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _upsample(
    x: jax.Array, factors: Any = None, *, mode: str = "nearest", scales: Any = None
) -> jax.Array:
    """The scales were an attribute before version 9, and are an input since."""
    return _resize_10(x, scales if factors is None else factors, mode=mode)


RULES: dict[str, _Rule] = {"Resize": _resize, "Upsample": _upsample}
BEFORE_11: dict[str, _Rule] = {"Resize": _resize_10}
