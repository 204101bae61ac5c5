"""Noise in blocks of 128 samples, and the one loop on the device that visits them.

The work is a list of items, one for each (example, block) pair. Each step of the loop
takes `chunk_size / 128` consecutive items, of one example or of several, so small
models fill the device and only the last block of an example can be partly unused. The
devices of a mesh take whole steps in turn, so every forward batch is the same whatever
their number.

The noise of an item depends on (key, example_id, block) and on nothing else: not on
batch, chunk or device count, nor on where a run was resumed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh, PartitionSpec
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.smoothing.sampling import base_classifier

BLOCK_SIZE = 128
MAX_NOISE = 5.5  # bound on the size of float32 noise, whatever the key
_Tree = TypeVar("_Tree")


def noise_block(
    key: jax.Array, example_id: ArrayLike, block: ArrayLike, *, shape: Sequence[int]
) -> jax.Array:
    """Standard normal noise of one block of 128 samples of one example.

    [device] Pure, jittable. Drawn flat and reshaped: the values of a shaped draw.

    Guarantee:
        No value exceeds `MAX_NOISE` in size: float32 noise takes 2^23 values, the
        largest of which is 5.42.

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


def items_in_step(chunk_size: int | None) -> int:
    """Blocks of noise in one forward batch.

    [host]

    Args:
        chunk_size: samples in the batch, or None for the default of the platform.

    Returns:
        chunk_size / 128.

    Raises:
        ValueError: if chunk_size is no multiple of 128.
    """
    if chunk_size is None:
        chunk_size = 256 if jax.default_backend() == "cpu" else 2048
    _validate.integer(1, chunk_size=chunk_size)
    if chunk_size % BLOCK_SIZE:
        raise ValueError(
            f"Expected chunk_size to be a multiple of {BLOCK_SIZE}, got {chunk_size}."
        )
    return int(chunk_size) // BLOCK_SIZE


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


class SampleJob(NamedTuple):
    """What the device needs; all of it is traced, so none of it causes a retrace."""

    key: jax.Array
    apply_fn: Partial
    x: jax.Array  # [n, ...]
    example_ids: jax.Array  # [n]
    sigma: jax.Array  # []
    num_samples: jax.Array  # []
    first_sample: jax.Array  # [], a multiple of 128


class NoisyBatch(NamedTuple):
    """What one step of the loop has drawn and seen: i items of 128 samples each."""

    example: jax.Array  # [i], row of x, ascending
    noise: jax.Array  # [i, 128, ...]
    logits: jax.Array  # [i, 128, k]
    winner: jax.Array  # [i, 128], k where a logit is not finite, -1 where not used
    is_used: jax.Array  # [i, 128], false past the last sample and past the last item

    def outcome(self, selected: jax.Array, *, is_soft: bool) -> jax.Array:
        """Whether the selected class wins, or how probable it is.

        [device]

        Args:
            selected: int32 `[n]`, a class for each example.
            is_soft: whether to take the softmax probability, which is 0 where a logit
                is not finite.

        Returns:
            float32 `[i, 128]` in [0, 1].
        """
        selected = selected[self.example][:, None]
        if not is_soft:
            return (self.winner == selected).astype(jnp.float32)
        num_classes = self.logits.shape[-1]
        probability = jax.nn.softmax(self.logits.astype(jnp.float32), axis=-1)
        is_selected = jax.nn.one_hot(selected, num_classes, dtype=bool)
        probability = jnp.sum(jnp.where(is_selected, probability, 0), axis=-1)
        return jnp.where(self.winner < num_classes, probability, 0)


@dataclasses.dataclass(frozen=True)
class DeviceShare:
    """The steps that one device takes: first, first + stride, and so on."""

    first: ArrayLike = 0
    stride: int = 1
    axes: tuple[str, ...] = ()

    def total(self, tree: _Tree) -> _Tree:
        """Sums over the devices, on each of them. [device]."""
        return jax.lax.psum(tree, self.axes) if self.axes else tree


def share_out(
    function: Callable[[Any, DeviceShare], _Tree], tree: Any, *, mesh: Mesh | None
) -> _Tree:
    """Calls a function on every device of a mesh, each with a share of the steps.

    [device]

    Args:
        function: maps (tree, share) to a result that `DeviceShare.total` has made
            equal on all devices.
        tree: its first argument, replicated.
        mesh: the devices; without one a single call gets all steps.

    Returns:
        What the function returns.
    """
    if mesh is None:
        return function(tree, DeviceShare())

    def on_device(tree: Any) -> _Tree:
        first = jax.lax.axis_index(mesh.axis_names)
        return function(tree, DeviceShare(first, mesh.size, mesh.axis_names))

    replicated = PartitionSpec()
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=replicated,
        out_specs=replicated,
        check_vma=False,  # the loop carry starts equal on all devices, then differs
    )(tree)


