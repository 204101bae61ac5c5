"""Timing of calls in turn, so that ratios hold on a noisy machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def interleaved(
    calls: Mapping[str, Callable[[], Any]], *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each call, one after the other in every round, after a warm-up."""
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(once(call))
    return seconds


def once(call: Callable[[], Any]) -> float:
    """Seconds until the result of a call is ready."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def median_ratio(seconds: list[float], *limits: list[float]) -> float:
    """Median over the rounds of the seconds by the sum of the limits."""
    return statistics.median(
        own / sum(parts) for own, *parts in zip(seconds, *limits, strict=True)
    )
