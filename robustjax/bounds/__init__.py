"""Bound propagation for any JAX function: intervals and linear relaxations."""

from robustjax.bounds.branch_and_bound import (
    PropertyResult,
    verify_cases,
    verify_property,
)
from robustjax.bounds.compilation import Compiled, compiled
from robustjax.bounds.input_sets import (
    AffineInputs,
    NormBall,
    UnionOfBoxes,
    norm_ball,
)
from robustjax.bounds.jacobians.constants import Lipschitz, jacobian_bounds, lipschitz
from robustjax.bounds.methods import (
    AffineBounds,
    Bounds,
    affine_bounds,
    interval_bounds,
    linear_bounds,
    single,
)
from robustjax.bounds.operations import Lines, UnsupportedError, register
from robustjax.bounds.sets.balls import L1Ball, L2Ball
from robustjax.bounds.sets.polytopes import Polytope
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
    "Compiled",
    "L1Ball",
    "L2Ball",
    "LargestEpsilon",
    "Lines",
    "Lipschitz",
    "NormBall",
    "Polytope",
    "PropertyResult",
    "UnionOfBoxes",
    "UnsupportedError",
    "Verification",
    "affine_bounds",
    "compiled",
    "interval_bounds",
    "jacobian_bounds",
    "largest_epsilon",
    "linear_bounds",
    "lipschitz",
    "margin_rows",
    "norm_ball",
    "register",
    "single",
    "verify",
    "verify_cases",
    "verify_property",
    "worst_case_logits",
]
