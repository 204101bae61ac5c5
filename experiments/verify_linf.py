r"""Finds the largest linf radius at which each image is proven to keep its label.

    python experiments/verify_linf.py --flagfile=experiments/flags/verify_mnist.flags

Each row also holds the distance of the nearest adversarial image that PGD finds; the
true radius lies between the two. Killed at any moment and started again with the same
flags, the run resumes. The run folder then holds flags.txt, versions.json, rows.tsv,
summary.json and verified.png.

Reference:
    Zhang, Weng, Chen, Hsieh and Daniel (2018), Efficient Neural Network Robustness
    Certification with General Activation Functions (CROWN).
"""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np
from robustjax_experiments.harness import (
    classifiers,
    flags_from_config,
    image_run,
)
from robustjax_experiments.harness.flags_from_config import setting
from robustjax_experiments.reports import linf as linf_report

from robustjax import _callables, _validate, attacks, bounds, data
from robustjax.bounds import methods

_COLUMNS = (
    "idx", "label", "predict", "radius", "correct", "time", "margin", "attack_radius",
    "method", "arithmetic",
)  # fmt: skip
_OPERATIONAL = ("chunk_size", "epsilons")  # change no row


@dataclasses.dataclass(frozen=True)
class VerifyConfig(image_run.ImageRunConfig):
    """Settings of a verification run; raises an error that names a bad value."""

    limit: float = setting(0.5, "maximum radius to verify, in input units")
    num_halvings: int = setting(10, "number of bisection steps between 0 and limit")
    method: str = setting(
        "crown", f"method of the bounds: {', '.join(methods.METHODS)}"
    )
    num_steps: int = setting(20, "steps of Adam, for method=alpha")
    capacity: int = setting(
        0, "maximum number of relaxed rows of each hidden value (0 = all)"
    )
    chunk_size: int = setting(
        0, "rows per chunk of the backward pass (0 = all at once)"
    )
    attack_steps: int = setting(40, "gradient steps of each start of PGD")
    attack_restarts: int = setting(3, "random starts of PGD")
    batch_size: int = setting(50, "images per batch")
    seed: int = setting(0, "seed of the attack, and of a model trained here")
    epsilons: tuple[str, ...] = setting((), "radii of the table; default: a round grid")

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        super().__post_init__()
        _validate.integer(0, capacity=self.capacity, chunk_size=self.chunk_size)
        _validate.seed(seed=self.seed)
        _validate.integer(
            1, num_halvings=self.num_halvings, num_steps=self.num_steps,
            attack_steps=self.attack_steps, attack_restarts=self.attack_restarts,
            batch_size=self.batch_size,
        )  # fmt: skip
        _validate.positive(limit=self.limit)
        _validate.one_of(methods.METHODS, method=self.method)
        self.table_epsilons()
        classifiers.check_source(self)

    @property
    def sigma(self) -> float:
        """Noise level of training here: none."""
        return 0.0

    def table_epsilons(self) -> list[float]:
        """The radii asked for, as numbers."""
        try:
            radii = [float(text) for text in self.epsilons]
        except ValueError:
            radii = [math.nan]
        if not all(math.isfinite(radius) and radius >= 0 for radius in radii):
            text = ",".join(self.epsilons)
            raise ValueError(f"Expected epsilons as numbers >= 0, got {text}.")
        return radii


def run(config: VerifyConfig) -> dict[str, Any]:
    """Verifies the images that have no row yet; returns the summary.

    Args:
        config: the settings.

    Returns:
        The content of summary.json.

    Raises:
        ValueError: if the folder holds another run, data or model do not suit, or the
            model has an operation without a rule.
        OSError: if data is missing or the folder cannot be written.
    """
    with image_run.open_run(
        config, columns=_COLUMNS, operational=_OPERATIONAL
    ) as opened:
        try:
            _verify_missing(config, opened)
        except bounds.UnsupportedError as error:
            raise ValueError(str(error)) from error
        opened.folder.merge(expected=opened.indices)
        return linf_report.write_report(config, opened.folder)


def _verify_missing(config: VerifyConfig, opened: image_run.ImageRun) -> None:
    """Appends the rows that are missing, a whole batch at a time."""
    indices = opened.indices
    size = min(config.batch_size, len(indices))
    batches = [indices[first : first + size] for first in range(0, len(indices), size)]

    def rows_of(number: int, batch: list[int]) -> list[dict[str, Any]]:
        began = time.perf_counter()
        filled = batch + batch[-1:] * (size - len(batch))  # one shape, one program
        rows = _rows(config, opened.dataset, filled, opened.apply_fn)[: len(batch)]
        seconds = round((time.perf_counter() - began) / len(batch), 6)
        return [row | {"time": seconds} for row in rows]

    image_run.append_missing(
        opened.folder, batches, rows_of, title=f"the bounds of {config.dataset}"
    )


def _rows(
    config: VerifyConfig, dataset: data.Dataset, batch: list[int], apply_fn: Any
) -> list[dict[str, Any]]:
    x, labels = dataset.images[batch], dataset.labels[batch]
    predicted = np.asarray(_callables.applied(apply_fn, x)).argmax(axis=-1)
    found = bounds.largest_epsilon(
        bounds.single(apply_fn), x, labels, limit=config.limit,
        num_halvings=config.num_halvings, method=config.method,
        num_steps=config.num_steps, capacity=config.capacity or None,
        chunk_size=config.chunk_size or None,
    )  # fmt: skip
    nearest = attacks.smallest_epsilon(
        jax.random.fold_in(jax.random.key(config.seed), batch[0]), apply_fn, x,
        labels=labels, limit=config.limit, num_halvings=config.num_halvings,
        num_steps=config.attack_steps, num_restarts=config.attack_restarts,
    )  # fmt: skip
    return [
        {
            "idx": idx,
            "label": int(labels[i]),
            "predict": int(predicted[i]),
            "radius": found.epsilon[i],
            "correct": int(predicted[i] == labels[i]),
            "margin": found.margin[i],
            "attack_radius": nearest.epsilon[i],
            "method": config.method,
            "arithmetic": found.arithmetic,
        }
        for i, idx in enumerate(batch)
    ]


if __name__ == "__main__":
    flags_from_config.launch(VerifyConfig, run)
