"""Augmentations as pure functions of a key, and views of images.

An augmentation maps a key and an image `[h, w, c]` in [0, 1] to an image of that shape.
Those here are made by functions that take their settings; any function of yours of that
form will do as well.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def make_views(
    key: jax.Array, images: ArrayLike, augment: Augmentation, *, num_views: int = 2
) -> jax.Array:
    """Draws several random views of every image.

    [device] Pure, jittable. The key of a view depends on its number and that of the
    image alone.

    Args:
        key: random key.
        images: `[n, h, w, c]` in [0, 1].
        augment: see `in_turn`.
        num_views: v >= 1.

    Returns:
        `[v, n, h, w, c]`, clipped to [0, 1].

    Raises:
        ValueError: if images have another rank or are no floats in [0, 1], or num_views
            is below 1.

    Example:
        >>> augment = in_turn(random_flip(0.5), pixel_shift(1), cut_out(2))
        >>> view_fn = jax.jit(make_views, static_argnums=2)
        >>> view_fn(jax.random.key(0), jnp.ones((5, 8, 8, 1)), augment).shape
        (2, 5, 8, 8, 1)

    Reference: Chen et al. (2020), ICML, arXiv 2002.05709.
    """
    _validate.integer(1, num_views=num_views)
    _validate.unit_interval(images=images)
    x = jnp.asarray(images)
    if x.ndim != 4:
        raise ValueError(f"Expected images [n, h, w, c], got shape {x.shape}.")
    keys = jax.vmap(lambda own: jax.random.split(own, len(x)))(
        jax.random.split(key, num_views)
    )
    of_images = jax.vmap(augment)
    found = jax.vmap(lambda own: of_images(own, x))(keys)
    return jnp.clip(found, 0, 1)


def in_turn(*steps: Augmentation) -> Augmentation:
    """Applies augmentations one after another, each with its own key. [device].

    Args:
        *steps: functions of a key and an image.

    Returns:
        An augmentation.

    Example:
        >>> augment = in_turn(lambda key, x: 1 - x, lambda key, x: x / 2)
        >>> print(jax.jit(augment)(jax.random.key(0), jnp.array([[[0.25, 0.5]]])))
        [[[0.375 0.25 ]]]
    """

    def augment(key: jax.Array, image: jax.Array) -> jax.Array:
        for own, step in zip(jax.random.split(key, len(steps)), steps, strict=True):
            image = step(own, image)
        return image

    return augment


def sometimes(augment: Augmentation, *, probability: float) -> Augmentation:
    """Applies an augmentation with a probability, else changes nothing. [device].

    Args:
        augment: function of a key and an image.
        probability: in [0, 1], that it is used.

    Returns:
        An augmentation.

    Raises:
        ValueError: if the probability is outside of [0, 1].

    Example:
        >>> augment = sometimes(lambda key, x: 1 - x, probability=0.3)
        >>> keys = jax.random.split(jax.random.key(0), 1000)
        >>> found = jax.jit(jax.vmap(augment, (0, None)))(keys, 0.0)
        >>> print(f"{jax.device_get(found).mean():.1f}")  # share of images that changed
        0.3
    """
    _validate.closed_interval(0, 1, probability=probability)

    def maybe(key: jax.Array, image: jax.Array) -> jax.Array:
        choice, own = jax.random.split(key)
        is_used = jax.random.bernoulli(choice, probability)
        return jnp.where(is_used, augment(own, image), image)

    return maybe


def random_resized_crop(
    *,
    area: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Augmentation:
    """Crops a random rectangle and resizes it to the whole image. [device].

    Args:
        area: least and largest share of the image, in (0, 1].
        ratio: least and largest width by height, drawn log-uniformly.

    Returns:
        An augmentation. Rectangles that are too long are cut at the border.

    Raises:
        ValueError: if a range is empty or not positive.

    Example:
        >>> augment = random_resized_crop(area=(0.25, 0.25), ratio=(1.0, 1.0))
        >>> image = jnp.array([[[0.0], [0.1], [0.2], [0.3]]])
        >>> found = jax.jit(augment)(jax.random.key(0), image)
        >>> print(jax.device_get(found).round(3).ravel())  # half of the width, resized
        [0.157 0.207 0.257 0.3  ]

    Reference: Szegedy et al. (2015), CVPR, as torchvision's RandomResizedCrop.
    """
    _ordered(area=area, ratio=ratio)
    _validate.closed_interval(0, 1, area=area)

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 3)
        share = _uniform(keys[0], *area)
        shape = jnp.exp(0.5 * _uniform(keys[1], *jnp.log(jnp.float32(ratio))))
        size = jnp.minimum(jnp.sqrt(share) * jnp.array([1 / shape, shape]), 1)
        corner = _uniform(keys[2], 0, 1, (2,)) * (1 - size)  # in units of the image
        sides = jnp.array(image.shape[:2], jnp.float32)
        return jax.image.scale_and_translate(
            image, image.shape, (0, 1), 1 / size, -corner * sides / size, "linear"
        )

    return crop


def random_flip(probability: float) -> Augmentation:
    """Flips images left to right. [device].

    Args:
        probability: in [0, 1].

    Returns:
        An augmentation.

    Raises:
        ValueError: if the probability is outside of [0, 1].

    Example:
        >>> image = jnp.array([[[0.25], [0.75]]])  # [1, 2, 1]
        >>> print(jax.jit(random_flip(1.0))(jax.random.key(0), image).tolist())
        [[[0.75], [0.25]]]
    """
    return sometimes(lambda _, image: image[:, ::-1], probability=probability)


def random_grey(probability: float) -> Augmentation:
    """Replaces all channels by the luma of the image. [device].

    Args:
        probability: in [0, 1].

    Returns:
        An augmentation for images of three channels.

    Raises:
        ValueError: if the probability is outside of [0, 1].

    Example:
        >>> image = jnp.array([[[1.0, 0.0, 0.0]]])  # one red pixel
        >>> found = jax.jit(random_grey(1.0))(jax.random.key(0), image)
        >>> print(jax.device_get(found).round(3))
        [[[0.299 0.299 0.299]]]
    """
    return sometimes(lambda _, image: _grey(image), probability=probability)


def random_brightness(low: float, high: float) -> Augmentation:
    """Multiplies all values by one random factor. [device].

    Args:
        low: least factor, > 0.
        high: largest factor.

    Returns:
        An augmentation.

    Raises:
        ValueError: if the range is empty or not positive.

    Example:
        >>> image = jnp.array([[[0.25], [0.5]]])
        >>> found = jax.jit(random_brightness(0.5, 1.5))(jax.random.key(0), image)
        >>> print(jax.device_get(found).round(3).ravel())  # 1.448 times the image
        [0.362 0.724]
    """
    _ordered(factor=(low, high))
    return lambda key, image: image * _uniform(key, low, high).astype(image.dtype)


def color_jitter(
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
) -> Augmentation:
    """Changes brightness, contrast, saturation and hue, in this order. [device].

    Needs the extra `views` (dm_pix) for the hue.

    Args:
        brightness: factor in [1 - b, 1 + b].
        contrast: factor about the mean luma, in [1 - c, 1 + c].
        saturation: factor about the luma of each pixel, in [1 - s, 1 + s].
        hue: turn in [-hue, hue], 1 being a whole one.

    Returns:
        An augmentation for images of three channels.

    Raises:
        ValueError: if a strength is outside of [0, 1], or hue of [0, 1/2].

    Example:
        >>> augment = color_jitter(brightness=0, contrast=0, saturation=0, hue=0.5)
        >>> red = jnp.array([[[0.75, 0.25, 0.25]]])
        >>> found = jax.jit(augment)(jax.random.key(0), red)
        >>> print(jax.device_get(found).round(2))  # its hue is turned
        [[[0.55 0.25 0.75]]]

    Reference: Chen et al. (2020), ICML, arXiv 2002.05709, App. A, in a fixed order.
    """
    _validate.closed_interval(
        0, 1, brightness=brightness, contrast=contrast, saturation=saturation
    )
    _validate.closed_interval(0, 0.5, hue=hue)
    dm_pix = _dm_pix()

    def jitter(key: jax.Array, image: jax.Array) -> jax.Array:
        keys = jax.random.split(key, 4)

        def factor(own: jax.Array, strength: float) -> jax.Array:
            return _uniform(own, 1 - strength, 1 + strength).astype(image.dtype)

        image = jnp.clip(factor(keys[0], brightness) * image, 0, 1)
        image = _blend(image, jnp.mean(_grey(image)), factor(keys[1], contrast))
        image = _blend(image, _grey(image), factor(keys[2], saturation))
        turn = _uniform(keys[3], -hue, hue).astype(image.dtype)
        return jnp.clip(dm_pix.adjust_hue(image, turn), 0, 1)

    return jitter


def random_blur(
    *, sigma: tuple[float, float] = (0.1, 2.0), kernel_size: int = 5
) -> Augmentation:
    """Blurs images by a Gaussian of random width. [device].

    Needs the extra `views` (dm_pix).

    Args:
        sigma: least and largest standard deviation, in pixels.
        kernel_size: odd, in pixels.

    Returns:
        An augmentation.

    Raises:
        ValueError: if the range is empty or not positive.

    Example:
        >>> augment = random_blur(sigma=(1.0, 1.0), kernel_size=3)
        >>> image = jnp.array([[[0.0], [0.0], [0.0], [1.0], [0.0], [0.0], [0.0]]] * 3)
        >>> found = jax.jit(augment)(jax.random.key(0), image)
        >>> print(jax.device_get(found)[1, :, 0].round(3))
        [0.    0.    0.274 0.452 0.274 0.    0.   ]
    """
    _ordered(sigma=sigma)
    dm_pix = _dm_pix()

    def blur(key: jax.Array, image: jax.Array) -> jax.Array:
        width = _uniform(key, *sigma).astype(image.dtype)
        return dm_pix.gaussian_blur(image, width, kernel_size)

    return blur


def cut_out(size: int) -> Augmentation:
    """Sets a square at a random place to zero. [device].

    Args:
        size: side in pixels; the square is inside of the image.

    Returns:
        An augmentation.

    Raises:
        ValueError: if size is below 1, or does not fit into an image.

    Example:
        >>> image = jnp.array([[[0.25], [0.5], [0.75]]] * 3)  # [3, 3, 1]
        >>> found = jax.jit(cut_out(2))(jax.random.key(1), image)
        >>> print(jax.device_get(found)[..., 0])
        [[0.25 0.   0.  ]
         [0.25 0.   0.  ]
         [0.25 0.5  0.75]]

    Reference: DeVries and Taylor (2017), arXiv 1708.04552, with squares inside.
    """
    _validate.integer(1, size=size)

    def cut(key: jax.Array, image: jax.Array) -> jax.Array:
        _fits(image, size=size)
        corner = _corner(key, image.shape, size)
        hole = jnp.zeros((size, size, image.shape[2]), image.dtype)
        return jax.lax.dynamic_update_slice(image, hole, (*corner, 0))

    return cut


def pixel_shift(pixels: int) -> Augmentation:
    """Moves images by whole pixels along both axes; new pixels are 0. [device].

    Args:
        pixels: largest move, >= 1.

    Returns:
        An augmentation.

    Raises:
        ValueError: if pixels is below 1.

    Example:
        >>> image = jnp.array([[[0.0], [0.0], [1.0], [0.0], [0.0]]] * 3)
        >>> found = jax.jit(pixel_shift(1))(jax.random.key(0), image)
        >>> rows, columns, _ = jax.device_get(found).nonzero()  # of the vertical line
        >>> len(rows) >= 2 and set(columns) <= {1, 2, 3}
        True
    """
    _validate.integer(1, pixels=pixels)

    def shift(key: jax.Array, image: jax.Array) -> jax.Array:
        wide = jnp.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
        corner = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
        return jax.lax.dynamic_slice(wide, (*corner, 0), image.shape)

    return shift


def additive_noise(sigma: float) -> Augmentation:
    """Adds Gaussian noise to each value. [device].

    Args:
        sigma: standard deviation, >= 0.

    Returns:
        An augmentation.

    Raises:
        ValueError: if sigma is negative.

    Example:
        >>> image = jnp.float32([[[0.25], [0.5]]])
        >>> found = jax.jit(additive_noise(0.1))(jax.random.key(0), image)
        >>> print(jax.device_get(found).round(3).ravel())
        [0.412 0.703]
    """
    _validate.at_least(0, sigma=sigma)
    return lambda key, image: (
        image + sigma * jax.random.normal(key, image.shape, image.dtype)
    )


def _dm_pix() -> Any:
    try:
        import dm_pix
    except ImportError as error:
        raise ImportError(
            "Colour jitter and blur need dm_pix: pip install 'robustjax[views]'."
        ) from error
    return dm_pix


def _uniform(
    key: jax.Array, low: ArrayLike, high: ArrayLike, shape: tuple[int, ...] = ()
) -> jax.Array:
    """Uniform numbers in float32, whatever the x64 flag."""
    return jax.random.uniform(key, shape, jnp.float32, low, high)


def _grey(image: jax.Array) -> jax.Array:
    if image.shape[-1] != len(_LUMA):
        raise ValueError(f"Expected images of 3 channels, got shape {image.shape}.")
    luma = image @ jnp.array(_LUMA, image.dtype)
    return jnp.broadcast_to(luma[..., None], image.shape)


def _blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(other + factor * (image - other), 0, 1)


def _corner(key: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
    largest = jnp.array(shape[:2]) - size
    return jax.random.randint(key, (2,), 0, largest + 1)


def _fits(image: jax.Array, *, size: int) -> None:
    if size > min(image.shape[:2]):
        raise ValueError(f"Expected size <= {min(image.shape[:2])}, got {size}.")


def _ordered(**ranges: tuple[float, float]) -> None:
    for name, (low, high) in ranges.items():
        if not 0 < low <= high:
            raise ValueError(
                f"Expected {name} as two positive numbers in order, got {low}, {high}."
            )
