"""The test that a radius is proved, with a margin for the rounding of the proof.

For any multipliers (a, b, c) and any radius r, the dual value D(a, b, c; r) is a lower
bound on the class probability at distance r. A radius is proved where

    D - 1/2 >= margin.                                     (1)

On the host D is computed in float64 by quadrature with 128 and with 192 nodes, and

    margin = 1e-9 + 64 eps |terms| + 16 |D_192 - D_128|,   (2)
    terms = c q + b perpendicular + |a parallel|;          (3)

on the device by 128 nodes, in float32 or float64, and

    margin = (1e-4 or 1e-8) + 16 eps terms.                (4)

Reference: ours; `docs/papers/higher_order_proof.md`, "From real numbers to float64".
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from robustjax.smoothing.radii import dual
from robustjax.smoothing.radii.dual import DEVICE, HOST, Constraints, Multipliers

ATTEMPTS = 8  # Newton steps in r
_NODES = (128, 192)  # on each side; their difference measures the quadrature
_MARGIN = 1e-9
_ROUNDING = 64 * np.finfo(np.float64).eps
_DEVICE_MARGIN = {4: 1e-4, 8: 1e-8}  # by bytes of a number; float32 errs by 2e-5


def check(
    multipliers: Multipliers, r: NDArray[np.float64], known: Constraints
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Whether radii are proved, in float64, and steps in r towards the largest.

    [host]

    Args:
        multipliers: three of `[m]`, b and c not negative.
        r: `[m]` radii in units of sigma.
        known: constraints, `[m]` each.

    Returns:
        Truth values `[m]`, and Newton steps `[m]` that aim at D = 1/2 + 2 margins.
    """
    (coarse, _), (value, slope) = (
        dual.dual_and_slope(multipliers, r, known, num_nodes=n, arrays=HOST)
        for n in _NODES
    )
    terms = np.abs(_terms(multipliers, known))
    margin = _MARGIN + _ROUNDING * terms + 16 * np.abs(value - coarse)  # (2)
    step = (value - 0.5 - 2 * margin) / np.maximum(-slope, 1e-3)
    return value - 0.5 >= margin, step  # (1)


def largest_on_device(
    multipliers: Multipliers, r: jax.Array, known: Constraints
) -> jax.Array:
    """The largest radius near r that is proved, 0 where none is, `[m]`. [device]."""
    # (4)
    margin = _DEVICE_MARGIN[r.dtype.itemsize] + 16 * jnp.finfo(r.dtype).eps * _terms(
        multipliers, known
    )

    def attempt(_: Any, state: Any) -> Any:
        r, proved = state
        value, slope = dual.dual_and_slope(
            multipliers, r, known, num_nodes=_NODES[0], arrays=DEVICE
        )
        proved = jnp.where(value >= 0.5 + margin, jnp.maximum(proved, r), proved)  # (1)
        step = (value - 0.5 - 2 * margin) / jnp.maximum(-slope, 1e-3)
        return jnp.clip(r + step, 0.0, dual.max_length(r.dtype)), proved

    r = jnp.clip(r, 0.0, dual.max_length(r.dtype))
    return jax.lax.fori_loop(0, ATTEMPTS, attempt, (r, jnp.zeros_like(r)))[1]


def _terms(multipliers: Multipliers, known: Constraints) -> Any:
    """What D sums, for b, c >= 0."""
    a, b, c = multipliers
    return c * known.q + b * known.perpendicular + abs(a * known.parallel)  # (3)
