"""Recomputes what a run claims from the counts in its rows."""

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from robustjax.results import identity, logs, rows, summaries

_ABOVE = 1e-12  # relative: a logged radius may not exceed the recomputed one by more
_APART = 1e-9  # relative: nor may any logged value differ by more
_ROUNDING = 4 * np.finfo(np.float64).eps  # of a quantile, between SciPy versions
_SETTINGS = ("alpha", "sigma", "runner_up", "num_classes", "dim")
_COUNTS = ("count", "runner_up_count", "num_invalid", "num_estimation", "order")
_FLAGS = ("alpha", "sigma", "runner_up", "order", "num_selection", "num_estimation")
_CLAIMS = ("radius", "p_lower", "p_upper")


class Verification(NamedTuple):
    """Outcome of `verify_run`."""

    num_rows: int
    findings: tuple[str, ...]  # one line each; empty if everything agrees


class _Claims(NamedTuple):
    """What the counts support, `[n]` each."""

    p_lower: np.ndarray
    p_upper: np.ndarray
    radii: dict[str, np.ndarray]
    rounding: dict[str, np.ndarray]  # what rounding of p_lower may add to the radii


def verify_run(path: str | pathlib.Path) -> Verification:
    """Recomputes confidence bounds and radii of a run from its logged counts.

    [host] Also checks that no example is there twice, that `correct` means that
    prediction and label agree, that abstentions have radius 0, that nothing is
    certified without evidence, and that `summary.json` follows from the rows.

    Args:
        path: a run folder, or a rows file with the columns of one.

    Returns:
        The number of rows and a line for everything that does not agree. A radius is
        reported if it is above the recomputed one (beyond 1e-12 relative and the
        rounding of p_lower) or differs from it (beyond 1e-9 relative).

    Raises:
        ValueError: if the rows lack the columns that are needed.
        OSError: if there are none.
    """
    log = logs.read_log(path)
    _require_columns(log)
    findings = [*_decisions(log), *_foreign_settings(log), *_summary(log)]
    impossible = list(_impossible_counts(log))
    findings += impossible or _differences(log, _recompute(log))
    return Verification(len(log), tuple(findings))


def _require_columns(log: logs.Log) -> None:
    for name in (*_SETTINGS, *_COUNTS, *_CLAIMS):
        if name not in log.columns:
            raise ValueError(f"{log.path} has no column {name} to verify from.")
        kinds = "iuf" if name not in _COUNTS else "iu"
        if name != "runner_up" and log.columns[name].dtype.kind not in kinds:
            raise ValueError(f"{log.path}, column {name}: not all entries are numbers.")


def _decisions(log: logs.Log) -> Iterator[str]:
    for index in rows.repeated(log.columns["idx"].tolist()):
        yield f"idx {index} is there more than once"
    is_right = log.predict == log.columns["label"]
    for index in log.columns["idx"][is_right != log.correct]:
        yield f"idx {index}: correct does not tell whether predict equals label"
    for index in log.columns["idx"][log.columns["order"] != 0]:
        yield f"idx {index}: only radii of order 0 follow from counts"


def _foreign_settings(log: logs.Log) -> Iterator[str]:
    """Rows whose settings are not those of the flags of their run."""
    if not len(log):
        yield "there are no rows"
    if not (log.path / identity.FILE_NAME).is_file():
        return
    flags = identity.read_identity(log.path).flags
    asked = {name: flags[name] for name in _FLAGS if flags.get(name)}
    if flags.get("norms"):
        asked["norm"] = flags["norms"].partition(",")[0]
    for name, text in asked.items():
        column = log.columns.get(name, np.full(len(log), text))
        for index in log.columns["idx"][~_is_as_asked(column, text)]:
            yield f"idx {index}: {name} is not {text}, as the flags of the run say"


