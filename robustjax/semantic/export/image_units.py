"""An image as units of its parameters t, in a form that every verifier reads.

    x(t) = offset + sum_k sign_k relu(slope_k t + bias_k).

What an SP-layer multiplies a unit with is inside of the unit here, since a relu(z) is
relu(a z) for a >= 0. The signs are then the same at all pixels, and their sum is a
convolution with a kernel of one pixel. With the parts of a pixel as in `color`, m, d,
L, S, F, h and a channel x,

    hue:         m + d W(-3) + sum_k w_k relu(d (h + 6 t - k)),              (1)
    saturation:  L + min(s, 0) + relu(|s| z) - relu(|s| (z - 1)),            (2)
                 s = (x - L) / S,   z = S + t, or 1 - S - t where s < 0,
    lightness:   relu((1 + s) z) - 2 relu(max(s, 0) (z - 1/2))               (3)
                 + 2 relu(max(-s, 0) (z - 1/2)) - relu((1 - s) (z - 1)),
                 s = 2 (x - L) / F,   z = L + t,
    brightness and contrast:   relu(z) - relu(z - 1),                        (4)
                 z = x + b + c (x - 1/2),
    others:      x(l) + sum_k w_k relu(t - k),   l the lower limit,          (5)
    w_k = slope right of k - slope left of k, of the wheel W or the pixel.   (6)

The breakpoints k of the others are those of all pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.semantic import color
from robustjax.semantic.attributes import CONTRAST, Attribute
from robustjax.semantic.attributes import attribute as named_attribute
from robustjax.semantic.relaxations import pixel_paths

_FIRST_HUE, _LAST_HUE = -3, 9  # sextants that a move by half a turn can reach
_MOST_NUMBERS = 2**24  # of the weights of units that all pixels share
_CLOSE = 1e-9  # of the range: breakpoints nearer than that are one
_Image = Callable[[jax.Array], jax.Array]


def image_fn(
    attribute: Attribute, x: np.ndarray, ranges: Sequence[tuple[float, float]]
) -> _Image:
    """The moved image as a function made of ReLU. [host].

    Args:
        attribute: what moves.
        x: `[h, w, c]` float64 in [0, 1].
        ranges: from `parameter_ranges.resolve`.

    Returns:
        A function that maps `[d]` to `[h, w, c]`, and that is the transform within the
        ranges.

    Raises:
        ValueError: if the attribute is no function of this kind, or if it bends at too
            many places.
    """
    first = [name for name in attribute.names if name not in CONTRAST]
    last = [name for name in attribute.names if name in CONTRAST]
    is_linear = all(map(pixel_paths.is_linear, first)) and len(first) <= 1
    if not is_linear or (first and "contrast" in last):
        raise ValueError(
            "Expected an attribute that is piecewise linear in its parameters (one of "
            "hue, saturation, lightness, shear, translation_rows, translation_columns, "
            "with or without brightness, or brightness_contrast or a part of it), got "
            f"{attribute.name!r}; certify takes it."
        )
    if not first:
        return _contrasted(x, last)
    kinds = {"hue": _hue, "saturation": _saturation, "lightness": _lightness}
    if first[0] in kinds:
        moved = kinds[first[0]](x)
    else:
        alone = named_attribute(first[0], sampling=attribute.sampling)
        moved = _shared(alone, x, ranges[0])
    if not last:
        return lambda t: moved(t[0])
    return lambda t: _clipped(moved(t[0]) + t[1])


def _clipped(z: jax.Array) -> jax.Array:
    return jax.nn.relu(z) - jax.nn.relu(z - 1)


def _contrasted(x: np.ndarray, names: Sequence[str]) -> _Image:
    shares = {"brightness": np.ones_like(x), "contrast": x - 0.5}
    slopes = np.stack([shares[name] for name in names])
    signs = np.array([1.0, -1.0])

    def moved(t: jax.Array) -> jax.Array:
        z = jnp.tensordot(t, slopes, 1, precision=jax.lax.Precision.HIGHEST) + x
        return _summed(signs, jax.nn.relu(jnp.stack([z, z - 1])))  # (4)

    return moved


def _hue(x: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    parts = color.parts_of(x, xp=np)
    knots = np.arange(_FIRST_HUE, _LAST_HUE + 1.0)
    start, weights = _hinges(knots, color.color_wheel(knots, xp=np))
    chroma = parts.chroma[None]
    biases = chroma * (parts.hue[None] - knots[:-1, None, None])
    offset = parts.least[..., None] + parts.chroma[..., None] * start

    def moved(t: jax.Array) -> jax.Array:
        units = jax.nn.relu(6 * chroma * t + biases)
        return jnp.moveaxis(_summed(weights.T, units), 0, -1) + offset  # (1)

    return moved


def _saturation(x: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    parts: Any = color.parts_of(x, xp=np)
    steep, full = parts.per_saturation, parts.saturation[..., None]
    size, is_turned = np.abs(steep), steep < 0
    full = np.where(is_turned, 1 - full, full)
    slopes = np.stack([size, size]) * np.where(is_turned, -1.0, 1.0)
    biases = np.stack([size * full, size * (full - 1)])
    signs = np.array([1.0, -1.0])
    offset = parts.lightness[..., None] + np.minimum(steep, 0)
    return lambda t: _summed(signs, jax.nn.relu(slopes * t + biases)) + offset  # (2)


def _lightness(x: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    parts = color.parts_of(x, xp=np)
    bend = np.clip(2 * parts.per_room, -1, 1)
    slopes = np.stack([1 + bend, np.maximum(bend, 0), np.maximum(-bend, 0), 1 - bend])
    places = np.array([0, 0.5, 0.5, 1])[:, None, None, None]
    biases = slopes * (parts.lightness[..., None] - places)
    signs = np.array([1.0, -2.0, 2.0, -1.0])
    return lambda t: _summed(signs, jax.nn.relu(slopes * t + biases))  # (3)


def _shared(
    moving: Attribute, x: np.ndarray, limits: tuple[float, float]
) -> Callable[[jax.Array], jax.Array]:
    """Units at the breakpoints of all pixels, each of which all pixels use."""
    left, right = limits
    if not any(limits):
        return lambda t: jnp.asarray(x)
    reach = 2.0 ** math.ceil(math.log2(max(limits)))
    found = np.asarray(
        pixel_paths.all_knots(moving, jnp.asarray(x), max(limits), max_limit=reach)
    )
    inside = np.unique(found[(found > -left) & (found < right)])
    knots = np.array([-left, *inside, right])
    is_new = np.diff(knots, append=np.inf) > _CLOSE * (left + right)
    knots = np.append(knots[:-1][is_new[:-1]], right)
    if len(knots) * x.size > _MOST_NUMBERS:
        raise ValueError(
            f"Pixels of this image bend at {len(knots)} places along {moving.name!r}, "
            "too many to write; expected a smaller limit or image."
        )
    values = jax.lax.map(lambda knot: moving(x, knot[None]), jnp.asarray(knots))
    start, weights = _hinges(knots, np.asarray(values))
    signs = np.moveaxis(weights, 0, -1)
    return lambda t: _summed(signs, jax.nn.relu(t - knots[:-1])) + start  # (5)


def _summed(signs: np.ndarray, units: jax.Array) -> jax.Array:
    """Units `[k, ...]` times signs `[..., k]`."""
    return jnp.tensordot(signs, units, 1, precision=jax.lax.Precision.HIGHEST)


def _hinges(knots: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve through values `[n, ...]` as values[0] + sum_k weights_k relu(t - k).

    Returns:
        The first value, and the weights `[n - 1, ...]` of all knots but the last one.
    """
    steps = np.diff(knots).reshape(-1, *[1] * (values.ndim - 1))
    slopes = np.diff(values, axis=0) / steps  # (6)
    return values[0], np.diff(slopes, axis=0, prepend=np.zeros_like(slopes[:1]))
