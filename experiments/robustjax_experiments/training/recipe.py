"""Noise-augmented training of a classifier, resumable at any moment.

The recipe of Cohen et al. (2019): cross-entropy on inputs with Gaussian noise of the
level at which the smoothed classifier will be certified, fresh in every step.
All randomness is a function of (seed, step) or (seed, epoch), so a run that was killed
and resumed ends with the same parameters as one that was not.

`run(config)` leaves in the working directory::

    checkpoint/   the trained model, see `robustjax.models.load`
    train.json    the settings
    metrics.tsv   one line an epoch
    state/        the last training state, until the run is finished

Reference:
    Cohen, Rosenfeld and Kolter (2019), Certified Adversarial Robustness via Randomized
    Smoothing.
"""

import dataclasses
import functools
import json
import math
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from absl import logging
from robustjax_experiments.configs.training import TrainConfig
from robustjax_experiments.harness import stopping
from robustjax_experiments.training import saved_state, training_step
from robustjax_experiments.training.training_step import TrainState

from robustjax import data, models
from robustjax.results.run_folder import atomic

_RAMP = (0.05, 0.5)  # shares of all steps between which a certified loss is phased in
_PLACES = ("workdir", "data_dir", "save_every")  # change nothing in the result
_COLUMNS = (
    "epoch",
    "step",
    "loss",
    "train_accuracy",
    "test_accuracy",
    "test_accuracy_noisy",
    "seconds",
)
_ORDER, _TEST = 3, 4  # streams of the root key, besides those of training_step
_TEST_BATCH = 1000


def model_options(config: TrainConfig) -> dict[str, Any]:
    """Options of the architecture, for `robustjax.models.create`."""
    if not config.hidden:
        return {}
    if config.model == "mlp":
        return {"features": (256, config.hidden)}
    return {"hidden": config.hidden}


class _Task(NamedTuple):
    """Inputs of a run, constant from its start to its end."""

    config: TrainConfig
    module: nn.Module
    optimizer: optax.GradientTransformation
    train: data.Dataset
    test: data.Dataset

    @property
    def num_steps(self) -> int:
        """Steps of an epoch; the images left over are used in another epoch."""
        return len(self.train.labels) // self.config.batch_size


