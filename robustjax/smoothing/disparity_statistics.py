"""How unequal classes are treated: figures from counts by class, [host], float64.

Classes are told apart by their position; a class without examples has accuracy nan and
is left out of every figure about accuracies.
"""

from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

from robustjax.smoothing import confidence

_ABSORBING_ODDS = 2  # times the odds of the prior
_VANISHED_ODDS = 1 / 4


class Disparity(NamedTuple):
    """Spread of the accuracies of classes; nan where a ratio is 0/0."""

    gap: float  # largest minus least accuracy; by itself biased upward
    gap_lower: float  # interval of the gap that holds with probability 1 - alpha
    gap_upper: float
    gap_bootstrap_lower: float  # shorter, approximate interval
    gap_bootstrap_upper: float
    chance_gap: float  # mean gap if every class had the pooled accuracy
    chance_gap_upper: float  # and its (1 - alpha)-quantile
    std: float  # standard deviation, of all classes and not of a sample of them
    min_max_ratio: float  # least by largest accuracy
    worst_k_mean: float  # mean of the k least accuracies
    gini: float  # 0 for equal accuracies, towards 1 where one class has all
    worst_class: int  # the first of several
    best_class: int


class PredictedShares(NamedTuple):
    """How often each of K classes is predicted, next to its prior."""

    share: NDArray[np.float64]  # [K], of all examples, abstentions included
    lower: NDArray[np.float64]  # [K], simultaneous intervals
    upper: NDArray[np.float64]  # [K]
    prior: NDArray[np.float64]  # [K]
    total_variation: float  # of the predictions that do not abstain against the prior
    kl_divergence: float  # likewise, KL(predicted || prior) in nats; may be inf
    absorbing: tuple[int, ...]  # classes predicted far too often, the largest first
    vanished: tuple[int, ...]  # classes hardly ever predicted, in their order


def ratio(
    part: NDArray[np.integer | np.float64], whole: NDArray[np.integer] | int
) -> NDArray[np.float64]:
    """The quotient, nan where the whole is 0. [host]."""
    nothing = np.full(np.shape(part), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)


