r"""Decides properties of ONNX networks in VNN-LIB files: sat, unsat or unknown.

    python experiments/verify_vnnlib.py --instances=instances.csv --workdir=runs/vnncomp
    python experiments/verify_vnnlib.py --onnx=net.onnx --vnnlib=property.vnnlib

"unsat": no input of the property's boxes has an unsafe output, proven for the numbers
as they are written in the file. "sat": one was found and evaluated in float64. "error":
a file of this instance could not be used; the reason stands in its row, the other
instances are decided, and the exit code is 2.

Networks of few inputs are decided by branch and bound over the inputs, others by bounds
of each box and by PGD. With workdir the answers go to results.csv there, a line an
instance, and counterexamples to counterexample_N.npz. Started again with the same
settings, the script takes over the answers to instances whose files have the same
content; other settings or files need another workdir.
"""

import csv
import io
import pathlib
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from absl import logging
from robustjax_experiments.configs import fields
from robustjax_experiments.configs.vnnlib import VnnlibConfig
from robustjax_experiments.harness import flags_from_config, stopping
from robustjax_experiments.studies import vnnlib_decision

from robustjax import bounds, data, results
from robustjax.results.run_folder import atomic

_ANSWERS = ("unsat", "sat", "unknown", "error")
_SHOWN = ("number", "onnx", "vnnlib", "status", "seconds", "boxes")
_DECISIVE = ("onnx_sha256", "vnnlib_sha256", "timeout")  # with the settings
_COLUMNS = (*_SHOWN, *_DECISIVE, "reason")
_OPERATIONAL = ("workdir", "instances", "onnx", "vnnlib", "allow_version_change")
_ERRORS = (ValueError, OSError, bounds.UnsupportedError, jax.errors.JaxRuntimeError)
_TIMEOUT = 60.0  # seconds, where neither the settings nor the list say


def main(config: VnnlibConfig) -> None:
    """Runs, and fails if an instance could not be decided for an error.

    Raises:
        ValueError: as `run`, and naming the first instance with an error.
    """
    failed = [row for row in run(config) if row["status"] == "error"]
    if failed:
        raise ValueError(
            f"{len(failed)} instances are not decided, the first is number "
            f"{failed[0]['number']}: {failed[0]['reason']}"
        )


def run(config: VnnlibConfig) -> list[dict[str, Any]]:
    """Decides the instances that have no answer yet; returns all answers.

    Args:
        config: the settings.

    Returns:
        A row an instance, with the columns of results.csv.

    Raises:
        ValueError: if the list is damaged, the folder holds another run, or answers to
            other files; if a single instance is given, also if its files are damaged or
            do not fit.
        OSError: if the folder cannot be written, or as before.
    """
    if config.instances:
        instances = data.read_instances(config.instances)
    else:
        paths = pathlib.Path(config.onnx), pathlib.Path(config.vnnlib)
        instances = [data.Instance(*paths, None)]
    rows = [_begun(config, *numbered) for numbered in enumerate(instances)]
    for known in _known(config, instances):
        _take_over(rows, known)
    for row, instance in zip(rows, instances, strict=True):
        if row["status"]:
            continue
        x = _decide(config, row, instance)
        shown = [str(row[name]) for name in _SHOWN]
        print(",".join(shown + [row["reason"]] * bool(row["reason"])), flush=True)
        if config.workdir:
            if x is not None:
                name = f"counterexample_{row['number']}.npz"
                np.savez(pathlib.Path(config.workdir, name), x=x)
            _write(config, rows)
        stopping.this_script.check()
    counts = {s: sum(row["status"] == s for row in rows) for s in _ANSWERS}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return rows


def _begun(
    config: VnnlibConfig, number: int, instance: data.Instance
) -> dict[str, Any]:
    """A row without an answer: what the answer depends on."""
    timeout = config.timeout or instance.timeout
    return {
        "number": number,
        "onnx": instance.onnx.name,
        "vnnlib": instance.vnnlib.name,
        "status": "",
        "seconds": 0.0,
        "boxes": 0,
        "onnx_sha256": _digest(instance.onnx),
        "vnnlib_sha256": _digest(instance.vnnlib),
        "timeout": _TIMEOUT if timeout is None else timeout,
        "reason": "",
    }


