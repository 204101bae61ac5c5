"""Images and nets that tests of semantic attributes share, and margins of nets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from robustjax._callables import as_partial


def fixed_image(rows=4, columns=5, channels=3):
    """An image with grey, black, white and one-channel pixels, and some others."""
    r, c, k = np.meshgrid(
        np.arange(rows), np.arange(columns), np.arange(channels), indexing="ij"
    )
    image = ((7 * r + 13 * c + 29 * k + 3 * r * c * (k + 1)) % 17) / 16
    image[0, 0], image[0, 1], image[0, 2] = 0, 1, 0.5
    if channels == 3:
        image[0, 3], image[1, 0], image[1, 1] = (
            (1, 0, 0),
            (0.25, 0.25, 1),
            (0.75, 0.75, 0.25),
        )
    return image


def tiny_net(num_inputs=60, dtype=np.float64):
    """A net of two hidden layers, from batches of images to three logits.

    A `Partial`, so that its weights keep their dtype.
    """
    sizes = [num_inputs, 8, 6, 3]
    weights, biases = [], []
    for layer in range(3):
        i, j = np.meshgrid(
            np.arange(sizes[layer + 1]), np.arange(sizes[layer]), indexing="ij"
        )
        wave = 2 * np.cos(1.7 * (i + 1) * (j + 1) + 0.9 * layer)
        weights.append((wave.T / np.sqrt(sizes[layer])).astype(dtype))
        bias = 0.3 * np.sin(2.3 * np.arange(sizes[layer + 1]) + layer)
        biases.append(bias.astype(dtype))

    return Partial(_tiny_logits, weights, biases)


def _tiny_logits(weights, biases, x):
    x = x.reshape(len(x), -1)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        own = weight.astype(x.dtype), bias[None].astype(x.dtype)
        x = jnp.matmul(x, own[0], precision="highest") + own[1]
        x = jax.nn.relu(x) if layer < 2 else x
    return x


_CHUNK = 4096


@functools.partial(jax.jit, static_argnames="attribute")
def _moved(image, moves, *, attribute):
    return jax.vmap(lambda move: attribute(image, move))(moves)


@jax.jit
def _logits(images, fn):
    return fn(images)


def logits_at(fn, attribute, image, moves):
    """Logits of a net at moves `[n, d]` of an image, in float64, a chunk at a time."""
    found, fn = [], as_partial(fn)
    with jax.enable_x64(True):
        for first in range(0, len(moves), _CHUNK):
            own = moves[first : first + _CHUNK]
            filled = np.resize(own, (_CHUNK, own.shape[1]))
            images = _moved(np.float64(image), filled, attribute=attribute)
            found.append(np.asarray(_logits(images, fn))[: len(own)])
    return np.concatenate(found)


def margins_at(fn, attribute, image, label, moves):
    """The label's logit less the largest other one, at moves `[n, d]`."""
    logits = logits_at(fn, attribute, image, moves)
    return logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)


def class_of(fn, image):
    """The class of a net, in float64."""
    with jax.enable_x64(True):
        return int(np.argmax(_logits(np.float64(image)[None], as_partial(fn))))


def random_image(rows=30, columns=30):
    """Pixels of all kinds: grey, black, white, corners of the cube, any."""
    rng = np.random.default_rng(0)
    image = rng.random((rows, columns, 3))
    image[:5] = image[:5, :, :1]
    image[5:7] = rng.integers(0, 2, (2, columns, 3))
    image[7] = np.eye(3)[rng.integers(0, 3, columns)]
    image[8], image[9] = 0, 1
    image[10] = rng.integers(0, 256, (columns, 3)) / 255
    return image
