r"""Decides properties of ONNX networks in VNN-LIB files: sat, unsat or unknown.

    python experiments/verify_vnnlib.py --instances=instances.csv --workdir=runs/vnncomp
    python experiments/verify_vnnlib.py --onnx=net.onnx --vnnlib=property.vnnlib

"unsat": no input of the property's boxes has an unsafe output, proven in float64.
"sat": one was found and evaluated in float64. Networks of few inputs are decided by
branch and bound over the inputs, others by bounds of each box and by PGD. With workdir
the answers go to results.csv there, a line an instance, counterexamples to
counterexample_N.npz; an instance that is there is not decided again.
"""

import csv
import dataclasses
import pathlib
import time
from typing import Any

import command_line
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from command_line import setting

from robustjax import _validate, attacks, bounds, data, models
from robustjax.bounds import engine

_COLUMNS = ("number", "onnx", "vnnlib", "status", "seconds", "boxes")
_FEW_INPUTS = 16  # so many can be split


@dataclasses.dataclass(frozen=True)
class VnnlibConfig:
    """Settings of a run; refuses bad values by name."""

    instances: str = setting("", "list of network, property and seconds, a CSV file")
    onnx: str = setting("", "one network, by its file")
    vnnlib: str = setting("", "its property, by its file")
    workdir: str = setting("", "folder of results.csv; default: print only")
    method: str = setting("alpha", f"of the bounds: {', '.join(engine.METHODS)}")
    num_steps: int = setting(50, "of Adam, for method=alpha")
    max_boxes: int = setting(20000, "boxes bounded for a case of few inputs")
    timeout: float = setting(0.0, "seconds an instance; 0: those of the list, or 60")
    attack_steps: int = setting(200, "gradient steps of each start of PGD")
    attack_restarts: int = setting(10, "random starts of PGD")
    seed: int = setting(0, "seed of the attack")

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        if bool(self.instances) == bool(self.onnx) or bool(self.onnx) != bool(
            self.vnnlib
        ):
            raise ValueError("Expected --instances, or both --onnx and --vnnlib.")
        _validate.one_of(engine.METHODS, method=self.method)
        _validate.integer(
            1, num_steps=self.num_steps, max_boxes=self.max_boxes,
            attack_steps=self.attack_steps, attack_restarts=self.attack_restarts,
        )  # fmt: skip
        _validate.at_least(0, timeout=self.timeout)
        _validate.seed(seed=self.seed)


def run(config: VnnlibConfig) -> list[dict[str, Any]]:
    """Decides the instances that have no answer yet; returns all answers.

    Args:
        config: the settings.

    Returns:
        A row an instance, with the columns of results.csv.

    Raises:
        ValueError: if a file is damaged, or network and property do not fit.
        OSError: if a file is missing or the folder cannot be written.
    """
    instances = [
        data.Instance(pathlib.Path(config.onnx), pathlib.Path(config.vnnlib), 60)
    ]
    if config.instances:
        instances = data.read_instances(config.instances)
    path = pathlib.Path(config.workdir, "results.csv") if config.workdir else None
    rows = _known(path)
    for number, instance in enumerate(instances):
        if number < len(rows):
            _check_same(rows[number], instance)
            continue
        rows.append(_row(config, number, instance))
        print(",".join(str(rows[-1][name]) for name in _COLUMNS), flush=True)
        if path is not None:
            _append(path, rows[-1])
    counts = {
        s: sum(r["status"] == s for r in rows) for s in ("unsat", "sat", "unknown")
    }
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return rows


def _known(path: pathlib.Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["boxes"]]  # whole lines


def _check_same(row: dict[str, Any], instance: data.Instance) -> None:
    names = [row["onnx"], row["vnnlib"]]
    if names != [instance.onnx.name, instance.vnnlib.name]:
        raise ValueError(
            f"results.csv has answers of another list: {', '.join(names)} in place of "
            f"{instance.onnx.name}, {instance.vnnlib.name}."
        )