def _digest(path: pathlib.Path) -> str:
    """SHA-256 of the content; empty if the file cannot be read."""
    try:
        return vnnlib_decision.digest(path)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return ""


def _known(
    config: VnnlibConfig, instances: Iterable[data.Instance]
) -> list[dict[str, str]]:
    """The answers of an earlier start with the same settings, without the errors."""
    if not config.workdir:
        return []
    folder = pathlib.Path(config.workdir)
    inputs = [pathlib.Path(config.instances)] if config.instances else []
    inputs += [path for instance in instances for path in instance[:2] if _digest(path)]
    messages = results.start_run(
        folder,
        flags=fields.flags_of(config),
        flags_text=fields.flags_text(config),
        facts={},
        operational=_OPERATIONAL,
        expected_entries=_entries(folder, inputs),
        allow_version_change=config.allow_version_change,
    )
    for message in messages:
        logging.warning(message)
    path = folder / "results.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if any(row.keys() != set(_COLUMNS) or None in row.values() for row in rows):
        raise ValueError(f"{path}: expected the columns {','.join(_COLUMNS)}.")
    return [row for row in rows if row["status"] != "error"]


def _entries(folder: pathlib.Path, inputs: Iterable[pathlib.Path]) -> set[str]:
    """Names in a folder under which inputs of the run lie."""
    folder = folder.resolve()
    paths = [path.resolve() for path in inputs]
    inside = [path for path in paths if path.is_relative_to(folder) and path != folder]
    return {path.relative_to(folder).parts[0] for path in inside}


def _take_over(rows: list[dict[str, Any]], known: dict[str, str]) -> None:
    """The answer of an earlier start, if it is one to the same question."""
    number = int(known["number"])
    nothing: dict[str, Any] = dict.fromkeys(_DECISIVE, "")
    here = rows[number] if number < len(rows) else nothing
    wrong = [
        f"{name} is {known[name]} there and {here[name] or 'unknown'} here"
        for name in _DECISIVE
        if known[name] != str(here[name])
    ]
    if wrong:
        raise ValueError(
            "results.csv has answers of another list or to other files, use another "
            f"workdir: of number {number}, {known['onnx']} and {known['vnnlib']}, "
            f"{'; '.join(wrong)}."
        )
    here["status"] = known["status"]
    here["seconds"], here["boxes"] = float(known["seconds"]), int(known["boxes"])


def _write(config: VnnlibConfig, rows: Iterable[dict[str, Any]]) -> None:
    """All rows with an answer."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in rows if row["status"])
    atomic.write_text(pathlib.Path(config.workdir, "results.csv"), text.getvalue())


def _decide(
    config: VnnlibConfig, row: dict[str, Any], instance: data.Instance
) -> np.ndarray | None:
    """Fills in the answer; returns the counterexample, if there is one."""
    began = time.perf_counter()
    found = bounds.PropertyResult("error", None, 0)
    try:
        found = _answer(config, row, instance, began + row["timeout"])
    except _ERRORS as error:
        if not config.instances:
            raise
        row["reason"] = " ".join(str(error).split()) or type(error).__name__
        logging.warning("number %d: %s", row["number"], row["reason"])
    row["status"], row["boxes"] = found.status, found.num_bounded
    row["seconds"] = round(time.perf_counter() - began, 3)
    return found.x


def _answer(
    config: VnnlibConfig, row: dict[str, Any], instance: data.Instance, deadline: float
) -> bounds.PropertyResult:
    model = vnnlib_decision.load(instance.onnx, row["onnx_sha256"])
    of = data.read_vnnlib(instance.vnnlib)
    if vnnlib_decision.digest(instance.vnnlib) != row["vnnlib_sha256"]:
        raise ValueError(f"{instance.vnnlib} changed while it was read.")
    try:
        given = vnnlib_decision.problem(model, of, deadline)
    except ValueError as error:
        names = f"{instance.onnx}, {instance.vnnlib}"
        raise ValueError(f"{names}: {error}") from None
    effort = vnnlib_decision.Effort(
        method=config.method,
        num_steps=config.num_steps,
        max_boxes=config.max_boxes,
        attack_steps=config.attack_steps,
        attack_restarts=config.attack_restarts,
        seed=config.seed,
    )
    return vnnlib_decision.decide(given, effort)


if __name__ == "__main__":
    flags_from_config.launch(VnnlibConfig, main)
