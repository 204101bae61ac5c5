"""Bounds of a dense and a convolutional net: ours, jax_verify's, the forward pass."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from robustjax import bounds

_Function = Callable[[jax.Array], jax.Array]


class Case(NamedTuple):
    """A network with random weights and a batch of boxes."""

    name: str
    fn: _Function
    batch: int
    epsilon: float
    chunk_size: int | None  # of CROWN


def mlp() -> _Function:
    """784-256-256-10 with ReLU."""
    rng, sizes = np.random.default_rng(0), (784, 256, 256, 10)
    weights = [
        jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a), jnp.float32)
        for a, b in itertools.pairwise(sizes)
    ]

    def fn(x: jax.Array) -> jax.Array:
        x = x.reshape(-1)
        for weight in weights[:-1]:
            x = jax.nn.relu(jnp.matmul(x, weight))
        return jnp.matmul(x, weights[-1])

    return fn


def cnn() -> _Function:
    """Two 4x4 convolutions of stride 2, 16 and 32 channels, then 100 and 10 units."""
    rng = np.random.default_rng(1)
    shapes = ((4, 4, 1, 16), (4, 4, 16, 32), (7 * 7 * 32, 100), (100, 10))
    first, second, third, last = (
        jnp.asarray(rng.normal(size=s) / np.sqrt(np.prod(s[:-1])), jnp.float32)
        for s in shapes
    )

    def fn(x: jax.Array) -> jax.Array:
        y = x.reshape(1, 28, 28, 1)
        for kernel in (first, second):
            y = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    y,
                    kernel,
                    (2, 2),
                    ((1, 1), (1, 1)),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            )
        return jnp.matmul(jax.nn.relu(jnp.matmul(y.reshape(-1), third)), last)

    return fn


def cases() -> tuple[Case, ...]:
    """The cases of the table."""
    is_cpu = jax.default_backend() == "cpu"
    return (
        Case("mlp 784-256-256-10", mlp(), 100, 0.02, 32 if is_cpu else None),
        Case("cnn 16-32-100", cnn(), 10, 0.01, None),
    )


def measure(rounds: int, *, of: tuple[Case, ...] | None = None) -> list[dict[str, Any]]:
    """Seconds of a batch by engine and method, in turn, and what compiling took."""
    chosen = cases() if of is None else of
    return [row for case in chosen for row in _rows(case, rounds=rounds)]


def _rows(case: Case, *, rounds: int) -> list[dict[str, Any]]:
    x = np.random.default_rng(3).uniform(size=(case.batch, 28, 28))
    centre = jnp.asarray(x, jnp.float32)
    calls = {
        name: functools.partial(way, centre - case.epsilon, centre + case.epsilon)
        for name, way in _ways(case).items()
    }
    first = {name: timing.once(call) for name, call in calls.items()}
    seconds = timing.interleaved(calls, rounds=rounds)
    return [
        {
            "network": case.name,
            "batch": case.batch,
            "way": name,
            "seconds": float(np.median(values)),
            "time / forward": timing.median_ratio(values, seconds["forward"]),
            "time / jax_verify": _ratio(seconds, name),
            "mean width": _mean_width(calls[name]()),
            "first call s": first[name],
        }
        for name, values in seconds.items()
    ]


def _mean_width(found: Any) -> float | None:
    if not isinstance(found, bounds.Bounds):
        return None
    return float(jnp.mean(found.upper - found.lower))


def _ratio(seconds: dict[str, list[float]], name: str) -> float | None:
    peer = f"jax_verify, {name}"
    return (
        timing.median_ratio(seconds[name], seconds[peer]) if peer in seconds else None
    )


def _ways(case: Case) -> dict[str, Callable[..., Any]]:
    ways: dict[str, Callable[..., Any]] = {
        "forward": jax.jit(lambda low, high: jax.vmap(case.fn)(low))
    }
    for method in ("ibp", "crown-ibp", "crown", "alpha"):
        chunk_size = case.chunk_size if method == "crown" else None
        ways[method] = _bounded(case.fn, method=method, chunk_size=chunk_size)
    try:
        bounds.jax_verify.load()
    except ImportError:
        return ways
    for method in ("ibp", "crown-ibp", "crown"):
        ways[f"jax_verify, {method}"] = _bounded(
            case.fn, method=method, engine="jax_verify"
        )
    return ways


def _bounded(fn: _Function, **options: Any) -> Callable[..., Any]:
    def one(low: jax.Array, high: jax.Array) -> bounds.Bounds:
        return bounds.linear_bounds(fn, low, high, **options)

    return jax.jit(jax.vmap(one))
