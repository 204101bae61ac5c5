"""Reports of a verification run: a summary, a curve and a table."""

import importlib.util
import pathlib
from typing import Any

import numpy as np
from absl import logging
from robustjax_experiments.configs.linf import VerifyConfig

from robustjax import metrics, plotting, results


def write_report(config: VerifyConfig, folder: results.RunFolder) -> dict[str, Any]:
    """Writes summary.json and verified.png, prints the table; returns the summary."""
    log = results.read_log(folder.path)
    proven = log.columns["radius"].astype(float)
    attacked = np.minimum(log.columns["attack_radius"].astype(float), config.limit)
    epsilons = config.table_epsilons() or results.radius_grid(float(attacked.max()))
    resolution = config.limit / 2**config.num_halvings
    summary = {
        "num_examples": len(log),
        "method": config.method,
        "arithmetic": str(log.columns["arithmetic"][0]),
        "limit": config.limit,
        "accuracy": float(log.correct.mean()),
        "mean_certified_radius": float(proven.mean()),
        "mean_attack_radius": float(attacked.mean()),
        "closed": float(np.mean(attacked - proven <= 2 * resolution)),
        "certified_accuracy": _shares(log.correct, proven, epsilons),
        "accuracy_under_attack": _shares(log.correct, attacked, epsilons),
        "above_attack": log.columns["idx"][proven > attacked].tolist(),
        "seconds": float(log.columns["time"].sum()),
    }
    folder.write_summary(summary)
    print(_table(summary, config))
    if summary["above_attack"]:
        raise ValueError(
            f"Certified beyond an attack, which is a defect: idx "
            f"{summary['above_attack']}."
        )
    if importlib.util.find_spec("matplotlib") is None:
        logging.warning(
            "no verified.png without matplotlib: pip install robustjax[plot]"
        )
    else:
        _draw(log.correct, proven, attacked, config, folder.path / "verified.png")
    return summary


def _shares(
    correct: np.ndarray, radius: np.ndarray, epsilons: list[float]
) -> dict[str, float]:
    shares = metrics.certified_accuracy(correct, radius, epsilons)
    return {f"{e:g}": float(share) for e, share in zip(epsilons, shares, strict=True)}


def _draw(
    correct: np.ndarray,
    proven: np.ndarray,
    attacked: np.ndarray,
    config: VerifyConfig,
    path: pathlib.Path,
) -> None:
    figure = plotting.certified_accuracy_curve(
        {
            f"proven by {config.method}": (correct, proven),
            "not broken by PGD": (correct, attacked),
        },
        norm="linf",
        max_radius=config.limit,
        title=f"{len(correct)} images of {config.dataset}",
    )
    figure.axes[0].set_ylabel("Accuracy")
    plotting.save(figure, path)


def _table(summary: dict[str, Any], config: VerifyConfig) -> str:
    lines = [f"{'linf radius':>12}  proven  not broken by PGD"]
    lines += [
        f"{float(radius):>12g}  {share:>6.3f}  "
        f"{summary['accuracy_under_attack'][radius]:>17.3f}"
        for radius, share in summary["certified_accuracy"].items()
    ]
    lines += [
        f"mean radius: proven {summary['mean_certified_radius']:.5f}, attack "
        f"{summary['mean_attack_radius']:.5f} (at most {config.limit:g}, the limit); "
        f"the two meet on {summary['closed']:.1%}",
        f"accuracy {summary['accuracy']:.3f}, {summary['num_examples']} images of "
        f"{config.dataset}, {config.method}, confirmed in {summary['arithmetic']}",
    ]
    return "\n".join(lines)
