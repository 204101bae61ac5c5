"""Semantic attributes: exact ranges on CIFAR-10 networks, searches on MNIST."""

import functools
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from robustjax import data, models, semantic
from robustjax.semantic import parameter_ranges

_COLOR = ("hue", "saturation", "lightness", "brightness", "contrast")
_OVAL = (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)
_RESNET = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
_PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class _Network(NamedTuple):
    path: str
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    num_images: int


class _Search(NamedTuple):
    """A search over MNIST images, and what its result has to reach."""

    attribute: str
    options: dict[str, Any]
    num_images: int
    gap: float = 0.0  # to the attack; or
    share: float = np.inf  # of the attack


_NETWORKS = (
    _Network("marabou-cifar10/nets/cifar10_small", _PLAIN, 100),
    _Network("oval21/nets/cifar_base_kw", _OVAL, 10),
    _Network("oval21/nets/cifar_wide_kw", _OVAL, 10),
    _Network("oval21/nets/cifar_deep_kw", _OVAL, 10),
    _Network("cifar10_resnet/onnx/resnet_2b", _RESNET, 10),
    _Network("cifar10_resnet/onnx/resnet_4b", _RESNET, 3),
)

_SEARCHES = (
    _Search("rotation", {"limit": 30.0}, 50, gap=0.1),  # degrees
    _Search("scale", {}, 20, share=0.98),
    _Search("translation_rows", {}, 20, share=0.98),
    _Search("translation_columns", {}, 20, share=0.98),
    _Search("brightness_contrast", {"max_cells": 400}, 5, share=0.9),
    _Search("rotation+brightness", {"max_cells": 400}, 5, share=0.9),
)


def measure() -> list[dict[str, Any]]:
    """One row a network and attribute; none without the data."""
    if "ROBUSTJAX_DATA_DIR" not in os.environ:
        return []
    folder = pathlib.Path(os.environ["ROBUSTJAX_DATA_DIR"])
    return [*_exact_rows(folder), *_search_rows(folder)]


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
                    "certified": float(np.mean([min(f[:2]) for f in found])),
                    "attack": float(np.mean([min(f[:2]) for f in found])),
                    "closed": 1.0,
                    "median_seconds": float(np.median([s for _, s in timed])),
                    "pieces_or_cells": float(np.median([f.num_pieces for f in found])),
                }
            )
    return rows


def _search_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    mnist = data.load("mnist", split="test", data_dir=folder)
    path = folder / "vnncomp2021" / "mnistfc" / "mnist-net_256x2.onnx"
    apply_fn = classifier(path)
    images, labels = correct_images(
        apply_fn, mnist, max(s.num_images for s in _SEARCHES)
    )
    rows = []
    for case in _SEARCHES:
        ways: dict[str, Callable[..., Any]] = {"search": semantic.certify}
        if case.attribute == "rotation":
            ways["0.5-degree boxes"] = functools.partial(
                semantic.certify_split, width=0.5
            )
        for way, function in ways.items():
            search = functools.partial(
                function, apply_fn, attribute=case.attribute, **case.options
            )
            search(images[0], labels[0])  # compiles
            chosen = slice(case.num_images)
            timed = [
                _timed(search, x, y)
                for x, y in zip(images[chosen], labels[chosen], strict=True)
            ]
            found = [result for result, _ in timed]
            rows.append(
                {
                    "network": path.stem,
                    "attribute": case.attribute,
                    "way": way,
                    "images": len(found),
                    **_reached(case, found),
                    "median_seconds": float(np.median([s for _, s in timed])),
                    "pieces_or_cells": float(np.median([f.num_bounded for f in found])),
                }
            )
    return rows


def _reached(case: _Search, found: list[Any]) -> dict[str, float]:
    """Mean radius or area, certified and of the attack; the share that is closed."""
    if np.isnan(found[0].left):
        certified, attack = (
            np.array([getattr(f, n) for f in found])[:, None]
            for n in ("area", "attack_area")
        )
    else:
        certified, attack = (np.array([f[i : i + 2] for f in found]) for i in (0, 2))
        attribute = semantic.attribute(case.attribute)
        (limit,) = parameter_ranges.resolve(attribute, case.options.get("limit"))
        attack = np.minimum(attack, limit)  # inf where none is known
    enough = (attack - certified <= case.gap) | (certified >= case.share * attack)
    return {
        "certified": float(certified.min(axis=1).mean()),
        "attack": float(attack.min(axis=1).mean()),
        "closed": float(enough.all(axis=1).mean()),
    }


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
