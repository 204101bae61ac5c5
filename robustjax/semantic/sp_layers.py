"""SP-layers: Flax modules from the numbers of an attribute to the image, made of ReLU.

With the parts of a pixel as in `color`, m, d, L, F, S, h and a channel x,

    hue:         m + d (offset + sum_k weight_k relu(h + 6 t - k)),                (1)
    saturation:  L + (x - L) / S (relu(S + t) - relu(S + t - 1)),                  (2)
    lightness:   (1 + e) relu(s) - 2 e relu(s - 1/2) + (e - 1) relu(s - 1),        (3)
    brightness and contrast:   relu(z) - relu(z - 1),   z = x + b + c (x - 1/2),   (4)

where k = -3, ..., 9, s = L + t and e = 2 (x - L) / F. Put one before a model, and a
verifier of linf boxes verifies the attribute. Each unit belongs to one pixel, so there
are `[h, w, units]` of them and no dense matrix.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.semantic import color

_FIRST_HINGE, _NUM_HINGES = -3, 13
# Weights of the hinges relu(h + t - k), k = -3, ..., 9, in red, green and blue.
_HINGES = {
    "red": {-2: 1, -1: -1, 1: -1, 2: 1, 4: 1, 5: -1, 7: -1, 8: 1},
    "green": {-3: -1, -2: 1, 0: 1, 1: -1, 3: -1, 4: 1, 6: 1, 7: -1},
    "blue": {-1: -1, 0: 1, 2: 1, 3: -1, 5: -1, 6: 1, 8: 1, 9: -1},
}
_HINGE_OFFSETS = (0.0, 1.0, 1.0)
SIDES = {
    "both": (-math.inf, math.inf),
    "right": (0.0, math.inf),
    "left": (-math.inf, 0.0),
}


class Hue(nn.Module):
    """Hue in turns, between -1/2 and 1/2, by 13 units a pixel.

    Reference: Mohapatra et al. (2020), arXiv 1912.09533; the weights are ours.
    """

    image: Any  # [h, w, 3] in [0, 1]

    @nn.compact
    def __call__(self, delta: ArrayLike) -> jax.Array:
        """The image `[h, w, 3]` by delta `[1]`, in float32 or wider."""
        delta = _numbers(delta, 1)
        _validate.closed_interval(-0.5, 0.5, delta=delta)
        parts = _parts(self.image, delta)
        knots = jnp.arange(_NUM_HINGES, dtype=delta.dtype) + _FIRST_HINGE
        units = nn.relu(6 * delta[0] + (parts.hue[..., None] - knots[None, None]))
        weights = jnp.asarray(_hinge_weights(), delta.dtype)
        offsets = jnp.asarray(_HINGE_OFFSETS, delta.dtype)
        precise = jax.lax.Precision.HIGHEST
        # With the chroma on the weights, not on their sum: one affine map.
        scaled = parts.chroma[..., None, None] * weights[None, None]
        colors = jnp.einsum("hwu,hwuc->hwc", units, scaled, precision=precise)
        return (  # (1)
            colors
            + parts.least[..., None]
            + parts.chroma[..., None] * offsets[None, None]
        )


class Saturation(nn.Module):
    """Saturation by two units a pixel, or by one where delta stays on one side of 0.

    Reference: Mohapatra et al. (2020), arXiv 1912.09533, for one side.
    """

    image: Any  # [h, w, 3] in [0, 1]
    side: str = "both"
    """"right" holds for delta >= 0 alone, "left" for delta <= 0 alone."""

    @nn.compact
    def __call__(self, delta: ArrayLike) -> jax.Array:
        """The image `[h, w, 3]` by delta `[1]`, in float32 or wider."""
        delta = _numbers(delta, 1)
        _on_side(self.side, delta)
        parts = _parts(self.image, delta)
        steep, full = parts.per_saturation, parts.saturation
        base = parts.lightness[..., None]
        if self.side == "right":
            return base + steep - steep * nn.relu(1 - full - delta[0])[..., None]
        low = nn.relu(full + delta[0])
        if self.side == "left":
            return base + steep * low[..., None]
        high = nn.relu(full + delta[0] - 1)
        return base + steep * low[..., None] - steep * high[..., None]  # (2)


class Lightness(nn.Module):
    """Lightness by three units a pixel, or by two where delta stays on one side of 0.

    Reference: Mohapatra et al. (2020), arXiv 1912.09533, for one side.
    """

    image: Any  # [h, w, 3] in [0, 1]
    side: str = "both"
    """"right" holds for delta >= 0 alone, "left" for delta <= 0 alone."""

    @nn.compact
    def __call__(self, delta: ArrayLike) -> jax.Array:
        """The image `[h, w, 3]` by delta `[1]`, in float32 or wider."""
        delta = _numbers(delta, 1)
        _on_side(self.side, delta)
        parts = _parts(self.image, delta)
        light, steep = parts.lightness, 2 * parts.per_room
        if self.side == "right":
            far = nn.relu(1 - light - delta[0])[..., None]
            near = nn.relu(1 - 2 * light - 2 * delta[0])[..., None]
            return 1 + (steep - 1) * far - steep * near
        low = nn.relu(light + delta[0])[..., None]
        if self.side == "left":
            middle = nn.relu(2 * light - 1 + 2 * delta[0])[..., None]
            return (1 + steep) * low - steep * middle
        high = nn.relu(light + delta[0] - 1)[..., None]
        middle = nn.relu(light + delta[0] - 0.5)[..., None]
        return (1 + steep) * low - 2 * steep * middle + (steep - 1) * high  # (3)


class BrightnessContrast(nn.Module):
    """Brightness and contrast, by two units a number of the image.

    Reference: Mohapatra et al. (2020), arXiv 1912.09533.
    """

    image: Any  # [h, w, c] in [0, 1]
    only: str = ""
    """"brightness" or "contrast", if that alone moves."""

    @nn.compact
    def __call__(self, delta: ArrayLike) -> jax.Array:
        """The image `[h, w, c]` by delta, brightness and contrast or one of them."""
        delta = _numbers(delta, 1 if self.only else 2)
        x = color.as_image(self.image).astype(delta.dtype)
        _validate.one_of(("", "brightness", "contrast"), only=self.only)
        parts = []
        if self.only != "contrast":
            parts.append(delta[0])
        if self.only != "brightness":
            parts.append(delta[-1] * (x - 0.5))
        moved = sum(parts[1:], start=parts[0])
        return nn.relu(moved + x) - nn.relu(moved + (x - 1))  # (4)


def compose(
    layer: nn.Module, apply_fn: Callable[[jax.Array], jax.Array]
) -> Callable[[jax.Array], jax.Array]:
    """A model as a function of the numbers of an attribute.

    [device] For any verifier of boxes: `bounds.linear_bounds(compose(...), low, high)`.

    Args:
        layer: an SP-layer, or any module from `[d]` to an image.
        apply_fn: maps `[n, h, w, c]` to logits `[n, k]`.

    Returns:
        A function that maps `[d]` to logits `[k]`.

    Example:
        >>> layer = BrightnessContrast(np.full((1, 1, 1), 0.5))
        >>> fn = compose(layer, lambda x: x.reshape(len(x), -1))
        >>> print(fn(jnp.array([0.25, 0.0])))
        [0.75]
    """

    def composed(delta: jax.Array) -> jax.Array:
        image: Any = layer.apply({}, delta)
        return apply_fn(image[None])[0]

    return composed


def _on_side(side: str, delta: jax.Array) -> None:
    """Raises ValueError for an unknown side, or a known delta on the other one."""
    _validate.one_of(SIDES, side=side)
    _validate.closed_interval(*SIDES[side], delta=delta)


def _numbers(delta: ArrayLike, count: int) -> jax.Array:
    """Delta `[count]`, in float32 or wider: the image is computed in its dtype."""
    moves: Any = jnp.asarray(delta)
    if moves.shape != (count,) or jnp.issubdtype(moves.dtype, jnp.complexfloating):
        raise ValueError(
            f"Expected delta [{count}] of real numbers, got shape {moves.shape} and "
            f"dtype {moves.dtype}."
        )
    if not jnp.issubdtype(moves.dtype, jnp.floating):
        return moves.astype(float)
    return moves.astype(jnp.promote_types(moves.dtype, jnp.float32))


def _hinge_weights() -> np.ndarray:
    """`[units, 3]`."""
    table = np.zeros((_NUM_HINGES, 3))
    for channel, weights in enumerate(_HINGES.values()):
        for hinge, weight in weights.items():
            table[hinge - _FIRST_HINGE, channel] = weight
    return table


def _parts(image: ArrayLike, like: jax.Array) -> color.Parts:
    """In float64 where the image is known: they divide by small numbers."""
    x = color.as_image(image, is_color=True)
    known = _validate.concrete(image)
    if known is None:
        return color.parts_of(x.astype(like.dtype))
    parts = color.parts_of(known.astype(np.float64), xp=np)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, like.dtype), parts)
