"""Class counts of a classifier under Gaussian noise, and the checks of what is sampled.

    counts[c] = number of i <= n with argmax f(x + sigma z_i) = c,   z_i ~ N(0, I).

The last column counts the samples that are invalid: a logit is not finite.
`noise_blocks` holds the loop that draws the noise and calls the classifier.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _callables, _validate
from robustjax.smoothing.sampling import base_classifier, noise_blocks
from robustjax.smoothing.sampling.noise_blocks import (
    BLOCK_SIZE,
    MAX_NOISE,
    check_sigma,
    noise_block,
)

__all__ = [
    "ABSTAIN",
    "BLOCK_SIZE",
    "MAX_NOISE",
    "check_sigma",
    "class_counts",
    "noise_block",
    "prepare",
    "replicate",
    "votes_of",
]
ABSTAIN = -1  # the prediction of an example whose counts decide nothing
_MAX_INT32 = 2**31 - 1
_MAX_PADDING = 2**24  # items that the last steps of all devices may lie past the end
_Tree = TypeVar("_Tree")


def class_counts(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    sigma: ArrayLike,
    num_samples: int,
    num_classes: int,
    first_sample: int = 0,
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Counts how often each class wins under `num_samples` Gaussian perturbations.

    [device] Pure, jittable. `apply_fn` is called on `[chunk_size, ...]` batches of
    x + sigma * noise. Pass a classifier with parameters as a
    `jax.tree_util.Partial(fn, params)`: parameters are then traced, and neither they
    nor `num_samples` cause a new compilation. Memory does not depend on `num_samples`.

    Guarantee:
        Row i counts independent draws of the class at x[i] + N(0, sigma^2 I), and sums
        to `num_samples - first_sample`. Equal (key, example_id) give equal noise, so
        use keys that differ (fold in a stream) for draws that have to be independent.
        Counts of consecutive ranges of samples add up to those of the whole range.

    Edge cases:
        Ties between logits go to the lowest class. A sample with any non-finite logit
        is counted in the extra last column, `invalid`.

    Args:
        key: the key of the stream, `jax.random.fold_in(user_key, stream)`; threefry
            (the default of JAX), since other generators draw differently under vmap.
        apply_fn: maps `[m, ...]` inputs to `[m, num_classes]` logits, row by row.
        x: `[n, ...]` floats in [0, 1]; normalisation belongs inside `apply_fn`.
        sigma: noise level, in the units of x, positive.
        num_samples: noise samples for each example, an integer >= 1.
        num_classes: number of classes, an integer >= 2.
        first_sample: where to start: samples first_sample to num_samples - 1 are
            counted. A multiple of 128; it causes no new compilation either.
        example_ids: `[n]` integers >= 0, the index of each example in its data set;
            default arange(n). A repeated id means repeated noise.
        chunk_size: samples in one forward batch, a multiple of 128; the default is 256
            on a CPU and 2048 elsewhere. The noise does not depend on it.
        mesh: devices that share the samples; default: no sharding.

    Returns:
        int32 `[n, num_classes + 1]`; the last column counts invalid samples.

    Raises:
        ValueError: for values outside these ranges (where they are concrete) and for an
            `apply_fn` that does not return `[m, num_classes]`.

    Example:
        >>> apply_fn = lambda x: jnp.stack([x[:, 0], 1.0 - x[:, 0]], axis=-1)
        >>> key = jax.random.fold_in(jax.random.key(0), 1)
        >>> x = jnp.ones((1, 3))
        >>> class_counts(
        ...     key, apply_fn, x, sigma=0.1, num_samples=99, num_classes=2
        ... ).tolist()
        [[99, 0, 0]]
    """
    work = prepare(
        key,
        apply_fn,
        x,
        sigma=sigma,
        num_samples=num_samples,
        first_sample=first_sample,
        num_classes=num_classes,
        example_ids=example_ids,
    )
    return count_classes(
        replicate(work, mesh),
        num_classes=num_classes,
        items_per_step=noise_blocks.items_in_step(chunk_size),
        mesh=mesh,
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "items_per_step", "mesh"))
def count_classes(
    work: noise_blocks.SampleJob,
    *,
    num_classes: int,
    items_per_step: int,
    mesh: Mesh | None,
) -> jax.Array:
    """Votes of each class under the noise of a work. [device].

    Args:
        work: from `prepare`.
        num_classes: number of classes.
        items_per_step: as in `noise_blocks.reduce_blocks`.
        mesh: devices that share the samples.

    Returns:
        int32 `[n, num_classes + 1]`; the last column counts invalid samples.
    """

    def count(
        work: noise_blocks.SampleJob, share: noise_blocks.DeviceShare
    ) -> jax.Array:
        counts = noise_blocks.reduce_blocks(
            noise_blocks.add_votes,
            jnp.zeros((len(work.x), num_classes + 1), jnp.int32),
            work,
            share=share,
            num_classes=num_classes,
            items_per_step=items_per_step,
        )
        return share.total(counts)

    return noise_blocks.share_out(count, work, mesh=mesh)


