"""`summary.json`: the figures of a run, and the check that they fit its rows."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robustjax.results import atomic, logs, statistics

_TOLERANCE = 1e-9  # what JSON and a different order of summation may change


def summarise(
    log: logs.Log, *, radii: Sequence[float], confidence: float = 0.999
) -> dict[str, Any]:
    """The figures of a log as they go into `summary.json`.

    [host]

    Args:
        log: with at least one row.
        radii: at which certified accuracy is given, in input units.
        confidence: of the lower bound on certified accuracy, in (0, 1); the bound is
            given for logs that have a column `alpha`.

    Returns:
        num_examples, abstention_rate and, under `norms` by norm,
        average_certified_radius, certified_accuracy and certified_accuracy_lower by
        radius.

    Raises:
        ValueError: if the log has no rows.
    """
    return {
        "num_examples": len(log),
        "abstention_rate": statistics.abstention_rate(log.predict),
        "confidence": confidence,
        "norms": {
            norm: _figures(log, radius, radii, confidence)
            for norm, radius in log.radii.items()
        },
    }


def write_summary(folder: pathlib.Path, summary: Mapping[str, Any]) -> pathlib.Path:
    """Writes `summary.json` into a run folder; what is not finite becomes null.

    [host]
    """
    path = folder / "summary.json"
    atomic.write_text(path, json.dumps(_plain(summary), indent=2) + "\n")
    return path


def disagreements(summary: Mapping[str, Any], log: logs.Log) -> list[str]:
    """Figures of a summary that do not follow from the rows, one line each.

    [host] Only what `summarise` gives is looked at; a summary may hold more.
    """
    norms = summary.get("norms", {})
    radii = [float(r) for norm in norms.values() for r in norm["certified_accuracy"]]
    expected = summarise(log, radii=radii, confidence=summary.get("confidence", 0.999))
    return [
        f"summary.json: {name} is {logged!r}, the rows give {expected_value!r}"
        for name, logged, expected_value in _pairs(summary, expected, "")
        if not _agree(logged, expected_value)
    ]


def _figures(
    log: logs.Log, radius: np.ndarray, radii: Sequence[float], confidence: float
) -> dict[str, Any]:
    accuracy = statistics.certified_accuracy(log.correct, radius, radii)
    average = statistics.average_certified_radius(log.correct, radius)
    figures = {
        "average_certified_radius": average,
        "certified_accuracy": _by_radius(radii, accuracy),
    }
    if "alpha" in log.columns:
        lower = statistics.certified_accuracy_lower(
            log.correct,
            radius,
            radii,
            alpha=float(np.max(log.columns["alpha"])),
            confidence=confidence,
        )
        figures["certified_accuracy_lower"] = _by_radius(radii, lower)
    return figures


def _by_radius(radii: Sequence[float], values: np.ndarray) -> dict[str, float]:
    return {str(float(r)): float(v) for r, v in zip(radii, values, strict=True)}


def _pairs(summary: Any, expected: Any, name: str) -> list[tuple[str, Any, Any]]:
    """The leaves that both trees have, with their dotted names."""
    if not isinstance(expected, Mapping):
        return [(name, summary, expected)]
    if not isinstance(summary, Mapping):
        return [(name, summary, "a table")]
    return [
        pair
        for key in expected
        if key in summary
        for pair in _pairs(summary[key], expected[key], f"{name}.{key}".lstrip("."))
    ]


def _agree(logged: Any, expected: Any) -> bool:
    if not isinstance(logged, int | float):
        return logged is None and not np.isfinite(expected)
    return bool(np.isclose(logged, expected, rtol=_TOLERANCE, atol=_TOLERANCE))


def _plain(value: Any) -> Any:
    """The value in JSON's types."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value  # arrays, scalars
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
