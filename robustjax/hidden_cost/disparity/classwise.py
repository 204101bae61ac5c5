"""Class-wise accuracy under smoothing, and how unequal it is.

    accuracy_c = k_c / n_c,   accuracy_c(R) = share of class c that is correct with a
                                              certified radius of at least R,

k_c correct of the n_c examples of class c, abstentions counted as errors. Intervals
are those of `simultaneous`, for all classes together.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustjax import _validate
from robustjax.hidden_cost.disparity import confusion, statistics
from robustjax.smoothing.confidence import simultaneous
from robustjax.smoothing.sampling.vote_counts import ABSTAIN

Floats = NDArray[np.float64]


class ClassRadii(NamedTuple):
    """Certified radii of K classes, in input units; nan for a class without examples.

    Quantiles are of the correct examples alone, nan without any: errors and
    abstentions are counted by the accuracies.
    """

    average: Floats  # [K], mean radius, 0 where wrong (ACR)
    levels: Floats  # [q]
    quantiles: Floats  # [K, q], of the radii of correct examples
    at: Floats  # [r]
    accuracy: Floats  # [K, r], share correct with a radius of at least `at`
    lower: Floats  # [K, r], intervals that hold for all classes and all `at` together
    upper: Floats  # [K, r]
    overall_average: float
    overall_accuracy: Floats  # [r]


class ClasswiseReport(NamedTuple):
    """Accuracy by class of n examples and K classes, abstentions counted as errors."""

    num_examples: NDArray[np.int64]  # [K]
    num_correct: NDArray[np.int64]  # [K]
    num_abstained: NDArray[np.int64]  # [K]
    accuracy: Floats  # [K], nan for a class without examples
    lower: Floats  # [K], intervals that hold for all classes together
    upper: Floats  # [K]; [0, 1] for a class without examples
    pointwise_lower: Floats  # [K], interval of one class that was named in advance
    pointwise_upper: Floats  # [K]
    abstention_rate: Floats  # [K]
    overall_accuracy: float
    overall_abstention_rate: float
    disparity: statistics.Disparity
    shares: statistics.PredictedShares
    radii: ClassRadii | None  # None if no radii were given
    alpha: float
    num_reports: int  # reports in all of which the intervals of shares hold

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.num_examples)

    @property
    def empty_classes(self) -> tuple[int, ...]:
        """Classes without examples."""
        return tuple(np.flatnonzero(self.num_examples == 0).tolist())

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types: nested dicts, what is not finite is None."""
        return _plain(self)


def classwise_report(
    labels: ArrayLike,
    predictions: ArrayLike,
    *,
    num_classes: int,
    radii: ArrayLike | None = None,
    alpha: float = 0.05,
    at_radii: ArrayLike = (),
    quantiles: ArrayLike = (0.25, 0.5, 0.75),
    prior: ArrayLike | None = None,
    worst_k: int = 3,
    num_reports: int = 1,
) -> ClasswiseReport:
    """Accuracy of every class, with simultaneous intervals, and its disparity.

    [host] Works on any list of predictions: a `Certificate`'s, those of `predict`, of
    `plurality` on class counts, or the columns of a log. Say which: what is certified
    and what is predicted by plurality differ by the abstentions. Nothing is random.

    Guarantee:
        Over the independent draw of the examples of each class, and of the noise, each
        of four statements holds with probability at least 1 - alpha. (1) The true
        accuracies of all K' classes with examples lie between `lower` and `upper`, each
        side of each Clopper-Pearson interval at alpha / (2 K'). (2) Their gap lies
        between `gap_lower` and `gap_upper`; if it is 0, `gap_p_value` is not below
        alpha. (3) All true shares of the decided predictions lie in their intervals,
        each side at alpha / (2 K), and so no class is wrongly called absorbing or
        vanished; with `num_reports`, in all of these reports at once. (4) All r
        certified accuracies of all classes lie in theirs, each side at
        alpha / (2 r K'). Certified accuracy is about the radii as given: that
        certificates fail with their own alpha is not in it.

        Several p-values, say of one classifier under several levels of noise, need
        `holm_adjusted`.

        `pointwise_lower` and `pointwise_upper` hold for one class, each side at
        alpha / 2, as papers often print them; not for the worst class, which these
        examples have chosen.

    Edge cases:
        ==================================  =========================================
        Case                                Result
        ==================================  =========================================
        a class without examples            accuracy nan, interval [0, 1], in
                                            `empty_classes`, left out of `disparity`
        all accuracies 0                    min_max_ratio and gini nan
        all accuracies equal, or one class  worst_class and best_class None
        everything abstains                 total_variation, kl_divergence and
                                            decided_share nan; no class named
        predictions of a class of prior 0   kl_divergence inf
        ==================================  =========================================

    Args:
        labels: `[n]` true classes, integers in [0, num_classes).
        predictions: `[n]` predicted classes, -1 where the classifier abstains.
        num_classes: number K of classes, an integer >= 2.
        radii: `[n]` certified radii of the predictions, finite and >= 0, in input
            units; those of wrong predictions are not used.
        alpha: failure probability of each of the statements above, in (0, 1).
        at_radii: `[r]` radii at which to give certified accuracy, in input units.
        quantiles: `[q]` levels in [0, 1] of the quantiles of the certified radius.
        prior: `[K]` probabilities of the classes, against which predicted shares are
            held; default: the class frequencies of the labels.
        worst_k: number of classes in the mean of the smallest accuracies; all, if fewer
            have examples.
        num_reports: number of reports that are read together; each takes its share of
            alpha when classes are named, an integer >= 1.

    Returns:
        The `ClasswiseReport`.

    Raises:
        ValueError: if an argument is out of range, lengths differ, there is no example,
            or `at_radii` are given without radii.

    Example:
        >>> report = classwise_report(
        ...     [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0, -1, 0], num_classes=2
        ... )
        >>> print(report.accuracy, report.disparity.gap, report.shares.share)
        [1.   0.25] 0.75 [0.75  0.125]

    Reference:
        ours; in the spirit of Mohapatra et al. (2021), AISTATS, arXiv 2003.01249.
    """
    label, predicted = confusion.checked_classes(
        labels, predictions, num_classes=num_classes
    )
    _validate.open_interval(0, 1, alpha=alpha)
    _validate.integer(1, worst_k=worst_k, num_reports=num_reports)
    count = functools.partial(np.bincount, minlength=num_classes)
    is_correct = predicted == label
    n, k = count(label), count(label[is_correct])
    num_abstained = count(label[predicted == ABSTAIN])
    num_seen = int(np.count_nonzero(n))
    bounds = functools.partial(simultaneous.two_sided_bounds, k, n, alpha=alpha)
    lower, upper = bounds(num_intervals=num_seen)
    pointwise_lower, pointwise_upper = bounds(num_intervals=1)
    return ClasswiseReport(
        num_examples=n,
        num_correct=k,
        num_abstained=num_abstained,
        accuracy=statistics.ratio(k, n),
        lower=lower,
        upper=upper,
        pointwise_lower=pointwise_lower,
        pointwise_upper=pointwise_upper,
        abstention_rate=statistics.ratio(num_abstained, n),
        overall_accuracy=float(np.mean(is_correct)),
        overall_abstention_rate=float(np.mean(predicted == ABSTAIN)),
        disparity=statistics.disparity_of(k, n, alpha=alpha, worst_k=worst_k),
        shares=statistics.shares_of(
            count(predicted[predicted != ABSTAIN]),
            num_examples=len(label),
            prior=n / len(label) if prior is None else _prior(prior, num_classes),
            alpha=alpha / num_reports,
        ),
        radii=_class_radii(
            radii,
            label,
            is_correct,
            num_examples=n,
            alpha=alpha,
            at=_radii(at_radii=at_radii),
            levels=_levels(quantiles),
        ),
        alpha=alpha,
        num_reports=num_reports,
    )


