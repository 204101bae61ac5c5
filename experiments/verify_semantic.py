r"""Certifies how far hue, rotation and other attributes can change.

    flags=experiments/flags/semantic_mnist.flags
    python experiments/verify_semantic.py --flagfile=$flags

For every image and attribute it computes the certified range to the left and right of
zero and the nearest counterexamples. Ranges of colour attributes, shear and
translation along one axis are exact if the model is piecewise linear; the others are
certified by branch and bound. Killed at any moment and started again with the same
flags, the run resumes. The run folder then holds flags.txt, versions.json, rows.tsv,
summary.json, radii.png and ends.png.

Reference:
    Mohapatra, Weng, Chen, Liu and Daniel (2020), Towards Verifying Robustness of Neural
    Networks Against a Family of Semantic Perturbations (Semantify-NN).
"""

import dataclasses
import math
import time
from typing import Any

import numpy as np
from robustjax_experiments.harness import (
    classifiers,
    flags_from_config,
    image_run,
)
from robustjax_experiments.harness.flags_from_config import setting
from robustjax_experiments.reports import semantic as semantic_report

from robustjax import _callables, _validate, bounds, data, semantic
from robustjax.semantic import attributes, parameter_ranges

_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
_OPERATIONAL = ("show",)  # changes no row
_MODES = ("auto", "exact", "search")


@dataclasses.dataclass(frozen=True)
class SemanticConfig(image_run.ImageRunConfig):
    """Settings of a run; raises an error that names a bad value."""

    attributes: tuple[str, ...] = setting(
        ("brightness", "contrast", "rotation"),
        f"attributes: {', '.join(attributes.NAMES)}, or several joined by +",
    )
    limit: tuple[str, ...] = setting(
        (), "limits, name:number,...; default: those of robustjax.semantic"
    )
    padding: str = setting(
        "zero", "padding of spatial attributes: zero, edge or reflect"
    )
    mode: str = setting("auto", "exact, search, or auto (exact where possible)")
    relaxation: str = setting(
        "planes", "relaxation of the search, see robustjax.semantic.certify"
    )
    targets: str = setting(
        "all", "classes that the label is compared with: all, or top2"
    )
    max_cells: int = setting(
        2000, "maximum number of cells for each image and attribute"
    )
    time_limit: float = setting(
        0.0, "time limit of each search in seconds (0 = no limit)"
    )
    batch_size: int = setting(0, "cells per batch (0 = 4 on a CPU, 64 elsewhere)")
    show: int = setting(2, "number of images in ends.png")
    seed: int = setting(0, "seed of a model trained here")

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        super().__post_init__()
        _validate.integer(0, show=self.show, batch_size=self.batch_size)
        _validate.integer(1, max_cells=self.max_cells)
        _validate.at_least(0, time_limit=self.time_limit)
        _validate.seed(seed=self.seed)
        _validate.one_of(_MODES, mode=self.mode)
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            text = ",".join(self.attributes)
            raise ValueError(f"Expected attributes, each once, got {text!r}.")
        for attribute in self.moving():
            parameter_ranges.resolve(attribute, self.limit_of(attribute))
        classifiers.check_source(self)

    @property
    def sigma(self) -> float:
        """Noise level of training here: none."""
        return 0.0

    def moving(self) -> list[semantic.Attribute]:
        """The attributes."""
        sampling = semantic.Sampling(self.padding)
        return [semantic.attribute(a, sampling=sampling) for a in self.attributes]

    def limit_of(self, attribute: semantic.Attribute) -> list[tuple[float, float]]:
        """Limit of each parameter of an attribute."""
        given = {}
        names = {name for a in self.moving() for name in (a.name, *a.names)}
        for text in self.limit:
            name, _, number = text.partition(":")
            try:
                given[name] = float(number)
            except ValueError:
                given[name] = math.nan
            if name not in names or not math.isfinite(given[name]):
                raise ValueError(
                    f"Expected --limit as name:number of attributes that move, got "
                    f"{text!r}."
                )
        whole = given.get(attribute.name)
        return [
            (radius, radius)
            for parameter in attribute.parameters
            for radius in [given.get(parameter.name, whole or parameter.limit)]
        ]

    def columns(self) -> tuple[str, ...]:
        """The columns of rows.tsv."""
        own = [f"{a}:{c}" for a in self.attributes for c in semantic_report.COLUMNS]
        return (*_COLUMNS, *own)


def run(config: SemanticConfig) -> dict[str, Any]:
    """Verifies the images that have no row yet; returns the summary.

    Args:
        config: the settings.

    Returns:
        The content of summary.json.

    Raises:
        ValueError: if the folder holds another run, data, model and attributes do not
            suit each other, or the model has an operation without a rule.
        OSError: if data is missing or the folder cannot be written.
    """

    def check(dataset: data.Dataset) -> None:
        colors = [a.name for a in config.moving() if a.is_color]
        if colors and dataset.images.shape[-1] != 3:
            raise ValueError(
                f"{', '.join(colors)} need images with three channels; those of "
                f"{dataset.name} are {dataset.images.shape[1:]}."
            )

    with image_run.open_run(
        config, columns=config.columns(), operational=_OPERATIONAL, check=check
    ) as opened:

        def rows_of(number: int, batch: list[int]) -> list[dict[str, Any]]:
            return [_row(config, opened.dataset, i, opened.apply_fn) for i in batch]

        try:
            image_run.append_missing(
                opened.folder, [[index] for index in opened.indices], rows_of,
                title=", ".join(config.attributes),
            )  # fmt: skip
        except bounds.UnsupportedError as error:
            raise ValueError(str(error)) from error
        opened.folder.merge(expected=opened.indices)
        return semantic_report.write_report(config, opened.folder, opened.dataset)


def _row(
    config: SemanticConfig, dataset: data.Dataset, index: int, apply_fn: Any
) -> dict[str, Any]:
    began = time.perf_counter()
    x, label = dataset.images[index], int(dataset.labels[index])
    predicted = int(np.argmax(_callables.applied(apply_fn, x[None])[0]))
    own: dict[str, Any] = {}
    for attribute in config.moving():
        found = _found(config, apply_fn, x, label, attribute=attribute)
        own |= {f"{attribute.name}:{name}": value for name, value in found.items()}
    return {
        "idx": index,
        "label": label,
        "predict": predicted,
        "radius": own[f"{config.attributes[0]}:radius"],
        "correct": int(predicted == label),
        "time": round(time.perf_counter() - began, 6),
        **own,
    }


def _found(
    config: SemanticConfig,
    apply_fn: Any,
    x: np.ndarray,
    label: int,
    *,
    attribute: semantic.Attribute,
) -> dict[str, Any]:
    """Results of one image and attribute."""
    began = time.perf_counter()
    limit = config.limit_of(attribute)
    how: dict[str, Any] = {"attribute": attribute, "limit": limit}
    if config.mode != "search":
        try:
            exact = semantic.exact_radius(apply_fn, x, label, **how)
            return semantic_report.of_exact(exact, time.perf_counter() - began)
        except (ValueError, bounds.UnsupportedError):
            if config.mode == "exact":
                raise
    found = semantic.certify(
        apply_fn, x, label, **how,
        relaxation=config.relaxation, targets=config.targets,
        max_cells=config.max_cells, time_limit=config.time_limit or math.inf,
        batch_size=config.batch_size or None,
    )  # fmt: skip
    return semantic_report.of_search(found, limit)


if __name__ == "__main__":
    flags_from_config.launch(SemanticConfig, run)
