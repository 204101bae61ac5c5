"""Fingerprints of the image and of the model that a certificate is about."""

import functools
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of Python objects, in the text of a program


def of_image(image: np.ndarray) -> str:
    """SHA-256 of the shape and the values of an image in float64, in hex. [host]."""
    return _digest([image])


def of_model(fn: Partial, image: np.ndarray) -> str:
    """SHA-256 of a model as JAX traces it, with all its constants and weights, in hex.

    [host] Equal fingerprints mean equal programs and equal weights. Another version of
    JAX may trace the same model to another program.

    Args:
        fn: maps one image to logits `[k]`.
        image: `[h, w, c]` float64; only its shape enters.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> halves, thirds = Partial(lambda x: x / 2), Partial(lambda x: x / 3)
        >>> image = np.zeros((1, 1, 1))
        >>> of_model(halves, image) == of_model(thirds, image)
        False
    """
    weights, structure = jax.tree.flatten(fn)
    shapes = tuple((np.shape(w), _dtype(w)) for w in weights)
    program = _of_program(structure, shapes, image.shape)
    return _digest([program, *weights])


@functools.lru_cache(maxsize=8)  # as `jax.jit`, a function is known by its identity
def _of_program(
    structure: Any, shapes: tuple[Any, ...], image_shape: tuple[int, ...]
) -> str:
    weights = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

    def logits(weights: list[Any], image: Any) -> Any:
        return jax.tree.unflatten(structure, weights)(image)

    with jax.enable_x64(True):
        image = jax.ShapeDtypeStruct(image_shape, np.float64)
        closed = jax.make_jaxpr(logits)(weights, image)
        text = _ADDRESS.sub("", str(closed))
        return _digest([text, *_constants(closed)])


def _constants(program: Any) -> Iterator[Any]:
    """Arrays that a traced program holds, those of the programs inside of it too."""
    yield from getattr(program, "consts", ())
    for step in getattr(program, "eqns", ()):
        yield from (v.val for v in step.invars if hasattr(v, "val"))
        for value in jax.tree.leaves(step.params):
            if hasattr(value, "eqns"):
                yield from _constants(value)
            elif isinstance(value, np.ndarray):
                yield value


def _dtype(value: Any) -> Any:
    return value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype


def _digest(values: list[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, str):
            digest.update(value.encode())
            continue
        is_key = jnp.issubdtype(_dtype(value), jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(value) if is_key else value)
        digest.update(f"\n{array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
