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

import time
from typing import Any

import jax
from robustjax_experiments.configs.linf import VerifyConfig
from robustjax_experiments.harness import (
    flags_from_config,
    image_run,
)
from robustjax_experiments.reports import linf as linf_report

from robustjax import attacks, bounds

_COLUMNS = (
    "idx", "label", "predict", "radius", "correct", "time", "margin", "attack_radius",
    "method", "arithmetic",
)  # fmt: skip
_OPERATIONAL = ("chunk_size", "epsilons")  # change no row


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
        rows = _rows(config, opened, filled)[: len(batch)]
        seconds = round((time.perf_counter() - began) / len(batch), 6)
        return [row | {"time": seconds} for row in rows]

    image_run.append_missing(
        opened.folder, batches, rows_of, title=f"the bounds of {config.dataset}"
    )


def _rows(
    config: VerifyConfig, opened: image_run.ImageRun, batch: list[int]
) -> list[dict[str, Any]]:
    x, labels = opened.dataset.images[batch], opened.dataset.labels[batch]
    predicted = opened.predict(x)
    found = bounds.largest_epsilon(
        bounds.single(opened.apply_fn),
        x,
        labels,
        limit=config.limit,
        num_halvings=config.num_halvings,
        method=config.method,
        num_steps=config.num_steps,
        capacity=config.capacity or None,
        chunk_size=config.chunk_size or None,
    )
    nearest = attacks.smallest_epsilon(
        jax.random.fold_in(jax.random.key(config.seed), batch[0]),
        opened.apply_fn,
        x,
        labels=labels,
        limit=config.limit,
        num_halvings=config.num_halvings,
        num_steps=config.attack_steps,
        num_restarts=config.attack_restarts,
    )
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
