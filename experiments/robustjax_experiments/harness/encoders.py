"""The representations of a run: trained here, from files, or the user's own."""

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from robustjax_experiments.configs.synbench import SynBenchConfig, trained_name
from robustjax_experiments.training import recipe

from robustjax import _callables, data, models

MODEL_FOLDER = "models"  # in the run folder, of encoders trained for the run
_NUM_PROBES = 16  # inputs that tell one encoder from another


class Encoder(NamedTuple):
    """A representation with its name and fingerprint."""

    name: str  # also that of its folder
    feature_fn: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    is_on_host: bool
    fingerprint: str


def obtain(config: SynBenchConfig) -> list[Encoder]:
    """Trains, loads or imports every encoder of a run, in the order of its flags."""
    found = []
    if config.pixels:
        shape = config.feature_shape() or _dataset_shape(config)
        found.append(_encoder("pixels", _pixels, shape))
    for text in config.train:
        found.append(_trained(config, int(text)))
    for path in config.checkpoint:
        found.append(_loaded(config, path))
    for text in config.feature_fn:
        found.append(_imported(config, text))
    return found


def _pixels(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


def _dataset_shape(config: SynBenchConfig) -> tuple[int, ...]:
    dataset = data.load(config.dataset, split="train", data_dir=config.data_dir or None)
    return dataset.images.shape[1:]


def _hidden(config: SynBenchConfig) -> int:
    return config.hidden if config.model in ("mlp", "cnn") else 0


def _trained(config: SynBenchConfig, epochs: int) -> Encoder:
    """The layers before the head of a classifier trained for `epochs` epochs."""
    name = trained_name(epochs)
    if epochs == 0:
        shape = _dataset_shape(config)
        settings = recipe.TrainConfig(
            workdir=config.workdir, model=config.model, hidden=_hidden(config)
        )
        options = recipe.model_options(settings)
        module = models.create(config.model, num_classes=10, **options)
        example = jnp.zeros((1, *shape))
        variables = module.init(jax.random.key(config.seed), example)
        return _encoder(name, models.features_of(module, variables), shape)
    folder = pathlib.Path(config.workdir, MODEL_FOLDER, name)
    found = recipe.run(
        recipe.TrainConfig(
            workdir=str(folder),
            dataset=config.dataset,
            data_dir=config.data_dir,
            max_images=config.max_images,
            model=config.model,
            hidden=_hidden(config),
            sigma=config.sigma,
            epochs=epochs,
            seed=config.seed,
        )
    )
    return _of_checkpoint(name, models.load(found["checkpoint"]))


def _loaded(config: SynBenchConfig, path: str) -> Encoder:
    """A folder of train.py, or a vision transformer in one file."""
    name = pathlib.Path(path).stem
    if os.path.isdir(path):
        return _of_checkpoint(name, models.load(path))
    settings: dict[str, Any] = {"resolution": config.resolution or None}
    for field in ("pixel_mean", "pixel_std"):
        values = tuple(float(v) for v in getattr(config, field))
        if values:
            settings[field.removeprefix("pixel_")] = values
    vit, params = models.load_vit(path, layout=config.layout, head=False, **settings)
    shape = (vit.resolution, vit.resolution, 3)
    return _encoder(name, models.vit_features(vit, params), shape)


def _of_checkpoint(name: str, checkpoint: models.Checkpoint) -> Encoder:
    features = models.features_of(checkpoint.module, checkpoint.variables)
    return _encoder(name, features, checkpoint.input_shape)


def _imported(config: SynBenchConfig, text: str) -> Encoder:
    """Calls the user's `factory()`; with --on_host its function takes NumPy arrays."""
    try:
        factory = _callables.named(text)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Cannot import --feature_fn={text}: {error}.") from None
    shape = config.feature_shape()
    name = text.replace(":", ".")
    return _encoder(name, factory(), shape, is_on_host=config.on_host)


def _encoder(
    name: str,
    feature_fn: Callable[[Any], Any],
    shape: tuple[int, ...],
    *,
    is_on_host: bool = False,
) -> Encoder:
    """Encoder with a fingerprint: a digest of its features of a few fixed inputs."""
    probes = np.linspace(-2, 3, _NUM_PROBES * int(np.prod(shape)), dtype=np.float32)
    probes = np.sin(1e3 * probes).reshape(_NUM_PROBES, *shape)
    if is_on_host:
        features = np.asarray(feature_fn(probes))
    else:
        fn = _callables.as_partial(feature_fn)
        features = np.asarray(_callables.applied(fn, probes))
    digest = hashlib.sha256(
        f"{features.shape}".encode() + np.float32(features).tobytes()
    )
    return Encoder(name, feature_fn, shape, is_on_host, digest.hexdigest()[:16])
