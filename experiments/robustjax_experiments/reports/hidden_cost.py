"""Reports of a study of smoothing: a summary, plots and an HTML page."""

import importlib.util
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from robustjax_experiments.configs.hidden_cost import HiddenCostConfig
from robustjax_experiments.reports import hidden_cost_figures, html_page
from robustjax_experiments.studies import decision_regions as region_study
from robustjax_experiments.studies import noise_sweep

from robustjax import hidden_cost, plotting, results
from robustjax.smoothing import ABSTAIN

_NUM_RADII = 4  # of certified accuracy by class
_MOST_FINDINGS = 6  # runs whose findings are all told


class Run(NamedTuple):
    """Predictions of one smoothed classifier."""

    name: str
    train_sigma: str
    sigma: float  # NaN for a log
    num_classes: int
    labels: np.ndarray
    predict: np.ndarray  # certified class, -1 abstains
    radius: np.ndarray
    plurality: np.ndarray | None  # class with the most votes


class Study(NamedTuple):
    """Runs with what was found in them."""

    config: HiddenCostConfig
    runs: Sequence[Run]
    certified: Mapping[str, hidden_cost.ClasswiseReport]  # by name of the run
    predicted: Mapping[
        str, hidden_cost.ClasswiseReport
    ]  # by name of the run; empty for logs
    p_values: Mapping[str, float]  # of equal classes, corrected for many runs
    regions: region_study.Regions | None
    summary: Mapping[str, Any]

    def told(self, name: str) -> hidden_cost.ClasswiseReport:
        """The report whose findings are told: predicted, or certified for logs."""
        return self.predicted.get(name, self.certified[name])


def runs_of_rows(log: results.Log, *, num_classes: int) -> list[Run]:
    """The runs of a sweep, in the order of its cells."""
    columns = log.columns
    texts = columns["train_sigma"].astype(str)
    train = np.array([t if t == noise_sweep.GIVEN else f"{float(t):g}" for t in texts])
    runs = []
    for level in dict.fromkeys(train.tolist()):
        for sigma in np.unique(columns["test_sigma"]):
            own = (train == level) & (columns["test_sigma"] == sigma)
            given = "" if level == noise_sweep.GIVEN else f"train {level}, "
            runs.append(
                Run(
                    f"{given}test {sigma:g}",
                    level,
                    float(sigma),
                    num_classes,
                    columns["label"][own],
                    log.predict[own],
                    log.radius("l2")[own],
                    columns["plurality"][own],
                )
            )
    return runs


def runs_of_logs(logs: Mapping[str, results.Log], *, num_classes: int) -> list[Run]:
    """One run a log."""
    return [
        Run(
            name,
            "",
            math.nan,
            num_classes,
            log.columns["label"],
            log.predict,
            log.radius(),
            None,
        )
        for name, log in logs.items()
    ]


def write_report(
    config: HiddenCostConfig,
    folder: results.RunFolder,
    runs: Sequence[Run],
    *,
    regions: region_study.Regions | None = None,
    dim: int = 0,
) -> dict[str, Any]:
    """Writes summary.json, the plots and report.html; returns the summary.

    Raises:
        ValueError: if the class names or a label do not fit the classes.
    """
    names = _class_names(config, runs[0].num_classes)
    with_votes = [run for run in runs if run.plurality is not None]
    num_reports = len(runs) + len(with_votes)
    certified = {
        run.name: _classwise(config, run, run.predict, num_reports=num_reports)
        for run in runs
    }
    predicted = {
        run.name: _classwise(
            config, run, run.plurality, num_reports=num_reports, with_radii=False
        )
        for run in with_votes
    }
    p_values = _p_values(runs, certified | predicted)
    summary: dict[str, Any] = {
        "class_names": names,
        "runs": [
            {
                "name": run.name,
                "train_sigma": run.train_sigma,
                "sigma": None if math.isnan(run.sigma) else run.sigma,
                "certified": certified[run.name].to_dict(),
                "predicted": predicted[run.name].to_dict()
                if run.name in predicted
                else None,
                "gap_p_value_holm": p_values[run.name],
                "findings": hidden_cost.classwise_findings(
                    predicted.get(run.name, certified[run.name]), class_names=names
                ),
            }
            for run in runs
        ],
        "noise_needed": _noise_needed(config) if not config.from_logs else {},
        "regions": _region_rows(regions, names, dim=dim) if regions else [],
    }
    folder.write_summary(summary)
    study = Study(config, runs, certified, predicted, p_values, regions, summary)
    page = _page(study, _pictures(study, folder.path))
    (folder.path / "report.html").write_text(page, encoding="utf-8")
    print(_text_table(runs, certified, names))
    print(f"{folder.path / 'report.html'}")
    return summary


