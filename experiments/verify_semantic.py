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

import math
import time
from typing import Any

import numpy as np
from robustjax_experiments.configs.semantic import SemanticConfig
from robustjax_experiments.harness import (
    flags_from_config,
    image_run,
)
from robustjax_experiments.reports import semantic as semantic_report

from robustjax import bounds, data, semantic

_COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
_OPERATIONAL = ("show",)  # changes no row


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
        config, columns=_columns(config), operational=_OPERATIONAL, check=check
    ) as opened:

        def rows_of(number: int, batch: list[int]) -> list[dict[str, Any]]:
            return [_row(config, opened, i) for i in batch]

        try:
            image_run.append_missing(
                opened.folder,
                [[index] for index in opened.indices],
                rows_of,
                title=", ".join(config.attributes),
            )
        except bounds.UnsupportedError as error:
            raise ValueError(str(error)) from error
        opened.folder.merge(expected=opened.indices)
        return semantic_report.write_report(config, opened.folder, opened.dataset)


def _columns(config: SemanticConfig) -> tuple[str, ...]:
    """The columns of rows.tsv."""
    own = [f"{a}:{c}" for a in config.attributes for c in semantic_report.COLUMNS]
    return (*_COLUMNS, *own)


def _row(
    config: SemanticConfig, opened: image_run.ImageRun, index: int
) -> dict[str, Any]:
    began = time.perf_counter()
    x, label = opened.dataset.images[index], int(opened.dataset.labels[index])
    predicted = int(opened.predict(x[None])[0])
    own: dict[str, Any] = {}
    for attribute in config.moving():
        found = _found(config, opened.apply_fn, x, label, attribute=attribute)
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
        apply_fn,
        x,
        label,
        **how,
        relaxation=config.relaxation,
        targets=config.targets,
        max_cells=config.max_cells,
        time_limit=config.time_limit or math.inf,
        batch_size=config.batch_size or None,
    )
    return semantic_report.of_search(found, limit)


if __name__ == "__main__":
    flags_from_config.launch(SemanticConfig, run)
