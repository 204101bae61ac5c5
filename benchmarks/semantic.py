"""Semantic attributes: exact ranges on CIFAR-10 networks, rotation on MNIST."""

import functools
import os
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np

from robustjax import data, models, semantic

_COLOR = ("hue", "saturation", "lightness", "brightness", "contrast")
_OVAL = (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)
_RESNET = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
_PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_LIMIT = 30.0  # degrees
_NUM_ROTATED = 50


class _Network(NamedTuple):
    path: str
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    num_images: int


_NETWORKS = (
    _Network("marabou-cifar10/nets/cifar10_small", _PLAIN, 20),
    _Network("oval21/nets/cifar_base_kw", _OVAL, 10),
    _Network("oval21/nets/cifar_wide_kw", _OVAL, 10),
    _Network("oval21/nets/cifar_deep_kw", _OVAL, 10),
    _Network("cifar10_resnet/onnx/resnet_2b", _RESNET, 10),
    _Network("cifar10_resnet/onnx/resnet_4b", _RESNET, 3),
)


def measure() -> list[dict[str, Any]]:
    """One row a network and attribute; none without the data."""
    if "ROBUSTJAX_DATA_DIR" not in os.environ:
        return []
    folder = pathlib.Path(os.environ["ROBUSTJAX_DATA_DIR"])
    return [*_exact_rows(folder), *_rotation_rows(folder)]


def _exact_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    cifar = data.load("cifar10", split="test", data_dir=folder)
    rows = []
    for network in _NETWORKS:
        path = folder / "vnncomp2021" / f"{network.path}.onnx"
        apply_fn = classifier(path, *network.normalization)
        images, labels = correct_images(apply_fn, cifar, network.num_images)
        for attribute in _COLOR:
            walk = functools.partial(
                semantic.exact_radius, apply_fn, attribute=attribute
            )
            walk(images[0], labels[0])  # compiles
            timed = [_timed(walk, x, y) for x, y in zip(images, labels, strict=True)]
            found = [result for result, _ in timed]
            rows.append(
                {
                    "network": path.stem,
                    "attribute": attribute,
                    "way": "exact",
                    "images": len(found),
                    "mean_radius": float(np.mean([min(f[:2]) for f in found])),
                    "closed": 1.0,
                    "median_seconds": float(np.median([s for _, s in timed])),
                    "pieces_or_cells": float(np.median([f.num_pieces for f in found])),
                }
            )
    return rows


def _rotation_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    mnist = data.load("mnist", split="test", data_dir=folder)
    path = folder / "vnncomp2021" / "mnistfc" / "mnist-net_256x2.onnx"
    apply_fn = classifier(path)
    images, labels = correct_images(apply_fn, mnist, _NUM_ROTATED)
    adaptive = functools.partial(
        semantic.certify, apply_fn, attribute="rotation", limit=_LIMIT
    )
    boxes = functools.partial(
        semantic.certify_split, apply_fn, attribute="rotation", limit=_LIMIT, width=0.5
    )
    rows: list[dict[str, Any]] = []
    attacks: list[np.ndarray] = []
    for way, search in (("search", adaptive), ("0.5-degree boxes", boxes)):
        search(images[0], labels[0])  # compiles
        timed = [_timed(search, x, y) for x, y in zip(images, labels, strict=True)]
        found = [result for result, _ in timed]
        if not attacks:
            attacks = [np.minimum(f[2:4], _LIMIT) for f in found]
        gaps = [np.max(a - f[:2]) for a, f in zip(attacks, found, strict=True)]
        rows.append(
            {
                "network": path.stem,
                "attribute": "rotation",
                "way": way,
                "images": len(found),
                "mean_radius": float(np.mean([min(f[:2]) for f in found])),
                "closed": float(np.mean(np.array(gaps) <= 0.1)),
                "median_seconds": float(np.median([s for _, s in timed])),
                "pieces_or_cells": float(np.median([f.num_bounded for f in found])),
            }
        )
    return rows


def classifier(
    path: pathlib.Path,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
) -> Any:
    """An ONNX network on images `[n, h, w, c]` in [0, 1]."""
    network = models.load_onnx(path)
    is_first = len(network.input_shape) == 3 and network.input_shape[0] == len(mean)

    def apply_fn(x: Any) -> Any:
        x = (x - np.reshape(mean, (1, 1, 1, -1))) / np.reshape(std, (1, 1, 1, -1))
        x = x.transpose(0, 3, 1, 2) if is_first else x
        return network(x.reshape(len(x), *network.input_shape))

    return apply_fn


def correct_images(
    apply_fn: Any, dataset: data.Dataset, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first images that a model classifies correctly, and their labels."""
    some = slice(0, 4 * count)
    predicted = np.asarray(apply_fn(dataset.images[some])).argmax(axis=-1)
    chosen = np.flatnonzero(predicted == dataset.labels[some])[:count]
    return dataset.images[chosen], dataset.labels[chosen]


def _timed(function: Any, image: np.ndarray, label: int) -> tuple[Any, float]:
    began = time.perf_counter()
    found = function(image, int(label))
    return found, time.perf_counter() - began
