"""The settings in the rows: possible, and those that the flags of the run ask for."""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from robustjax import norms
from robustjax.results import logs
from robustjax.results.certification import rows, settings
from robustjax.results.checks.run import Run
from robustjax.results.run_folder import rows as rows_files
from robustjax.results.run_folder import starts

_FORMS = ("box", "cells", "unproven")
_RUNNER_UPS = ("complement", "bonferroni")
_BOUNDS = ("clopper_pearson", "sequence", "betting")
_STAGES = {"first": 2048, "factor": 4}  # schedule of adaptive runs of order 1
_BLOCK = 128  # each of its stages reaches into two more blocks of samples
_LEAST = {"start": 0, "skip": 1, "max_examples": 0, "max_samples": 0}  # of flags
_NEIGHBOUR = 1e-7  # relative: sigma may be its float32 rounding
OF_NORMS = ("radius_", "zeroth_radius_", "dual_norm_", "dual_upper_", "length_lower_")


def possible(run: Run) -> tuple[np.ndarray, list[str]]:
    """Which rows have settings that a certification can have.

    [host]

    Args:
        run: whose rows hold numbers where numbers belong.

    Returns:
        A mask `[n]` of the rows that can be recomputed, and a finding for each other.
    """
    c = run.log.columns
    order, bound, stage = c["order"], c["bound"], c["stage"]
    is_weighted = (order == 1) | (bound == "betting")
    wrong = {
        "alpha is not between 0 and 1": ~((c["alpha"] > 0) & (c["alpha"] < 1)),
        "sigma is not positive": ~((c["sigma"] > 0) & np.isfinite(c["sigma"])),
        "num_classes is below 2": c["num_classes"] < 2,
        "dim is below 1": ~((c["dim"] >= 1) & np.isfinite(c["dim"])),
        "order is neither 0 nor 1": (order != 0) & (order != 1),
        "runner_up is unknown": ~np.isin(c["runner_up"], _RUNNER_UPS),
        "runner_up is not complement, although samples have weights": is_weighted
        & (c["runner_up"] != "complement"),
        "bound is unknown": ~np.isin(bound, _BOUNDS),
        "bound is that of counts of an adaptive run, at order 1": (order == 1)
        & (bound == "sequence"),
        "form is unknown": ~np.isin(c["form"], _FORMS),
        "stage is negative": stage < 0,
        "stage is that of an adaptive run of order 1, which this is not": (stage > 0)
        & ((order != 1) | (bound != "clopper_pearson")),
        "simultaneous is neither 0 nor 1": ~np.isin(c["simultaneous"], (0, 1)),
        "simultaneous is 0, at order 0": (order == 0) & (c["simultaneous"] == 0),
        "failed is neither 0 nor 1": ~np.isin(c["failed"], (0, 1)),
        "num_estimation is below 1": c["num_estimation"] < 1,
        "num_selection is below 1": c["num_selection"] < 1,
        "time is not a number of seconds": ~((c["time"] >= 0) & np.isfinite(c["time"])),
    }
    lines = [line for text, mask in wrong.items() for line in run.findings(mask, text)]
    return ~np.any(list(wrong.values()), axis=0), lines


def as_asked(run: Run) -> Iterator[str]:
    """Findings for rows whose settings are not those of the flags."""
    flags, c = run.flags, run.log.columns
    for name in ("runner_up", "form"):
        if flags.get(name):
            yield from _differ(run, name, c[name] != flags[name], flags[name])
    for name in ("alpha", "order", "num_selection"):
        if flags.get(name):
            wrong = c[name] != _number(flags[name])
            yield from _differ(run, name, wrong, flags[name])
    if flags.get("sigma"):
        asked = _number(flags["sigma"])
        is_near = np.isclose(c["sigma"], asked, rtol=_NEIGHBOUR, atol=0)
        wrong = ~is_near | (c["sigma"] > asked)
        yield from _differ(run, "sigma", wrong, flags["sigma"])
    yield from _sizes(run)
    yield from _kinds(run)
    if "seed" in flags and run.facts.get("noise"):
        yield from _noise(run)


def mixed_norms(log: logs.Log, flags: Mapping[str, str]) -> Iterator[str]:
    """Findings for rows that name another norm than the flags, or than most rows."""
    if "norm" not in log.columns or not len(log):
        return
    named = log.columns["norm"].astype(str)
    names, counts = np.unique(named, return_counts=True)
    norm = flags.get("norms", "").partition(",")[0] or names[np.argmax(counts)]
    for index in log.columns["idx"][named != norm]:
        yield f"idx {index}: norm is not {norm}, as the flags or other rows say"