def run(
    config: TrainConfig, *, on_epoch: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Trains a model, or continues or just reports a run that is there already.

    Args:
        config: the settings.
        on_epoch: called with each line of metrics.tsv after it is written.

    Returns:
        The last line of metrics.tsv and "checkpoint", the folder of the model.

    Raises:
        ValueError: if the folder holds a run with other settings (which are named), the
            data does not suit the settings, or the loss is no longer finite.
        OSError: if data is missing or the folder cannot be written.
    """
    workdir = pathlib.Path(config.workdir).absolute()
    _check_same_settings(workdir, config)
    checkpoint = workdir / "checkpoint"
    if checkpoint.exists():
        metrics = models.manifest(checkpoint)["training"]["metrics"]
    else:
        task = _prepare(config)
        workdir.mkdir(parents=True, exist_ok=True)
        atomic.write_text(
            workdir / "train.json", json.dumps(_settings(config), indent=1)
        )
        state, metrics = _train(task, workdir, on_epoch or (lambda row: None))
        models.save(
            checkpoint,
            task.module,
            state.variables,
            input_shape=task.train.images.shape[1:],
            training={**_settings(config), "metrics": metrics},
        )
    shutil.rmtree(workdir / "state", ignore_errors=True)
    return {**metrics, "checkpoint": str(checkpoint)}


def _prepare(config: TrainConfig) -> _Task:
    """Loads the data and builds the model and the optimiser."""
    train, test = (
        data.load(config.dataset, split=split, data_dir=config.data_dir or None)
        for split in ("train", "test")
    )
    if config.max_images:
        images, labels = (a[: config.max_images] for a in (train.images, train.labels))
        train = train._replace(images=images, labels=labels)
    if len(train.labels) < config.batch_size:
        raise ValueError(
            f"Expected batch_size <= {len(train.labels)}, the number of training "
            f"images of {config.dataset}, got {config.batch_size}."
        )
    warn_without_test(config.dataset, train, test)
    mean, std = channel_statistics(train.images)
    module = models.create(
        config.model,
        num_classes=train.num_classes,
        mean=mean,
        std=std,
        dtype=config.dtype,
        **model_options(config),
    )
    total = config.epochs * (len(train.labels) // config.batch_size)
    return _Task(config, module, _optimizer(config, total), train, test)


def warn_without_test(name: str, train: data.Dataset, test: data.Dataset) -> None:
    """Logs a warning if a data set has the same images for training and test."""
    if np.array_equal(train.images, test.images):
        logging.warning(
            "%s has no test images of its own: test accuracy is on those of training",
            name,
        )


def channel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, to four digits, without a copy."""
    pixels = images.shape[1] * images.shape[2]
    square = np.einsum("nhwc,nhwc->nc", images, images) / pixels  # of each image
    mean = images.mean(axis=(1, 2)).mean(axis=0, dtype=np.float64)
    variance = square.mean(axis=0, dtype=np.float64) - mean**2
    std = np.sqrt(np.maximum(variance, 1e-6))  # a channel may be constant
    return np.round(mean, 4).tolist(), np.round(std, 4).tolist()


def _optimizer(config: TrainConfig, num_steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=int(config.warmup * num_steps),
        decay_steps=num_steps,
    )
    if config.optimizer == "adamw":
        return optax.adamw(schedule, weight_decay=config.weight_decay)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=0.9, nesterov=True),
    )


# The training loop.


def _train(
    task: _Task, workdir: pathlib.Path, on_epoch: Callable[[dict[str, Any]], None]
) -> tuple[TrainState, dict[str, Any]]:
    """Trains the epochs that are missing; returns the state and the last metrics."""
    import tqdm

    config = task.config
    train_step = training_step.make_train_step(
        task.module,
        task.optimizer,
        sigma=config.sigma,
        augment=config.augment,
        certified=_certified(config, config.epochs * task.num_steps),
    )
    initial_state = functools.partial(
        training_step.initial_state,
        training_step.root_key(config.seed),
        task.module,
        task.optimizer,
        input_shape=task.train.images.shape[1:],
    )
    with saved_state.open_manager(workdir / "state") as manager:
        start, state = saved_state.restore(manager, initial_state)
        row = saved_state.trim_metrics(
            workdir / "metrics.tsv", _COLUMNS, num_epochs=start
        )
        progress = tqdm.tqdm(
            total=config.epochs * task.num_steps,
            initial=start * task.num_steps,
            desc="train",
            disable=None,  # shown on a terminal only
        )
        with (
            progress,
            (workdir / "metrics.tsv").open("a") as log,
            saved_state.kept(
                manager, save_every=config.save_every, num_epochs=config.epochs
            ) as keep,
        ):
            if start < config.epochs:
                logging.info("compiling the training step of %s ...", config.model)
            for epoch in range(start + 1, config.epochs + 1):
                state, row = _train_epoch(task, train_step, state, epoch, progress)
                print(*row.values(), sep="\t", file=log, flush=True)
                keep(epoch, state)
                _report(row, config, progress)
                on_epoch(row)
    return state, row


def _certified(config: TrainConfig, num_steps: int) -> training_step.Certified | None:
    if not config.epsilon:
        return None
    first, last = (int(share * num_steps) for share in _RAMP)
    return training_step.Certified(
        config.epsilon, config.certified_weight, config.bound, first, last
    )