def two_sided_bounds(
    num_success: NDArray[np.integer],
    num_trials: NDArray[np.integer] | int,
    *,
    alpha: float,
    num_intervals: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clopper-Pearson intervals that hold together. [host].

    Guarantee: all `num_intervals` of them hold with probability at least 1 - alpha,
    each side of each failing with probability at most alpha / (2 num_intervals).

    Args:
        num_success: counts, any shape.
        num_trials: counts that broadcast; 0 trials give [0, 1].
        alpha: failure probability of all intervals together, in (0, 1).
        num_intervals: how many are to hold together.

    Returns:
        (lower, upper), of the shape of num_success.
    """
    side = alpha / (2 * num_intervals)
    return (
        confidence.clopper_pearson_lower(num_success, num_trials, alpha=side),
        confidence.clopper_pearson_upper(num_success, num_trials, alpha=side),
    )


def disparity_of(
    num_correct: NDArray[np.integer],
    num_examples: NDArray[np.integer],
    *,
    alpha: float,
    worst_k: int,
    num_bootstrap: int,
    seed: int,
) -> Disparity:
    """Disparity of the accuracies num_correct / num_examples of K classes.

    [host] The interval (gap_lower, gap_upper) follows from simultaneous Clopper-Pearson
    bounds, the bootstrap interval and the gap by chance from binomial draws: a resample
    of a class is a binomial draw of its accuracy. The bootstrap interval is the basic
    one, 2 gap - quantiles: resampled gaps exceed the gap as the gap exceeds the truth,
    so the quantiles themselves would count that bias twice.

    Guarantee:
        gap_lower <= true gap <= gap_upper with probability at least 1 - alpha. The
        bootstrap interval has no such guarantee: it is too high where classes hardly
        differ, and a class with accuracy 0 or 1 adds nothing to its width.

    Args:
        num_correct: `[K]` counts.
        num_examples: `[K]` counts, not all 0.
        alpha: failure probability of either interval.
        worst_k: how many classes enter `worst_k_mean`; all, if there are fewer.
        num_bootstrap: number of draws.
        seed: of the draws, which do not depend on the order of the classes.

    Returns:
        The `Disparity`.
    """
    seen = np.flatnonzero(num_examples)
    k, n = num_correct[seen], num_examples[seen]
    accuracy = k / n
    lower, upper = two_sided_bounds(k, n, alpha=alpha, num_intervals=len(seen))
    least, most = float(accuracy.min()), float(accuracy.max())
    gap = most - least

    order = np.lexsort((k, n))
    by_chance, resampled = np.random.default_rng(seed).spawn(2)
    pooled = np.full(len(seen), k.sum() / n.sum())
    chance = _gaps(by_chance, n[order], pooled, num_draws=num_bootstrap)
    resamples = _gaps(resampled, n[order], accuracy[order], num_draws=num_bootstrap)
    high, low = np.quantile(resamples, [1 - alpha / 2, alpha / 2])
    return Disparity(
        gap=gap,
        gap_lower=max(0.0, float(lower.max() - upper.min())),
        gap_upper=float(upper.max() - lower.min()),
        gap_bootstrap_lower=max(0.0, float(2 * gap - high)),
        gap_bootstrap_upper=min(1.0, float(2 * gap - low)),
        chance_gap=float(chance.mean()),
        chance_gap_upper=float(np.quantile(chance, 1 - alpha)),
        std=float(accuracy.std()),
        min_max_ratio=least / most if most > 0 else np.nan,
        worst_k_mean=float(np.sort(accuracy)[:worst_k].mean()),
        gini=gini(accuracy),
        worst_class=int(seen[accuracy.argmin()]),
        best_class=int(seen[accuracy.argmax()]),
    )


def shares_of(
    num_predicted: NDArray[np.integer],
    *,
    num_examples: int,
    prior: NDArray[np.float64],
    alpha: float,
) -> PredictedShares:
    """Predicted shares of K classes, and the classes that absorb others or vanish.

    [host] A class is absorbing if its predicted share is surely above its prior and
    above an even share 1 / K, both with their odds s / (1 - s) doubled: with ten equal
    classes above .182, with two above 2/3. It has vanished if its predicted share is
    surely below its prior with the odds divided by 4: with ten equal classes, below
    .027. Surely: by the simultaneous bounds.

    Guarantee:
        All intervals hold with probability at least 1 - alpha, and so with that
        probability no class is named wrongly. The prior counts as known. The true share
        is the expected one: at the mix of classes of these examples, if their numbers
        by class are fixed, for then a count is a sum of unequal independent indicators,
        which has lighter tails than the binomial (Hoeffding, 1956).

    Args:
        num_predicted: `[K]`, how often each class is predicted.
        num_examples: number of examples, with those that abstain.
        prior: `[K]` probabilities.
        alpha: failure probability of all intervals together.

    Returns:
        The `PredictedShares`.

    Reference: ours; Hoeffding (1956), Annals of Mathematical Statistics 27(3), 713-721.
    """
    num_classes = len(prior)
    lower, upper = two_sided_bounds(
        num_predicted, num_examples, alpha=alpha, num_intervals=num_classes
    )
    decided = ratio(num_predicted, num_predicted.sum())
    expected = np.maximum(prior, 1 / num_classes)
    is_absorbing = lower > _scaled_odds(expected, _ABSORBING_ODDS)
    is_vanished = upper < _scaled_odds(prior, _VANISHED_ODDS)
    by_share = np.argsort(-num_predicted, kind="stable")
    return PredictedShares(
        share=num_predicted / num_examples,
        lower=lower,
        upper=upper,
        prior=prior,
        total_variation=float(np.abs(decided - prior).sum() / 2),
        kl_divergence=float(scipy.special.rel_entr(decided, prior).sum()),
        absorbing=tuple(by_share[is_absorbing[by_share]].tolist()),
        vanished=tuple(np.flatnonzero(is_vanished).tolist()),
    )


def gini(values: NDArray[np.float64]) -> float:
    """Gini coefficient: mean absolute difference of two values by twice their mean.

    [host]

    Args:
        values: `[K]`, >= 0.

    Returns:
        It, in [0, 1 - 1/K]; nan if all values are 0.

    Example:
        >>> print(gini(np.array([0.5, 0.5])), gini(np.array([0.0, 1.0])))
        0.0 0.5
    """
    total, num = values.sum(), len(values)
    if total == 0:
        return float("nan")
    weight = 2 * np.arange(1, num + 1) - num - 1  # x_(i) is above i - 1, below num - i
    above_least = np.sort(values) - values.min()  # weights sum to 0
    return float(weight @ above_least / (num * total))


def _gaps(
    rng: np.random.Generator,
    num_examples: NDArray[np.integer],
    accuracy: NDArray[np.float64],
    *,
    num_draws: int,
) -> NDArray[np.float64]:
    """Gaps `[num_draws]` between classes whose counts are drawn anew."""
    size = (num_draws, len(num_examples))
    return np.ptp(rng.binomial(num_examples, accuracy, size) / num_examples, axis=1)


def _scaled_odds(
    probability: NDArray[np.float64], factor: float
) -> NDArray[np.float64]:
    """The probability whose odds p / (1 - p) are the factor times as large."""
    return factor * probability / (1 + (factor - 1) * probability)
