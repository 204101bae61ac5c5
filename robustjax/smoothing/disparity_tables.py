"""A class-wise report as rows of a table and as sentences."""

from collections.abc import Sequence
from typing import Any

from robustjax.smoothing.disparity import ClasswiseReport


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
        >>> from robustjax import smoothing
        >>> report = smoothing.disparity.classwise_report(
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

    [host]

    Args:
        report: from `classwise_report`.
        class_names: `[K]`; default "0", "1", ...

    Returns:
        One sentence a finding, the gap first.

    Raises:
        ValueError: if there are not K names.

    Example:
        >>> from robustjax import smoothing
        >>> labels, predictions = [0, 1] * 50, [0, 0] * 45 + [0, 1] * 5
        >>> report = smoothing.disparity.classwise_report(
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
    figures = report.disparity
    gap, lower, upper, mean, most = (
        f"{100 * value:.1f}"
        for value in (
            figures.gap,
            figures.gap_lower,
            figures.gap_upper,
            figures.chance_gap,
            figures.chance_gap_upper,
        )
    )
    worst, best = (
        f"{report.accuracy[i]:.1%} (class {names[i]})"
        for i in (figures.worst_class, figures.best_class)
    )
    confidence = 1 - report.alpha
    return (
        f"Accuracies run from {worst} to {best}, a gap of {gap} points ({lower} to "
        f"{upper} with confidence {confidence:g}); among equal classes chance alone "
        f"gives {mean}, and at most {most} with probability {confidence:g}."
    )


def _share_clause(report: ClasswiseReport, index: int) -> str:
    shares = report.shares
    share, lower, upper, prior = (
        f"{values[index]:.1%}"
        for values in (shares.share, shares.lower, shares.upper, shares.prior)
    )
    return (
        f"it takes {share} of the predictions ({lower} to {upper} with confidence "
        f"{1 - report.alpha:g}), its prior is {prior}"
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