def reduce_blocks(
    visit: Callable[[NoisyBatch, _Tree], _Tree],
    carry: _Tree,
    work: SampleJob,
    *,
    share: DeviceShare,
    num_classes: int,
    items_per_step: int,
    skip: ArrayLike = 0,
    every: int = 1,
) -> _Tree:
    """Visits the blocks of all examples in order, one step of items at a time.

    [device] Pure; memory does not depend on the number of samples.

    Args:
        visit: maps (step, carry) to the new carry.
        carry: what the first step starts from.
        work: what to draw and to classify.
        share: the steps to take.
        num_classes: number of classes of the logits.
        items_per_step: blocks in one forward batch.
        skip: blocks to leave out at the beginning of each example.
        every: stride; visit every `every`-th block.

    Returns:
        The carry after the last step.

    Raises:
        ValueError: if the classifier does not return `[m, num_classes]`.
    """
    num_examples, *shape = work.x.shape
    if num_examples == 0:
        return carry
    first_block = work.first_sample // BLOCK_SIZE + skip
    end_block = -(-work.num_samples // BLOCK_SIZE)
    num_blocks = -((first_block - end_block) // every)
    num_items = num_examples * num_blocks
    draw = jax.vmap(functools.partial(noise_block, work.key, shape=shape))

    def take(i: jax.Array, carry: _Tree) -> _Tree:
        position = share.first + i * share.stride
        item = position * items_per_step + _arange(items_per_step)
        example = jnp.minimum(item // num_blocks, num_examples - 1)
        block = first_block + every * (item % num_blocks)
        with jax.named_scope("robustjax.smoothing.noise"):
            noise = draw(work.example_ids[example], block)
            stimuli = work.x[example][:, None] + work.sigma * noise
        with jax.named_scope("robustjax.smoothing.votes"):
            stimuli = rearrange(stimuli, "item sample ... -> (item sample) ...")
            logits = work.apply_fn(stimuli)
            base_classifier.check_logits(logits, stimuli.shape, num_classes=num_classes)
            logits = rearrange(
                logits, "(item sample) k -> item sample k", item=items_per_step
            )
        sample = block[:, None] * BLOCK_SIZE + _arange(BLOCK_SIZE)[None]
        is_used = (sample < work.num_samples) & (item < num_items)[:, None]
        winner = jnp.where(is_used, winning_class(logits), -1)
        return visit(NoisyBatch(example, noise, logits, winner, is_used), carry)

    num_steps = -(-num_items // (items_per_step * share.stride))
    return jax.lax.fori_loop(jnp.int32(0), num_steps, take, carry)


def add_votes(step: NoisyBatch, counts: jax.Array) -> jax.Array:
    """Counts `[n, k + 1]` with the winners of a step added. [device].

    Args:
        step: what the loop has seen.
        counts: int32, the last column counts invalid samples.

    Returns:
        The new counts.
    """
    votes = jax.nn.one_hot(step.winner, counts.shape[1], dtype=jnp.int32)  # -1: none
    return counts.at[step.example].add(jnp.sum(votes, axis=1, dtype=jnp.int32))


class Compensated(NamedTuple):
    """Float32 sums `[n, m]`, and what rounding has lost of them."""

    high: jax.Array
    low: jax.Array

    @classmethod
    def zeros(cls, *shape: int) -> "Compensated":
        """Sums of nothing. [device].

        Args:
            shape: rows and columns.

        Returns:
            The sums.
        """
        return cls(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))

    @property
    def value(self) -> jax.Array:
        """The sums, rounded once. [device]."""
        return self.high + self.low

    def add_rows(self, rows: jax.Array, values: jax.Array) -> "Compensated":
        """The sums with a value added to each of some rows.

        [device] The rounding error of an addition is known exactly (two-sum), so that
        sums are right to about 2^-24 however many values are added.

        Args:
            rows: int32 `[i]`, ascending; a row may appear several times.
            values: float32 `[i, m]`.

        Returns:
            The new sums.

        Reference:
            Knuth (1998), The Art of Computer Programming 2, section 4.2.2, theorem B.
        """
        is_first = jnp.diff(rows, prepend=jnp.int32(-1)) != 0
        target = jnp.where(is_first, rows, len(self.high))  # past the end: dropped
        same = (rows[:, None] == rows[None]).astype(jnp.float32)
        values = jnp.matmul(same, values, precision="highest")
        old = self.high[rows]
        new = old + values
        added = new - old
        lost = (old - (new - added)) + (values - added)
        return Compensated(
            self.high.at[target].set(new, mode="drop"),
            self.low.at[target].add(lost, mode="drop"),
        )


def _arange(size: int) -> jax.Array:
    return jnp.arange(size, dtype=jnp.int32)  # also where x64 is enabled


def winning_class(logits: jax.Array) -> jax.Array:
    """The largest logit's class. [device].

    Args:
        logits: `[..., num_classes]`.

    Returns:
        Classes `[...]`, the lowest of equals; num_classes where a logit is not finite.
    """
    is_valid = jnp.all(jnp.isfinite(logits), axis=-1)
    return jnp.where(is_valid, jnp.argmax(logits, axis=-1), logits.shape[-1])
