"""The pictures of a study of smoothing, with their captions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from robustjax_experiments.studies import noise_sweep

from robustjax import hidden_cost, plotting

VANISHING = "ball of this size vanishes at"  # column of the table of regions


def figures(study: Any) -> dict[str, tuple[Any, str]]:
    """Figures with their captions, by the name of their file.

    Args:
        study: a `shrinkage_report.Study`.
    """
    runs, predicted, summary = study.runs, study.predicted, study.summary
    drawn: dict[str, tuple[Any, str]] = {}
    focus = _middle([run.train_sigma for run in runs])
    series = [run for run in runs if run.train_sigma == focus and run.sigma >= 0]
    equal = [run for run in runs if run.train_sigma == f"{run.sigma:g}"]
    if len(series) > 1:
        drawn["hidden_cost"] = _by_class(study, series, predicted)
        drawn["certified_by_class"] = _by_class(study, series, study.certified)
    if len(equal) > 1:
        drawn["equal_noise"] = _by_class(study, equal, predicted)
    if len({run.train_sigma for run in runs}) > 1:
        drawn["heat_map"] = _heat_map(runs, predicted)
    smoothed = [run for run in equal or series if run.sigma > 0]
    drawn["radii_by_class"] = _radii_by_class(
        _middle(smoothed or runs), summary["class_names"]
    )
    if study.regions is not None:
        drawn |= _region_figures(study.regions, summary["class_names"])
    return drawn


def _middle(items: Sequence[Any]) -> Any:
    """The middle one of distinct items, in their order."""
    distinct = [item for i, item in enumerate(items) if item not in items[:i]]
    return distinct[len(distinct) // 2]


def _by_class(
    study: Any,
    series: Sequence[Any],
    reports: Mapping[str, hidden_cost.ClasswiseReport],
) -> tuple[Any, str]:
    """Accuracy by class along runs of growing noise, priced in radii."""
    config, summary = study.config, study.summary
    is_certified = reports[series[0].name].radii is not None
    train = {run.train_sigma for run in series}
    how = "equal noise in training" if len(train) > 1 else "one model"
    if train != {noise_sweep.GIVEN} and len(train) == 1:
        how = f"one model, trained with noise {series[0].train_sigma}"
    tables = [reports[run.name] for run in series]
    names = summary["class_names"]
    found = [table.disparity.worst_class for table in tables]
    band = [i for i in found if i is not None][-1:]  # of the most noise that tells
    whole = [row for row in summary["regions"] if row["class"] == "all"]
    figure = plotting.accuracy_by_class(
        [run.sigma for run in series],
        {name: [r.accuracy[i] for r in tables] for i, name in enumerate(names)},
        bounds={
            names[i]: ([r.lower[i] for r in tables], [r.upper[i] for r in tables])
            for i in band
        },
        needed={f"radius {r}": s for r, s in summary["noise_needed"].items()},
        vanishing=whole[0][VANISHING] if whole else None,
        ylabel=f"Accuracy ({'certified' if is_certified else 'most votes'})",
    )
    counted = "abstentions are errors" if is_certified else "the class with most votes"
    bands = [
        f"The band of class {names[i]} holds with confidence {1 - config.alpha:g}, for "
        "all classes of one noise level together. "
        for i in band
    ]
    return figure, (
        f"Accuracy by class, {'certified' if is_certified else 'predicted'} "
        f"({counted}); {how}. {''.join(bands)}Dashed: the minimum noise at which "
        f"{config.num_samples} samples can certify a radius. Dotted: where a "
        "ball-shaped class of the median size along rays would vanish (indicative: "
        "real regions are no balls)."
    )


def _heat_map(
    runs: Sequence[Any], predicted: Mapping[str, hidden_cost.ClasswiseReport]
) -> tuple[Any, str]:
    train = sorted({float(run.train_sigma) for run in runs})
    test = sorted({run.sigma for run in runs})
    accuracy, worst, gap = np.full((3, len(train), len(test)), np.nan)
    for run in runs:
        at = train.index(float(run.train_sigma)), test.index(run.sigma)
        report = predicted[run.name]
        accuracy[at], gap[at] = report.overall_accuracy, report.disparity.gap
        worst[at] = np.nanmin(report.accuracy)
    figure = plotting.noise_heat_map(
        train, test, {"accuracy": accuracy, "least class": worst, "gap": gap}
    )
    return figure, (
        "Predicted accuracy over all, of the worst class, and the gap between classes, "
        "by noise in training and in smoothing. Framed: equal noise."
    )


def _radii_by_class(run: Any, names: Sequence[str]) -> tuple[Any, str]:
    curves = {
        name: (
            (run.predict == run.labels)[run.labels == i],
            run.radius[run.labels == i],
        )
        for i, name in enumerate(names)
        if (run.labels == i).any()
    }
    figure = plotting.certified_accuracy_curve(curves)
    return figure, f"Certified accuracy against radius by class, {run.name}."


def _region_figures(regions: Any, names: Sequence[str]) -> dict[str, tuple[Any, str]]:
    base = next(iter(regions.rays.values())).base_exit
    reached = {
        f"sigma {sigma:g}": rays.smoothed_exit for sigma, rays in regions.rays.items()
    }
    figures = {
        "rays": (
            plotting.shrinkage_along_rays(base, reached),
            "Where the class of an image ends on the way to the nearest image of "
            "another class, smoothed (majority of the noise) against without noise.",
        )
    }
    if regions.slices:
        slices = {f"sigma {sigma:g}": found for sigma, found in regions.slices.items()}
        figures["slice"] = (
            plotting.region_slice(slices, class_names=names),
            "Predicted class in the plane through an image and its nearest neighbours "
            "of two other classes (dots), without noise and by most votes under noise.",
        )
    return figures
