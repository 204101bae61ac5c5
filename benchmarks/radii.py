"""First-order radii a second, against a plain SciPy way of solving the same problem.

The host computes in float64 and proves each radius; the device keeps float32. The peer
maximises the dual with SciPy at every step of a bisection in r, each value by adaptive
quadrature, as one would write it down.
"""

import functools
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import integrate, optimize, stats

from benchmarks import timing
from robustjax import smoothing

_NUM = 4096
_BISECTIONS = 20


def measure(rounds: int) -> list[dict[str, Any]]:
    """Radii a second of each way, warm, on random certificates."""
    known = random_certificates(_NUM)
    on_device = [jnp.asarray(v, jnp.float32) for v in known]
    seconds = timing.interleaved(
        {
            "float64 with proof": lambda: smoothing.first_order_radius(*known),
            "float32 on the device": lambda: smoothing.first_order_radius(*on_device),
        },
        rounds=rounds,
    )
    rows = [
        {"way": way, "radii_per_second": _NUM / float(np.median(values)), "num": _NUM}
        for way, values in seconds.items()
    ]
    began = time.perf_counter()
    plain_radius(0.9, -0.06, 0.1)
    speed = 1 / (time.perf_counter() - began)
    return [*rows, {"way": "plain SciPy", "radii_per_second": speed, "num": 1}]


def random_certificates(num: int) -> list[np.ndarray]:
    """p, parallel and perpendicular components as they occur."""
    rng = np.random.default_rng(0)
    p = 1 - 10 ** rng.uniform(-5, np.log10(0.49), num)
    length = np.sqrt(rng.uniform(0, 1, num)) * stats.norm.pdf(stats.norm.ppf(p))
    theta = rng.uniform(0, np.pi / 2, num)
    return [p, -length * np.cos(theta), length * np.sin(theta)]


def plain_radius(p: float, parallel: float, perpendicular: float) -> float:
    """The box radius by nested optimisation."""
    low, high = 0.0, 5.0
    for _ in range(_BISECTIONS):
        r = (low + high) / 2
        value = functools.partial(_negative_dual, r, (p, parallel, perpendicular))
        start, bounds = (0.5, 0.5, 1.0), ((0, None), (1e-6, None), (0, None))
        worst = -optimize.minimize(value, start, bounds=bounds).fun
        low, high = (r, high) if worst > 0.5 else (low, r)
    return low


def _negative_dual(
    r: float, known: tuple[float, float, float], multipliers: Any
) -> float:
    p, parallel, perpendicular = known
    a, b, c = multipliers

    def integrand(z: float) -> float:
        gap = np.exp(r * z - r * r / 2) - a * z - c
        norm = stats.norm
        return norm.pdf(z) * (gap * norm.cdf(-gap / b) - b * norm.pdf(gap / b))

    excess, _ = integrate.quad(integrand, -9, 9 + r, limit=200)
    return -(a * parallel + b * perpendicular + c * p + excess)
