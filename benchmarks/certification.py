"""Certification against the bare forward pass and the bare generation of noise.

All do the same number of samples in the same batches, in one process and in turn. The
limits: a jitted forward pass on a batch that is ready, called from a Python loop, as a
user would write it; the same inside one jitted loop, which leaves no time between two
passes; and a jitted draw of one batch of noise.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from robustjax import models, smoothing


class Case(NamedTuple):
    """A model, its input and how many batches are timed."""

    model: str
    shape: tuple[int, ...]
    dtype: str
    chunk_size: int
    num_chunks: int
    options: dict[str, Any]

    @property
    def num_samples(self) -> int:
        """Samples in one timed call."""
        return self.chunk_size * self.num_chunks


def cases(platform: str) -> list[Case]:
    """The cases of a platform: float32 on a CPU, bfloat16 as well elsewhere."""
    if platform == "cpu":
        return [
            Case("mlp", (28, 28, 1), "float32", 256, 64, {"features": (64,)}),
            Case("cnn", (28, 28, 1), "float32", 256, 64, {}),
            Case("resnet20", (32, 32, 3), "float32", 256, 8, {}),
        ]
    sizes: tuple[tuple[str, tuple[int, ...], int, int, dict[str, Any]], ...] = (
        ("mlp", (28, 28, 1), 16384, 64, {"features": (64,)}),
        ("cnn", (28, 28, 1), 16384, 64, {}),
        ("resnet20", (32, 32, 3), 4096, 64, {}),
        ("resnet110", (32, 32, 3), 4096, 16, {}),
        ("resnet50", (224, 224, 3), 256, 32, {}),
    )
    return [
        Case(model, shape, dtype, chunk_size, num_chunks, options)
        for model, shape, chunk_size, num_chunks, options in sizes
        for dtype in ("float32", "bfloat16")
    ]


def measure(case: Case, *, rounds: int) -> dict[str, Any]:
    """Samples a second, ratios to the limits and compile seconds of one case."""
    key = jax.random.key(0)
    apply_fn = classifier(case)
    x = jax.random.uniform(key, (1, *case.shape))
    batch = jnp.broadcast_to(x, (case.chunk_size, *case.shape)) + 0.0
    forward = jax.jit(lambda apply_fn, batch: apply_fn(batch))
    loop = jax.jit(functools.partial(_forward_loop, num_chunks=case.num_chunks))
    draw = jax.jit(functools.partial(_noise_batch, case=case))

    def count() -> jax.Array:
        return smoothing.class_counts(
            key,
            apply_fn,
            x,
            sigma=0.25,
            num_samples=case.num_samples,
            num_classes=10,
            chunk_size=case.chunk_size,
        )

    jax.clear_caches()
    first = timing.once(count)
    seconds = timing.interleaved(
        {
            "forward": lambda: [forward(apply_fn, batch) for _ in _chunks(case)][-1],
            "loop": lambda: loop(apply_fn, batch),
            "noise": lambda: [draw(key, i) for i in _chunks(case)][-1],
            "certify": count,
        },
        rounds=rounds,
    )
    median = float(np.median(seconds["certify"]))
    return {
        "model": case.model,
        "dtype": case.dtype,
        "input": "x".join(map(str, case.shape)),
        "chunk_size": case.chunk_size,
        "samples_per_second": case.num_samples / median,
        "forward_samples_per_second": case.num_samples / np.median(seconds["forward"]),
        "noise_samples_per_second": case.num_samples / np.median(seconds["noise"]),
        "ratio_to_forward": timing.median_ratio(seconds["certify"], seconds["forward"]),
        "ratio_to_forward_and_noise": timing.median_ratio(
            seconds["certify"], seconds["forward"], seconds["noise"]
        ),
        "ratio_to_forward_loop": timing.median_ratio(
            seconds["certify"], seconds["loop"]
        ),
        "ratio_to_forward_loop_and_noise": timing.median_ratio(
            seconds["certify"], seconds["loop"], seconds["noise"]
        ),
        "compile_seconds": first - median,
        "rounds": rounds,
    }


def classifier(case: Case) -> jax.tree_util.Partial:
    """The model of a case with its initial weights."""
    module = models.create(case.model, num_classes=10, dtype=case.dtype, **case.options)
    example = jnp.zeros((1, *case.shape))
    variables = jax.jit(module.init)(jax.random.key(1), example)
    return models.classifier(module, variables)


def _chunks(case: Case) -> range:
    return range(case.num_chunks)


def _forward_loop(
    apply_fn: jax.tree_util.Partial, batch: jax.Array, *, num_chunks: int
) -> jax.Array:
    """Forward passes one after the other, each on a batch that the last one touched."""

    def step(_: jax.Array, total: jax.Array) -> jax.Array:
        return total + apply_fn(batch + 1e-9 * total[0, 0])

    logits = jax.eval_shape(apply_fn, batch)
    return jax.lax.fori_loop(0, num_chunks, step, jnp.zeros(logits.shape))


def _noise_batch(key: jax.Array, chunk: jax.Array, *, case: Case) -> jax.Array:
    """One batch of noise drawn at once from one key, the plainest way there is."""
    key = jax.random.fold_in(key, chunk)
    return jax.random.normal(key, (case.chunk_size, *case.shape))
