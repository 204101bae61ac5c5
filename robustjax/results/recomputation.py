"""Recomputes what a run claims from the counts in its rows.

Everything that a reader could rely on is recomputed from the counts, or compared with
the flags, the data and the facts of the run. What can be neither is named, and is what
`replay` recomputes from the model.
"""

import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from robustjax.results import logs, summaries
from robustjax.results.checks import evidence, examples
from robustjax.results.checks import run as runs
from robustjax.results.checks import settings as checked_settings
from robustjax.results.run_folder import provenance, rows, starts

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
    "count", "runner_up_count", "num_selection", "num_estimation", "num_invalid",
    "num_classes", "order", "stage", "failed", "simultaneous",
)  # fmt: skip
# Values of rows that were written before there were first-order radii.
_DEFAULTS = {
    "bound": "clopper_pearson", "stage": 0, "form": "box", "failed": 0,
    "simultaneous": 1, "num_selection": 1, "time": 0.0,
}  # fmt: skip
_CLAIMS = ("radius", "p_lower", "p_upper")


class Verification(NamedTuple):
    """Outcome of `verify_run`."""

    num_rows: int
    findings: tuple[str, ...]  # one line each; empty if everything agrees
    unchecked: tuple[str, ...] = ()  # what a run alone cannot show, one line each


class _Claims(NamedTuple):
    """Radii that counts and gradients support, `[n]` each."""

    radii: dict[str, np.ndarray]
    zeroth: dict[str, np.ndarray]  # radii of order 0
    rounding: dict[str, np.ndarray]  # what rounding of p_lower may add to the radii


def verify_run(
    path: str | pathlib.Path, *, data_dir: str | None = None, with_data: bool = True
) -> Verification:
    r"""Recomputes confidence bounds and radii of a run from its logged counts.

    [host] Also checks that counts and bounds of gradients are possible, that settings
    and examples are those of the flags (kind of bound, form, range, start), that labels
    and dimensions are those of the data set where it can be loaded, that `correct`
    means that prediction and label agree, that abstentions have radius 0, that nothing
    is certified without evidence, and that `summary.json` and `flags.txt` follow.

    A last line that was cut off in the middle, as a kill may leave it, is named in
    `unchecked`; another line that is no row is a finding.

    The counts themselves, the bounds of gradients and p_lower of soft votes come from
    samples that rows do not hold: they are taken as they are and named in `unchecked`.
    `replay_run` recomputes them.

    Args:
        path: a run folder, or a rows file with the columns of one.
        data_dir: folder of the data set; default: as the flags of the run say.
        with_data: whether to load the data set.

    Returns:
        The number of rows, a line for everything that does not agree, and a line for
        everything that was not checked. A radius is reported if it is above the
        recomputed one (beyond 1e-12 relative and the rounding of p_lower) or differs
        from it (beyond 1e-9 relative).

    Raises:
        ValueError: if the rows lack the columns that are needed, or a file is damaged.
        OSError: if the folder has no rows.

    Example:
        >>> import tempfile
        >>> names = ("idx label predict correct radius p_lower p_upper count "
        ...          "runner_up_count num_estimation num_invalid alpha sigma runner_up "
        ...          "num_classes dim order")
        >>> row = "0 1 1 1 1.5 0.976 0.024 990 10 1000 0 0.001 0.5 complement 2 64 0"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "rows.tsv"
        ...     _ = path.write_text(f"{names}\n{row}\n".replace(" ", "\t"))
        ...     print(verify_run(path).findings[-1])
        idx 0: l2 radius 1.5 is above the recomputed 0.9890...
    """
    as_read = logs.read_unchecked(path)
    log = _with_defaults(as_read)
    _require_columns(log)
    findings = list(_not_numbers(log))
    if findings:
        return Verification(len(log), tuple(findings))
    run = runs.read(_of_one_norm(log), data_dir=data_dir, with_data=with_data)
    with np.errstate(all="ignore"):  # absurd values are findings, not warnings
        is_possible, impossible = checked_settings.possible(run)
        findings = [
            *_left_out(as_read, is_cut_off=False),
            *examples.rows_of_examples(run),
            *examples.chosen(run),
            *examples.of_the_data(run),
            *impossible,
            *checked_settings.mixed_norms(log, run.flags),
            *checked_settings.as_asked(run),
            *checked_settings.flags(run),
            *checked_settings.flags_file(run),
            *checked_settings.starts_of_rows(run),
        ]
        wrong_columns = list(checked_settings.columns(run))
        sound = run.rows(is_possible)
        faults = [*evidence.counts(sound), *evidence.soft_votes(sound)]
        findings += wrong_columns
        findings += [f for mask, text in faults for f in sound.findings(mask, text)]
        counted = sound.rows(_is_sound(faults))
        findings += _recomputed(counted, with_radii=not wrong_columns)
        reviewed = _summary(run)
    findings += reviewed.findings
    unchecked = [*_unchecked(run, reviewed), *_left_out(as_read, is_cut_off=True)]
    return Verification(len(log), tuple(dict.fromkeys(findings)), tuple(unchecked))


