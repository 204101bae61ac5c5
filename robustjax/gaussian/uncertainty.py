"""Errors of SynBench scores, and differences of two on the same inputs."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats

from robustjax import _validate
from robustjax.gaussian import measurement, tradeoff

if TYPE_CHECKING:
    from robustjax.gaussian.score import SynBenchResult


class ScoreDifference(NamedTuple):
    """How much one representation scores above another, on the same inputs."""

    difference: np.ndarray  # [e, t]
    standard_error: np.ndarray  # [e, t]
    lower: np.ndarray  # [e, t], of the interval
    upper: np.ndarray


def compare_scores(
    one: "SynBenchResult", other: "SynBenchResult", *, confidence: float = 0.95
) -> ScoreDifference:
    """The difference of two scores, with the noise that both share taken out.

    [host] Intervals are of the test noise, the rules being fixed, and each holds for
    itself: nothing is corrected for the number of pairs, radii and thresholds.

    Args:
        one: a result.
        other: another one, of the same task, key and thresholds.
        confidence: of each interval, in (0, 1).

    Returns:
        A `ScoreDifference`, one minus other.

    Raises:
        ValueError: if the inputs were not the same; the first setting is named.

    Example:
        >>> import jax
        >>> from robustjax.gaussian import synbench
        >>> def score(feature_fn):
        ...     return synbench(
        ...         jax.random.key(0), feature_fn, (4,), scales=(1.0, 2.0),
        ...         num_train=256, num_test=256, thresholds=(0.7,))
        >>> signs = score(lambda x: jax.numpy.sign(x - 0.5))
        >>> found = compare_scores(score(lambda x: x), signs)
        >>> bool(found.lower[0, 0] > 0)
        True

    Reference: ours.
    """
    _validate.open_interval(0, 1, confidence=confidence)
    for name in one.task:
        if one.task[name] != other.task.get(name):
            raise ValueError(
                f"The results are not of the same inputs: {name} is "
                f"{one.task[name]} and {other.task.get(name)}."
            )
    if one.thresholds != other.thresholds:
        raise ValueError("The results are not of the same thresholds.")
    change = _influence(one) - _influence(other)  # [s, e, g, t]
    num_groups = change.shape[2]
    if num_groups < 2:
        raise ValueError(
            f"Expected num_test > {measurement.GROUP} to compare, got "
            f"{one.task['num_test']}."
        )
    error = np.sqrt(num_groups / (num_groups - 1) * (change**2).sum(axis=(0, 2)))
    difference = one.score - other.score
    half_width = stats.norm.ppf((1 + confidence) / 2) * error
    return ScoreDifference(
        difference, error, difference - half_width, difference + half_width
    )


def _gradient(sums: np.ndarray, thresholds: tradeoff.Floats) -> tuple[np.ndarray, ...]:
    """Of bound * (accuracy - threshold), by mean correctness z and mean u v."""
    count, correct, total, square = np.moveaxis(sums.sum(axis=2)[..., None, :], -1, 0)
    z, v = correct / count, total / count
    t = np.asarray(thresholds, float)
    is_above = z > t
    safe = np.where(z > 0, z, 1)
    by_z = np.where(is_above, t * v / safe**2, 0)
    by_v = np.where(is_above, 1 - t / safe, 0)
    return z, v, square / count, by_z, by_v, count


def standard_error(
    sums: np.ndarray, thresholds: tradeoff.Floats, raw_area: np.ndarray
) -> np.ndarray:
    """The delta method over the test inputs of each scale. `[e, t]`."""
    z, v, square, by_z, by_v, count = _gradient(sums, thresholds)
    variance = (
        by_z**2 * z * (1 - z)
        + 2 * by_z * by_v * v * (1 - z)
        + by_v**2 * (square - v**2)
    ) / np.maximum(count - 1, 1)
    return np.sqrt(variance.sum(axis=0)) / (len(sums) * raw_area)


def _influence(found: "SynBenchResult") -> np.ndarray:
    """What each group of test inputs adds to the score, `[s, e, g, t]`."""
    z, v, _, by_z, by_v, count = _gradient(found.sums, found.thresholds)
    own_count, correct, total, _ = np.moveaxis(found.sums[..., None, :], -1, 0)
    by_z, by_v, z, v, count = (a[:, :, None] for a in (by_z, by_v, z, v, count))
    terms = by_z * (correct - own_count * z) + by_v * (total - own_count * v)
    raw = found.raw_accuracy, found.raw_bound
    mode = found.task["mode"]
    raw_area = np.asarray(
        tradeoff.curve_area(*raw, thresholds=found.thresholds, mode=mode)
    )
    return terms / (count * len(found.sums) * raw_area[None, :, None])
