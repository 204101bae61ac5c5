"""Hue, saturation, lightness, brightness and contrast of one image.

Colours are seen in HSL: m and M are the smallest and the largest channel, lightness L
is their mean, chroma d = M - m, room F = 1 - |2 L - 1|, saturation S = d / F, hue h in
sextants. With clip to [0, 1] and w(z) = (z + 3) mod 6 - 3, a channel x with phase
p = 0, 2, 4 moves by t to

    hue:         m + d W,   W = clip(2 - |w(h + 6 t - p)|),                      (1)
    saturation:  L + (x - L) / S S',   S' = clip(S + t),                         (2)
    lightness:   L' + (x - L) / F (1 - |2 L' - 1|),   L' = clip(L + t),          (3)
    all three:   L' + (1 - |2 L' - 1|) S' (W - 1/2),   each by a t of its own,   (4)
    brightness b and contrast c:   clip((1 + c) (x - 1/2) + 1/2 + b).            (5)

Every function gives the image back at zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate

_PHASES = (0.0, 2.0, 4.0)  # sextants at which red, green and blue are in the middle


class Parts(NamedTuple):
    """What the pixels of an image are made of; hue in sextants, a sixth of a turn."""

    least: jax.Array  # [h, w], m
    chroma: jax.Array  # [h, w], d
    lightness: jax.Array  # [h, w], L
    saturation: jax.Array  # [h, w], S, 0 of greys
    hue: jax.Array  # [h, w], in [0, 6], 0 of greys
    per_saturation: jax.Array  # [h, w, 3], (x - L) / S, 0 of greys
    per_room: jax.Array  # [h, w, 3], (x - L) / F, 0 of black and white


def hue(image: ArrayLike, delta: ArrayLike) -> jax.Array:
    """The image with its hue turned.

    [device] Pure, jittable, vmappable, differentiable in delta.

    Args:
        image: `[h, w, 3]` in [0, 1].
        delta: a number, in turns; 1 is the identity again.

    Returns:
        `[h, w, 3]` in [0, 1]. Lightness and saturation stay; greys stay.

    Raises:
        ValueError: if the image has no three channels or values out of range.

    Example:
        >>> print(jax.jit(hue)(jnp.array([[[1.0, 0.0, 0.0]]]), 1 / 2))
        [[[0. 1. 1.]]]

    Reference: Mohapatra et al. (2020), arXiv 1912.09533; the periodic form is ours.
    """
    x = as_image(image, is_color=True)
    parts = parts_of(x)
    turned = parts.hue + 6 * jnp.asarray(delta, x.dtype)
    wheel = color_wheel(turned)
    return parts.least[..., None] + parts.chroma[..., None] * wheel  # (1)


def saturation(image: ArrayLike, delta: ArrayLike) -> jax.Array:
    """The image with delta added to its saturation, which is clipped to [0, 1].

    [device] Pure, jittable, vmappable, differentiable in delta.

    Args:
        image: `[h, w, 3]` in [0, 1].
        delta: a number.

    Returns:
        `[h, w, 3]` in [0, 1]. Hue and lightness stay; greys, which have no hue, stay.

    Raises:
        ValueError: as `hue`.

    Example:
        >>> print(jax.jit(saturation)(jnp.array([[[1.0, 0.0, 0.0]]]), -0.5))
        [[[0.75 0.25 0.25]]]

    Reference: Mohapatra et al. (2020), arXiv 1912.09533.
    """
    x = as_image(image, is_color=True)
    parts = parts_of(x)
    new = jnp.clip(parts.saturation + jnp.asarray(delta, x.dtype), 0.0, 1.0)
    return parts.lightness[..., None] + parts.per_saturation * new[..., None]  # (2)


def lightness(image: ArrayLike, delta: ArrayLike) -> jax.Array:
    """The image with delta added to its lightness, which is clipped to [0, 1].

    [device] Pure, jittable, vmappable, differentiable in delta.

    Args:
        image: `[h, w, 3]` in [0, 1].
        delta: a number.

    Returns:
        `[h, w, 3]` in [0, 1]. Hue and saturation stay; black and white become grey.

    Raises:
        ValueError: as `hue`.

    Example:
        >>> print(jax.jit(lightness)(jnp.array([[[1.0, 0.0, 0.0]]]), 0.25))
        [[[1.  0.5 0.5]]]

    Reference: Mohapatra et al. (2020), arXiv 1912.09533.
    """
    x = as_image(image, is_color=True)
    parts = parts_of(x)
    new = jnp.clip(parts.lightness + jnp.asarray(delta, x.dtype), 0.0, 1.0)
    return new[..., None] + parts.per_room * room(new)[..., None]  # (3)


def hsl(
    image: ArrayLike,
    *,
    hue: ArrayLike = 0.0,
    saturation: ArrayLike = 0.0,
    lightness: ArrayLike = 0.0,
) -> jax.Array:
    """The image moved in hue, saturation and lightness at once.

    [device] Pure, jittable, vmappable, differentiable in the numbers. Not the same as
    one after another, which depends on the order and forgets hues on the way.

    Args:
        image: `[h, w, 3]` in [0, 1].
        hue: a number, in turns.
        saturation: a number, added and clipped to [0, 1].
        lightness: a number, added and clipped to [0, 1].

    Returns:
        `[h, w, 3]` in [0, 1]. Greys stay grey.

    Raises:
        ValueError: as the function `hue`.

    Example:
        >>> red = jnp.array([[[1.0, 0.0, 0.0]]])
        >>> print(jax.jit(hsl)(red, hue=0.5, lightness=-0.25).round(6))
        [[[0.  0.5 0.5]]]

    Reference: ours.
    """
    x = as_image(image, is_color=True)
    parts = parts_of(x)
    turn, more, lighter = (
        jnp.asarray(delta, x.dtype) for delta in (hue, saturation, lightness)
    )
    new_lightness = jnp.clip(parts.lightness + lighter, 0.0, 1.0)
    new_saturation = jnp.clip(parts.saturation + more, 0.0, 1.0)
    new_saturation = jnp.where(parts.chroma > 0, new_saturation, 0.0)
    wheel = color_wheel(parts.hue + 6 * turn) - 0.5
    chroma = (room(new_lightness) * new_saturation)[..., None]
    return new_lightness[..., None] + chroma * wheel  # (4)


def brightness_contrast(
    image: ArrayLike, brightness: ArrayLike, contrast: ArrayLike
) -> jax.Array:
    """The image with its contrast about mid-grey scaled, then brightness added.

    [device] Pure, jittable, vmappable, differentiable.

    Args:
        image: `[h, w, c]` in [0, 1].
        brightness: a number b.
        contrast: a number c.

    Returns:
        clip((1 + c) (x - 1/2) + 1/2 + b, 0, 1), `[h, w, c]`.

    Raises:
        ValueError: if values are out of range.

    Example:
        >>> print(jax.jit(brightness_contrast)(jnp.array([[[0.25]]]), 0.125, 1.0))
        [[[0.125]]]

    Reference: Mohapatra et al. (2020), arXiv 1912.09533.
    """
    x = as_image(image)
    more, factor = (jnp.asarray(v, x.dtype) for v in (brightness, contrast))
    return jnp.clip(x + more + factor * (x - 0.5), 0.0, 1.0)  # (5)


def brightness(image: ArrayLike, delta: ArrayLike) -> jax.Array:
    """The image with delta added, clipped to [0, 1]: `brightness_contrast`.

    [device] Pure, jittable, vmappable, differentiable.

    Args:
        image: `[h, w, c]` in [0, 1].
        delta: a number.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: if values are out of range.

    Example:
        >>> print(jax.jit(brightness)(jnp.array([[[0.25, 0.75]]]), 0.5))
        [[[0.75 1.  ]]]

    Reference: as `brightness_contrast`.
    """
    return brightness_contrast(image, delta, 0.0)


def contrast(image: ArrayLike, delta: ArrayLike) -> jax.Array:
    """The image with its contrast times 1 + delta: `brightness_contrast`.

    [device] Pure, jittable, vmappable, differentiable.

    Args:
        image: `[h, w, c]` in [0, 1].
        delta: a number; at -1 all is mid-grey.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: if values are out of range.

    Example:
        >>> print(jax.jit(contrast)(jnp.array([[[0.25, 0.75]]]), -1))
        [[[0.5 0.5]]]

    Reference: as `brightness_contrast`.
    """
    return brightness_contrast(image, 0.0, delta)


def as_image(image: ArrayLike, *, is_color: bool = False) -> jax.Array:
    """The image as floats, checked where its values are known. [host].

    Args:
        image: `[h, w, c]`.
        is_color: whether it must have three channels.

    Returns:
        The same values.

    Raises:
        ValueError: if it is no image in [0, 1], or no colour image where one is needed.
    """
    _validate.unit_interval(image=image)
    x: Any = jnp.asarray(image)
    if not jnp.issubdtype(x.dtype, jnp.floating):  # of a value that JAX traces
        raise ValueError(f"Expected image as floats in [0, 1], got {x.dtype}.")
    if x.ndim != 3 or (is_color and x.shape[-1] != 3):
        wanted = "[h, w, 3], a colour image" if is_color else "[h, w, c]"
        raise ValueError(f"Expected an image {wanted}, got shape {x.shape}.")
    return x


def on_host(image: ArrayLike, *, is_color: bool) -> np.ndarray:
    """The image in float64, not rounded to the floats of the device. [host].

    Args:
        image: `[h, w, c]`.
        is_color: as in `as_image`.

    Returns:
        The same values.

    Raises:
        ValueError: as `as_image`.
    """
    as_image(image, is_color=is_color)
    return np.asarray(image, np.float64)


def parts_of(image: Any, *, xp: Any = jnp) -> Parts:
    """What the pixels are made of. [device], or [host] with NumPy.

    Args:
        image: `[h, w, 3]` in [0, 1].
        xp: `jax.numpy`, or `numpy` for float64 on the host.

    Returns:
        Its `Parts`, in the dtype of the image.
    """
    largest, least = image.max(axis=-1), image.min(axis=-1)
    chroma = largest - least
    light = 0.5 * (largest + least)
    # 1 - |2 L - 1| and x - L, without their cancellations.
    space = xp.minimum(largest + least, (1 - largest) + (1 - least))
    away = 0.5 * ((image - least[..., None]) - (largest[..., None] - image))
    smallest = jnp.finfo(image.dtype).tiny
    has_hue, has_room = chroma >= smallest, space >= smallest
    divisor = xp.where(has_hue, chroma, 1.0)
    full = _ratio(chroma, xp.where(has_room, space, 1.0), xp)
    red, green, blue = (image[..., k] for k in range(3))
    sextant = xp.select(
        [red == largest, green == largest],
        [
            xp.mod(_ratio(green - blue, divisor, xp), 6.0),
            _ratio(blue - red, divisor, xp) + 2,
        ],
        _ratio(red - green, divisor, xp) + 4,
    )
    per_chroma = _ratio(away, divisor[..., None], xp)
    return Parts(
        least,
        chroma,
        light,
        xp.where(has_hue, xp.minimum(full, 1.0), 0.0),
        xp.where(has_hue, sextant, 0.0),
        xp.where(has_hue, space, 0.0)[..., None] * per_chroma,
        _ratio(away, xp.where(has_room, space, 1.0)[..., None], xp),
    )


def _ratio(numerator: Any, denominator: Any, xp: Any) -> Any:
    return numerator / denominator if xp is np else _quotient(numerator, denominator)


@jax.custom_jvp
def _quotient(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient, differentiated without the square of a small denominator."""
    return numerator / denominator


@_quotient.defjvp
def _quotient_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    numerator, denominator = primals
    quotient = _quotient(numerator, denominator)
    change = tangents[0] - quotient * tangents[1]
    return quotient, _quotient(change, denominator)


def color_wheel(sextants: Any, *, xp: Any = jnp) -> Any:
    """How far up each channel is at a hue: in [0, 1], periodic. [device].

    Args:
        sextants: `[...]` hues.
        xp: as in `parts_of`.

    Returns:
        `[..., 3]`: clip(2 - |w|, 0, 1) with w the way to the channel's own hue.
    """
    phases = xp.asarray(_PHASES, sextants.dtype).reshape(*[1] * sextants.ndim, 3)
    away = sextants[..., None] - phases
    away = xp.mod(away + 3, 6.0) - 3
    return xp.clip(2 - abs(away), 0.0, 1.0)


def room(lightness: Any) -> Any:
    """The largest chroma at a lightness, 1 - |2 L - 1|. [device]."""
    return 2 * jnp.minimum(lightness, 1 - lightness)
