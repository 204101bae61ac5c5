"""Standard errors of SynBench scores, and of differences on the same inputs.

The area of a scale is b N(a), with the mean scaled bound b of correct inputs, the
accuracy a and the height N(a): a - t above the threshold t if the area is exact, and
the number of grid points from t to a on the grid of the public script. N is no smooth
function: it has a kink at t, and on the grid it is a staircase whose derivative is 0.
Its mean and variance are therefore taken over the counts of correct inputs, K,

    a = K / n,  K ~ Binomial(n, a),   b given K of variance v / K,
    Var(b N) = b^2 Var(N) + E(N^2) v / K,

with the variance v of one bound.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg, stats

from robustjax import _validate
from robustjax.synbench import pipeline, tradeoff_curves
from robustjax.synbench.result import SynBenchResult
from robustjax.synbench.task import BATCH

_MOST_PARTS = 64  # of the test inputs of one scale, for half samples


class ScoreDifference(NamedTuple):
    """How much one representation scores above another, on the same inputs."""

    difference: np.ndarray  # [e, t]
    standard_error: np.ndarray  # [e, t]
    lower: np.ndarray  # [e, t], of the interval
    upper: np.ndarray


def compare_scores(
    one: SynBenchResult, other: SynBenchResult, *, confidence: float = 0.95
) -> ScoreDifference:
    """The difference of two scores, with the noise that both share taken out.

    [host] Intervals are of the test noise, the rules being fixed, and each holds for
    itself: nothing is corrected for the number of pairs, radii and thresholds. Errors
    are those of balanced half samples of 128 test inputs (or more) at a time, the same
    halves for both results.

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
        >>> from robustjax.synbench import synbench
        >>> def score(feature_fn):
        ...     return synbench(
        ...         jax.random.key(0), feature_fn, (4,), scales=(1.0, 2.0),
        ...         num_train=256, num_test=256, thresholds=(0.7,))
        >>> signs = score(lambda x: jax.numpy.sign(x - 0.5))
        >>> found = compare_scores(score(lambda x: x), signs)
        >>> bool(found.lower[0, 0] > 0)
        True

    Reference: half samples: McCarthy (1969), Review of the International Statistical
        Institute 37; that they serve here is ours.
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
    if one.sums.shape[2] < 2:
        raise ValueError(
            f"Expected num_test > {pipeline.GROUP} to compare, got "
            f"{one.task['num_test']}."
        )
    change = _half_samples(one) - _half_samples(other)  # [h, s, e, t]
    raw = one.raw_accuracy, one.raw_bound
    raw_area = np.asarray(
        tradeoff_curves.curve_area(
            *raw, thresholds=one.thresholds, mode=one.task["mode"]
        )
    )
    error = np.sqrt(change.var(axis=0).sum(axis=0)) / (len(one.sums) * raw_area)
    difference = one.score - other.score
    half_width = stats.norm.ppf((1 + confidence) / 2) * error
    return ScoreDifference(
        difference, error, difference - half_width, difference + half_width
    )


def standard_error(
    sums: np.ndarray,
    thresholds: tradeoff_curves.Floats,
    raw_area: np.ndarray,
    *,
    mode: str = "exact",
    batch_means: bool = False,
) -> np.ndarray:
    """Standard errors of scores over the test inputs of each scale, `[e, t]`.

    NaN where a spread is not known: with a single test input, or a single correct one
    at a scale that may count.

    Args:
        sums: `[s, e, g, 4]`, see `ScaleResult`.
        thresholds: `[t]`.
        raw_area: `[e, t]`, by which areas were divided.
        mode: of the areas, see `curve_area`.
        batch_means: whether bounds were means over batches.
    """
    count, correct, total, square = np.moveaxis(sums.sum(axis=2), -1, 0)  # [s, e]
    some = np.maximum(correct, 1)
    bound = total / some
    variance = (square - some * bound**2) / np.maximum(correct - 1, 1)
    variance = np.where(correct > 1, np.maximum(variance, 0), np.nan)
    share = _shares(sums[..., 1], batch_means)
    of_bound = variance * np.sum(share**2 * sums[..., 1], axis=2)
    mean, mean_square = _heights(correct / count, count, thresholds, mode=mode)
    own = bound[..., None] ** 2 * np.maximum(mean_square - mean**2, 0)
    own += np.where(mean_square > 0, mean_square * of_bound[..., None], 0)
    own = np.where(count[..., None] > 1, own, np.nan)
    return np.sqrt(own.sum(axis=0)) / (len(sums) * raw_area)