def _class_names(config: HiddenCostConfig, num_classes: int) -> list[str]:
    names = list(config.class_names) or [str(i) for i in range(num_classes)]
    if len(names) != num_classes:
        raise ValueError(
            f"Expected {num_classes} class_names, got {len(names)}: {','.join(names)}."
        )
    return names


def _p_values(
    runs: Sequence[Run], reports: Mapping[str, hidden_cost.ClasswiseReport]
) -> dict[str, float]:
    """P-values of equal classes by run, corrected by Holm for the number of runs."""
    found = [reports[run.name].disparity.gap_p_value for run in runs]
    adjusted = hidden_cost.holm_adjusted(found).tolist()
    return {run.name: p for run, p in zip(runs, adjusted, strict=True)}


def _classwise(
    config: HiddenCostConfig,
    run: Run,
    predictions: Any,
    *,
    num_reports: int,
    with_radii: bool = True,
) -> hidden_cost.ClasswiseReport:
    largest = float(np.max(run.radius, initial=0.0))
    grid = np.unique(np.round(np.linspace(0, largest, _NUM_RADII + 1)[1:-1], 2))
    try:
        return hidden_cost.classwise_report(
            run.labels,
            predictions,
            num_classes=run.num_classes,
            radii=run.radius if with_radii else None,
            at_radii=grid[grid > 0] if with_radii else (),
            alpha=config.alpha,
            num_reports=num_reports,
        )
    except ValueError as error:
        raise ValueError(f"{run.name}: {error}") from None


def _noise_needed(config: HiddenCostConfig) -> dict[str, float]:
    """Target radius -> minimum noise level at which it can be certified at all."""
    return {
        f"{radius:g}": float(
            hidden_cost.min_sigma_for_radius(
                radius, num_samples=config.num_samples, alpha=config.certificate_alpha
            )
        )
        for radius in config.radii()
        if radius > 0
    }


def _region_rows(
    regions: region_study.Regions, names: Sequence[str], *, dim: int
) -> list[dict[str, Any]]:
    """Extents of regions by noise level and class, as medians over rays."""
    rows = []
    for sigma, rays in regions.rays.items():
        for label in [*np.unique(regions.labels), None]:
            own = slice(None) if label is None else regions.labels == label
            base = float(np.median(rays.base_exit[own]))
            is_empty = rays.is_empty[own]
            reached = np.where(is_empty, 0.0, rays.smoothed_exit[own])
            area = _area_ratio(regions.slices.get(sigma), label)
            vanishing = (
                float(hidden_cost.ball_vanishing_sigma(base, dim=dim))
                if 0 < base < math.inf
                else None
            )
            rows.append(
                {
                    "sigma": sigma,
                    "class": "all" if label is None else names[label],
                    "rays": int(np.size(is_empty)),
                    "exit without noise": base,
                    "smoothed exit": float(np.median(reached)),
                    "empty": float(np.mean(is_empty)),
                    hidden_cost_figures.VANISHING: vanishing,
                    "area in the slice, smoothed / base": area,
                }
            )
    return rows


def _area_ratio(found: Any, label: int | None) -> float | None:
    if found is None or label is None:
        return None
    ratio = float(hidden_cost.area_fractions(found).ratio[label])
    return ratio if math.isfinite(ratio) else None