def _class_radii(
    radii: ArrayLike | None,
    label: NDArray[np.int32],
    is_correct: NDArray[np.bool_],
    *,
    num_examples: NDArray[np.int64],
    alpha: float,
    at: Floats,
    levels: Floats,
) -> ClassRadii | None:
    if radii is None:
        if len(at):
            raise ValueError(f"Expected radii with at_radii={at.tolist()}, got none.")
        return None
    radius = _radii(radii=radii)
    _validate.same_length(labels=label, radii=radius)
    label, radius = label[is_correct], radius[is_correct]
    num_classes, total = len(num_examples), num_examples.sum()
    sums = np.bincount(label, weights=radius, minlength=num_classes)
    num_certified = np.zeros((num_classes, len(at)), np.int64)
    np.add.at(num_certified, label, radius[:, None] >= at)
    n = num_examples[:, None]
    lower, upper = simultaneous.two_sided_bounds(
        num_certified,
        n,
        alpha=alpha,
        num_intervals=int(np.count_nonzero(n)) * max(1, len(at)),
    )
    return ClassRadii(
        average=statistics.ratio(sums, num_examples),
        levels=levels,
        quantiles=_class_quantiles(radius, label, levels, num_classes=num_classes),
        at=at,
        accuracy=statistics.ratio(num_certified, n),
        lower=lower,
        upper=upper,
        overall_average=float(sums.sum() / total),
        overall_accuracy=num_certified.sum(axis=0) / total,
    )


def _class_quantiles(
    radius: Floats, label: NDArray[np.int32], levels: Floats, *, num_classes: int
) -> Floats:
    by_class = np.argsort(label, kind="stable")
    ends = np.cumsum(np.bincount(label, minlength=num_classes))
    groups = np.split(radius[by_class], ends[:-1])
    nothing = np.full(len(levels), np.nan)
    return np.stack([np.quantile(g, levels) if len(g) else nothing for g in groups])


def _radii(**named: ArrayLike) -> Floats:
    """The one named array, checked to hold finite radii >= 0."""
    ((name, value),) = named.items()
    array = np.asarray(value, np.float64)
    wrong = ~(np.isfinite(array) & (array >= 0))
    if array.ndim != 1 or wrong.any():
        got = array[wrong][0] if wrong.any() else f"shape {array.shape}"
        raise ValueError(f"Expected {name} as finite numbers [n] >= 0, got {got}.")
    return array


def _levels(quantiles: ArrayLike) -> Floats:
    array = np.asarray(quantiles, np.float64)
    if array.ndim != 1 or not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"Expected quantiles as levels [q] in [0, 1], got {array}.")
    return array


def _prior(prior: ArrayLike, num_classes: int) -> Floats:
    array = np.asarray(prior, np.float64)
    if array.shape != (num_classes,) or not (array >= 0).all():
        raise ValueError(f"Expected prior as {num_classes} probabilities, got {array}.")
    if not math.isclose(array.sum(), 1, abs_tol=1e-6):
        raise ValueError(f"Expected prior with sum 1, got sum {array.sum()}.")
    return array


def _plain(value: Any) -> Any:
    """The value in JSON's types."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
