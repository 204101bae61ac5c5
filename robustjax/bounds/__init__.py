"""Bound propagation for any JAX function: intervals and linear relaxations."""

from robustjax.bounds.engine import (
    AffineBounds,
    Bounds,
    affine_bounds,
    interval_bounds,
    linear_bounds,
    single,
)
from robustjax.bounds.operations import Lines, UnsupportedError, register

__all__ = [
    "AffineBounds",
    "Bounds",
    "Lines",
    "UnsupportedError",
    "affine_bounds",
    "interval_bounds",
    "linear_bounds",
    "register",
    "single",
]
