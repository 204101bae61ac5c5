"""SynBench: what scoring adds to extraction, and rules by one decomposition."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from robustjax import models, synbench

_ENCODERS: dict[
    str, tuple[str, tuple[int, ...], dict[str, Any]]
] = {  # name: model, shape of an input, options
    "mlp, 8 x 8": ("mlp", (8, 8, 1), {"features": (256, 64)}),
    "cnn, 8 x 8": ("cnn", (8, 8, 1), {}),
    "cnn, 28 x 28": ("cnn", (28, 28, 1), {}),
}
_NUM_FEATURES = 768
_EPSILONS = np.linspace(0.0, 0.8, 9)
_BATCH = 256


def measure(rounds: int) -> list[dict[str, Any]]:
    """Seconds of one scale, 2,048 and 2,048 inputs; of nine rules of 768 features."""
    rows = [scoring_row(name, rounds) for name in _ENCODERS]
    return [*rows, _rule_row(rounds)]


def scoring_row(name: str, rounds: int) -> dict[str, Any]:
    """One scale through an encoder of this name, beside the passes alone."""
    kind, shape, options = _ENCODERS[name]
    module = models.create(kind, num_classes=10, **options)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))
    feature_fn = models.features_of(module, variables)
    task = synbench.Task(shape, scales=(1.0,))
    key = jax.random.key(1)
    seconds = timing.interleaved(
        {
            "score": lambda: synbench.measure_scale(key, feature_fn, task, index=0),
            "extract": lambda: _extracted(key, feature_fn, task),
        },
        rounds=rounds,
    )
    return _row(
        f"a scale, {name}", "bare extraction", seconds["score"], seconds["extract"]
    )


def _extracted(key: jax.Array, feature_fn: Any, task: synbench.Task) -> np.ndarray:
    """The same inputs through the same encoder, a batch at a time, to the host."""
    parts = [
        _features(feature_fn, key, np.int32(start), task=task)
        for start in range(0, task.num_train + task.num_test, _BATCH)
    ]
    return np.concatenate([np.asarray(part) for part in parts])


@functools.partial(jax.jit, static_argnames="task")
def _features(
    feature_fn: Any, key: jax.Array, start: jax.Array, *, task: synbench.Task
) -> jax.Array:
    scale = jnp.float32(task.scales[0])
    return feature_fn(task.draw(key, scale, start=start, num_samples=_BATCH).x)


def _rule_row(rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2 * _NUM_FEATURES, _NUM_FEATURES))
    covariance = root.T @ root / len(root)
    mean = rng.normal(size=_NUM_FEATURES) / 10
    radii = _EPSILONS * np.linalg.norm(mean)

    @jax.jit
    def decomposition(matrix: jax.Array) -> Any:
        return jnp.linalg.eigh(matrix)

    def plain() -> Any:
        with jax.enable_x64(True):
            return decomposition(jnp.asarray(covariance))

    seconds = timing.interleaved(
        {
            "rules": lambda: synbench.robust_bayes(mean, covariance, epsilon=radii),
            "eigh": plain,
        },
        rounds=rounds,
    )
    return _row(
        "9 rules of 768 features",
        "one eigh, float64",
        seconds["rules"],
        seconds["eigh"],
    )


def _row(
    way: str, beside: str, seconds: list[float], limit: list[float]
) -> dict[str, Any]:
    return {
        "way": way,
        "beside": beside,
        "seconds": float(np.median(seconds)),
        "seconds_beside": float(np.median(limit)),
        "ratio": timing.median_ratio(seconds, limit),
    }