def _pictures(study: Study, path: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Draws what there is to draw; returns the files with their captions."""
    if importlib.util.find_spec("matplotlib") is None:
        logging.warning("no plots without matplotlib: pip install robustjax[plot]")
        return []
    pictures = []
    for name, (figure, caption) in hidden_cost_figures.figures(study).items():
        plotting.save(figure, path / f"{name}.png")
        pictures.append((path / f"{name}.png", caption))
    return pictures


def _page(study: Study, pictures: Sequence[tuple[pathlib.Path, str]]) -> str:
    config, runs, certified, predicted, _, _, summary = study
    page = html_page.Page("The hidden cost of randomized smoothing")
    source = "published logs" if config.from_logs else f"{config.dataset} images"
    page.text(
        f"{len(runs)} smoothed classifiers on {len(runs[0].labels)} {source} each. "
        "Certified: the class that the certificate names; abstentions count as errors. "
        "Predicted: the class with the most votes. Intervals hold for all classes "
        f"together with confidence {1 - config.alpha:g}."
    )
    page.heading("Findings")
    page.points(_findings(study))
    page.heading("All runs")
    page.table([_overview(run, study) for run in runs])
    page.text(
        "gap: largest minus smallest class accuracy; at least, at most: its interval "
        "in this run alone. by chance: what equal classes would show on average. "
        "p (Holm): test of equal classes, corrected for the number of runs; without "
        f"correction, p is below {config.alpha:g} exactly where the interval starts "
        "above 0.",
        is_note=True,
    )
    for path, caption in pictures:
        page.picture(path, caption)
    if summary["noise_needed"]:
        page.heading("What a radius costs in noise")
        page.table(
            [
                {"radius": float(radius), "least sigma": sigma}
                for radius, sigma in summary["noise_needed"].items()
            ]
        )
    if summary["regions"]:
        page.heading("Regions along rays")
        page.table(summary["regions"])
    page.heading("Class by class")
    for run in runs:
        rows = hidden_cost.classwise_rows(
            certified[run.name], class_names=summary["class_names"]
        )
        page.table(rows, summary=f"{run.name}, certified")
        if run.name in predicted:
            rows = hidden_cost.classwise_rows(
                predicted[run.name], class_names=summary["class_names"]
            )
            page.table(rows, summary=f"{run.name}, predicted")
    return page.render()


def _findings(study: Study) -> list[str]:
    """All findings of few runs; for many runs the largest gap and every collapse."""
    runs = study.runs
    told = {entry["name"]: entry["findings"] for entry in study.summary["runs"]}
    unequal = [name for name, p in study.p_values.items() if p < study.config.alpha]
    count = (
        f"In {len(unequal)} of {len(runs)} runs the gap between classes is larger than "
        "chance explains (tests of equal classes with Holm's correction for "
        f"{len(runs)} runs, level {study.config.alpha:g})."
    )
    if len(runs) <= _MOST_FINDINGS:
        every = [f"{name}: {text}" for name, texts in told.items() for text in texts]
        return [count, *every] if len(runs) > 1 else every
    collapses = [f"{name}: {t}" for name, texts in told.items() for t in texts[1:]]
    if not unequal:
        return [count, *collapses]
    largest = max(unequal, key=lambda name: study.told(name).disparity.gap)
    return [count, f"The largest of them: {largest}. {told[largest][0]}", *collapses]


def _overview(run: Run, study: Study) -> dict[str, Any]:
    report = study.certified[run.name]
    chosen = study.told(run.name)
    names, figures = study.summary["class_names"], chosen.disparity
    average = report.radii.overall_average if report.radii else None
    collapsed = [f"{names[i]} absorbs others" for i in chosen.shares.absorbing]
    collapsed += [f"{names[i]} vanished" for i in chosen.shares.vanished]
    return {
        "run": run.name,
        "certified": report.overall_accuracy,
        "abstained": report.overall_abstention_rate,
        "predicted": None if chosen is report else chosen.overall_accuracy,
        "ACR": average,
        "worst class": _worst_class(chosen, names),
        "gap": figures.gap,
        "at least": figures.gap_lower,
        "at most": figures.gap_upper,
        "by chance": figures.chance_gap,
        "p (Holm)": f"{study.p_values[run.name]:.2g}",
        "min/max": None if math.isnan(figures.min_max_ratio) else figures.min_max_ratio,
        "note": ", ".join(collapsed),
    }


def _worst_class(report: hidden_cost.ClasswiseReport, names: Sequence[str]) -> str:
    worst = report.disparity.worst_class
    return "-" if worst is None else f"{names[worst]} {report.accuracy[worst]:.3f}"


def _text_table(
    runs: Sequence[Run],
    certified: Mapping[str, hidden_cost.ClasswiseReport],
    names: Sequence[str],
) -> str:
    width = max(len(run.name) for run in runs)
    lines = [f"{'':{width}}  certified  abstained  gap   worst class"]
    for run in runs:
        report = certified[run.name]
        lines.append(
            f"{run.name:{width}}  {report.overall_accuracy:>9.3f}  "
            f"{np.mean(run.predict == ABSTAIN):>9.3f}  {report.disparity.gap:.3f} "
            f"{_worst_class(report, names)}"
        )
    return "\n".join(lines)
