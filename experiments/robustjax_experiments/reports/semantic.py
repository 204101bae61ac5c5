"""Reports of semantic verification: columns, a summary, a table, plots."""

import importlib.util
import pathlib
from typing import Any

import numpy as np
from absl import logging
from robustjax_experiments.configs.semantic import SemanticConfig

from robustjax import data, plotting, results, semantic

COLUMNS = (
    "radius", "attack", "left", "right", "attack_left", "attack_right", "area",
    "attack_area", "flip_left", "flip_right", "closed", "way", "status", "cells",
    "seconds",
)  # fmt: skip
_CLOSED = 1 / 1024  # of the limit, that a certificate may stay below the attack


def of_exact(found: semantic.ExactRadius, seconds: float) -> dict[str, Any]:
    """The columns of an exact radius; where a class ties is the attack as well."""
    attack = [
        np.inf if flip < 0 else side
        for side, flip in zip(found[:2], found[2:4], strict=True)
    ]
    nothing = {"area": np.nan, "attack_area": np.nan}
    return nothing | {
        "radius": min(found[:2]),
        "attack": min(attack),
        "left": found.left,
        "right": found.right,
        "attack_left": attack[0],
        "attack_right": attack[1],
        "flip_left": found.flip_left,
        "flip_right": found.flip_right,
        "closed": 1,
        "way": "exact",
        "status": "exact",
        "cells": found.num_pieces,
        "seconds": round(seconds, 6),
    }


def of_search(
    found: semantic.Certification, limit: list[tuple[float, float]]
) -> dict[str, Any]:
    """The columns of a search; of several parameters radii are shares of the limits."""
    if len(limit) == 1:
        sides, attacks = found[:2], found[2:4]
        gaps = [
            (min(attack, end) - side) / (end or 1.0)
            for side, attack, end in zip(sides, attacks, limit[0], strict=True)
        ]
        radius, attack, is_closed = min(sides), min(attacks), max(gaps) <= _CLOSED
    else:
        radius, attack = found.share, found.attack_share
        is_closed = found.attack_area - found.area <= 0.01
    return {
        "radius": radius,
        "attack": attack,
        "left": found.left,
        "right": found.right,
        "attack_left": found.attack_left,
        "attack_right": found.attack_right,
        "area": found.area,
        "attack_area": found.attack_area,
        "flip_left": -1,
        "flip_right": -1,
        "closed": int(is_closed),
        "way": "search",
        "status": found.status,
        "cells": found.num_bounded,
        "seconds": round(found.seconds, 6),
    }


def write_report(
    config: SemanticConfig, folder: results.RunFolder, dataset: data.Dataset
) -> dict[str, Any]:
    """Writes summary.json and the plots, prints the table; returns the summary."""
    log = results.read_log(folder.path)
    summary: dict[str, Any] = {
        "num_examples": len(log),
        "accuracy": float(log.correct.mean()),
        "seconds": float(log.columns["time"].sum()),
        "attributes": {a: _summary_of(log, a, config) for a in config.attributes},
    }
    folder.write_summary(summary)
    print(_table(summary, config))
    above = {a: s["above_attack"] for a, s in summary["attributes"].items()}
    if any(above.values()):
        raise ValueError(f"Certified beyond an attack, which is a defect: {above}.")
    if importlib.util.find_spec("matplotlib") is None:
        logging.warning("no plots without matplotlib: pip install robustjax[plot]")
    else:
        _draw(config, log, dataset, folder.path)
    return summary


def _column(log: results.Log, attribute: str, name: str) -> np.ndarray:
    return log.columns[f"{attribute}:{name}"].astype(float)


def _largest(config: SemanticConfig, attribute: str) -> float:
    """The largest radius that is looked for."""
    moving = next(a for a in config.moving() if a.name == attribute)
    limit = config.limit_of(moving)
    return min(limit[0]) if len(limit) == 1 else 1.0


def _summary_of(
    log: results.Log, attribute: str, config: SemanticConfig
) -> dict[str, Any]:
    radius = _column(log, attribute, "radius")
    attack = _column(log, attribute, "attack")
    capped = np.minimum(attack, _largest(config, attribute))
    correct = log.correct.astype(bool)
    area, kept = (_column(log, attribute, name) for name in ("area", "attack_area"))
    summary = {
        "way": str(log.columns[f"{attribute}:way"][0]),
        "mean_certified_radius": float(radius.mean()),
        "mean_certified_radius_of_correct": _mean(radius[correct]),
        "mean_attack_radius": float(capped.mean()),
        "closed": float(_column(log, attribute, "closed").mean()),
        "median_seconds": float(np.median(_column(log, attribute, "seconds"))),
        "mean_cells": float(_column(log, attribute, "cells").mean()),
        "above_attack": log.columns["idx"][radius > attack].tolist(),
    }
    if np.isfinite(kept).all():
        summary["mean_certified_area"] = float(area.mean())
        summary["mean_attack_area"] = float(kept.mean())
    return summary


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _table(summary: dict[str, Any], config: SemanticConfig) -> str:
    width = max(len("attribute"), *map(len, config.attributes))
    lines = [
        f"{'attribute':<{width}}  way     certified  of correct     attack  closed  "
        "median s   cells"
    ]
    for name, own in summary["attributes"].items():
        lines.append(
            f"{name:<{width}}  {own['way']:<6}  {own['mean_certified_radius']:>9.4f}  "
            f"{own['mean_certified_radius_of_correct']:>10.4f}  "
            f"{own['mean_attack_radius']:>9.4f}  {own['closed']:>6.1%}  "
            f"{own['median_seconds']:>8.3f}  {own['mean_cells']:>6.0f}"
        )
    areas = {n: s for n, s in summary["attributes"].items() if "mean_attack_area" in s}
    lines += [
        f"{name}: part of the limits certified {own['mean_certified_area']:.3f}, not "
        f"lost on a grid {own['mean_attack_area']:.3f}; radii are shares of the limits"
        for name, own in areas.items()
    ]
    examples = f"{summary['num_examples']} images"
    lines.append(
        f"mean radii to the nearer side, 0 of misclassified images; accuracy "
        f"{summary['accuracy']:.3f}, {examples} of {config.dataset}"
    )
    return "\n".join(lines)


def _draw(
    config: SemanticConfig, log: results.Log, dataset: data.Dataset, path: pathlib.Path
) -> None:
    """Histograms of radii, and images at both ends of what is certified."""
    single = [a for a in config.moving() if len(a.names) == 1]
    radii = {
        f"{a.name} ({a.parameters[0].unit})" if a in single else f"{a.name} (share)": (
            _column(log, a.name, "radius"),
            np.minimum(_column(log, a.name, "attack"), _largest(config, a.name)),
        )
        for a in config.moving()
    }
    plotting.save(plotting.radius_histograms(radii), path / "radii.png")
    rows, titles = [], []
    for attribute in single:
        row, names = [], []
        for index in np.flatnonzero(log.correct)[: config.show]:
            left, right = (
                float(_column(log, attribute.name, side)[index])
                for side in ("left", "right")
            )
            x = dataset.images[int(log.columns["idx"][index])]
            for move in (-left, 0.0, right):
                row.append(np.asarray(attribute(x, np.array([move]))))
                names.append(f"{attribute.name} {move:+.3g}")
        rows.append(row)
        titles.append(names)
    if rows and rows[0]:
        plotting.save(plotting.image_grid(rows, titles), path / "ends.png")
