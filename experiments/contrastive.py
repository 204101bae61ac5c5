r"""Trains robust representations without labels, and says how robust they are.

    flags=experiments/flags/contrastive_digits.flags
    python experiments/contrastive.py --flagfile=$flags

Seven methods, from SimCLR to IntNaCl, each with several seeds at once. Probes on the
frozen encoders are attacked end to end with FGSM, PGD and APGD; `full` fine-tunes all
layers. Killed at any moment and started again with the same flags, it goes on with the
last saved epoch. The run folder then holds flags.txt, versions.json, a folder a method
(metrics.tsv, accuracies.json, classifiers that `certify.py --checkpoint` takes),
accuracies.tsv, summary.json, a plot a probe and report.html.

Reference:
    Ko, Mohapatra, Liu, Chen, Daniel and Weng (2022), Revisiting Contrastive Learning
    through the Lens of Neighborhood Component Analysis: an Integrated Framework, ICML.
"""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
from absl import logging
from robustjax_experiments.configs import fields
from robustjax_experiments.configs.contrastive import METHODS, ContrastiveConfig
from robustjax_experiments.harness import flags_from_config
from robustjax_experiments.reports import contrastive as contrastive_report
from robustjax_experiments.studies import (
    contrastive_evaluation,
    contrastive_methods,
    contrastive_training,
)
from robustjax_experiments.studies.contrastive_evaluation import Cell
from robustjax_experiments.studies.contrastive_methods import (
    Objective,
)
from robustjax_experiments.training import recipe

from robustjax import data, models, results
from robustjax.results.run_folder import atomic

_OPERATIONAL = (
    "workdir", "data_dir", "compile_cache", "save_every", "allow_version_change",
)  # fmt: skip
_FOLDER = "methods"  # in the run folder


def run(config: ContrastiveConfig) -> dict[str, Any]:
    """Trains and evaluates the methods that are missing; returns the summary.

    Args:
        config: the settings.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: if a setting does not suit the data, or training diverges.
        OSError: if data is missing or the folder cannot be written.
    """
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    train, test = _load(config, config.dataset)
    _check(config, train)
    sets = {config.dataset: (train, test)}
    if config.transfer:
        sets[config.transfer] = _load(config, config.transfer)
        _check_transfer(config, sets)
    identity: dict[str, Any] = {
        "flags": fields.flags_of(config),
        "operational": _OPERATIONAL,
        "allow_version_change": config.allow_version_change,
    }
    results.check_run(config.workdir, facts={}, **identity)
    facts = {
        f"{name} {split}": data.fingerprint(images)
        for name, splits in sets.items()
        for split, images in zip(("train", "test"), splits, strict=True)
    }
    for message in results.start_run(
        config.workdir,
        flags_text=fields.flags_text(config),
        facts=facts,
        **identity,
    ):
        logging.warning(message)
    found = {name: _method(config, name, sets) for name in config.methods}
    num_test = {name: len(splits[1].labels) for name, splits in sets.items()}
    return contrastive_report.write_report(config, found, num_test)


def _load(config: ContrastiveConfig, name: str) -> tuple[data.Dataset, data.Dataset]:
    """Training and test images, limited to max_images and max_examples."""
    limits = {"train": config.max_images, "test": config.max_examples}
    splits = []
    for split, limit in limits.items():
        full = data.load(name, split=split, data_dir=config.data_dir or None)
        images, labels = (a[: limit or None] for a in (full.images, full.labels))
        splits.append(full._replace(images=images, labels=labels))
    recipe.warn_without_test(name, *splits)
    return splits[0], splits[1]


