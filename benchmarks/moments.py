"""Sampling with first-order moments against sampling of class counts alone.

Both draw the same noise for the same samples in batches of the same size, in one
process and in turn.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import certification, timing
from robustjax import smoothing
from robustjax.smoothing.sampling import moments, subspaces

_MAX_CHUNK = 4096  # of sums whose rounding is bounded


def measure(
    rounds: int, *, cases: Sequence[certification.Case] | None = None
) -> list[dict[str, Any]]:
    """Ratios of the median seconds, for each case of the platform by default."""
    if cases is None:
        platform = jax.devices()[0].platform
        cases = [c for c in certification.cases(platform) if c.dtype == "float32"]
    return [_measure(case, rounds=rounds) for case in cases]


def _measure(case: certification.Case, *, rounds: int) -> dict[str, Any]:
    key = jax.random.key(0)
    arguments = (key, certification.classifier(case))
    options: dict[str, Any] = {
        "x": jax.random.uniform(key, (1, *case.shape)),
        "sigma": 0.25,
        "num_samples": case.num_samples,
        "num_classes": 10,
        "chunk_size": min(case.chunk_size, _MAX_CHUNK),
    }
    count = functools.partial(smoothing.class_counts, *arguments, **options)
    sum_up = functools.partial(
        moments.class_moments,
        *arguments,
        **options,
        selected=np.array([0]),
        baseline=np.array([0.5]),
    )
    channels = tuple(
        subspaces.named_subspace(f"channel{i}", shape=case.shape)
        for i in range(case.shape[-1])
    )
    seconds = timing.interleaved(
        {
            "counts": count,
            "moments": sum_up,
            "channels": functools.partial(sum_up, subspaces=channels),
        },
        rounds=rounds,
    )
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "model": case.model,
        "input": "x".join(map(str, case.shape)),
        "chunk_size": min(case.chunk_size, _MAX_CHUNK),
        "num_samples": case.num_samples,
        "counts_samples_per_second": case.num_samples / medians["counts"],
        "moments_samples_per_second": case.num_samples / medians["moments"],
        "ratio_to_counts": medians["moments"] / medians["counts"],
        "ratio_with_channels": medians["channels"] / medians["counts"],
        "rounds": rounds,
    }
