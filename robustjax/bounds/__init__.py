"""Bound propagation for any JAX function: intervals and linear relaxations."""

from robustjax.bounds.branch_and_bound import Exclusion, exclude, exclude_cases
from robustjax.bounds.input_sets import Pieces, Planes
from robustjax.bounds.methods import (
    AffineBounds,
    Bounds,
    affine_bounds,
    interval_bounds,
    linear_bounds,
    single,
)
from robustjax.bounds.operations import Lines, UnsupportedError, register
from robustjax.bounds.verification import (
    LargestEpsilon,
    Verification,
    largest_epsilon,
    margin_rows,
    verify,
    worst_case_logits,
)

__all__ = [
    "AffineBounds",
    "Bounds",
    "Exclusion",
    "LargestEpsilon",
    "Lines",
    "Pieces",
    "Planes",
    "UnsupportedError",
    "Verification",
    "affine_bounds",
    "exclude",
    "exclude_cases",
    "interval_bounds",
    "largest_epsilon",
    "linear_bounds",
    "margin_rows",
    "register",
    "single",
    "verify",
    "worst_case_logits",
]
