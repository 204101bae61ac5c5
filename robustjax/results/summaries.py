"""`summary.json`: the figures of a run, and the check that they fit its rows."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustjax import metrics
from robustjax.results import logs
from robustjax.results.run_folder import atomic

_TOLERANCE = 1e-9  # what JSON and a different order of summation may change


def summarise(
    log: logs.Log,
    *,
    radii: Sequence[float],
    confidence: float = 0.999,
    max_samples: int = 0,
) -> dict[str, Any]:
    """Computes the figures of a log that go into `summary.json`.

    [host]

    Args:
        log: with at least one row.
        radii: at which certified accuracy is given, in input units.
        confidence: of the lower bound on certified accuracy, in (0, 1); the bound is
            given for logs that have a column `alpha`.
        max_samples: maximum number of samples of an adaptive run (0 = not adaptive).

    Returns:
        num_examples, abstention_rate and, under `norms` by norm,
        average_certified_radius, certified_accuracy and certified_accuracy_lower by
        radius. For the columns of our runs also num_invalid, failed (their idx),
        seconds, samples_saved (the share that an adaptive run did not draw) and, by
        norm, zeroth_average_certified_radius.

    Raises:
        ValueError: if the log has no rows.

    Example:
        >>> import pathlib
        >>> names = ["idx", "label", "predict", "correct", "radius"]
        >>> rows = np.array([[0, 4, 4, 1, 0.4], [1, 7, 7, 1, 1.0], [2, 7, -1, 0, 0.0]])
        >>> log = logs.Log(pathlib.Path("a"), dict(zip(names, rows.T)))
        >>> found = summarise(log, radii=[0.5])
        >>> print(f"{found['abstention_rate']:.3f}")
        0.333
        >>> print(f"{found['norms']['l2']['certified_accuracy']['0.5']:.3f}")
        0.333
    """
    return {
        "num_examples": len(log),
        "abstention_rate": metrics.abstention_rate(log.predict),
        "confidence": confidence,
        "norms": {norm: _figures(log, norm, radii, confidence) for norm in log.radii},
        **_sampling(log, max_samples),
    }


def write_summary(folder: pathlib.Path, summary: Mapping[str, Any]) -> pathlib.Path:
    """Writes `summary.json` into a run folder; what is not finite becomes null.

    [host]
    """
    path = folder / "summary.json"
    atomic.write_text(path, json.dumps(_plain(summary), indent=2) + "\n")
    return path


class Review(NamedTuple):
    """A summary against its rows."""

    findings: list[str]  # figures that do not follow from the rows, one line each
    others: list[str]  # names of figures that the rows say nothing about


def review(
    summary: Mapping[str, Any], log: logs.Log, *, max_samples: int = 0
) -> Review:
    """Compares the figures of a summary with those that the rows give.

    [host]

    Args:
        summary: the content of `summary.json`.
        log: the rows, at least one.
        max_samples: as in `summarise`.

    Returns:
        What does not agree, and what was not compared.

    Raises:
        ValueError: if it is not the summary of a run; also KeyError, TypeError and
            AttributeError.
    """
    norms = summary.get("norms", {})
    radii = [float(r) for norm in norms.values() for r in norm["certified_accuracy"]]
    confidence = summary.get("confidence", 0.999)
    expected = summarise(
        log, radii=radii, confidence=confidence, max_samples=max_samples
    )
    findings = [
        f"summary.json: {name} is {logged!r}, the rows give {expected_value!r}"
        for name, logged, expected_value in _pairs(summary, expected, "")
        if not _agree(logged, expected_value)
    ]
    return Review(findings, _unknown(summary, expected, ""))


def _sampling(log: logs.Log, max_samples: int) -> dict[str, Any]:
    """Figures of the columns that only our runs have."""
    figures: dict[str, Any] = {}
    if "num_invalid" in log.columns:
        figures["num_invalid"] = int(log.columns["num_invalid"].sum())
    if "failed" in log.columns:
        figures["failed"] = log.columns["idx"][log.columns["failed"] != 0].tolist()
    if "time" in log.columns:
        figures["seconds"] = float(log.columns["time"].sum())
    if max_samples:
        drawn = log.columns["num_estimation"].sum()
        figures["samples_saved"] = 1 - float(drawn / (len(log) * max_samples))
    return figures


def _figures(
    log: logs.Log, norm: str, radii: Sequence[float], confidence: float
) -> dict[str, Any]:
    radius = log.radius(norm)
    accuracy = metrics.certified_accuracy(log.correct, radius, radii)
    average = metrics.average_certified_radius(log.correct, radius)
    figures = {
        "average_certified_radius": average,
        "certified_accuracy": _by_radius(radii, accuracy),
    }
    if "alpha" in log.columns:
        lower = metrics.certified_accuracy_lower(
            log.correct,
            radius,
            radii,
            alpha=float(np.max(log.columns["alpha"])),
            confidence=confidence,
        )
        figures["certified_accuracy_lower"] = _by_radius(radii, lower)
    zeroth = log.columns.get(f"zeroth_radius_{norm}")
    if zeroth is not None:
        figures["zeroth_average_certified_radius"] = metrics.average_certified_radius(
            log.correct, zeroth
        )
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


def _unknown(summary: Any, expected: Any, name: str) -> list[str]:
    """Dotted names of the leaves that only the first tree has."""
    if not isinstance(summary, Mapping) or not isinstance(expected, Mapping):
        return []
    names = {key: f"{name}.{key}".lstrip(".") for key in summary}
    found = [names[key] for key in summary if key not in expected]
    for key in summary.keys() & expected.keys():
        found += _unknown(summary[key], expected[key], names[key])
    return found


def _agree(logged: Any, expected: Any) -> bool:
    if isinstance(expected, list | Mapping):
        return bool(logged == expected)
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