def _is_as_asked(values: np.ndarray, text: str) -> np.ndarray:
    if values.dtype.kind not in "iuf":
        return values == text
    return np.isclose(values, float(text), rtol=1e-7, atol=0)  # sigma may be float32


def _impossible_counts(log: logs.Log) -> Iterator[str]:
    count, rival = log.columns["count"], log.columns["runner_up_count"]
    total = np.maximum(count + rival, log.columns["num_invalid"])
    wrong = (np.minimum(count, rival) < 0) | (total > log.columns["num_estimation"])
    for index in log.columns["idx"][wrong]:
        yield f"idx {index}: the counts do not add up to num_estimation"


def _recompute(log: logs.Log) -> _Claims:
    """Bounds and radii, group by group of rows with equal settings."""
    size, norms = len(log), tuple(log.radii)
    claims = _Claims(
        np.zeros(size),
        np.zeros(size),
        {norm: np.zeros(size) for norm in norms},
        {norm: np.zeros(size) for norm in norms},
    )
    settings = list(zip(*(log.columns[n].tolist() for n in _SETTINGS), strict=True))
    for group in set(settings):
        at = np.array([row == group for row in settings])
        _fill(log, claims, at, **dict(zip(_SETTINGS, group, strict=True)))
    return claims


def _fill(
    log: logs.Log,
    claims: _Claims,
    at: np.ndarray,
    *,
    alpha: float,
    sigma: float,
    runner_up: str,
    num_classes: int,
    dim: int,
) -> None:
    from robustjax import smoothing

    count, trials = log.columns["count"][at], log.columns["num_estimation"][at]
    rival = log.columns["runner_up_count"][at]
    lower, upper = smoothing.class_probability_bounds(
        count,
        rival,
        trials,
        alpha=alpha,
        num_classes=num_classes,
        runner_up=runner_up,
    )
    claims.p_lower[at], claims.p_upper[at] = lower, upper
    radius_fn = functools.partial(
        smoothing.zeroth_order_radius,
        sigma=sigma,
        p_upper=None if runner_up == "complement" else upper,
        dim=dim,
    )
    for norm, radius in claims.radii.items():
        radius[at] = radius_fn(lower, norm=norm)
        most = radius_fn(np.minimum(lower + _ROUNDING, 1), norm=norm)
        claims.rounding[norm][at] = most - radius[at]


def _differences(log: logs.Log, claims: _Claims) -> Iterator[str]:
    for name, bound in (("p_lower", claims.p_lower), ("p_upper", claims.p_upper)):
        yield from _apart(log, name, log.columns[name], bound, rounding=_ROUNDING)
    abstains = log.predict == -1
    for norm, radius in claims.radii.items():
        name, logged = f"{norm} radius", log.radius(norm)
        expected = np.where(abstains, 0.0, radius)
        rounding = claims.rounding[norm]
        yield from _apart(log, name, logged, expected, above=_ABOVE, rounding=rounding)
        for index in log.columns["idx"][~abstains & (radius == 0)]:
            yield f"idx {index}: predicts, but the counts certify no {name}"


def _apart(
    log: logs.Log,
    name: str,
    logged: np.ndarray,
    expected: np.ndarray,
    *,
    above: float = _APART,
    rounding: np.ndarray | float,
) -> Iterator[str]:
    """Lines for values above the expected ones or apart from them; NaN is apart."""
    slack = np.where(logged > expected, above, _APART) * np.abs(expected) + rounding
    for row in np.flatnonzero(~(np.abs(logged - expected) <= slack)):
        side = "above" if logged[row] > expected[row] else "not"
        yield (
            f"idx {log.columns['idx'][row]}: {name} {logged[row]} is {side} "
            f"the recomputed {expected[row]}"
        )


def _summary(log: logs.Log) -> list[str]:
    path = log.path / "summary.json"
    if not path.is_file() or not len(log):
        return []
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return summaries.disagreements(summary, log)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["summary.json is not a summary of a run"]
