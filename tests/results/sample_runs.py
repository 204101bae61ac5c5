"""Small runs for the tests of results: rows that follow from random counts."""

import functools
import pathlib
from typing import Any

import numpy as np

from robustjax import results, smoothing

FLAGS = {"sigma": "0.5", "alpha": "0.001", "start": "0", "workdir": "a"}
FACTS = {"data": "d1", "model": "m1"}


def row(
    index: int, *, form: str = "complement", alpha: float = 0.001
) -> dict[str, Any]:
    """A sound row whose counts follow from the index."""
    rng = np.random.default_rng(index)
    n, k, sigma, dim = 1000, 10, 0.5, 64
    count = int(rng.integers(250, n + 1))
    rest = n - count  # in nine other classes, none above the strongest
    rival = int(rng.integers(-(-rest // (k - 1)), rest + 1))
    p_lower, p_upper = smoothing.class_probability_bounds(
        count, rival, n, alpha=alpha, num_classes=k, runner_up=form
    )
    radius_fn = functools.partial(
        smoothing.zeroth_order_radius,
        p_lower,
        sigma=sigma,
        p_upper=None if form == "complement" else p_upper,
        dim=dim,
    )
    label, predict = int(rng.integers(0, 2)), 1 if radius_fn() > 0 else -1
    return {
        "idx": index,
        "label": label,
        "predict": predict,
        "radius": radius_fn(norm="l2"),
        "correct": label == predict,
        "time": 0.01 * index,
        "count": count,
        "runner_up_count": rival,
        "num_selection": 100,
        "num_estimation": n,
        "num_invalid": 0,
        "alpha": alpha,
        "sigma": sigma,
        "norm": "l2",
        "order": 0,
        "runner_up": form,
        "num_classes": k,
        "p_lower": p_lower,
        "p_upper": p_upper,
        "dim": dim,
        "radius_l1": radius_fn(norm="l1"),
        "radius_linf": radius_fn(norm="linf"),
    }


COLUMNS = tuple(row(0))


def open_run(folder: pathlib.Path | str, **changes: Any) -> results.RunFolder:
    """Opens a run with the flags and facts of this file, changed as told."""
    flags = {**FLAGS, **changes.pop("flags", {})}
    options = {
        "flags": flags,
        "flags_text": "".join(f"--{name}={value}\n" for name, value in flags.items()),
        "columns": COLUMNS,
        "facts": FACTS,
        "operational": ["workdir"],
        "range_flags": ["start"],
    }
    return results.open_run(folder, **{**options, **changes})


def write_run(
    folder: pathlib.Path | str,
    indices: Any,
    *,
    form: str = "complement",
    **changes: Any,
) -> pathlib.Path:
    """A run folder with a row for every index."""
    with open_run(folder, **changes) as run:
        run.append([row(index, form=form) for index in indices])
    return pathlib.Path(folder)
