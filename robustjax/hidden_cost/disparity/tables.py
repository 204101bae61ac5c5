"""Class-wise reports as rows of a table and as sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from robustjax.hidden_cost.disparity.classwise import ClasswiseReport

_SMALLEST_P = 1e-6  # that is printed


def classwise_rows(
    report: ClasswiseReport, *, class_names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The report as rows of a table, one a class and a last one for all.

    [host]

    Args:
        report: from `classwise_report`.
        class_names: `[K]`; default "0", "1", ...

    Returns:
        Dicts of one set of names: class, examples, correct, accuracy, lower, upper,
        abstention, predicted, prior, note and, with radii, average_radius, one
        radius_quantile_L for each level and one certified_at_R for each radius. In
        JSON's types, None where there is no value.

    Raises:
        ValueError: if there are not K names.

    Example:
        >>> from robustjax import hidden_cost
        >>> report = hidden_cost.classwise_report(
        ...     [0, 0, 1, 1], [0, 0, 0, -1], num_classes=3
        ... )
        >>> for row in classwise_rows(report, class_names=["cat", "dog", "frog"]):
        ...     print(row["class"], row["accuracy"], row["predicted"], row["note"])
        cat 1.0 0.75
        dog 0.0 0.0
        frog None 0.0 no examples
        all 0.5 0.75
    """
    names = _names(report, class_names)
    figures = report.to_dict()
    shares, radii = figures["shares"], figures["radii"]
    columns: dict[str, list[Any]] = {
        "class": [*names, "all"],
        "examples": [*figures["num_examples"], int(report.num_examples.sum())],
        "correct": [*figures["num_correct"], int(report.num_correct.sum())],
        "accuracy": [*figures["accuracy"], figures["overall_accuracy"]],
        "lower": [*figures["lower"], None],
        "upper": [*figures["upper"], None],
        "abstention": [
            *figures["abstention_rate"],
            figures["overall_abstention_rate"],
        ],
        "predicted": [*shares["share"], float(report.shares.share.sum())],
        "prior": [*shares["prior"], 1.0],
    }
    if radii is not None:
        columns["average_radius"] = [*radii["average"], radii["overall_average"]]
        for i, level in enumerate(radii["levels"]):
            values = [row[i] for row in radii["quantiles"]]
            columns[f"radius_quantile_{level:g}"] = [*values, None]
        for i, radius in enumerate(radii["at"]):
            values = [row[i] for row in radii["accuracy"]]
            columns[f"certified_at_{radius:g}"] = [
                *values,
                radii["overall_accuracy"][i],
            ]
    columns["note"] = [*(_note(report, i) for i in range(len(names))), ""]
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def classwise_findings(
    report: ClasswiseReport, *, class_names: Sequence[str] | None = None
) -> list[str]:
    """What the report shows, in sentences: the gap, absorbing and vanished classes.

    [host] Where everything abstains or one class alone has examples, the first sentence
    says that there is nothing to compare. Shares are of the predictions that do not
    abstain.

    Args:
        report: from `classwise_report`.
        class_names: `[K]`; default "0", "1", ...

    Returns:
        One sentence a finding, the gap first.

    Raises:
        ValueError: if there are not K names.

    Example:
        >>> from robustjax import hidden_cost
        >>> labels, predictions = [0, 1] * 50, [0, 0] * 45 + [0, 1] * 5
        >>> report = hidden_cost.classwise_report(
        ...     labels, predictions, num_classes=2
        ... )
        >>> print(classwise_findings(report)[1])
        Class 0 absorbs others: it takes 95.0% of the predictions (87.7% to 98.6% with
        confidence 0.95), its prior is 50.0%.
    """
    names = _names(report, class_names)
    sentences = [_gap_sentence(report, names)]
    for kind, classes in (
        ("absorbs others", report.shares.absorbing),
        ("has vanished", report.shares.vanished),
    ):
        sentences += [
            f"Class {names[i]} {kind}: {_share_clause(report, i)}." for i in classes
        ]
    if report.empty_classes:
        empty = ", ".join(names[i] for i in report.empty_classes)
        sentences.append(f"No examples of: {empty}.")
    return sentences


def _gap_sentence(report: ClasswiseReport, names: Sequence[str]) -> str:
    if report.overall_abstention_rate == 1:
        return "Every prediction abstains: there is nothing to compare."
    seen = np.flatnonzero(report.num_examples)
    worst, best = report.disparity.worst_class, report.disparity.best_class
    if len(seen) == 1:
        return f"Only class {names[seen[0]]} has examples: there is nothing to compare."
    gap, lower, upper, mean = (
        f"{100 * value:.1f}"
        for value in (
            report.disparity.gap,
            report.disparity.gap_lower,
            report.disparity.gap_upper,
            report.disparity.chance_gap,
        )
    )
    confidence = f"confidence {1 - report.alpha:g}"
    if worst is None or best is None:
        return (
            f"All classes have accuracy {report.accuracy[seen[0]]:.1%}: there is no "
            f"gap (at most {upper} points with {confidence})."
        )
    least, most = (
        f"{report.accuracy[i]:.1%} (class {names[i]})" for i in (worst, best)
    )
    return (
        f"Accuracies run from {least} to {most}, a gap of {gap} points ({lower} to "
        f"{upper} with {confidence}; test of equal classes: "
        f"{_p_value_text(report.disparity.gap_p_value)}). Equal classes would show "
        f"{mean} points on average."
    )


def _p_value_text(p: float) -> str:
    """A p-value as p = 0.012, or as p < 1e-6 where it is smaller. [host]."""
    return f"p = {p:.2g}" if p >= _SMALLEST_P else "p < 1e-6"


def _share_clause(report: ClasswiseReport, index: int) -> str:
    shares = report.shares
    share, lower, upper, prior = (
        f"{values[index]:.1%}"
        for values in (shares.decided_share, shares.lower, shares.upper, shares.prior)
    )
    together = f" in all {report.num_reports} reports" if report.num_reports > 1 else ""
    return (
        f"it takes {share} of the predictions ({lower} to {upper} with confidence "
        f"{1 - report.alpha:g}{together}), its prior is {prior}"
    )


def _note(report: ClasswiseReport, index: int) -> str:
    notes = {
        "no examples": report.empty_classes,
        "absorbs others": report.shares.absorbing,
        "vanished": report.shares.vanished,
    }
    return ", ".join(note for note, classes in notes.items() if index in classes)


def _names(report: ClasswiseReport, class_names: Sequence[str] | None) -> list[str]:
    if class_names is None:
        return [str(i) for i in range(report.num_classes)]
    if len(class_names) != report.num_classes:
        raise ValueError(
            f"Expected {report.num_classes} class_names, got {len(class_names)}."
        )
    return list(class_names)
