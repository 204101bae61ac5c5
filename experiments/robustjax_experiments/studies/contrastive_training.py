"""Trains the encoders of all seeds of one method at once, resumable at any moment.

The seeds are one axis of every array, under `jax.vmap`: each has its own parameters,
order of images and views, all functions of (seed, epoch, step).
"""

import functools
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from robustjax_experiments.configs.contrastive import ContrastiveConfig
from robustjax_experiments.harness import processes
from robustjax_experiments.studies.contrastive_methods import METRICS, Objective
from robustjax_experiments.training import saved_state

_TRAINING = 0x636F  # keeps these keys apart from those of evaluation
_INIT, _ORDER, _STEP = range(3)  # streams of the key of a seed
COLUMNS = ("epoch", "seed", *METRICS, "seconds")


class State(NamedTuple):
    """State of training, with a leading axis of seeds."""

    step: jax.Array  # int32
    params: Any
    statistics: dict[str, Any]  # {"batch_stats": ...} or {}
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """Variables for the `apply` of the module."""
        return {"params": self.params, **self.statistics}


class Plan(NamedTuple):
    """Number of epochs and batches of a method."""

    num_epochs: int
    steps_per_epoch: int
    batch_size: int


def seed_keys(seeds: list[int], *, stream: int) -> jax.Array:
    """One key a seed."""
    return jnp.stack(
        [jax.random.fold_in(jax.random.key(seed), stream) for seed in seeds]
    )


def make_plan(config: ContrastiveConfig, *, num_images: int, work: float) -> Plan:
    """Epochs of a method; with --compute_matched those that cost what SimCLR's do."""
    epochs = config.epochs
    if config.compute_matched:
        epochs = max(1, round(epochs / work))
    return Plan(epochs, num_images // config.batch_size, config.batch_size)


def make_optimizer(
    config: ContrastiveConfig, num_steps: int
) -> optax.GradientTransformation:
    """AdamW at a constant or a cosine learning rate, the latter with a warm-up."""
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        warmup = min(num_steps // 10, num_steps - 1)
        rate = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, num_steps)
    return optax.adamw(rate, weight_decay=config.weight_decay)


def train(
    config: ContrastiveConfig,
    objective: Objective,
    images: np.ndarray,
    *,
    folder: pathlib.Path,
    name: str,
) -> tuple[dict[str, Any], float]:
    """Trains the epochs that are missing; returns variables of all seeds, and seconds.

    Args:
        config: `ContrastiveConfig`.
        objective: of the method.
        images: `[n, h, w, c]`, without labels.
        folder: gets metrics.tsv and state/.
        name: of the method, for messages.

    Raises:
        ValueError: if the loss is no longer finite, or a state cannot be read.
    """
    plan = make_plan(config, num_images=len(images), work=objective.work)
    total = plan.num_epochs * plan.steps_per_epoch
    optimizer = make_optimizer(config, total)
    keys = seed_keys(config.seeds(), stream=_TRAINING)
    initial = functools.partial(
        _initial_state, keys, objective, optimizer, input_shape=images.shape[1:]
    )
    step_fn = _make_step(objective, optimizer)
    pool = jnp.asarray(images)
    folder.mkdir(parents=True, exist_ok=True)
    with saved_state.open_manager(folder / "state", name=name) as manager:
        start, state = saved_state.restore(manager, initial)
        last = saved_state.trim_metrics(
            folder / "metrics.tsv", COLUMNS, num_epochs=start, num_lines=len(keys)
        )
        seconds = float(last.get("seconds", 0.0))
        if start < plan.num_epochs:
            logging.info("%s: compiling the training step ...", name)
        with (
            processes.progress_bar(
                total, initial=start * plan.steps_per_epoch, unit="step", title=name
            ) as advance,
            (folder / "metrics.tsv").open("a") as log,
            saved_state.kept(
                manager, save_every=config.save_every, num_epochs=plan.num_epochs
            ) as keep,
        ):
            for epoch in range(start + 1, plan.num_epochs + 1):
                began = time.perf_counter()
                state, figures = _epoch(
                    plan, step_fn, state, keys, pool, epoch=epoch, advance=advance
                )
                seconds += time.perf_counter() - began
                _check_finite(figures["loss"], config, name=name, epoch=epoch)
                for index, seed in enumerate(config.seeds()):
                    row = [round(float(figures[m][index]), 6) for m in METRICS]
                    print(
                        epoch,
                        seed,
                        *row,
                        round(seconds, 3),
                        sep="\t",
                        file=log,
                        flush=True,
                    )
                keep(epoch, state)
    return jax.device_get(state.variables), seconds


def _initial_state(
    keys: jax.Array,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    input_shape: tuple[int, ...],
) -> State:
    def one(key: jax.Array) -> State:
        statistics = dict(
            objective.module.init(
                jax.random.fold_in(key, _INIT), jnp.zeros((1, *input_shape))
            )
        )
        params = statistics.pop("params")
        return State(jnp.int32(0), params, statistics, optimizer.init(params))

    return jax.jit(jax.vmap(one))(keys)


def _make_step(
    objective: Objective, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """A jitted step of all seeds that reuses the memory of its state.

    Steps are not scanned: on a CPU XLA runs the gradients of convolutions inside a loop
    several times slower than outside.
    """

    def one(
        state: State, key: jax.Array, pool: jax.Array, indices: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        own = jax.random.fold_in(jax.random.fold_in(key, _STEP), state.step)
        grad_fn = jax.grad(objective, has_aux=True)
        grads, (statistics, figures) = grad_fn(
            state.params, state.statistics, own, pool[indices]
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = State(state.step + 1, params, statistics, opt_state)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new)  # one program
        return new, figures

    every = jax.vmap(one, in_axes=(0, 0, None, 0))
    return jax.jit(every, donate_argnums=0)


def _epoch(
    plan: Plan,
    step_fn: Callable[..., tuple[State, dict[str, jax.Array]]],
    state: State,
    keys: jax.Array,
    pool: jax.Array,
    *,
    epoch: int,
    advance: Callable[[int], None],
) -> tuple[State, dict[str, np.ndarray]]:
    """One pass over the images; the means `[seeds]` of what was watched."""
    order = np.asarray(_orders(keys, epoch, num_images=len(pool)))
    found = []
    for number in range(plan.steps_per_epoch):
        first = number * plan.batch_size
        indices = order[:, first : first + plan.batch_size]
        state, figures = step_fn(state, keys, pool, indices)
        found.append(figures)
        advance(1)
    listed = jax.device_get(found)
    return state, {m: np.mean([figures[m] for figures in listed], 0) for m in METRICS}


@functools.partial(jax.jit, static_argnames="num_images")
def _orders(keys: jax.Array, epoch: jax.Array, *, num_images: int) -> jax.Array:
    """`[seeds, n]`, a permutation of the images for each seed."""

    def one(key: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
        return jax.random.permutation(own, num_images)

    return jax.vmap(one)(keys)


def _check_finite(
    losses: np.ndarray, config: ContrastiveConfig, *, name: str, epoch: int
) -> None:
    for seed, loss in zip(config.seeds(), losses, strict=True):
        if not math.isfinite(loss):
            raise ValueError(
                f"{name} diverged in epoch {epoch} with seed {seed}, the loss is "
                f"{loss}; try a smaller learning_rate than {config.learning_rate}."
            )
