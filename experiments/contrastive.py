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
import numpy as np
from absl import logging
from robustjax_experiments.harness import flags_from_config
from robustjax_experiments.harness.flags_from_config import setting
from robustjax_experiments.reports import contrastive as contrastive_report
from robustjax_experiments.studies import (
    contrastive_evaluation,
    contrastive_methods,
    contrastive_training,
)
from robustjax_experiments.studies.contrastive_evaluation import PROBES, Cell
from robustjax_experiments.studies.contrastive_methods import (
    AUGMENTATIONS,
    METHODS,
    Objective,
)
from robustjax_experiments.training import recipe

from robustjax import _validate, data, models, results
from robustjax.contrastive import losses
from robustjax.results.run_folder import atomic

_OPERATIONAL = (
    "workdir", "data_dir", "compile_cache", "save_every", "allow_version_change",
)  # fmt: skip
_FOLDER = "methods"  # in the run folder
_FORMS = ("none", *losses.FORMS)
_WEIGHTS = ("uniform", "loss_ratio")
_SCHEDULES = ("constant", "cosine")


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Settings of a run; raises an error that names a bad value."""

    workdir: str = setting("", "folder of the run; an existing run in it is resumed")
    dataset: str = setting("digits", "name of the data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    max_images: int = setting(0, "maximum number of training images (0 = all)")
    max_examples: int = setting(0, "maximum number of test images (0 = all)")
    transfer: str = setting(
        "", "another data set on which probes are trained and attacked"
    )

    methods: tuple[str, ...] = setting(
        tuple(METHODS), f"methods, of: {', '.join(METHODS)}"
    )
    num_seeds: int = setting(1, "number of seeds, trained simultaneously by vmap")
    seed: int = setting(0, "first seed")
    model: str = setting("cnn", f"one of {', '.join(models.names())}")
    width: int = setting(
        0, "width of features of mlp and cnn, or of a ResNet (0 = default)"
    )
    channels: tuple[str, ...] = setting(
        (), "channels of the convolutions of cnn, for example 16,32"
    )
    hidden: int = setting(64, "width of the hidden layer of the projection head")
    projection: int = setting(32, "width of the embeddings")
    dtype: str = setting("float32", "compute dtype: float32 or bfloat16")
    augment: str = setting(
        "shift", f"augmentation of views: {', '.join(AUGMENTATIONS)}"
    )

    temperature: float = setting(0.5, "temperature of the similarities, > 0")
    tau_plus: float = setting(0.1, "probability that a negative is in fact a positive")
    beta: float = setting(1.0, "weight exponent of hard negatives, >= 0")
    num_positives: int = setting(
        3, "number of positives of nacl and intnacl; 1 needs --form"
    )
    form: str = setting("none", f"loss of mixed positives: {', '.join(_FORMS)}")
    mixing: float = setting(0.9, "share of the positive in mixed inputs")
    adversarial_weight: float = setting(1.0, "weight of the adversarial term")
    weights: str = setting("uniform", f"weights of its anchors: {', '.join(_WEIGHTS)}")
    train_epsilon: float = setting(0.1, "linf radius of adversarial views and probes")
    attack_steps: int = setting(1, "gradient steps of adversarial views")
    block_size: int = setting(0, "negatives per block of the loss (0 = all at once)")
    chunk_size: int = setting(0, "images per chunk of the encoder (0 = all at once)")

    epochs: int = setting(30, "number of passes over the images")
    compute_matched: bool = setting(
        False, "equal numbers of encoder passes: fewer epochs for costly methods"
    )
    batch_size: int = setting(256, "images per step")
    learning_rate: float = setting(2e-3, "learning rate of AdamW")
    schedule: str = setting(
        "constant", "schedule of the learning rate: constant or cosine"
    )
    weight_decay: float = setting(0.0, "weight decay of AdamW")
    save_every: int = setting(10, "epochs between two saved training states")

    probes: tuple[str, ...] = setting(
        ("standard", "adversarial"), f"probes, of: {', '.join(PROBES)}"
    )
    probe_l2: float = setting(1e-3, "l2 penalty of the standard probe")
    probe_epochs: int = setting(30, "epochs of the adversarial and full probes")
    probe_learning_rate: float = setting(
        3e-3, "initial learning rate of the adversarial and full probes"
    )
    probe_attack_steps: int = setting(
        3, "PGD steps in training the adversarial and full probes"
    )
    num_neighbors: int = setting(20, "number of neighbours that vote in kNN")

    epsilons: tuple[str, ...] = setting(
        ("0.05", "0.1"), "linf radii of PGD; FGSM and APGD use the largest"
    )
    pgd_steps: int = setting(20, "gradient steps of PGD")
    num_restarts: int = setting(1, "random restarts of PGD")
    apgd_steps: int = setting(
        100, "APGD steps for each of its two losses (0 = no APGD)"
    )
    eval_batch_size: int = setting(500, "images per batch in evaluation")
    compile_cache: str = setting("", "folder of the cache of compiled programs")
    allow_version_change: bool = setting(
        False, "resume a run of other software or hardware; results may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        if not self.workdir:
            raise ValueError("Expected --workdir to name a folder, got ''.")
        for known, flag in ((METHODS, "methods"), (PROBES, "probes")):
            names = getattr(self, flag)
            if not names or len(set(names)) < len(names):
                raise ValueError(
                    f"Expected --{flag} as names of {', '.join(known)}, each once."
                )
            for name in names:
                _validate.one_of(known, **{flag: name})
        _validate.one_of(models.names(), model=self.model)
        _validate.one_of(("float32", "bfloat16"), dtype=self.dtype)
        _validate.one_of(AUGMENTATIONS, augment=self.augment)
        _validate.one_of(_FORMS, form=self.form)
        _validate.one_of(_WEIGHTS, weights=self.weights)
        _validate.one_of(_SCHEDULES, schedule=self.schedule)
        _validate.integer(
            0, max_images=self.max_images, max_examples=self.max_examples,
            width=self.width, block_size=self.block_size, chunk_size=self.chunk_size,
            apgd_steps=self.apgd_steps,
        )  # fmt: skip
        _validate.integer(
            1, num_seeds=self.num_seeds, projection=self.projection,
            num_positives=self.num_positives, attack_steps=self.attack_steps,
            epochs=self.epochs, save_every=self.save_every, pgd_steps=self.pgd_steps,
            probe_epochs=self.probe_epochs, num_restarts=self.num_restarts,
            probe_attack_steps=self.probe_attack_steps,
            num_neighbors=self.num_neighbors, eval_batch_size=self.eval_batch_size,
        )  # fmt: skip
        _validate.integer(2, batch_size=self.batch_size, hidden=self.hidden)
        _validate.seed(seed=self.seed)
        _validate.positive(
            temperature=self.temperature, learning_rate=self.learning_rate,
            probe_learning_rate=self.probe_learning_rate, probe_l2=self.probe_l2,
        )  # fmt: skip
        _validate.at_least(
            0, beta=self.beta, adversarial_weight=self.adversarial_weight,
            train_epsilon=self.train_epsilon, weight_decay=self.weight_decay,
        )  # fmt: skip
        _validate.half_open(0, 1, tau_plus=self.tau_plus)
        _validate.unit_interval(mixing=self.mixing)
        if not self.epsilons:
            raise ValueError("Expected --epsilons with at least one radius, got none.")
        _validate.positive(epsilons=np.array(self.radii()))
        if self.channels and self.model != "cnn":
            raise ValueError(f"Expected no --channels for model {self.model!r}.")
        for channels in flags_from_config.integers("channels", self.channels):
            _validate.integer(1, channels=channels)

    def radii(self) -> tuple[float, ...]:
        """Radii of the attacks."""
        return flags_from_config.numbers("epsilons", self.epsilons)

    def seeds(self) -> list[int]:
        """Seeds, consecutive from the first."""
        return [self.seed + i for i in range(self.num_seeds)]

    def model_options(self) -> dict[str, Any]:
        """Options of the architecture, for `robustjax.models.create`."""
        options: dict[str, Any] = {"dtype": self.dtype}
        if self.width and self.model == "mlp":
            options["features"] = (256, self.width)
        elif self.width:
            options["hidden" if self.model == "cnn" else "width"] = self.width
        if self.channels:
            options["features"] = flags_from_config.integers("channels", self.channels)
        return options


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
        "flags": flags_from_config.flags_of(config),
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
        flags_text=flags_from_config.flags_text(config),
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
        path, task.module, variables, input_shape=task.train.images.shape[1:],
        training={k: v for k, v in settings.items() if k not in _OPERATIONAL},
    )  # fmt: skip


if __name__ == "__main__":
    flags_from_config.launch(ContrastiveConfig, run)
