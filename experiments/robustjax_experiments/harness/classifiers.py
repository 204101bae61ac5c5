"""The classifier of a run: trained in its folder, from a checkpoint, or the user's."""

import pathlib
import typing
from typing import Any

from absl import logging
from robustjax_experiments.harness.processes import Process
from robustjax_experiments.training import recipe

from robustjax import _validate, data, models
from robustjax.models import sources
from robustjax.models.sources import Classifier
from robustjax.results.run_folder import locks

MODEL_FOLDER = "model"  # in the run folder, of a model trained for the run


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
        raise ValueError("Expected no --dtype with --onnx: the file fixes it.")
    if config.apply_fn and (":" not in config.apply_fn or config.dtype):
        raise ValueError(
            "Expected --apply_fn=package.module:factory without --dtype, got "
            f"{config.apply_fn!r} and {config.dtype!r}."
        )
    if config.model:
        models.create(config.model, num_classes=2)
    if config.train:
        training_config(config)


def training_config(config: Any) -> recipe.TrainConfig:
    """The training settings of a run: its own where they apply, then those of --train.

    Raises:
        ValueError: if a setting is unknown or its value not of its type.
    """
    types = typing.get_type_hints(recipe.TrainConfig)
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
    return recipe.TrainConfig(**own)


def obtain(config: Any, dataset: data.Dataset, here: Process) -> Classifier:
    """Trains, loads or imports the classifier and checks that it suits the data.

    Raises:
        ValueError: if it does not suit the data set or the flags.
        OSError: if a checkpoint is missing or cannot be read or written.
    """
    if config.apply_fn:
        return sources.from_factory(config.apply_fn, dataset)
    if config.onnx:
        return sources.from_onnx(config.onnx, dataset)
    path = config.checkpoint
    if config.train:
        if here.is_first:
            own = training_config(config)
            with locks.run_folder(own.workdir):
                path = recipe.run(own)["checkpoint"]
        here.wait_for_all("model")
        path = path or str(pathlib.Path(config.workdir, MODEL_FOLDER, "checkpoint"))
    return _loaded(path, config, dataset)


def _loaded(path: str, config: Any, dataset: data.Dataset) -> Classifier:
    found = sources.from_checkpoint(
        path, dataset, architecture=config.model, dtype=config.dtype
    )
    is_known = found.trained_sigma is not None and config.sigma is not None
    if is_known and found.trained_sigma != config.sigma:
        logging.warning(
            "the checkpoint was trained with sigma %g, not %g",
            found.trained_sigma,
            config.sigma,
        )
    return found
