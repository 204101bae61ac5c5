"""One scale of a task: two Gaussian classes through a representation, and their rules.

Training inputs pass once and leave moments; the rules are made from them; test inputs
pass once and leave sums. What is kept is p x p, and one row for every 128 test inputs.
From the sums follow, for each rule,

    a = share of test inputs that are correct,   b = mean of u over the correct ones,

with the scaled bound u of `estimated_rules`.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from robustjax import _callables, _validate
from robustjax.synbench import estimated_rules
from robustjax.synbench.gaussian_pair import BLOCK
from robustjax.synbench.moments import FeatureMoments
from robustjax.synbench.task import Inputs, Task

GROUP = 128  # test inputs whose sums are kept together
_TRAIN, _TEST = 0, 1  # streams
_CHUNK = 1024  # features at a time on the host
_AHEAD = 4  # batches under way on the device
_MICRO = 1e-6  # scales that differ by less would share their noise

FeatureFn = Callable[[Any], Any]
_Batch = tuple[np.ndarray, np.ndarray]


class ScaleResult(NamedTuple):
    """What one scale leaves: NumPy arrays, float64."""

    sums: np.ndarray  # [e, g, 4], of 128 inputs: all, correct ones, their u, u squared
    half_sums: np.ndarray  # under rules of half of the training; NaN of one epsilon
    multiplier: np.ndarray  # [e], 1 / ridge
    rank: np.ndarray  # of the covariance, after the cut
    dropped_mean_fraction: np.ndarray  # of the mean, in the other directions
    shrinkage: np.ndarray  # the weight used
    num_features: np.ndarray


def measure_scale(
    key: jax.Array,
    feature_fn: FeatureFn,
    task: Task,
    *,
    index: int,
    batch_size: int = 256,
    is_on_host: bool = False,
    mesh: Mesh | None = None,
    observe: Callable[[FeatureMoments], None] | None = None,
) -> ScaleResult:
    """Draws the inputs of one scale, makes the rules and tests them.

    [host] Inputs are made and passed through the representation on the device, a batch
    at a time; moments, rules and margins are float64 on the host.

    Args:
        key: random key of the task: one key gives every model the same inputs.
        feature_fn: maps `[n, *input_shape]` to `[n, p]`.
        task: what is drawn and how the rules are made.
        index: of the scale in `task.scales`.
        batch_size: inputs at a time, a multiple of 16 for every device; it changes no
            input.
        is_on_host: feature_fn takes and gives NumPy arrays, as one that wraps PyTorch.
        mesh: devices that share a batch; None: the default device.
        observe: called with the moments of all training features.

    Returns:
        A `ScaleResult`.

    Raises:
        ValueError: if features are not `[n, p]` or not finite; the message names the
            scale and the batch.

    Example:
        >>> task = Task((4,), scales=(2.0,), num_train=256, num_test=256)
        >>> found = measure_scale(jax.random.key(0), lambda x: x, task, index=0)
        >>> int(found.rank), found.sums.shape
        (4, (1, 2, 4))

    Reference: SynBench, Ko et al. (2024), ICML.
    """
    multiple = BLOCK * (1 if mesh is None else mesh.size)
    if batch_size < multiple or batch_size % multiple:
        raise ValueError(
            f"Expected batch_size as a multiple of {multiple}, got {batch_size}."
        )
    _validate.integer(0, index=index)
    scale = np.float32(task.scales[index])
    if is_on_host:
        extract = functools.partial(_extract_on_host, feature_fn)
    else:
        fn = _replicated(feature_fn, mesh)
        extract = functools.partial(_extract, fn, mesh=mesh)

    def features(stream: int, num_samples: int, chunk: int) -> Iterator[_Batch]:
        size = min(batch_size, -(-num_samples // multiple) * multiple)
        numbers = np.array([round(task.scales[index] / _MICRO), stream], np.int32)
        calls = (
            extract(key, _Place(task.inputs, scale, numbers, start), size=size)
            for start in range(0, num_samples, size)
        )
        where = f"scale {task.scales[index]}, {('training', 'test')[stream]}"
        return _joined(_checked(calls, num_samples, where), chunk)

    chunk = min(_CHUNK, task.num_train // 2)  # so that one ends near the half
    total, half = _training_moments(features(_TRAIN, task.num_train, chunk), task)
    if observe is not None:
        observe(total)
    full = estimated_rules.rules_of(total, task)
    has_choice = len(task.relative_epsilons) > 1
    made = [full, estimated_rules.rules_of(half, task)] if has_choice else [full]
    sums = _test_sums(features(_TEST, task.num_test, _CHUNK), made, task)
    return ScaleResult(
        sums=sums[0],
        half_sums=sums[1] if has_choice else np.full_like(sums[0], np.nan),
        multiplier=np.asarray(full.multiplier),
        rank=np.asarray(full.rank),
        dropped_mean_fraction=np.asarray(full.noiseless),
        shrinkage=np.asarray(full.shrinkage),
        num_features=np.asarray(total.mean.shape[1]),
    )


def _replicated(feature_fn: FeatureFn, mesh: Mesh | None) -> Any:
    fn = _callables.as_partial(feature_fn)
    if mesh is None:
        return fn
    return jax.device_put(fn, NamedSharding(mesh, PartitionSpec()))


class _Place(NamedTuple):
    """Which inputs: of a scale and stream, from a number on."""

    inputs: Inputs
    scale: Any
    numbers: Any  # [2], of scale and stream
    start: Any

    def draw(self, key: jax.Array, first: Any, size: int) -> Any:
        """Inputs and classes, `first` of them after the start."""
        for number in self.numbers:
            key = jax.random.fold_in(key, number)
        start = self.start + first
        return self.inputs.draw(key, self.scale, start=start, num_samples=size)


def _extract_on_host(
    fn: FeatureFn, key: jax.Array, place: _Place, *, size: int
) -> tuple[np.ndarray, jax.Array]:
    x, labels = _draw(key, place, size=size)
    return np.asarray(fn(np.array(x))), labels  # a copy, as PyTorch wants to write


@functools.partial(jax.jit, static_argnames="size")
def _draw(key: jax.Array, place: _Place, *, size: int) -> Any:
    return place.draw(key, 0, size)


@functools.partial(jax.jit, static_argnames=("size", "mesh"))
def _extract(
    fn: Any,
    key: jax.Array,
    place: _Place,
    *,
    size: int,
    mesh: Mesh | None,
) -> tuple[jax.Array, jax.Array]:
    num_devices = 1 if mesh is None else mesh.size

    def on_device(fn: Any) -> tuple[jax.Array, jax.Array]:
        own = size // num_devices
        first = 0 if mesh is None else jax.lax.axis_index(mesh.axis_names) * own
        x, labels = place.draw(key, first, own)
        try:
            return fn(x), labels
        except jax.errors.TracerArrayConversionError as error:
            raise TypeError(
                "feature_fn makes NumPy arrays of its inputs, which JAX traces: pass "
                "is_on_host=True (--on_host)."
            ) from error

    if mesh is None:
        return on_device(fn)
    shared = PartitionSpec(mesh.axis_names)
    return jax.shard_map(
        on_device, mesh=mesh, in_specs=PartitionSpec(), out_specs=shared
    )(fn)


def _checked(
    calls: Iterator[tuple[Any, jax.Array]], num_samples: int, where: str
) -> Iterator[_Batch]:
    """Host batches without padding; the next ones are under way while one is used."""
    waiting = collections.deque(itertools.islice(calls, _AHEAD))
    first = number = 0
    while waiting:
        features, labels = (np.asarray(part) for part in waiting.popleft())
        waiting.extend(itertools.islice(calls, 1))
        if features.ndim != 2 or len(features) != len(labels):
            raise ValueError(
                f"Expected features [{len(labels)}, p] of {len(labels)} inputs, "
                f"got shape {features.shape} ({where} batch {number})."
            )
        rest = num_samples - first
        if not np.isfinite(features[:rest]).all():
            raise ValueError(f"Features are not finite: {where} batch {number}.")
        yield features[:rest], labels[:rest]
        first += len(labels)
        number += 1


def _joined(batches: Iterator[_Batch], size: int) -> Iterator[_Batch]:
    """Batches put together until they have a size, for fewer calls on the host."""
    held: list[_Batch] = []
    for batch in batches:
        held.append(batch)
        if sum(len(labels) for _, labels in held) >= size:
            yield _concatenated(held)
            held = []
    if held:
        yield _concatenated(held)


def _concatenated(batches: list[_Batch]) -> _Batch:
    features, labels = zip(*batches, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def _training_moments(
    batches: Iterator[_Batch], task: Task
) -> tuple[FeatureMoments, FeatureMoments]:
    """Moments of all training features, and of the batches with half of them."""
    total, half = (
        estimated_rules.host(estimated_rules.moments_of, *next(batches)),
    ) * 2
    for features, labels in batches:
        new = estimated_rules.host(estimated_rules.moments_of, features, labels)
        total = estimated_rules.host(estimated_rules.merged, total, new)
        if 2 * np.asarray(half.counts).sum() < task.num_train:
            half = total
    return total, half


def _test_sums(
    batches: Iterator[_Batch], made: list[estimated_rules.Rules], task: Task
) -> tuple[np.ndarray, ...]:
    """`[e, g, 4]` under each of several sets of rules."""
    num_groups = -(-task.num_test // GROUP)
    totals = [np.zeros((len(task.relative_epsilons), num_groups, 4)) for _ in made]
    first = 0
    for features, labels in batches:
        group = (first + np.arange(len(labels))) // GROUP
        found = estimated_rules.host(
            estimated_rules.test_sums,
            features,
            labels,
            made,
            group,
            num_groups=num_groups,
        )
        totals = [t + np.asarray(new) for t, new in zip(totals, found, strict=True)]
        first += len(labels)
    return tuple(totals)
