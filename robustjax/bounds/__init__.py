"""Bound propagation for any JAX function: intervals and linear relaxations."""

from robustjax.bounds.branch_and_bound import (
    PropertyResult,
    verify_cases,
    verify_property,
)
from robustjax.bounds.input_sets import AffineInputs, UnionOfBoxes
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
    "AffineInputs",
    "Bounds",
    "LargestEpsilon",
    "Lines",
    "PropertyResult",
    "UnionOfBoxes",
    "UnsupportedError",
    "Verification",
    "affine_bounds",
    "interval_bounds",
    "largest_epsilon",
    "linear_bounds",
    "margin_rows",
    "register",
    "single",
    "verify",
    "verify_cases",
    "verify_property",
    "worst_case_logits",
]