def votes_of(
    counts: NDArray[np.int32], selected: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Votes `[n]` of the selected class and of the strongest other column. [host]."""
    is_selected = np.arange(counts.shape[-1]) == selected[:, None]
    votes = np.max(np.where(is_selected, counts, 0), axis=-1, initial=0)
    others = np.max(np.where(is_selected, 0, counts), axis=-1, initial=0)
    return votes, others


def prepare(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    sigma: ArrayLike,
    num_samples: int,
    first_sample: int,
    num_classes: int,
    example_ids: ArrayLike | None,
    check_range: bool = True,
) -> noise_blocks.SampleJob:
    """Checks what is to be sampled and puts it into one tree.

    [host] The arguments are those of `class_counts`.

    Args:
        key: the key of the stream.
        apply_fn: the classifier.
        x: `[n, ...]` floats in [0, 1].
        sigma: noise level.
        num_samples: where to end.
        first_sample: where to start.
        num_classes: number of classes.
        example_ids: `[n]` integers, or None.
        check_range: whether x has to lie in [0, 1].

    Returns:
        The tree of arrays that the loop on the device takes.

    Raises:
        ValueError: where a concrete value is out of its range.
    """
    _validate.integer(1, num_samples=num_samples)
    _validate.integer(0, first_sample=first_sample)
    _validate.integer(2, num_classes=num_classes)
    check_sigma(sigma)
    if check_range:
        _validate.unit_interval(x=x)
    x = jnp.asarray(x, jnp.float32)
    if x.ndim < 2:
        raise ValueError(f"Expected x as a batch [n, ...], got shape {x.shape}.")
    if first_sample % BLOCK_SIZE or first_sample >= num_samples:
        raise ValueError(
            f"Expected first_sample as a multiple of {BLOCK_SIZE} below {num_samples=}"
            f", got {first_sample}."
        )
    num_blocks = x.shape[0] * -(-num_samples // BLOCK_SIZE)
    if max(num_samples, num_blocks + _MAX_PADDING) > _MAX_INT32:
        raise ValueError(
            f"Expected at most 2**31 samples an example and 2**31 blocks in all, got "
            f"{num_samples=} for {x.shape[0]} examples."
        )
    return noise_blocks.SampleJob(
        key=_threefry(key),
        apply_fn=_callables.as_partial(apply_fn),
        x=x,
        example_ids=_example_ids(example_ids, num_examples=x.shape[0]),
        sigma=jnp.asarray(sigma, jnp.float32),
        num_samples=jnp.asarray(num_samples, jnp.int32),
        first_sample=jnp.asarray(first_sample, jnp.int32),
    )


def replicate(tree: _Tree, mesh: Mesh | None) -> _Tree:
    """The arrays of a tree on all devices of a mesh.

    [host]

    Args:
        tree: the arrays, wherever they lie.
        mesh: the devices; without one the tree is returned as it is.

    Returns:
        The tree.
    """
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def _example_ids(example_ids: ArrayLike | None, *, num_examples: int) -> jax.Array:
    if example_ids is None:
        return jnp.arange(num_examples, dtype=jnp.uint32)
    known = _validate.concrete(example_ids)
    ids: Any = jnp.asarray(example_ids) if known is None else known
    is_traced_64 = known is None and ids.dtype.itemsize > 4  # could lose its upper half
    is_integer = ids.dtype.kind in "iu" or ids.size == 0
    if ids.shape != (num_examples,) or not is_integer or is_traced_64:
        raise ValueError(
            f"Expected example_ids as {num_examples} integers (of 32 bits where "
            f"traced), got {ids.dtype} of shape {ids.shape}."
        )
    if known is not None and ((known < 0) | (known >= 2**32)).any():
        raise ValueError(
            f"Expected example_ids in [0, 2**32), got {known.min()} to {known.max()}."
        )
    return jnp.asarray(ids.astype(np.uint32))


def _threefry(key: jax.Array) -> jax.Array:
    implementation = jax.random.key_impl(key)  # of raw keys, the configured default
    if implementation != "threefry2x32":
        raise ValueError(
            f"Expected a threefry key, jax.random.key(seed, impl='threefry2x32'), got "
            f"one of {implementation}: its noise would depend on the batch."
        )
    return key