def _append(path: pathlib.Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def _row(config: VnnlibConfig, number: int, instance: data.Instance) -> dict[str, Any]:
    began = time.perf_counter()
    model = models.load_onnx(instance.onnx)
    of = data.read_vnnlib(instance.vnnlib)
    sizes = int(np.prod(model.input_shape)), int(np.prod(model.output_shape))
    if sizes != (of.num_inputs, of.num_outputs):
        raise ValueError(
            f"{instance.onnx} has {sizes[0]} inputs and {sizes[1]} outputs, "
            f"{instance.vnnlib} has {of.num_inputs} and {of.num_outputs}."
        )
    limit = began + (config.timeout or instance.timeout)
    answers = []
    for case in of.cases:
        answer = _decide(config, model, case, limit - time.perf_counter())
        answers.append(answer)
        if answer.x is not None:
            if config.workdir:
                folder = pathlib.Path(config.workdir)
                folder.mkdir(parents=True, exist_ok=True)
                np.savez(folder / f"counterexample_{number}.npz", x=answer.x)
            break
    found = {answer.status for answer in answers}
    status = next(s for s in ("sat", "unknown", "unsat") if s in found)
    return {
        "number": number,
        "onnx": instance.onnx.name,
        "vnnlib": instance.vnnlib.name,
        "status": status,
        "seconds": round(time.perf_counter() - began, 3),
        "boxes": sum(answer.num_bounded for answer in answers),
    }


def _decide(
    config: VnnlibConfig, model: models.OnnxModel, case: data.Case, seconds: float
) -> bounds.Exclusion:
    """One case: an attack, then bounds, then smaller boxes where inputs are few."""
    if seconds <= 0:
        return bounds.Exclusion("unknown", None, 0)
    began = time.perf_counter()
    low, high = (v.reshape(model.input_shape) for v in (case.lower, case.upper))
    x = _attacked(config, model, case, low, high)
    if x is not None:
        return bounds.Exclusion("sat", x, 0)
    is_small = low.size <= _FEW_INPUTS
    logging.debug("no counterexample found by PGD")

    def fn(x: jax.Array) -> jax.Array:
        return bounds.single(model.apply_fn)(x).reshape(-1)

    return bounds.exclude(
        fn, low, high, rows=case.rows, offsets=case.offsets,
        method="crown" if is_small else config.method, num_steps=config.num_steps,
        max_boxes=config.max_boxes if is_small else 1,
        time_limit=seconds - (time.perf_counter() - began),
    )  # fmt: skip


def _attacked(
    config: VnnlibConfig,
    model: models.OnnxModel,
    case: data.Case,
    low: np.ndarray,
    high: np.ndarray,
) -> np.ndarray | None:
    """An input with an unsafe output that PGD finds, checked in float64."""

    def worst(share: jax.Array) -> jax.Array:
        """The inequality that fails most, as a margin over a constant logit."""
        y = model.apply_fn(low[None] + (high - low)[None] * share)
        sides = jnp.matmul(y.reshape(len(y), -1), case.rows.T) + case.offsets[None]
        highest = jnp.max(sides, axis=1)
        return jnp.stack([highest, jnp.zeros_like(highest)], axis=1)

    found = attacks.pgd(
        jax.random.key(config.seed), worst, jnp.full((1, *low.shape), 0.5),
        labels=jnp.zeros(1, int), epsilon=0.5, num_steps=config.attack_steps,
        num_restarts=config.attack_restarts,
    )  # fmt: skip
    share = np.asarray(found.x, np.float64)
    x = np.clip(low + (high - low) * share[0], low, high)
    with jax.enable_x64(True):
        y = np.asarray(model.apply_fn(jnp.asarray(x)[None])).reshape(-1)
    return x if np.max(case.rows @ y + case.offsets) < 0 else None


if __name__ == "__main__":
    command_line.launch(VnnlibConfig, run)
