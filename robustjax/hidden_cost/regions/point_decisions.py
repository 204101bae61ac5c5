"""Decisions of a classifier at points anywhere in R^d, with and without noise.

`class_counts` raises for inputs outside [0, 1]. Regions of a classifier, and the theory
of their smoothing, live in R^d: here points may lie anywhere and nothing is clipped.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from jax.tree_util import Partial
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate
from robustjax.smoothing.sampling import base_classifier, noise_blocks, vote_counts


def finite_floats(**named: ArrayLike) -> NDArray[np.float64]:
    """The one named array, checked to be a batch `[n, ...]` of finite floats.

    [host]

    Args:
        named: the array under its name.

    Returns:
        It in float64.

    Raises:
        ValueError: for integers, NaN, inf, or an array without a batch axis.
    """
    ((name, value),) = named.items()
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        raise ValueError(
            f"Expected {name} as floats in the units of sigma, got {array.dtype}; "
            f"divide images by 255 first: {name}.astype('float32') / 255."
        )
    array = array.astype(np.float64)
    if array.ndim < 2:
        raise ValueError(f"Expected {name} as a batch [n, ...], got {array.shape}.")
    is_finite = np.isfinite(array)
    if not is_finite.all():
        raise ValueError(f"Expected finite {name}, got {array[~is_finite][0]}.")
    return array


def prepare(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: NDArray[np.float64],
    *,
    stream: int,
    sigma: float,
    num_samples: int,
    num_classes: int,
    example_ids: ArrayLike | None,
) -> noise_blocks.SampleJob:
    """The work of counting votes around points that may lie outside [0, 1].

    [host] Each measurement has a stream of its own, so that points chosen by their
    certificates, or rays by a map, are measured with fresh noise.

    Args:
        key: the user's key.
        apply_fn: the classifier.
        x: `[n, ...]` finite floats, from `finite_floats`.
        stream: number of the stream of the key.
        sigma: noise level.
        num_samples: noise samples of each point.
        num_classes: number of classes.
        example_ids: `[n]` integers, or None for arange(n).

    Returns:
        The tree of arrays that the loop on the device takes.

    Raises:
        ValueError: where an argument is out of its range.
    """
    return vote_counts.prepare(
        jax.random.fold_in(key, stream),
        apply_fn,
        x,
        sigma=sigma,
        num_samples=num_samples,
        first_sample=0,
        num_classes=num_classes,
        example_ids=example_ids,
        check_range=False,
    )


def class_votes(
    work: noise_blocks.SampleJob,
    *,
    num_classes: int,
    chunk_size: int | None,
    mesh: Mesh | None,
) -> jax.Array:
    """Votes of each class under noise around the points of a work.

    [device] `class_counts` of points that may lie outside [0, 1].

    Args:
        work: from `prepare`.
        num_classes: number of classes.
        chunk_size: samples in one forward batch, a multiple of 128.
        mesh: devices that share the samples.

    Returns:
        int32 `[n, num_classes + 1]`; the last column counts invalid samples.
    """
    return vote_counts.count_classes(
        work,
        num_classes=num_classes,
        items_per_step=noise_blocks.items_in_step(chunk_size),
        mesh=mesh,
    )


def base_labels(
    apply_fn: Partial, x: jax.Array, *, num_classes: int, chunk_size: int | None
) -> jax.Array:
    """The class of each point without noise, in forward batches of bounded size.

    [device]

    Args:
        apply_fn: the classifier.
        x: `[n, ...]` points.
        num_classes: number of classes.
        chunk_size: points in one forward batch, a multiple of 128; fewer if n is less.

    Returns:
        int32 labels `[n]`; `num_classes` where a logit is not finite.
    """
    num_points, *shape = x.shape
    size = noise_blocks.items_in_step(chunk_size) * noise_blocks.BLOCK_SIZE
    size = max(1, min(num_points, size))
    num_batches = math.ceil(num_points / size)
    fill = [(0, num_batches * size - num_points)] + [(0, 0)] * len(shape)

    def labels(batch: jax.Array) -> jax.Array:
        logits = apply_fn(batch)
        base_classifier.check_logits(logits, batch.shape, num_classes=num_classes)
        return noise_blocks.winning_class(logits).astype(jnp.int32)

    batches = rearrange(jnp.pad(x, fill), "(batch n) ... -> batch n ...", n=size)
    return jax.lax.map(labels, batches).reshape(-1)[:num_points]


def check_labels(labels: ArrayLike, *, num: int, num_classes: int) -> NDArray[np.int32]:
    """Labels of a batch, checked.

    [host]

    Args:
        labels: `[num]` integers in [0, num_classes).
        num: length of the batch.
        num_classes: number of classes.

    Returns:
        int32 `[num]`.

    Raises:
        ValueError: for anything else.
    """
    array = np.asarray(labels)
    if array.shape != (num,):
        raise ValueError(f"Expected labels [{num}], got shape {array.shape}.")
    if num:
        _validate.labels(num_classes, labels=array)
    return array.astype(np.int32)