def _heights(
    accuracy: np.ndarray,
    count: np.ndarray,
    thresholds: tradeoff_curves.Floats,
    *,
    mode: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Means of N(K / n) and of its square over K, `[..., t]`."""
    n, a = count[..., None], accuracy[..., None]
    if mode == "grid":
        grid = np.array(tradeoff_curves.GRID)
        above = stats.binom.sf(np.floor(n * grid), n, a)  # P(K / n > g)
        is_kept = tradeoff_curves.from_threshold(grid[:, None], np.asarray(thresholds))
        number = np.cumsum(is_kept, axis=0)  # of grid points from t to each
        return above @ is_kept, above @ ((2 * number - 1) * is_kept)
    t = np.asarray(thresholds, float)
    least = np.floor(n * t)  # K is above it
    zeroth = stats.binom.sf(least, n, a)
    first = a * stats.binom.sf(least - 1, n - 1, a)  # E(K; K > least) / n
    pairs = a**2 * (1 - 1 / n) * stats.binom.sf(least - 2, np.maximum(n - 2, 0), a)
    second = pairs + first / n
    return first - t * zeroth, second - 2 * t * first + t**2 * zeroth


def _shares(correct: np.ndarray, batch_means: bool) -> np.ndarray:
    """The share of one correct input of each group in the mean bound, `[s, e, g]`."""
    if not batch_means:
        return np.broadcast_to(
            1 / _some(correct.sum(axis=2, keepdims=True)), correct.shape
        )
    starts = np.arange(0, correct.shape[2], BATCH // pipeline.GROUP)
    of_batches = np.add.reduceat(correct, starts, axis=2)
    number = _some((of_batches > 0).sum(axis=2, keepdims=True))
    batch = np.arange(correct.shape[2]) // (BATCH // pipeline.GROUP)
    return (1 / (number * _some(of_batches)))[..., batch]


def _some(count: np.ndarray) -> np.ndarray:
    return np.maximum(count, 1)


def _half_samples(found: SynBenchResult) -> np.ndarray:
    """Areas b N(a) of each scale, in halves of its test inputs, `[h, s, e, t]`.

    Halves are rows of a Hadamard matrix and their complements. The difference of a
    half to the whole is spread as that of a whole sample to the truth.
    """
    count, correct, total, _ = np.moveaxis(found.sums, -1, 0)  # [s, e, g]
    n = count.sum(axis=2, keepdims=True)
    accuracy = correct.sum(axis=2, keepdims=True) / n
    pooled = total.sum(axis=2, keepdims=True) / _some(
        correct.sum(axis=2, keepdims=True)
    )
    share = _shares(correct, found.task["batch_means"])
    by_accuracy = _in_parts((correct - accuracy * count) / n)
    by_bound = _in_parts(share * (total - pooled * correct))
    signs = linalg.hadamard(_power_of_two(by_bound.shape[2]))[1:, : by_bound.shape[2]]
    signs = np.concatenate([signs, -signs])
    bound = np.where(np.isnan(found.bound), 0, found.bound).T
    a = accuracy[..., 0] + np.moveaxis(by_accuracy @ signs.T, -1, 0)
    b = bound + np.moveaxis(by_bound @ signs.T, -1, 0)  # [h, s, e]
    height = tradeoff_curves.curve_area(
        a[..., None],
        np.ones_like(a)[..., None],
        thresholds=found.thresholds,
        mode=found.task["mode"],
    )
    return b[..., None] * np.asarray(height)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _in_parts(terms: np.ndarray) -> np.ndarray:
    """`[s, e, g]` summed to at most 64 parts, whose halves are taken."""
    parts = min(terms.shape[2], _MOST_PARTS)
    starts = np.arange(parts) * terms.shape[2] // parts
    return np.add.reduceat(terms, starts, axis=2)
