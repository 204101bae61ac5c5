r"""Finds the largest linf radius at which each image is proven to keep its label.

    python experiments/verify_linf.py --flagfile=experiments/flags/verify_mnist.flags

Beside each certified radius stands the distance of the nearest adversarial image that
PGD finds: the true radius lies between the two. Killed at any moment and started again
with the same flags, it goes on where it was. The run folder then holds flags.txt,
versions.json, rows.tsv, summary.json and verified.png.

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
from absl import logging
from robustjax_experiments.harness import (
    classifiers,
    flags_from_config,
    image_selection,
    processes,
)
from robustjax_experiments.harness.flags_from_config import setting
from robustjax_experiments.reports import linf as linf_report

from robustjax import _callables, _validate, attacks, bounds, data, results
from robustjax.bounds import methods

_COLUMNS = (
    "idx", "label", "predict", "radius", "correct", "time", "margin", "attack_radius",
    "method", "arithmetic",
)  # fmt: skip
_OPERATIONAL = (
    "workdir", "data_dir", "checkpoint", "compile_cache", "chunk_size", "epsilons",
    "allow_version_change",
)  # fmt: skip
_RANGE = ("start", "skip", "max_examples")


@dataclasses.dataclass(frozen=True)
class VerifyConfig:
    """Settings of a verification run; refuses bad values by name."""

    workdir: str = setting("", "folder of the run; a started run in it is continued")
    dataset: str = setting("digits", "name of the data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    split: str = setting("test", "split to verify: train or test")
    start: int = setting(0, "index of the first image")
    skip: int = setting(1, "verify every skip-th image")
    max_examples: int = setting(0, "verify at most so many images; 0: all")

    model: str = setting("", "architecture: of the model to train, or a check")
    checkpoint: str = setting("", "trained model: folder of train.py, or safetensors")
    apply_fn: str = setting("", "package.module:factory; factory() gives a classifier")
    onnx: str = setting("", "an ONNX network, by its file")
    dtype: str = setting("", "compute dtype: float32 or bfloat16; default: the model's")
    train: tuple[str, ...] = setting(
        (), "settings of train.py for a model made in the run folder: epochs=60,..."
    )

    limit: float = setting(0.5, "largest radius that is tried, in pixel units")
    num_halvings: int = setting(10, "steps of the bisections between 0 and limit")
    method: str = setting("crown", f"of the bounds: {', '.join(methods.METHODS)}")
    num_steps: int = setting(20, "of Adam, for method=alpha")
    capacity: int = setting(0, "rows of each value inside that get lines; 0: all")
    chunk_size: int = setting(0, "rows that go back at a time; 0: all")
    attack_steps: int = setting(40, "gradient steps of each start of PGD")
    attack_restarts: int = setting(3, "random starts of PGD")
    batch_size: int = setting(50, "images at a time")
    seed: int = setting(0, "seed of the attack, and of a model trained here")
    epsilons: tuple[str, ...] = setting((), "radii of the table; default: a round grid")
    compile_cache: str = setting("", "folder that keeps compiled programs")
    allow_version_change: bool = setting(
        False, "continue a run of other software or hardware; numbers may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        if not self.workdir:
            raise ValueError("Expected --workdir to name a folder, got ''.")
        _validate.integer(0, start=self.start, max_examples=self.max_examples)
        _validate.integer(0, capacity=self.capacity, chunk_size=self.chunk_size)
        _validate.seed(seed=self.seed)
        _validate.integer(
            1, skip=self.skip, num_halvings=self.num_halvings,
            num_steps=self.num_steps, attack_steps=self.attack_steps,
            attack_restarts=self.attack_restarts, batch_size=self.batch_size,
        )  # fmt: skip
        _validate.positive(limit=self.limit)
        _validate.one_of(methods.METHODS, method=self.method)
        _validate.one_of(("", "float32", "bfloat16"), dtype=self.dtype)
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
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    dataset = data.load(
        config.dataset, split=config.split, data_dir=config.data_dir or None
    )
    indices = image_selection.indices(config, len(dataset.labels))
    identity: dict[str, Any] = {
        "flags": flags_from_config.flags_of(config),
        "operational": _OPERATIONAL,
        "allow_version_change": config.allow_version_change,
        "expected_entries": (classifiers.MODEL_FOLDER,),
    }
    facts = {"data": data.fingerprint(dataset)}
    results.check_run(config.workdir, facts=facts, **identity)
    classifier = classifiers.obtain(config, dataset, processes.Process(0, 1))
    with results.open_run(
        config.workdir,
        flags_text=flags_from_config.flags_text(config),
        columns=_COLUMNS,
        facts=facts | {"model": classifier.fingerprint},
        range_flags=_RANGE,
        process_index=0,
        num_processes=1,
        **identity,
    ) as folder:
        for message in folder.messages:
            logging.warning(message)
        try:
            _verify_missing(config, dataset, indices, classifier.apply_fn, folder)
        except bounds.UnsupportedError as error:
            raise ValueError(str(error)) from error
        folder.merge(expected=indices)
        return linf_report.write_report(config, folder)


def _verify_missing(
    config: VerifyConfig,
    dataset: data.Dataset,
    indices: list[int],
    apply_fn: Any,
    folder: results.RunFolder,
) -> None:
    """Appends the rows that are missing, a whole batch at a time."""
    size = min(config.batch_size, len(indices))
    batches = [indices[first : first + size] for first in range(0, len(indices), size)]
    pending = [batch for batch in batches if not folder.finished.issuperset(batch)]
    done = len(indices) - sum(map(len, pending))
    if pending:
        logging.info("compiling the bounds of %s ...", config.dataset)
    with processes.progress_bar(len(indices), initial=done, unit="image") as advance:
        for batch in pending:
            began = time.perf_counter()
            filled = batch + batch[-1:] * (size - len(batch))  # one shape, one program
            rows = _rows(config, dataset, filled, apply_fn)[: len(batch)]
            seconds = round((time.perf_counter() - began) / len(batch), 6)
            folder.append(
                [
                    row | {"time": seconds}
                    for row in rows
                    if row["idx"] not in folder.finished
                ]
            )
            advance(len(batch))


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