def columns(run: Run) -> Iterator[str]:
    """Findings for columns that the norms and the order of the run do not have."""
    for norm in (name for name in run.log.radii if not _is_norm(name)):
        yield f"column radius_{norm}: {norm} is not a norm"
    if "norms" not in run.flags or "order" not in run.flags:
        return
    names = run.flags["norms"].split(",")
    expected = rows.columns(names, order=int(run.flags["order"] == "1"))
    for name in expected:
        if name not in run.log.columns:
            yield f"column {name} is missing"
    for name in run.log.columns:
        if name not in expected and name.startswith(OF_NORMS):
            yield f"column {name} is not one of this run"


def flags(run: Run) -> Iterator[str]:
    """Findings for flags that cannot be those of a run."""
    yield from settings.unreadable(run.flags)
    for name, least in _LEAST.items():
        value = run.integer_flag(name)
        if value is not None and value < least:
            yield f"versions.json: Expected --{name} >= {least}, got {value}."


def flags_file(run: Run) -> Iterator[str]:
    """Findings for flags that `flags.txt` gives otherwise than `versions.json`."""
    path = pathlib.Path(run.path) / "flags.txt"
    if not run.flags or not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    parts = (line.strip().removeprefix("--").partition("=") for line in lines)
    there = {name: text for name, _, text in parts}  # the last line of a flag counts
    for name, text in run.flags.items():
        if name not in there:
            yield f"flags.txt: --{name} is missing"
        elif there[name] != text:
            yield f"flags.txt: --{name} is {there[name]!r}, versions.json has {text!r}"


def starts_of_rows(run: Run) -> Iterator[str]:
    """Findings for rows of a start that the run folder does not have."""
    if starts.COLUMN in run.log.columns and run.path.is_dir():
        known = list(starts.read(run.path))
        wrong = ~np.isin(run.log.columns[starts.COLUMN], known)
        yield from run.findings(wrong, "start is not one of those in the folder")


def unknown_columns(run: Run) -> list[str]:
    """Columns that nobody here knows the meaning of."""
    known = {*rows.columns(["l2"], order=0), *rows_files.STANDARD_COLUMNS}
    return [
        name
        for name in run.log.columns
        if name not in known | {starts.COLUMN} and not name.startswith(OF_NORMS)
    ]


def _sizes(run: Run) -> Iterator[str]:
    """num_estimation and stage, of a fixed or of an adaptive size."""
    c = run.log.columns
    most, fixed = run.integer_flag("max_samples"), run.integer_flag("num_estimation")
    if not most:
        if fixed is not None:
            wrong = c["num_estimation"] != fixed
            yield from _differ(run, "num_estimation", wrong, str(fixed))
        if most == 0:
            yield from _differ(run, "stage", c["stage"] != 0, "0")
        return
    above = c["num_estimation"] > most
    yield from run.findings(above, f"num_estimation is above --max_samples={most}")
    if run.flags.get("order") == "1":
        schedule = dict(enumerate(_schedule(most), start=1))
        size = np.array([schedule.get(stage, -1) for stage in c["stage"].tolist()])
        text = "stage is not that of num_estimation in the schedule of the run"
        yield from run.findings(size != c["num_estimation"], text)


def _schedule(max_samples: int) -> list[int]:
    from robustjax import smoothing

    *early, most = smoothing.stage_sizes(max_samples, **_STAGES)
    return [*(size for size in early if size + _BLOCK < most), most]


def _kinds(run: Run) -> Iterator[str]:
    """Which bound of the probability the flags lead to, and whether norms are joint."""
    flags, c = run.flags, run.log.columns
    if {"votes", "max_samples", "order"} <= flags.keys():
        bound = "clopper_pearson"
        if flags["votes"] == "soft":
            bound = "betting"
        elif run.integer_flag("max_samples") and flags["order"] == "0":
            bound = "sequence"
        yield from _differ(run, "bound", c["bound"] != bound, bound)
    if {"simultaneous", "order"} <= flags.keys():
        joint = int(flags["simultaneous"] == "true" or flags["order"] == "0")
        yield from _differ(run, "simultaneous", c["simultaneous"] != joint, str(joint))


def _noise(run: Run) -> Iterator[str]:
    seed = run.integer_flag("seed")
    is_seed = seed is not None and 0 <= seed < 2**32
    if not is_seed or settings.noise_fingerprint(seed or 0) != run.facts["noise"]:
        yield f"versions.json: noise is not that of --seed={run.flags['seed']}"


def _differ(run: Run, name: str, wrong: np.ndarray, asked: str) -> Iterator[str]:
    yield from run.findings(
        wrong, f"{name} is not {asked}, as the flags of the run say"
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _is_norm(name: str) -> bool:
    try:
        norms.l2_circumradius(name, 1)
    except ValueError:
        return False
    return True
