"""Noncentral chi-square probabilities and ball radii a second, against SciPy."""

from typing import Any

import numpy as np
from scipy import optimize, stats

from benchmarks import timing
from robustjax import hidden_cost, special

_NUM = 10_000
_NUM_PEER_RADII = 50


def measure(rounds: int) -> list[dict[str, Any]]:
    """Evaluations a second of each way, warm, in float64."""
    rng = np.random.default_rng(0)
    cases = {
        "df >= 10": 10 ** rng.uniform(1, 5, _NUM),
        "df < 10": rng.uniform(1, 9, _NUM),
    }
    rows = []
    for name, df in cases.items():
        nc = 10 ** rng.uniform(-2, 5, _NUM)
        x = df + nc + rng.uniform(-3, 3, _NUM) * np.sqrt(2 * (df + 2 * nc))
        x = np.maximum(x, 1e-3)
        ways = {
            f"ncx2_cdf, {name}": lambda x=x, df=df, nc=nc: special.ncx2_cdf(x, df, nc),
            f"SciPy's ncx2.cdf, {name}": lambda x=x, df=df, nc=nc: stats.ncx2.cdf(
                x, df, nc
            ),
        }
        rows += _rows(timing.interleaved(ways, rounds=rounds), num=_NUM)
    dim = np.round(10 ** rng.uniform(1, 5, _NUM))
    share = rng.uniform(0.1, 0.99, _NUM)
    sigma = share * hidden_cost.ball_vanishing_sigma(1.0, dim=dim)
    own = timing.interleaved(
        {
            "smoothed_ball_radius": lambda: hidden_cost.smoothed_ball_radius(
                1.0, sigma=sigma, dim=dim
            )
        },
        rounds=rounds,
    )
    few = slice(0, _NUM_PEER_RADII)
    peer = timing.interleaved(
        {"brentq on SciPy's ncx2.cdf": lambda: _plain_radii(sigma[few], dim[few])},
        rounds=1,
    )
    return [*rows, *_rows(own, num=_NUM), *_rows(peer, num=_NUM_PEER_RADII)]


def _rows(seconds: dict[str, Any], *, num: int) -> list[dict[str, Any]]:
    return [
        {
            "way": way,
            "evaluations_per_second": num / float(np.median(values)),
            "num": num,
        }
        for way, values in seconds.items()
    ]


def _plain_radii(sigma: np.ndarray, dim: np.ndarray) -> list[float]:
    """One root after the other, as one would write it down."""

    def short_of_half(r: float, s: float, d: float) -> float:
        return float(stats.ncx2.cdf(1 / s**2, d, max(r / s, 1e-6) ** 2)) - 0.5

    return [
        optimize.brentq(short_of_half, 0.0, 1.0, args=(s, d), xtol=1e-12)
        for s, d in zip(sigma, dim, strict=True)
    ]
