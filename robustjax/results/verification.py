"""Recomputes what a run claims from the counts in its rows."""

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from robustjax.results import identity, logs, rows, summaries

_ABOVE = 1e-12  # relative: a logged radius may not exceed the recomputed one by more
_APART = 1e-9  # relative: nor may any logged value differ by more
_ROUNDING = 4 * np.finfo(np.float64).eps  # of a quantile, between SciPy versions
_SOLVED = 2e-7  # relative: what solvers of first-order radii may differ by
_SETTINGS = (
    "alpha", "sigma", "runner_up", "num_classes", "dim", "order", "bound", "stage",
    "form",
)  # fmt: skip
_TEXTS = ("runner_up", "bound", "form")
_COUNTS = (
    "count", "runner_up_count", "num_invalid", "num_estimation", "order", "stage",
    "failed",
)  # fmt: skip
_FLAGS = ("alpha", "sigma", "runner_up", "order", "num_selection", "num_estimation")
_GRADIENT = ("dual_upper", "length_lower")
# Of rows that were written before there were first-order radii.
_DEFAULTS = {"bound": "clopper_pearson", "stage": 0, "form": "box", "failed": 0}
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

    [host] Radii of order 1 are recomputed from the counts and the logged bounds of the
    gradient; those bounds, and p_lower of soft votes, rest on sums that rows do not
    hold, so they are taken as they are. Also checks that no example is there twice,
    that `correct` means that prediction and label agree, that abstentions have radius
    0, that nothing is certified without evidence, and that `summary.json` follows from
    the rows.

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
    log = _with_defaults(logs.read_log(path))
    _require_columns(log)
    findings = [*_decisions(log), *_foreign_settings(log), *_summary(log)]
    impossible = [*_impossible_counts(log), *_missing_evidence(log)]
    findings += impossible or _differences(log, _recompute(log))
    return Verification(len(log), tuple(findings))


def _with_defaults(log: logs.Log) -> logs.Log:
    defaults = {name: np.full(len(log), value) for name, value in _DEFAULTS.items()}
    return logs.Log(log.path, defaults | log.columns)


def _require_columns(log: logs.Log) -> None:
    for name in dict.fromkeys((*_SETTINGS, *_COUNTS, *_CLAIMS)):
        if name not in log.columns:
            raise ValueError(f"{log.path} has no column {name} to verify from.")
        kinds = "iuf" if name not in _COUNTS else "iu"
        if name not in _TEXTS and log.columns[name].dtype.kind not in kinds:
            raise ValueError(f"{log.path}, column {name}: not all entries are numbers.")


def _decisions(log: logs.Log) -> Iterator[str]:
    for index in rows.repeated(log.columns["idx"].tolist()):
        yield f"idx {index} is there more than once"
    is_right = log.predict == log.columns["label"]
    for index in log.columns["idx"][is_right != log.correct]:
        yield f"idx {index}: correct does not tell whether predict equals label"
    for index in log.columns["idx"][(log.columns["failed"] != 0) & (log.predict != -1)]:
        yield f"idx {index}: predicts, although its sums were not finite"


def _foreign_settings(log: logs.Log) -> Iterator[str]:
    """Rows whose settings are not those of the flags of their run."""
    if not len(log):
        yield "there are no rows"
    if not (log.path / identity.FILE_NAME).is_file():
        return
    flags = identity.read_identity(log.path).flags
    asked = {name: flags[name] for name in _FLAGS if flags.get(name)}
    if int(flags.get("max_samples", 0)):
        del asked["num_estimation"]
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


def _missing_evidence(log: logs.Log) -> Iterator[str]:
    order = log.columns["order"]
    needed = [f"{name}_{norm}" for norm in log.radii for name in _GRADIENT]
    missing = [name for name in needed if name not in log.columns]
    for index in log.columns["idx"][(order != 0) & (order != 1)]:
        yield f"idx {index}: order is neither 0 nor 1"
    for index in log.columns["idx"][(order == 1) & bool(missing)]:
        yield f"idx {index}: order 1 needs the columns {', '.join(missing)}"


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
    num_classes: int,
    runner_up: str,
    **settings: Any,
) -> None:
    from robustjax import smoothing

    sigma, dim = settings["sigma"], settings["dim"]
    lower, upper = _probability_bounds(
        log, at, num_classes=num_classes, runner_up=runner_up, **settings
    )
    claims.p_lower[at], claims.p_upper[at] = lower, upper
    zeroth_fn = functools.partial(
        smoothing.zeroth_order_radius,
        sigma=sigma,
        p_upper=None if runner_up == "complement" else upper,
        dim=dim,
    )
    for norm, radius in claims.radii.items():
        radius[at] = zeroth_fn(lower, norm=norm)
        most = zeroth_fn(np.minimum(lower + _ROUNDING, 1), norm=norm)
        claims.rounding[norm][at] = most - radius[at]
        if settings["order"] == 1:
            first = smoothing.norm_radius(
                lower,
                log.columns[f"dual_upper_{norm}"][at],
                log.columns[f"length_lower_{norm}"][at],
                norm=norm,
                dim=dim,
                sigma=sigma,
                form=settings["form"],
            )
            radius[at] = np.maximum(radius[at], first)
            claims.rounding[norm][at] += _SOLVED * radius[at]


def _probability_bounds(
    log: logs.Log,
    at: np.ndarray,
    *,
    num_classes: int,
    runner_up: str,
    **settings: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """p_lower and p_upper from the counts, or as logged where those of soft votes."""
    from robustjax import smoothing

    if settings["bound"] == "betting":
        return log.columns["p_lower"][at], log.columns["p_upper"][at]
    count, trials = log.columns["count"][at], log.columns["num_estimation"][at]
    alpha, stage = settings["alpha"], settings["stage"]
    if stage:
        alpha = float(smoothing.stage_alpha(stage, alpha=alpha))
    alpha = alpha / 2 if settings["order"] == 1 else alpha
    if settings["bound"] == "sequence":
        lower = smoothing.binomial_sequence_lower(count, trials, alpha=alpha)
        return lower, 1 - lower
    bounds = smoothing.class_probability_bounds(
        count,
        log.columns["runner_up_count"][at],
        trials,
        alpha=alpha,
        num_classes=num_classes,
        runner_up=runner_up,
    )
    failed = log.columns["failed"][at] != 0
    return np.where(failed, 0.0, bounds[0]), np.where(failed, 1.0, bounds[1])


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
