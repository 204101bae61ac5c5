"""Predictions of smoothed classifiers over noise in training and noise in smoothing."""

import hashlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from robustjax_experiments.configs.hidden_cost import HiddenCostConfig
from robustjax_experiments.configs.images import MODEL_FOLDER
from robustjax_experiments.harness import classifiers, processes

from robustjax import data, hidden_cost, results, smoothing
from robustjax.hidden_cost.regions import point_decisions
from robustjax.results.certification import selection
from robustjax.smoothing import ABSTAIN

GIVEN = "given"  # in place of a noise level, for a model that was not trained here
COLUMNS = (
    "idx", "label", "predict", "radius", "correct", "time", "image", "train_sigma",
    "test_sigma", "plurality", "num_samples", "num_invalid",
)  # fmt: skip


class Model(NamedTuple):
    """A classifier and the noise level that it was trained with, as text."""

    train_sigma: str
    classifier: classifiers.Classifier


class Cell(NamedTuple):
    """A run over all images with one model and one noise level of smoothing."""

    number: int
    model: Model
    sigma: float  # 0: the classifier itself


def model_folder(train_sigma: float) -> str:
    """Name of the folder of a model trained for the sweep."""
    return f"{MODEL_FOLDER}_{train_sigma:g}"


def obtain_models(config: HiddenCostConfig, dataset: data.Dataset) -> list[Model]:
    """Trains one model for each noise level, or loads the one that is given.

    Raises:
        ValueError: if a model does not suit the data set or the flags.
        OSError: if a checkpoint is missing or cannot be read or written.
    """
    alone = processes.Process(index=0, count=1)
    if not config.train_levels():
        given = classifiers.obtain(config, dataset, alone, sigma=None)
        return [Model(GIVEN, given)]
    models = []
    for level in config.train_levels():
        folder = str(pathlib.Path(config.workdir, model_folder(level)))
        trained = classifiers.obtain(config, dataset, alone, sigma=level, folder=folder)
        models.append(Model(f"{level:g}", trained))
    return models


def fingerprint(models: list[Model]) -> str:
    """Fingerprint of these models."""
    texts = [f"{m.train_sigma} {m.classifier.fingerprint}" for m in models]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def cells(models: list[Model], sigmas: list[float]) -> list[Cell]:
    """Every model under every noise level."""
    pairs = [(model, sigma) for model in models for sigma in sigmas]
    return [Cell(number, *pair) for number, pair in enumerate(pairs)]


def measure(
    config: HiddenCostConfig,
    dataset: data.Dataset,
    indices: list[int],
    sweep: list[Cell],
    folder: results.RunFolder,
) -> None:
    """Appends the rows that are missing, a batch at a time.

    Row idx is number of the cell * number of images + place of the image.
    """
    batches = list(selection.batches(indices, num_samples=config.num_samples))
    place = {image: i for i, image in enumerate(indices)}
    total = len(sweep) * len(indices)
    with processes.progress_bar(
        total, initial=len(folder.finished), unit="image"
    ) as advance:
        for cell in sweep:
            for batch in batches:
                images = list(dict.fromkeys(batch))
                first = cell.number * len(indices)
                wanted = [first + place[image] for image in images]
                if folder.finished.issuperset(wanted):
                    continue
                rows = _rows(config, dataset, batch, cell)
                folder.append(
                    row | {"idx": idx}
                    for idx, row in zip(wanted, rows, strict=False)
                    if idx not in folder.finished
                )
                advance(len(images))


def _rows(
    config: HiddenCostConfig, dataset: data.Dataset, batch: list[int], cell: Cell
) -> Iterator[dict[str, Any]]:
    began = time.perf_counter()
    decided = _decide(config, dataset, batch, cell)
    seconds = (time.perf_counter() - began) / len(set(batch))
    for i, image in enumerate(dict.fromkeys(batch)):
        label = int(dataset.labels[image])
        yield {
            "label": label,
            "predict": int(decided.predict[i]),
            "radius": float(decided.radius[i]),
            "correct": int(decided.predict[i] == label),
            "time": round(seconds, 6),
            "image": image,
            "train_sigma": cell.model.train_sigma,
            "test_sigma": cell.sigma,
            "plurality": int(decided.plurality[i]),
            "num_samples": decided.num_samples,
            "num_invalid": int(decided.num_invalid[i]),
        }


class _Decided(NamedTuple):
    predict: np.ndarray  # certified class, -1 abstains
    radius: np.ndarray
    plurality: np.ndarray  # class with the most votes, -1 where invalid ones win
    num_invalid: np.ndarray
    num_samples: int


def _decide(
    config: HiddenCostConfig, dataset: data.Dataset, batch: list[int], cell: Cell
) -> _Decided:
    images, num_classes = dataset.images[batch], dataset.num_classes
    apply_fn = cell.model.classifier.apply_fn
    if cell.sigma == 0:
        found = np.asarray(
            base_labels(apply_fn, jnp.asarray(images), num_classes=num_classes)
        )
        is_invalid = found == num_classes
        label = np.where(is_invalid, ABSTAIN, found)
        nothing = np.zeros(len(batch))
        return _Decided(label, nothing, label, is_invalid.astype(np.int32), 0)
    certified = smoothing.certify(
        jax.random.key(config.seed),
        apply_fn,
        images,
        sigma=cell.sigma,
        num_classes=num_classes,
        num_selection=config.num_selection,
        num_estimation=config.num_samples,
        alpha=config.certificate_alpha,
        example_ids=np.asarray(batch),
        chunk_size=config.chunk_size or None,
    )
    return _Decided(
        certified.prediction,
        certified.radius["l2"],
        hidden_cost.plurality(certified.counts),
        certified.num_invalid,
        config.num_samples,
    )


@jax.jit(static_argnames="num_classes")
def base_labels(
    apply_fn: jax.tree_util.Partial, images: jax.Array, *, num_classes: int
) -> jax.Array:
    """Classes without noise `[n]`; num_classes where a logit is not finite."""
    return point_decisions.base_labels(
        apply_fn, images, num_classes=num_classes, chunk_size=None
    )
