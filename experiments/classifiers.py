"""The classifier of a run: trained in its folder, from a checkpoint, or the user's."""

import dataclasses
import hashlib
import importlib
import json
import math
import os
import pathlib
import sys
import typing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import training
from absl import logging
from processes import Process

from robustjax import _callables, _validate, data, models
from robustjax.smoothing import base_classifier

MODEL_FOLDER = "model"  # in the run folder, of a model trained for the run
_NUM_PROBES = 512  # noisy images that tell one --apply_fn from another


class Classifier(NamedTuple):
    """A classifier and what tells it from others."""

    apply_fn: base_classifier.ApplyFn
    fingerprint: str


def check_source(config: Any) -> None:
    """Raises ValueError unless exactly one source of a classifier is given."""
    sources = {
        "--checkpoint": bool(config.checkpoint),
        "--apply_fn": bool(config.apply_fn),
        "--onnx": bool(config.onnx),
        "--train": bool(config.train),
    }
    given = [name for name, is_given in sources.items() if is_given]
    if len(given) != 1:
        raise ValueError(
            f"Expected one of {', '.join(sources)}, got {', '.join(given) or 'none'}."
        )
    if config.onnx and config.dtype:
        raise ValueError("Expected --onnx without --dtype.")
    if config.apply_fn and (":" not in config.apply_fn or config.dtype):
        raise ValueError(
            "Expected --apply_fn=package.module:factory without --dtype, got "
            f"{config.apply_fn!r} and {config.dtype!r}."
        )
    if config.model:
        models.create(config.model, num_classes=2)
    if config.train:
        training_config(config)


def training_config(config: Any) -> training.TrainConfig:
    """The training settings of a run: its own where they apply, then those of --train.

    Raises:
        ValueError: if a setting is unknown or its value not of its type.
    """
    types = typing.get_type_hints(training.TrainConfig)
    own = {name: getattr(config, name) for name in ("dataset", "data_dir", "sigma")}
    own |= {"model": config.model or "cnn", "seed": config.seed}
    own["workdir"] = str(pathlib.Path(config.workdir) / MODEL_FOLDER)
    for item in config.train:
        name, _, text = item.partition("=")
        _validate.one_of(
            sorted(types.keys() - {"workdir"}), **{"--train setting": name}
        )
        try:
            own[name] = types[name](text)
        except ValueError:
            kind = types[name].__name__
            raise ValueError(
                f"Expected --train={name} as {kind}, got {text!r}."
            ) from None
    return training.TrainConfig(**own)


def obtain(config: Any, dataset: data.Dataset, here: Process) -> Classifier:
    """Trains, loads or imports the classifier and checks that it suits the data.

    Raises:
        ValueError: if it does not suit the data set or the flags.
        OSError: if a checkpoint is missing or cannot be read or written.
    """
    if config.apply_fn:
        return _imported(config.apply_fn, dataset)
    if config.onnx:
        return _of_onnx(config.onnx, dataset)
    path = config.checkpoint
    if config.train:
        if here.is_first:
            path = training.run(training_config(config))["checkpoint"]
        here.wait_for_all("model")
        path = path or str(pathlib.Path(config.workdir, MODEL_FOLDER, "checkpoint"))
    return _loaded(path, config, dataset)


def _loaded(path: str, config: Any, dataset: data.Dataset) -> Classifier:
    is_safetensors = path.endswith(".safetensors")
    load = models.import_safetensors if is_safetensors else models.load
    checkpoint = load(path, expect=config.model or None)
    if checkpoint.input_shape != dataset.images.shape[1:]:
        raise ValueError(
            f"Checkpoint {path} takes images {checkpoint.input_shape}, those of "
            f"{dataset.name} are {dataset.images.shape[1:]}."
        )
    trained_sigma = checkpoint.training.get("sigma")
    is_known = trained_sigma is not None and config.sigma is not None
    if is_known and trained_sigma != config.sigma:
        logging.warning(
            "the checkpoint was trained with sigma %g, not %g",
            trained_sigma,
            config.sigma,
        )
    if checkpoint.num_classes != dataset.num_classes:
        raise ValueError(
            f"Checkpoint {path} has {checkpoint.num_classes} classes, {dataset.name} "
            f"has {dataset.num_classes}."
        )
    module = checkpoint.module
    if config.dtype:
        module = module.clone(dtype=config.dtype)
    name, options = models.describe(checkpoint.module)
    identity = json.dumps([name, options, checkpoint.fingerprint])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    return Classifier(models.classifier(module, checkpoint.variables), fingerprint)


def _of_onnx(path: str, dataset: data.Dataset) -> Classifier:
    """An ONNX network that takes images, images channels first, or these in a row."""
    network = models.load_onnx(path)
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


@dataclasses.dataclass(frozen=True)
class _Reordered:
    """Static part of an ONNX classifier: equal ones are equal to the jit cache."""

    input_shape: tuple[int, ...]
    is_same: bool

    def __call__(self, apply_fn: base_classifier.ApplyFn, x: jax.Array) -> jax.Array:
        x = x if self.is_same else jnp.moveaxis(x, -1, 1)
        return apply_fn(x.reshape(-1, *self.input_shape))


def _imported(name: str, dataset: data.Dataset) -> Classifier:
    """Calls the factory `package.module:factory`, looked up from the current folder."""
    module_name, _, factory_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        apply_fn = factory()
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
    except Exception as error:  # likewise
        raise _failed(name, error) from error


def _failed(name: str, error: Exception) -> ValueError:
    lines = str(error).strip().splitlines() or [""]
    return ValueError(f"--apply_fn={name} failed: {type(error).__name__}: {lines[0]}")


def _behaviour(apply_fn: base_classifier.ApplyFn, dataset: data.Dataset) -> str:
    """A digest of the classes given to noisy images: another model differs in some.

    Classes rather than logits, whose last bits differ between devices.
    """
    images = np.resize(dataset.images, (_NUM_PROBES, *dataset.images.shape[1:]))
    noise = np.random.default_rng(0).normal(0, 0.25, images.shape)
    logits = jax.jit(lambda apply_fn, x: apply_fn(x))(
        apply_fn, jnp.asarray(images + noise, jnp.float32)
    )
    classes = np.argmax(np.asarray(logits), axis=-1).astype(np.uint32)
    return hashlib.sha256(classes.tobytes()).hexdigest()
