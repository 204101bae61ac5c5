"""Statistics of disparity, from counts by class, [host], float64.

For accuracies a_c of K classes, and shares s_c of the predictions next to priors q_c,

    gap = max a_c - min a_c,   gini = sum_{c,j} |a_c - a_j| / (2 K sum_c a_c),
    total variation = 1/2 sum_c |s_c - q_c|,   KL = sum_c s_c log(s_c / q_c).

Classes are identified by their position; a class without examples has accuracy nan and
is left out of every figure about accuracies.
"""

from typing import NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

from robustjax.hidden_cost.disparity import accuracy_gaps
from robustjax.smoothing.confidence import simultaneous

_ABSORBING_ODDS = 2  # times the odds of the prior
_VANISHED_ODDS = 1 / 4


class Disparity(NamedTuple):
    """Spread of the accuracies of classes; nan where a ratio is 0/0."""

    gap: float  # largest minus smallest accuracy; by itself biased upward
    gap_lower: float  # interval of the gap that holds with probability 1 - alpha
    gap_upper: float
    gap_p_value: float  # test of equal classes; < alpha exactly where gap_lower > 0
    chance_gap: float  # mean gap if every class had the pooled accuracy
    std: float  # standard deviation, of all classes and not of a sample of them
    min_max_ratio: float  # smallest by largest accuracy
    worst_k_mean: float  # mean of the k smallest accuracies
    gini: float  # 0 for equal accuracies, towards 1 where one class has all
    worst_class: int | None  # the first of several; None where all are equal
    best_class: int | None


class PredictedShares(NamedTuple):
    """How often each of K classes is predicted, next to its prior."""

    share: NDArray[np.float64]  # [K], of all examples, abstentions included
    decided_share: NDArray[np.float64]  # [K], of the predictions that do not abstain
    lower: NDArray[np.float64]  # [K], simultaneous intervals of the decided shares
    upper: NDArray[np.float64]  # [K]
    prior: NDArray[np.float64]  # [K]
    total_variation: float  # of the decided shares against the prior
    kl_divergence: float  # KL(decided || prior) in nats; may be inf
    absorbing: tuple[int, ...]  # classes predicted far too often, the largest first
    vanished: tuple[int, ...]  # classes hardly ever predicted, in their order


def ratio(
    part: NDArray[np.integer | np.float64], whole: NDArray[np.integer] | int
) -> NDArray[np.float64]:
    """The quotient, nan where the whole is 0. [host]."""
    nothing = np.full(np.shape(part), np.nan)
    return np.divide(part, whole, out=nothing, where=np.asarray(whole) > 0)


def disparity_of(
    num_correct: NDArray[np.integer],
    num_examples: NDArray[np.integer],
    *,
    alpha: float,
    worst_k: int,
) -> Disparity:
    """Disparity of the accuracies num_correct / num_examples of K classes.

    [host]

    Guarantee:
        gap_lower <= true gap <= gap_upper with probability at least 1 - alpha. If all
        classes have one accuracy, gap_p_value <= alpha with probability at most alpha.
        Both are one procedure, see `accuracy_gaps`.

    Args:
        num_correct: `[K]` counts.
        num_examples: `[K]` counts, not all 0.
        alpha: failure probability of the interval.
        worst_k: how many classes enter `worst_k_mean`; all, if there are fewer.

    Returns:
        The `Disparity`.
    """
    seen = np.flatnonzero(num_examples)
    k, n = num_correct[seen], num_examples[seen]
    accuracy = k / n
    smallest, largest = float(accuracy.min()), float(accuracy.max())
    gap_lower, gap_upper = accuracy_gaps.gap_interval(k, n, alpha=alpha)
    is_apart = largest > smallest
    return Disparity(
        gap=largest - smallest,
        gap_lower=gap_lower,
        gap_upper=gap_upper,
        gap_p_value=accuracy_gaps.gap_p_value(k, n),
        chance_gap=accuracy_gaps.mean_gap_by_chance(n, k.sum() / n.sum()),
        std=float(accuracy.std()),
        min_max_ratio=smallest / largest if largest > 0 else np.nan,
        worst_k_mean=float(np.sort(accuracy)[:worst_k].mean()),
        gini=gini(accuracy),
        worst_class=int(seen[accuracy.argmin()]) if is_apart else None,
        best_class=int(seen[accuracy.argmax()]) if is_apart else None,
    )


def shares_of(
    num_predicted: NDArray[np.integer],
    *,
    num_examples: int,
    prior: NDArray[np.float64],
    alpha: float,
) -> PredictedShares:
    """Predicted shares of K classes, and the classes that absorb others or vanish.

    [host] Judged are the decided predictions, those that do not abstain: a classifier
    that abstains on most examples has not lost its classes. A class is absorbing if its
    decided share is surely above its prior and above an even share 1 / K, both with
    their odds s / (1 - s) doubled: with ten equal classes above .182, with two above
    2/3. It has vanished if its decided share is surely below its prior and below an
    even share, both with the odds divided by 4: with ten equal classes, below .027.
    Surely: by the simultaneous bounds. Where everything abstains nothing is sure: no
    class is named.

    Guarantee:
        All intervals hold with probability at least 1 - alpha, and so with that
        probability no class is named wrongly. The prior counts as known. The true share
        is the expected one among the decided examples: at their mix of classes, if the
        numbers of examples by class are fixed, see `simultaneous.mean_bounds`.

    Args:
        num_predicted: `[K]`, how often each class is predicted.
        num_examples: number of examples, with those that abstain.
        prior: `[K]` probabilities.
        alpha: failure probability of all intervals together.

    Returns:
        The `PredictedShares`.

    Reference: ours; Hoeffding (1956), Annals of Mathematical Statistics 27(3), 713-721.
    """
    num_classes, num_decided = len(prior), int(num_predicted.sum())
    lower, upper = simultaneous.mean_bounds(
        num_predicted, num_decided, alpha=alpha, num_intervals=num_classes
    )
    decided = ratio(num_predicted, num_decided)
    even = 1 / num_classes
    is_absorbing = lower > _scaled_odds(np.maximum(prior, even), _ABSORBING_ODDS)
    is_vanished = upper < _scaled_odds(np.minimum(prior, even), _VANISHED_ODDS)
    by_share = np.argsort(-num_predicted, kind="stable")
    return PredictedShares(
        share=num_predicted / num_examples,
        decided_share=decided,
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


def _scaled_odds(
    probability: NDArray[np.float64], factor: float
) -> NDArray[np.float64]:
    """The probability whose odds p / (1 - p) are the factor times as large."""
    return factor * probability / (1 + (factor - 1) * probability)
