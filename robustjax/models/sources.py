"""Classifiers for images from a checkpoint, an ONNX file or a factory of the user.

Each comes with a fingerprint, so that a run can tell whether it is the same one.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from robustjax import _callables
from robustjax.models import checkpoints, registry, safetensors_files
from robustjax.models.onnx import importer

if TYPE_CHECKING:
    from robustjax import data

_ApplyFn = Callable[[jax.Array], jax.Array]
_NUM_PROBES = 512  # noisy images that tell one classifier from another


class Classifier(NamedTuple):
    """A classifier and what tells it from others."""

    apply_fn: _ApplyFn  # [n, ...] in [0, 1] to logits [n, k]
    fingerprint: str
    trained_sigma: float | None = None  # noise level of training, where it is known


def from_checkpoint(
    path: str, dataset: "data.Dataset", *, architecture: str = "", dtype: str = ""
) -> Classifier:
    """Loads a model of this package and checks that it suits a data set.

    [host]

    Args:
        path: folder of a checkpoint, or a safetensors file.
        dataset: whose images it is to classify.
        architecture: the one that is expected; empty: any.
        dtype: compute dtype; empty: the model's.

    Returns:
        The classifier.

    Raises:
        ValueError: if it takes other images, has other classes or is damaged.
        OSError: if it cannot be read.
    """
    is_safetensors = path.endswith(".safetensors")
    load = safetensors_files.import_safetensors if is_safetensors else checkpoints.load
    checkpoint = load(path, expect=architecture or None)
    if checkpoint.input_shape != dataset.images.shape[1:]:
        raise ValueError(
            f"Checkpoint {path} takes images {checkpoint.input_shape}, those of "
            f"{dataset.name} are {dataset.images.shape[1:]}."
        )
    if checkpoint.num_classes != dataset.num_classes:
        raise ValueError(
            f"Checkpoint {path} has {checkpoint.num_classes} classes, {dataset.name} "
            f"has {dataset.num_classes}."
        )
    module = checkpoint.module
    if dtype:
        module = module.clone(dtype=dtype)
    name, options = registry.describe(checkpoint.module)
    identity = json.dumps([name, options, checkpoint.fingerprint])
    return Classifier(
        registry.classifier(module, checkpoint.variables),
        hashlib.sha256(identity.encode()).hexdigest(),
        checkpoint.training.get("sigma"),
    )


def from_onnx(path: str, dataset: "data.Dataset") -> Classifier:
    """Loads an ONNX network and checks that it suits a data set.

    [host] It may take images, images channels first, or these in a row.

    Args:
        path: of the file.
        dataset: whose images it is to classify.

    Returns:
        The classifier.

    Raises:
        ValueError: if it takes other inputs or has other classes.
        OSError: if it cannot be read.
    """
    network = importer.load_onnx(path)
    shape = dataset.images.shape[1:]
    if math.prod(network.input_shape) != math.prod(shape):
        raise ValueError(
            f"{path} takes inputs {network.input_shape}, the images of {dataset.name} "
            f"are {shape}."
        )
    if network.output_shape != (dataset.num_classes,):
        raise ValueError(
            f"{path} gives outputs {network.output_shape}, {dataset.name} has "
            f"{dataset.num_classes} classes."
        )
    reorder = _Reordered(network.input_shape, is_same=network.input_shape == shape)
    apply_fn = jax.tree_util.Partial(reorder, network.apply_fn)
    return Classifier(apply_fn, f"{path} {_behaviour(apply_fn, dataset)}")


def from_factory(name: str, dataset: "data.Dataset") -> Classifier:
    """Calls the factory `package.module:factory`, looked up from the current folder.

    [host]

    Args:
        name: of the factory, which takes no arguments and returns a classifier.
        dataset: whose images it is to classify.

    Returns:
        The classifier.

    Raises:
        ValueError: if anything fails, with the error of the factory.
    """
    from robustjax.smoothing.sampling import base_classifier

    try:
        apply_fn = _callables.named(name)()
    except Exception as error:  # whatever the code of the user raises
        raise _failed(name, error) from error
    if not callable(apply_fn):
        raise ValueError(
            f"Expected --apply_fn={name} to return a function, got "
            f"{type(apply_fn).__name__}."
        )
    try:
        apply_fn = _callables.as_partial(apply_fn)
        shape, num_classes = dataset.images.shape[1:], dataset.num_classes
        base_classifier.check_apply_fn(apply_fn, shape, num_classes=num_classes)
        return Classifier(apply_fn, f"{name} {_behaviour(apply_fn, dataset)}")
    except Exception as error:  # any error of the user's code
        raise _failed(name, error) from error


@dataclasses.dataclass(frozen=True)
class _Reordered:
    """Static part of an ONNX classifier: equal ones are equal to the jit cache."""

    input_shape: tuple[int, ...]
    is_same: bool

    def __call__(self, apply_fn: _ApplyFn, x: jax.Array) -> jax.Array:
        x = x if self.is_same else rearrange(x, "n h w c -> n c h w")
        return apply_fn(x.reshape(-1, *self.input_shape))


def _failed(name: str, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines() or [""]
    return ValueError(f"--apply_fn={name} failed: {type(error).__name__}: {lines[0]}")


def _behaviour(apply_fn: _ApplyFn, dataset: "data.Dataset") -> str:
    """A digest of the classes given to noisy images: another model differs in some.

    Classes rather than logits, whose last bits differ between devices.
    """
    images = np.resize(dataset.images, (_NUM_PROBES, *dataset.images.shape[1:]))
    noise = np.random.default_rng(0).normal(0, 0.25, images.shape)
    noisy = jnp.asarray(images + noise, jnp.float32)
    logits = _callables.applied(_callables.as_partial(apply_fn), noisy)
    classes = np.argmax(np.asarray(logits), axis=-1).astype(np.uint32)
    return hashlib.sha256(classes.tobytes()).hexdigest()
