"""The classifier of a run: trained in its folder, from a checkpoint, or the user's."""

import pathlib

from absl import logging
from robustjax_experiments.configs.images import MODEL_FOLDER, ImageRunConfig
from robustjax_experiments.harness.processes import Process
from robustjax_experiments.training import recipe

from robustjax import data
from robustjax.models import sources
from robustjax.models.sources import Classifier
from robustjax.results.run_folder import locks


def obtain(
    config: ImageRunConfig,
    dataset: data.Dataset,
    here: Process,
    *,
    sigma: float | None,
    folder: str = "",
) -> Classifier:
    """Trains, loads or imports the classifier and checks that it suits the data.

    Args:
        config: the settings.
        dataset: the data set.
        here: this process.
        sigma: noise level of training; None for a model that is not trained here, with
            any noise.
        folder: of a model that is trained here; default: the run folder.

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
        folder = folder or config.workdir
        if here.is_first:
            own = config.training(sigma=sigma or 0.0, folder=folder)
            with locks.run_folder(own.workdir):
                path = recipe.run(own)["checkpoint"]
        here.wait_for_all("model")
        path = path or str(pathlib.Path(folder, MODEL_FOLDER, "checkpoint"))
    found = sources.from_checkpoint(
        path, dataset, architecture=config.model, dtype=config.dtype
    )
    is_known = found.trained_sigma is not None and sigma is not None
    if is_known and found.trained_sigma != sigma:
        logging.warning(
            "the checkpoint was trained with sigma %g, not %g",
            found.trained_sigma,
            sigma,
        )
    return found
