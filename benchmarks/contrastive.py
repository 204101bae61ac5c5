"""Contrastive losses: memory and time of value and gradient, in blocks and at once."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from robustjax import contrastive

_WIDTH = 128  # of embeddings
_BLOCK = 256  # negatives at a time
_TEMPERATURE = 0.5
_ESTIMATORS: dict[str, tuple[contrastive.Transform, ...]] = {
    "g0": (),
    "g2": (contrastive.hard(1.0), contrastive.debias(0.1)),
}
_MEMORY_ROWS = (8192, 65_536)  # embeddings, two of an image
_TIMED_ROWS = {
    "cpu": (1024, 4096),
    "gpu": (1024, 4096, 16_384, 65_536),
    "tpu": (1024, 4096, 16_384),
}
_LARGEST = 8 * 2**30  # temporary bytes beyond which a program is not run


def measure(rounds: int) -> list[dict[str, Any]]:
    """A row a loss and number of embeddings, in float32.

    Time is of one value and gradient; `ratio` is that of blocks by that of all at once,
    a median over rounds of both in turn. What would not fit is compiled alone.
    """
    timed = _TIMED_ROWS[jax.default_backend()]
    return [
        row(kind, num_rows, rounds if num_rows in timed else 0)
        for num_rows in sorted({*_MEMORY_ROWS, *timed})
        for kind in _ESTIMATORS
    ]


def row(kind: str, num_rows: int, rounds: int) -> dict[str, Any]:
    """One loss of so many embeddings, in blocks, at once, and by optax."""
    views = jnp.zeros((2, num_rows // 2, _WIDTH))
    ways: dict[str, Callable[[jax.Array], jax.Array]] = {
        "blocked": loss_fn(kind, block_size=_BLOCK),
        "dense": loss_fn(kind, block_size=None),
    }
    if kind == "g0":
        ways["optax"] = _optax_loss
    programs = {
        name: jax.jit(jax.value_and_grad(way)).lower(views).compile()
        for name, way in ways.items()
        if name != "dense" or num_rows <= 2**15 or rounds
    }
    mib = {name: _temporary_bytes(p) / 2**20 for name, p in programs.items()}
    found: dict[str, Any] = {"loss": kind, "embeddings": num_rows}
    for name in ("blocked", "dense", "optax"):
        found[f"{name} MiB"] = mib.get(name)
    runnable = {
        name: program
        for name, program in programs.items()
        if mib[name] * 2**20 <= _LARGEST and rounds
    }
    seconds = _seconds(runnable, views.shape, rounds)
    for name in ("blocked", "dense", "optax"):
        own = seconds.get(name)
        found[f"{name} ms"] = 1e3 * float(np.median(own)) if own else None
    both = "blocked" in seconds and "dense" in seconds
    ratio = timing.median_ratio(seconds["blocked"], seconds["dense"]) if both else None
    return found | {"blocked / dense": ratio}


def loss_fn(kind: str, *, block_size: int | None) -> Callable[[jax.Array], jax.Array]:
    """The loss of two views, without what is watched."""
    chain = contrastive.compose(
        contrastive.similarity(_TEMPERATURE, block_size=block_size), *_ESTIMATORS[kind]
    )
    return lambda views: chain(views)[0]


def _optax_loss(views: jax.Array) -> jax.Array:
    labels = jnp.tile(jnp.arange(views.shape[1]), 2)
    rows = views.reshape(-1, views.shape[-1])
    return optax.losses.ntxent(rows, labels, temperature=_TEMPERATURE)


def _temporary_bytes(program: Any) -> int:
    return program.memory_analysis().temp_size_in_bytes


def _seconds(
    programs: dict[str, Any], shape: tuple[int, ...], rounds: int
) -> dict[str, list[float]]:
    if not programs:
        return {}
    views = jax.random.normal(jax.random.key(0), shape)
    limit = math.log(shape[1] * shape[0])  # of a loss that knows nothing
    for name, program in programs.items():
        value, gradient = program(views)
        if not (0 < value < 2 * limit and bool(jnp.isfinite(gradient).all())):
            raise ValueError(f"{name} of {shape} gives a loss of {value}.")
    return timing.interleaved(
        {name: functools.partial(own, views) for name, own in programs.items()},
        rounds=rounds,
    )