def _left_out(log: logs.Log, *, is_cut_off: bool) -> Iterator[str]:
    """Lines that are no rows: one cut off by a kill, or others in a run folder."""
    for line in log.skipped:
        if is_cut_off == (line.endswith(rows.CUT_OFF) or not log.path.is_dir()):
            yield f"{line}; it is left out"


def _with_defaults(log: logs.Log) -> logs.Log:
    defaults = {name: np.full(len(log), value) for name, value in _DEFAULTS.items()}
    return logs.Log(log.path, defaults | log.columns)


def _of_one_norm(log: logs.Log) -> logs.Log:
    """The log as one of the norm that most of its rows name."""
    if "norm" not in log.columns or not len(log):
        return log
    names, counts = np.unique(log.columns["norm"].astype(str), return_counts=True)
    norm = np.full(len(log), names[np.argmax(counts)])
    return logs.Log(log.path, log.columns | {"norm": norm})


def _require_columns(log: logs.Log) -> None:
    for name in dict.fromkeys((*_SETTINGS, *_COUNTS, *_CLAIMS)):
        if name not in log.columns:
            raise ValueError(f"{log.path} has no column {name} to verify from.")


def _not_numbers(log: logs.Log) -> Iterator[str]:
    """Findings for columns with entries that are not the numbers they should be."""
    for name, values in log.columns.items():
        if not len(log) or name in (*_TEXTS, "norm"):
            continue
        is_known = name in (*_SETTINGS, *_COUNTS, *_CLAIMS, starts.COLUMN)
        if name in (*_COUNTS, starts.COLUMN) and values.dtype.kind not in "iu":
            yield f"column {name}: not all entries are integers of 64 bits"
        elif values.dtype.kind not in "iuf" and (
            is_known or name.startswith(checked_settings.OF_NORMS)
        ):
            yield f"column {name}: not all entries are numbers"


def _is_sound(faults: list[evidence.Fault]) -> np.ndarray:
    """A mask of the rows without any of the faults."""
    return ~np.any([mask for mask, _ in faults], axis=0)


