"""Confusion matrices of smoothed classifiers: predictions for each true class.

    rate[c, j] = share of the examples of class c that are predicted as j,

with one more column for abstentions.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robustjax import _validate
from robustjax.hidden_cost.disparity import statistics
from robustjax.hidden_cost.regions import point_decisions
from robustjax.smoothing.sampling.vote_counts import ABSTAIN


def plurality(counts: ArrayLike) -> NDArray[np.int32]:
    """Predictions by plurality: the class with the most votes, of several the first.

    [host] No statement about the smoothed classifier is made, so nothing abstains for
    want of votes; see `predict` and `certify` for that.

    Args:
        counts: `[n, K + 1]` integers >= 0 from `class_counts`; the last column counts
            invalid samples.

    Returns:
        int32 labels `[n]`; -1 where more samples are invalid than of any class.

    Raises:
        ValueError: if `counts` is not an integer array [n, k + 1], a row sums to zero,
            or an entry is negative.

    Example:
        >>> plurality([[5, 3, 2], [4, 4, 2], [1, 2, 7]]).tolist()
        [0, 0, -1]
    """
    array = np.asarray(counts)
    if array.ndim != 2 or array.shape[1] < 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"Expected counts as integers [n, K + 1], got {array.dtype} of shape "
            f"{array.shape}."
        )
    if (array < 0).any():
        raise ValueError(f"Expected counts >= 0, got {array.min()}.")
    is_empty = ~array.any(axis=1)
    if is_empty.any():
        raise ValueError(
            f"Expected counts of at least one sample, got none in row "
            f"{np.argmax(is_empty)}."
        )
    top = np.argmax(array, axis=1)
    return np.where(top < array.shape[1] - 1, top, ABSTAIN).astype(np.int32)


def smoothed_confusion(
    labels: ArrayLike, predictions: ArrayLike, *, num_classes: int
) -> NDArray[np.float64]:
    """Rates at which each true class is predicted as each class, or abstained on.

    [host]

    Args:
        labels: `[n]` true classes.
        predictions: `[n]` predicted classes, -1 where the classifier abstains.
        num_classes: number K of classes, an integer >= 2.

    Returns:
        float64 `[K, K + 1]`, row = true class, last column = abstention. Rows sum to 1;
        the row of a class without examples is nan.

    Raises:
        ValueError: if a class is out of range, lengths differ or there is no example.

    Example:
        >>> print(smoothed_confusion([0, 0, 1, 1], [0, 1, 1, -1], num_classes=2))
        [[0.5 0.5 0. ]
         [0.  0.5 0.5]]
    """
    label, predicted = checked_classes(labels, predictions, num_classes=num_classes)
    column = np.where(predicted == ABSTAIN, num_classes, predicted)
    cell = label.astype(np.int64) * (num_classes + 1) + column
    size = num_classes * (num_classes + 1)
    counts = np.bincount(cell, minlength=size).reshape(num_classes, -1)
    return statistics.ratio(counts, counts.sum(axis=1, keepdims=True))


def off_diagonal_norm(confusion: ArrayLike) -> float:
    """Spectral norm of the confusions between classes, a figure of the worst class.

    [host] With E the K x K part of the matrix, its diagonal and its abstentions left
    out, and e_c = sum_j E_cj the rate at which class c is taken for another:
    root mean square of e <= norm, and max_c e_c <= sqrt(K) norm.

    Args:
        confusion: `[K, K + 1]` rates from `smoothed_confusion`; rows of nan count as 0.

    Returns:
        The norm, >= 0.

    Raises:
        ValueError: if the matrix is of another shape.

    Example:
        >>> confusion = smoothed_confusion([0, 0, 1, 1], [0, 1, 1, -1], num_classes=2)
        >>> print(f"{off_diagonal_norm(confusion):.3f}")
        0.500

    Reference:
        ours; in the spirit of Mohapatra et al. (2021), AISTATS, arXiv 2003.01249.
    """
    rates = np.asarray(confusion, np.float64)
    if rates.ndim != 2 or rates.shape[1] != len(rates) + 1:
        raise ValueError(f"Expected confusion as [K, K + 1], got {rates.shape}.")
    between = np.nan_to_num(rates[:, :-1])  # a copy
    np.fill_diagonal(between, 0)
    return float(np.linalg.norm(between, ord=2))


def checked_classes(
    labels: ArrayLike, predictions: ArrayLike, *, num_classes: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Labels and predictions `[n]` as int32, checked.

    [host]

    Args:
        labels: `[n]` integers in [0, num_classes).
        predictions: `[n]` integers in [-1, num_classes).
        num_classes: number of classes, an integer >= 2.

    Returns:
        Both.

    Raises:
        ValueError: for anything else, and if n is 0.
    """
    _validate.integer(2, num_classes=num_classes)
    label = point_decisions.check_labels(
        np.asarray(labels), num=np.size(labels), num_classes=num_classes
    )
    if not len(label):
        raise ValueError("Expected labels of at least one example, got none.")
    predicted = np.asarray(predictions)
    if predicted.ndim != 1 or predicted.dtype.kind not in "iu":
        raise ValueError(
            f"Expected predictions as integers [n], got {predicted.dtype} of shape "
            f"{predicted.shape}."
        )
    _validate.same_length(labels=label, predictions=predicted)
    wrong = (predicted < ABSTAIN) | (predicted >= num_classes)
    if wrong.any():
        raise ValueError(
            f"Expected predictions in [-1, {num_classes}), got {predicted[wrong][0]}."
        )
    return label, predicted.astype(np.int32)
