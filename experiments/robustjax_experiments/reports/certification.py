"""Reports of a certification run: a summary, a curve and a table."""

import importlib.util
import pathlib
from typing import Any

from absl import logging
from robustjax_experiments.configs.certification import CertifyConfig

from robustjax import plotting, results


def write_report(config: CertifyConfig, folder: results.RunFolder) -> dict[str, Any]:
    """Writes summary.json and curve.png, prints the table; returns the summary."""
    log = results.read_log(folder.path)
    radii = config.table_radii()
    largest = float(log.radius(config.norms[0]).max())
    summary = results.summarise(
        log,
        radii=radii or results.radius_grid(largest),
        max_samples=config.max_samples,
    )
    folder.write_summary(summary)
    print(_table(summary, config))
    if summary["num_invalid"]:
        logging.warning(
            "%d noise samples gave non-finite logits; they count against every class.",
            summary["num_invalid"],
        )
    if importlib.util.find_spec("matplotlib") is None:
        logging.warning("no curve.png without matplotlib: pip install robustjax[plot]")
    else:
        _draw(log, config, folder.path / "curve.png")
    return summary


def _draw(log: results.Log, config: CertifyConfig, path: pathlib.Path) -> None:
    norm = config.norms[0]
    curves = {
        f"{config.dataset}, sigma {config.sigma:g}": (log.correct, log.radius(norm))
    }
    figure = plotting.certified_accuracy_curve(curves, norm=norm, alpha=config.alpha)
    plotting.save(figure, path)
    if config.order == 1:
        figure = plotting.certified_accuracy_by_norm(
            log.correct,
            {norm: log.columns[f"zeroth_radius_{norm}"] for norm in config.norms},
            {norm: log.radius(norm) for norm in config.norms},
            alpha=config.alpha,
        )
        plotting.save(figure, path.with_name("orders.png"))


def _table(summary: dict[str, Any], config: CertifyConfig) -> str:
    """Certified accuracy against radius in the first norm, as text."""
    norm = config.norms[0]
    figures = summary["norms"][norm]
    lower = figures["certified_accuracy_lower"]
    lines = [f"{norm + ' radius':>12}  certified accuracy  at least (99.9%)"]
    lines += [
        f"{float(radius):>12g}  {accuracy:>18.3f}  {lower[radius]:>16.3f}"
        for radius, accuracy in figures["certified_accuracy"].items()
    ]
    lines.append(
        f"average certified radius {figures['average_certified_radius']:.4f}, "
        f"abstained {summary['abstention_rate']:.1%}, {summary['num_examples']} images "
        f"of {config.dataset}, sigma {config.sigma:g}, alpha {config.alpha:g}"
    )
    lines.append(
        "at least: what holds with 99.9% confidence, if each certificate fails with "
        "probability alpha"
    )
    if config.order == 1:
        lines += [
            f"{name}: average certified radius {of['average_certified_radius']:.4f}, "
            f"{of['zeroth_average_certified_radius']:.4f} without the gradient"
            for name, of in summary["norms"].items()
        ]
    if "samples_saved" in summary:
        lines.append(
            f"saved {summary['samples_saved']:.1%} of the samples of a fixed number, "
            f"target radius {config.target_radius:g}"
        )
    elif len(config.norms) > 1:
        lines.append(
            f"other norms: python -m robustjax.results compare {config.workdir} "
            f"--norm={config.norms[1]}"
        )
    return "\n".join(lines)