def _train_epoch(
    task: _Task, train_step: Callable, state: TrainState, epoch: int, progress: Any
) -> tuple[TrainState, dict[str, Any]]:
    """One pass over the training images, then both accuracies on the test images."""
    began = time.perf_counter()
    seed = training_step.root_key(task.config.seed)
    results = []
    for images, labels in _batches(task, jax.random.fold_in(seed, _ORDER), epoch):
        state, result = train_step(state, seed, images, labels)
        results.append(result)
        progress.update()
        stopping.this_script.check()
    losses, accuracies = zip(*jax.device_get(results), strict=True)
    loss, accuracy = np.mean(losses), np.mean(accuracies)
    if not math.isfinite(loss):
        raise ValueError(
            f"Training diverged in epoch {epoch}, the loss is {loss}; try a smaller "
            f"learning_rate than {task.config.learning_rate}."
        )
    key = jax.random.fold_in(jax.random.fold_in(seed, _TEST), epoch)
    figures = (loss, accuracy, *_test_accuracies(task, state, key))
    seconds = time.perf_counter() - began
    values = [round(float(value), 6) for value in (*figures, seconds)]
    return state, dict(zip(_COLUMNS, (epoch, int(state.step), *values), strict=True))


def _batches(
    task: _Task, key: jax.Array, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Full batches in an order that the key and the epoch determine."""
    num_images, size = len(task.train.labels), task.config.batch_size
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_images)
    for batch in np.asarray(order)[: task.num_steps * size].reshape(-1, size):
        yield task.train.images[batch], task.train.labels[batch]


def _test_accuracies(
    task: _Task, state: TrainState, key: jax.Array
) -> tuple[float, float]:
    """Accuracy on the test images, and on them with one draw of noise each."""
    apply_fn = models.classifier(task.module, state.variables)
    images, labels, sigma = task.test.images, task.test.labels, task.config.sigma
    size = min(len(labels), _TEST_BATCH)
    counts = []
    for start in range(0, len(labels), size):
        batch, batch_labels = images[start : start + size], labels[start : start + size]
        missing = size - len(batch_labels)  # fill up: one shape, one compilation
        batch = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
        batch_labels = np.pad(batch_labels, (0, missing), constant_values=-1)
        arguments = jax.random.fold_in(key, start), apply_fn, batch, batch_labels
        counts.append(training_step.num_correct(*arguments, sigma))
        stopping.this_script.check()
    clean, with_noise = zip(*jax.device_get(counts), strict=True)
    return sum(clean) / len(labels), sum(with_noise) / len(labels)


def _report(row: dict[str, Any], config: TrainConfig, progress: Any) -> None:
    """Progress: next to the bar on a terminal, else one log line per minute."""
    noisy, clean = row["test_accuracy_noisy"], row["test_accuracy"]
    text = f"loss {row['loss']:.3f}, test accuracy {clean:.4f}, noisy {noisy:.4f}"
    if not progress.disable:
        progress.set_postfix_str(text)
        return
    line = f"epoch {row['epoch']}/{config.epochs}: {text}"
    if row["epoch"] == config.epochs:
        logging.info(line)
    else:
        logging.log_every_n_seconds(logging.INFO, line, 60)


# What a run leaves.


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that determine the result."""
    fields = dataclasses.asdict(config)
    return {name: value for name, value in fields.items() if name not in _PLACES}


def _check_same_settings(workdir: pathlib.Path, config: TrainConfig) -> None:
    """Raises ValueError if the folder holds a run with other settings."""
    if (workdir / "checkpoint").exists():
        there = models.manifest(workdir / "checkpoint")["training"]
    elif (workdir / "train.json").exists():
        there = json.loads((workdir / "train.json").read_text())
    else:
        return
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    there = defaults | there  # a run made before a setting was there
    different = [
        f"{name} ({there[name]} there, {value} asked)"
        for name, value in _settings(config).items()
        if there[name] != value
    ]
    if different:
        raise ValueError(
            f"workdir {workdir} holds a training run with other settings: "
            f"{', '.join(different)}; choose another workdir."
        )