def _groups(log: logs.Log) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Masks of rows with equal settings, and these settings."""
    settings = list(zip(*(log.columns[n].tolist() for n in _SETTINGS), strict=True))
    for group in set(settings):
        at = np.array([row == group for row in settings])
        yield at, dict(zip(_SETTINGS, group, strict=True))


def _probabilities(log: logs.Log) -> tuple[np.ndarray, np.ndarray]:
    """p_lower and p_upper of each row."""
    lower, upper = np.zeros(len(log)), np.zeros(len(log))
    for at, settings in _groups(log):
        lower[at], upper[at] = _probability_bounds(log, at, **settings)
    return lower, upper


def _radii(log: logs.Log) -> _Claims:
    """Radii from the columns p_lower, p_upper and those of gradients."""
    size, norms = len(log), tuple(log.radii)
    claims = _Claims(*({norm: np.zeros(size) for norm in norms} for _ in range(3)))
    for at, settings in _groups(log):
        _fill(log, claims, at, **settings)
    return claims


def _fill(
    log: logs.Log,
    claims: _Claims,
    at: np.ndarray,
    *,
    runner_up: str,
    **settings: Any,
) -> None:
    from robustjax import smoothing

    sigma, dim = settings["sigma"], settings["dim"]
    lower, upper = log.columns["p_lower"][at], log.columns["p_upper"][at]
    zeroth_fn = functools.partial(
        smoothing.zeroth_order_radius,
        sigma=sigma,
        p_upper=None if runner_up == "complement" else upper,
        dim=dim,
    )
    for norm, radius in claims.radii.items():
        radius[at] = zeroth_fn(lower, norm=norm)
        claims.zeroth[norm][at] = radius[at]
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
    """p_lower and p_upper from the counts; p_lower of soft votes is as logged."""
    from robustjax import smoothing

    failed = log.columns["failed"][at] != 0
    if settings["bound"] == "betting":
        lower = np.where(failed, 0.0, log.columns["p_lower"][at])
        return lower, 1 - lower
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
    return np.where(failed, 0.0, bounds[0]), np.where(failed, 1.0, bounds[1])


def _recomputed(run: runs.Run, *, with_radii: bool) -> Iterator[str]:
    """Findings for bounds that do not follow from counts, and radii from bounds."""
    try:
        lower, upper = _probabilities(run.log)
        for name, bound in (("p_lower", lower), ("p_upper", upper)):
            logged = run.log.columns[name]
            yield from _apart(run.log, name, logged, bound, rounding=_ROUNDING)
        columns = run.log.columns | {"p_lower": lower, "p_upper": upper}
        bounded = run._replace(log=logs.Log(run.log.path, columns))
        faults = list(evidence.gradients(bounded))
        for mask, text in faults:
            yield from bounded.findings(mask, text)
        if with_radii:
            of_gradients = bounded.rows(_is_sound(faults)) if faults else bounded
            yield from _differences(of_gradients.log, _radii(of_gradients.log))
    except ValueError as error:  # of values that passed all checks before
        yield f"the rows cannot be recomputed: {error}"


def _differences(log: logs.Log, claims: _Claims) -> Iterator[str]:
    abstains = log.predict == -1
    for norm, radius in claims.radii.items():
        name, logged = f"{norm} radius", log.radius(norm)
        expected = np.where(abstains, 0.0, radius)
        rounding = claims.rounding[norm]
        column = f"zeroth_radius_{norm}"
        if column in log.columns:
            zeroth = np.where(abstains, 0.0, claims.zeroth[norm])
            yield from _apart(
                log,
                column,
                log.columns[column],
                zeroth,
                above=_ABOVE,
                rounding=rounding,
            )
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


def _summary(run: runs.Run) -> summaries.Review:
    path = run.path / "summary.json"
    if not path.is_file() or not len(run.log):
        return summaries.Review([], [])
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        most = run.integer_flag("max_samples") or 0
        return summaries.review(summary, run.log, max_samples=most)
    except (ValueError, KeyError, TypeError, AttributeError):
        return summaries.Review(["summary.json is not a summary of a run"], [])


def _unchecked(run: runs.Run, reviewed: summaries.Review) -> Iterator[str]:
    """What could be forged in a way that nothing here would find."""
    c = run.log.columns
    yield (
        "count, runner_up_count, num_invalid and the class predict that they are of: "
        "only that they are possible"
    )
    if np.any(c["order"] == 1):
        yield "dual_norm, dual_upper, length_lower: only that a gradient can have them"
    if np.any(c["bound"] == "betting"):
        yield "p_lower of soft votes: only that the hard votes allow it"
    if run.dataset is None:
        yield f"label, num_classes, dim, as {run.reason}"
    if not run.flags:
        yield "settings and examples that were asked for, as there are no flags"
    elif not examples.is_complete_known(run):
        yield "whether examples behind the last row are missing"
    if not examples.is_range_known(run) and (run.is_merged or not run.flags):
        for line in examples.between(run):
            yield f"whether these were left out on purpose: {line}"
    for name in ("flags.txt", "summary.json"):
        if run.path.is_dir() and not (run.path / name).is_file():
            yield f"{name}, which is not there"
    yield "time, and the model, software and date in versions.json"
    yield from _mixture(run)
    names = checked_settings.unknown_columns(run)
    if names:
        yield f"columns {', '.join(names)}"
    if reviewed.others:
        yield f"summary.json: {', '.join(reviewed.others)}"


def _mixture(run: runs.Run) -> Iterator[str]:
    """Software and hardware that differs between rows."""
    if starts.COLUMN not in run.log.columns or not run.path.is_dir():
        return
    history = starts.read(run.path)
    used = [
        history[n]
        for n in np.unique(run.log.columns[starts.COLUMN]).tolist()
        if n in history
    ]
    changes = {
        change for one in used for change in provenance.changed_versions(used[0], one)
    }
    for change in sorted(changes):
        yield f"that rows of different starts would be equal: {change}"
