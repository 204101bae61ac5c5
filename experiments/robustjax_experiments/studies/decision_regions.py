"""Measures the decision regions of a classifier, with noise and without.

Rays go from correctly classified images towards the nearest image of another class;
the slice is the plane through an image and its nearest neighbours of two other classes.
"""

import pathlib
import zipfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from robustjax_experiments.configs.hidden_cost import HiddenCostConfig
from robustjax_experiments.studies import noise_sweep

from robustjax import data, hidden_cost

_FILE = "regions.npz"


class Regions(NamedTuple):
    """Rays and slices of one model at several noise levels."""

    labels: np.ndarray  # [r] class of each ray
    targets: np.ndarray  # [r] class of the image that it goes to
    rays: dict[float, hidden_cost.RayShrinkage]
    slices: dict[float, hidden_cost.SliceMap]


def measure(
    config: HiddenCostConfig,
    dataset: data.Dataset,
    indices: list[int],
    model: noise_sweep.Model,
) -> Regions | None:
    """Measures rays and a slice at every positive noise level; None without rays."""
    images, labels = dataset.images[indices], dataset.labels[indices]
    starts, ends, corners = _choose(config, dataset, images, labels, model)
    if not len(starts):
        logging.warning("no rays: no two images of different classes are correct")
        return None
    way = images[ends] - images[starts]
    distance = np.sqrt(np.sum(way**2, axis=tuple(range(1, way.ndim))))
    rays, slices = {}, {}
    for sigma in config.geometry_levels():
        logging.info("regions at sigma %g ...", sigma)
        asked: dict[str, Any] = {
            "sigma": sigma,
            "num_classes": dataset.num_classes,
            "num_samples": config.num_ray_samples,
        }
        key = jax.random.key(config.seed)
        apply_fn = model.classifier.apply_fn
        rays[sigma] = hidden_cost.ray_shrinkage(
            key,
            apply_fn,
            images[starts],
            directions=way,
            labels=labels[starts],
            max_distance=float(distance.max()),
            alpha=config.alpha,
            **asked,
        )
        if len(corners) == 3 and config.resolution:
            slices[sigma] = hidden_cost.slice_map(
                key, apply_fn, images[corners], resolution=config.resolution, **asked
            )
    return Regions(labels[starts], labels[ends], rays, slices)


def _choose(
    config: HiddenCostConfig,
    dataset: data.Dataset,
    images: np.ndarray,
    labels: np.ndarray,
    model: noise_sweep.Model,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and ends of rays, and the three corners of the slice, as places."""
    found = noise_sweep.base_labels(
        model.classifier.apply_fn, jnp.asarray(images), num_classes=dataset.num_classes
    )
    correct = np.flatnonzero(np.asarray(found) == labels)
    starts = _in_turn(correct, labels)[: config.num_rays]
    flat = images.reshape(len(images), -1).astype(np.float64)
    squares = np.sum(flat**2, axis=1)
    gaps = squares[starts, None] - 2 * flat[starts] @ flat[correct].T + squares[correct]
    gaps = np.where(labels[starts, None] == labels[correct], np.inf, gaps)
    has_end = np.isfinite(gaps).any(axis=1)
    starts, gaps = starts[has_end], gaps[has_end]
    if not len(starts):
        return starts, starts, starts
    ends = correct[np.argmin(gaps, axis=1)]
    third = np.where(labels[correct] == labels[ends[0]], np.inf, gaps[0])
    has_third = np.isfinite(third).any()
    corners = [starts[0], ends[0], *([correct[np.argmin(third)]] if has_third else [])]
    return starts, ends, np.array(corners)


def _in_turn(places: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Places in an order that takes one of every class in turn."""
    turn = np.zeros(len(places), np.int64)
    for label in np.unique(labels[places]):
        own = labels[places] == label
        turn[own] = np.arange(own.sum())
    return places[np.argsort(turn, kind="stable")]


def save(regions: Regions, folder: pathlib.Path) -> None:
    """Writes the rays and slices as `regions.npz`."""
    arrays: dict[str, Any] = {"labels": regions.labels, "targets": regions.targets}
    for kind in ("rays", "slices"):
        for sigma, found in getattr(regions, kind).items():
            for name, value in found._asdict().items():
                arrays[f"{kind}/{sigma!r}/{name}"] = np.asarray(value)
    part = folder / f"part_{_FILE}"
    np.savez_compressed(part, **arrays)
    part.replace(folder / _FILE)


def load(folder: pathlib.Path) -> Regions | None:
    """Reads the file of `save`; returns None if it is missing or incomplete."""
    if not (folder / _FILE).exists():
        return None
    try:
        with (folder / _FILE).open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {name: loaded[name] for name in loaded.files}
    except (zipfile.BadZipFile, EOFError, ValueError):
        logging.warning("%s is damaged; measuring the regions again", folder / _FILE)
        return None
    found: dict[str, dict[float, Any]] = {"rays": {}, "slices": {}}
    types: dict[str, Any] = {
        "rays": hidden_cost.RayShrinkage, "slices": hidden_cost.SliceMap,
    }  # fmt: skip
    for kind, by_sigma in found.items():
        sigmas = {n.split("/")[1] for n in arrays if n.startswith(f"{kind}/")}
        for text in sorted(sigmas, key=float):
            fields = types[kind]._fields
            values = [arrays[f"{kind}/{text}/{name}"] for name in fields]
            by_sigma[float(text)] = types[kind](
                *(v.item() if v.ndim == 0 else v for v in values)
            )
    return Regions(arrays["labels"], arrays["targets"], **found)