def _check(config: ContrastiveConfig, train: data.Dataset) -> None:
    num_images, channels = len(train.labels), train.images.shape[-1]
    if num_images < config.batch_size:
        raise ValueError(
            f"Expected batch_size <= {num_images}, the number of training images of "
            f"{config.dataset}, got {config.batch_size}."
        )
    if config.augment == "simclr" and channels != 3:
        raise ValueError(
            f"Expected images of 3 channels for augment='simclr', {config.dataset} has "
            f"{channels}; choose shift or crop."
        )
    has_neighbours = any(METHODS[name].has_neighbours for name in config.methods)
    if has_neighbours and config.num_positives == 1 and config.form == "none":
        raise ValueError(
            "nacl and intnacl with num_positives=1 and form='none' are debiased + hard "
            "and intcl: increase num_positives or choose a form."
        )
    if config.chunk_size and config.model.startswith("resnet"):
        raise ValueError(
            f"Expected chunk_size=0 for model {config.model!r}: batch norm takes its "
            "statistics from the whole batch."
        )


def _check_transfer(
    config: ContrastiveConfig, sets: dict[str, tuple[data.Dataset, data.Dataset]]
) -> None:
    shapes = {name: splits[0].images.shape[1:] for name, splits in sets.items()}
    if len(sets) == 1 or len(set(shapes.values())) > 1:
        raise ValueError(
            "Expected --transfer to name another data set of the same shape of images, "
            f"got {shapes}."
        )


def _method(
    config: ContrastiveConfig,
    name: str,
    sets: dict[str, tuple[data.Dataset, data.Dataset]],
) -> dict[str, Any]:
    """What is in accuracies.json, after it was written where it is missing."""
    folder = pathlib.Path(config.workdir, _FOLDER, name)
    path = folder / "accuracies.json"
    if not path.exists():
        found = _train_and_evaluate(config, name, sets, folder)
        atomic.write_text(path, json.dumps(found, indent=1) + "\n")
    shutil.rmtree(folder / "state", ignore_errors=True)
    return json.loads(path.read_text())


def _train_and_evaluate(
    config: ContrastiveConfig,
    name: str,
    sets: dict[str, tuple[data.Dataset, data.Dataset]],
    folder: pathlib.Path,
) -> dict[str, Any]:
    images = sets[config.dataset][0].images
    options = config.model_options()
    mean, std = recipe.channel_statistics(images)
    options |= {"mean": mean, "std": std}
    objective = Objective(
        METHODS[name],
        contrastive_methods.create_encoder(
            config.model, hidden=config.hidden, width=config.projection, options=options
        ),
        contrastive_methods.augmentation(config.augment, image_shape=images.shape[1:]),
        config,
    )
    variables, seconds = contrastive_training.train(
        config, objective, images, folder=folder, name=name
    )
    logging.info("%s: trained in %.1f s; probes and attacks ...", name, seconds)
    cells = []
    for place, (train, test) in sets.items():
        module = models.create(config.model, num_classes=train.num_classes, **options)
        task = contrastive_evaluation.Task(config, module, train, test)
        for index, seed in enumerate(config.seeds()):
            own = jax.tree.map(lambda leaf, i=index: leaf[i], variables)
            found, classifiers = contrastive_evaluation.evaluate(task, own, seed=seed)
            cells += [_row(place, seed, cell) for cell in found]
            for probe, trained in classifiers.items():
                _save(folder, task, trained, place=place, probe=probe, seed=seed)
    return {
        "method": name,
        "title": METHODS[name].title,
        "work": objective.work,
        "epochs": contrastive_training.make_plan(
            config, num_images=len(images), work=objective.work
        ).num_epochs,
        "seconds": round(seconds, 3),
        "cells": cells,
    }


def _row(place: str, seed: int, cell: Cell) -> dict[str, Any]:
    return {"data": place, "seed": seed, **cell._asdict()}


def _save(
    folder: pathlib.Path,
    task: contrastive_evaluation.Task,
    variables: Any,
    *,
    place: str,
    probe: str,
    seed: int,
) -> None:
    """A classifier for `robustjax.models.load` and `certify.py --checkpoint`."""
    path = folder / f"{place}_{probe}_{seed}"
    shutil.rmtree(path, ignore_errors=True)  # of a run that was killed
    settings = dataclasses.asdict(task.config)
    models.save(
        path,
        task.module,
        variables,
        input_shape=task.train.images.shape[1:],
        training={k: v for k, v in settings.items() if k not in _OPERATIONAL},
    )


if __name__ == "__main__":
    flags_from_config.launch(ContrastiveConfig, run)
