"""The SynBench score: how much signal of synthetic Gaussians features retain.

With the accuracies a_s and mean scaled bounds b_s of the features at the scales s, and
A_s, B_s those of the best rule on the inputs themselves, the score at threshold t is

    score = sum_s b_s max(a_s - t, 0) / sum_s B_s max(A_s - t, 0),

and A_s = Phi(s), B_s = 1 + phi(s) / (s Phi(s)) for unit noise and tau = 1/2.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from robustjax import _validate
from robustjax.synbench import pipeline, tradeoff_curves, uncertainty
from robustjax.synbench.pipeline import FeatureFn, ScaleResult
from robustjax.synbench.result import SynBenchResult
from robustjax.synbench.task import BATCH, RawCurves, Task

_NOISELESS = 1e-3  # share of the mean without noise, above which it is reported
_SAMPLES_PER_FEATURE = 20  # below, the ceiling matters


def synbench(
    key: jax.Array,
    feature_fn: FeatureFn,
    input_shape: Sequence[int],
    *,
    scales: Sequence[float] = tradeoff_curves.SCALES,
    relative_epsilons: Sequence[float] = (0.0,),
    thresholds: Sequence[float] = tradeoff_curves.THRESHOLDS,
    num_train: int = 2048,
    num_test: int = 2048,
    batch_size: int = 256,
    is_on_host: bool = False,
    mesh: Mesh | None = None,
    reference: bool = False,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> SynBenchResult:
    """Scores a representation with synthetic Gaussian inputs alone.

    [host] 0 says that it keeps nothing of the signal, about 1 that it keeps all; a rule
    that is estimated from n samples cannot reach 1, see `finite_sample_ceiling`. Give
    models to be compared one key: they then see the same inputs.

    Args:
        key: random key of the inputs.
        feature_fn: maps `[n, *input_shape]` to features `[n, p]`. Inputs are Gaussian
            noise about mid-grey: unclipped, unless `valid_range` is given.
        input_shape: of one input, as (224, 224, 3).
        scales: half distances of the class means, in units of the noise.
        relative_epsilons: radii of the robust rules in units of the half distance of
            the class means of the features, in [0, 1).
        thresholds: accuracies from which areas are taken, above max(prior, 1 - prior),
            which always predicting the likelier class reaches.
        num_train: training inputs of each scale.
        num_test: test inputs of each scale.
        batch_size: inputs at a time, a multiple of 16 for every device.
        is_on_host: feature_fn takes and gives NumPy arrays, as one that wraps PyTorch.
        mesh: devices that share a batch; None: the default device.
        reference: takes the conventions of the public script, see `Task.reference`.
        progress: called with the index of every scale that is done.
        **settings: further fields of `Task`: prior, pixel_mean, shrinkage, ...

    Returns:
        A `SynBenchResult`.

    Raises:
        ValueError: if a setting is out of range, or features are not `[n, p]` or not
            finite (scale and batch are named).

    Example:
        >>> found = synbench(jax.random.key(0), lambda x: x, (4,), scales=(1.0, 2.0),
        ...                  num_train=256, num_test=256, thresholds=(0.7,))
        >>> print(found.score.shape, bool(found.score[0, 0] > 0.8))
        (1, 1) True

    Reference: Ko, Chen, Das, Mohapatra and Daniel (2024), What Would Gauss Say About
        Representations?, ICML; `docs/papers/synbench.md`, "The score". Standard errors,
        ceiling and exact area are ours.
    """
    task = Task(
        tuple(input_shape),
        scales=tuple(scales),
        relative_epsilons=tuple(relative_epsilons),
        num_train=num_train,
        num_test=num_test,
        **settings,
    )
    task = task.reference() if reference else task
    area_of_inputs(RawCurves(task), task, thresholds=thresholds)  # before the work
    results = []
    for index in range(len(task.scales)):
        found = pipeline.measure_scale(
            key,
            feature_fn,
            task,
            index=index,
            batch_size=batch_size,
            is_on_host=is_on_host,
            mesh=mesh,
        )
        results.append(found)
        if progress is not None:
            progress(index)
    return score_of_scales(key, task, results, thresholds=thresholds)


def score_of_scales(
    key: jax.Array,
    task: Task,
    results: Sequence[ScaleResult],
    *,
    thresholds: Sequence[float] = tradeoff_curves.THRESHOLDS,
) -> SynBenchResult:
    """Puts the results of all scales together.

    [host]

    Args:
        key: with which they were drawn.
        task: of which they are.
        results: of `measure_scale`, one for each scale, in their order.
        thresholds: accuracies from which areas are taken, as in `synbench`.

    Returns:
        A `SynBenchResult`.

    Raises:
        ValueError: if results are missing, or a threshold is out of range or above
            every accuracy of the best rules on the inputs.

    Example:
        >>> task = Task((4,), scales=(1.0, 2.0), num_train=256, num_test=256)
        >>> key, feature_fn = jax.random.key(0), lambda x: x
        >>> found = [pipeline.measure_scale(key, feature_fn, task, index=i)
        ...          for i in range(2)]
        >>> score_of_scales(key, task, found, thresholds=(0.7,)).score.shape
        (1, 1)
    """
    _validate.same_length(results=results, scales=task.scales)
    raw = RawCurves(task)
    raw_area = area_of_inputs(raw, task, thresholds=thresholds)
    parts = {name: [getattr(r, name) for r in results] for name in ScaleResult._fields}
    sums = np.stack(parts["sums"])
    accuracy, bound = curves(sums, task)
    rank = np.stack(parts["rank"])
    is_plain = task.prior == 0.5 and not task.shrinkage
    ceiling = (
        tradeoff_curves.finite_sample_ceiling(
            rank,
            task.num_train,
            scales=raw.signal,
            thresholds=thresholds,
            mode=task.mode,
        )
        if is_plain
        else np.full(len(thresholds), np.nan)
    )
    half = curves(np.stack(parts["half_sums"]), task)
    has_half, missing = len(task.relative_epsilons) > 1, np.full_like(raw_area, np.nan)
    found = SynBenchResult(
        score=_area(accuracy, bound, thresholds, task) / raw_area,
        standard_error=uncertainty.standard_error(
            sums, thresholds, raw_area, mode=task.mode, batch_means=task.batch_means
        ),
        ceiling=np.asarray(ceiling, float),
        accuracy=accuracy,
        bound=bound,
        raw_accuracy=raw.accuracy,
        raw_bound=raw.bound,
        half_score=_area(*half, thresholds, task) / raw_area if has_half else missing,
        rank=rank,
        dropped_mean_fraction=np.stack(parts["dropped_mean_fraction"]),
        multiplier=np.stack(parts["multiplier"], axis=1),
        shrinkage=np.stack(parts["shrinkage"]),
        sums=sums,
        thresholds=tuple(thresholds),
        num_features=int(parts["num_features"][0]),
        task=task.facts() | {"key": jax.random.key_data(key).tolist()},
        notes=(),
    )
    notes = _notes(found, task)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return dataclasses.replace(found, notes=notes)


def area_of_inputs(
    raw: RawCurves, task: Task, *, thresholds: Sequence[float]
) -> np.ndarray:
    """Area of the best rules on the inputs, `[e, t]`; no score goes without it. [host].

    Args:
        raw: curves of the task.
        task: what is drawn.
        thresholds: accuracies from which areas are taken, as in `synbench`.

    Returns:
        Areas above 0, float64.

    Raises:
        ValueError: if a threshold is out of range or above every accuracy.
    """
    _validate.open_interval(0, 1, thresholds=thresholds)
    tradeoff_curves.check_thresholds(thresholds, prior=task.prior)
    area = _area(raw.accuracy, raw.bound, thresholds, task)
    if not (area > 0).all():
        raise ValueError(
            f"Expected thresholds below {raw.accuracy.max():.6f}, the largest accuracy "
            f"on the inputs at these scales, got {tuple(thresholds)}."
        )
    return area


def curves(sums: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and bound `[e, s]` of sums `[s, e, g, 4]`; NaN for an empty bound."""
    count, correct, total, _ = np.moveaxis(sums.sum(axis=2), -1, 0)
    with np.errstate(invalid="ignore"):
        bound = total / correct
        if task.batch_means:
            starts = np.arange(0, sums.shape[2], BATCH // pipeline.GROUP)
            batches = np.add.reduceat(sums, starts, axis=2)
            means = batches[..., 2] / batches[..., 1]
            is_some = (batches[..., 1] > 0).sum(axis=2)
            bound = np.nansum(means, axis=2) / is_some
    return (correct / count).T, bound.T


def _area(
    accuracy: np.ndarray,
    bound: np.ndarray,
    thresholds: tradeoff_curves.Floats,
    task: Task,
) -> np.ndarray:
    bound = np.where(np.isnan(bound), 0, bound)
    return np.asarray(
        tradeoff_curves.curve_area(
            accuracy, bound, thresholds=thresholds, mode=task.mode
        )
    )


def _notes(found: SynBenchResult, task: Task) -> tuple[str, ...]:
    """Warnings, one sentence each."""
    notes = []
    rank, n = int(found.rank.max()), task.num_train
    lowest = f"{found.ceiling[0]:.3f} at threshold {found.thresholds[0]:g}"
    if not task.shrinkage:
        if n - 2 <= rank:
            notes.append(
                f"num_train - 2 = {n - 2} is not above the rank {rank} of the "
                f"{found.num_features} features: the covariance is singular and the "
                "ceiling of the score is 0; take more training inputs or shrinkage."
            )
        elif n < _SAMPLES_PER_FEATURE * rank:
            notes.append(
                f"num_train = {n} is below {_SAMPLES_PER_FEATURE} for each of {rank} "
                f"independent features: a perfect representation would score {lowest}."
            )
    share = found.dropped_mean_fraction.max()
    if share > _NOISELESS:
        use = "which rules leave out" if task.cut is not None else "on which rules rest"
        notes.append(
            f"Up to {share:.2g} of the difference of the class means lies in "
            f"directions without noise, {use}."
        )
    if (found.rank + found.dropped_mean_fraction == 0).any():
        notes.append(
            "Features are constant at a scale: nothing of the signal is kept there."
        )
    return tuple(notes)
