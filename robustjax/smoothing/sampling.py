"""Class counts of a classifier under Gaussian noise: one jitted loop on the device.

The work is a list of items, one for each (example, block) pair; a block is 128 noise
samples. Each step of the loop takes `chunk_size / 128` consecutive items, of one
example or of several, so small models fill the device and only the last block of an
example can be partly unused. The devices of a mesh take whole steps in turn, so every
forward batch is the same whatever their number.

The noise of an item depends on (key, example_id, block) and on nothing else: not on
batch, chunk or device count, nor on where a run was resumed.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.smoothing import base_classifier

BLOCK_SIZE = 128
_MAX_INT32 = 2**31 - 1
_MAX_PADDING = 2**24  # items that the last steps of all devices may lie past the end


def noise_block(
    key: jax.Array, example_id: ArrayLike, block: ArrayLike, *, shape: Sequence[int]
) -> jax.Array:
    """Standard normal noise of one block of 128 samples of one example.

    [device] Pure, jittable. Drawn flat and reshaped: the values of a shaped draw.

    Args:
        key: the key of the stream, `jax.random.fold_in(user_key, stream)`.
        example_id: index of the example in its data set, an integer >= 0.
        block: index of the block, an integer >= 0.
        shape: shape of one example.

    Returns:
        float32 `[128, *shape]`; blocks of distinct (example_id, block) are independent.

    Example:
        >>> noise_block(jax.random.key(0), 7, 0, shape=(8, 8, 1)).shape
        (128, 8, 8, 1)
    """
    key = jax.random.fold_in(jax.random.fold_in(key, example_id), block)
    flat = jax.random.normal(key, (BLOCK_SIZE * math.prod(shape),), jnp.float32)
    return flat.reshape(BLOCK_SIZE, *shape)


def class_counts(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    sigma: ArrayLike,
    num_samples: int,
    num_classes: int,
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
        to `num_samples`. Equal (key, example_id) give equal noise, so use keys that
        differ (fold in a stream) for draws that have to be independent.

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
    _validate.integer(1, num_samples=num_samples)
    _validate.integer(2, num_classes=num_classes)
    check_sigma(sigma)
    _validate.unit_interval(x=x)
    x = jnp.asarray(x, jnp.float32)
    if x.ndim < 2:
        raise ValueError(f"Expected x as a batch [n, ...], got shape {x.shape}.")
    example_ids = _example_ids(example_ids, num_examples=x.shape[0])
    chunk_size = _chunk_size(chunk_size)
    num_blocks = x.shape[0] * -(-num_samples // BLOCK_SIZE)
    if max(num_samples, num_blocks + _MAX_PADDING) > _MAX_INT32:
        raise ValueError(
            f"Expected at most 2**31 samples an example and 2**31 blocks in all, got "
            f"{num_samples=} for {x.shape[0]} examples."
        )
    work = _Work(
        key=_threefry(key),
        apply_fn=base_classifier.as_partial(apply_fn),
        x=x,
        example_ids=example_ids,
        sigma=jnp.asarray(sigma, jnp.float32),
        num_samples=jnp.asarray(num_samples, jnp.int32),
    )
    if mesh is not None:
        work = jax.device_put(work, NamedSharding(mesh, PartitionSpec()))
    return _class_counts(
        work,
        num_classes=num_classes,
        items_per_step=chunk_size // BLOCK_SIZE,
        mesh=mesh,
    )


def check_sigma(sigma: ArrayLike) -> None:
    """Raises ValueError unless sigma is one positive number that float32 can hold.

    [host] Values that JAX traces pass.

    Args:
        sigma: the noise level.

    Raises:
        ValueError: for anything else, such as an array, NaN or 1e-50.
    """
    value = _validate.concrete(sigma)
    if value is None:
        return
    if value.ndim:
        raise ValueError(f"Expected sigma as one number, got shape {value.shape}.")
    _validate.positive(sigma=value.tolist())
    limits = np.finfo(np.float32)
    if not limits.tiny <= value <= limits.max:
        raise ValueError(f"Expected sigma within the range of float32, got {value}.")


class _Work(NamedTuple):
    """What the device needs; all of it is traced, so none of it causes a retrace."""

    key: jax.Array
    apply_fn: Partial
    x: jax.Array  # [n, ...]
    example_ids: jax.Array  # [n]
    sigma: jax.Array  # []
    num_samples: jax.Array  # []


@functools.partial(jax.jit, static_argnames=("num_classes", "items_per_step", "mesh"))
def _class_counts(
    work: _Work, *, num_classes: int, items_per_step: int, mesh: Mesh | None
) -> jax.Array:
    count = functools.partial(
        _count_steps, num_classes=num_classes, items_per_step=items_per_step
    )
    if mesh is None:
        return count(work, first=0, stride=1)

    def count_on_device(work: _Work) -> jax.Array:
        device = jax.lax.axis_index(mesh.axis_names)
        return jax.lax.psum(
            count(work, first=device, stride=mesh.size), mesh.axis_names
        )

    replicated = PartitionSpec()
    return jax.shard_map(
        count_on_device,
        mesh=mesh,
        in_specs=replicated,
        out_specs=replicated,
        check_vma=False,  # the loop carry starts equal on all devices, then differs
    )(work)


def _count_steps(
    work: _Work,
    *,
    first: ArrayLike,
    stride: int,
    num_classes: int,
    items_per_step: int,
) -> jax.Array:
    """Counts over the steps first, first + stride, ... of the list of items."""
    num_examples, *shape = work.x.shape
    num_blocks = -(-work.num_samples // BLOCK_SIZE)
    num_items = num_examples * num_blocks
    draw = jax.vmap(functools.partial(noise_block, work.key, shape=shape))

    def add_step(i: jax.Array, counts: jax.Array) -> jax.Array:
        item = (first + i * stride) * items_per_step + _arange(items_per_step)
        example = jnp.minimum(item // num_blocks, num_examples - 1)
        block = item % num_blocks
        with jax.named_scope("robustjax.smoothing.noise"):
            noise = draw(work.example_ids[example], block)
            stimuli = work.x[example][:, None] + work.sigma * noise
        with jax.named_scope("robustjax.smoothing.votes"):
            stimuli = stimuli.reshape(-1, *shape)
            logits = work.apply_fn(stimuli)
            base_classifier.check_logits(logits, stimuli.shape, num_classes=num_classes)
            winner = _winner(logits).reshape(items_per_step, BLOCK_SIZE)
        sample = block[:, None] * BLOCK_SIZE + _arange(BLOCK_SIZE)[None]
        is_used = (sample < work.num_samples) & (item < num_items)[:, None]
        winner = jnp.where(is_used, winner, -1)  # -1 counts for no class
        votes = jax.nn.one_hot(winner, num_classes + 1, dtype=jnp.int32)
        return counts.at[example].add(jnp.sum(votes, axis=1, dtype=jnp.int32))

    counts = jnp.zeros((num_examples, num_classes + 1), jnp.int32)
    if num_examples == 0:
        return counts
    num_steps = -(-num_items // (items_per_step * stride))
    return jax.lax.fori_loop(jnp.int32(0), num_steps, add_step, counts)


def _arange(size: int) -> jax.Array:
    return jnp.arange(size, dtype=jnp.int32)  # also where x64 is enabled


def _winner(logits: jax.Array) -> jax.Array:
    """The largest logit's class `[m]`; num_classes where a logit is not finite."""
    is_valid = jnp.all(jnp.isfinite(logits), axis=-1)
    return jnp.where(is_valid, jnp.argmax(logits, axis=-1), logits.shape[-1])


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


def _chunk_size(chunk_size: int | None) -> int:
    if chunk_size is None:
        return 256 if jax.default_backend() == "cpu" else 2048
    _validate.integer(1, chunk_size=chunk_size)
    if chunk_size % BLOCK_SIZE:
        raise ValueError(
            f"Expected chunk_size to be a multiple of {BLOCK_SIZE}, got {chunk_size}."
        )
    return int(chunk_size)


def _threefry(key: jax.Array) -> jax.Array:
    implementation = jax.random.key_impl(key)  # of raw keys, the configured default
    if implementation != "threefry2x32":
        raise ValueError(
            f"Expected a threefry key, jax.random.key(seed, impl='threefry2x32'), got "
            f"one of {implementation}: its noise would depend on the batch."
        )
    return key
