"""Randomized smoothing: certified radii of any classifier under Gaussian noise."""

from robustjax.smoothing.adaptive import certify_adaptively
from robustjax.smoothing.budget import needed_bounds
from robustjax.smoothing.certificate import ABSTAIN, Certificate, GradientEvidence
from robustjax.smoothing.certification import certify
from robustjax.smoothing.confidence import (
    class_probability_bounds,
    clopper_pearson_lower,
    clopper_pearson_upper,
    min_num_estimation,
    min_num_prediction,
)
from robustjax.smoothing.first_order import first_order_radius
from robustjax.smoothing.gradient_bounds import GradientBounds, gradient_norm_bounds
from robustjax.smoothing.gradients import smoothed
from robustjax.smoothing.moment_constraints import (
    WorstCase,
    worst_case_probability,
    worst_case_radius,
)
from robustjax.smoothing.moments import Moments, class_moments
from robustjax.smoothing.prediction import predict
from robustjax.smoothing.radius import zeroth_order_radius
from robustjax.smoothing.sampling import class_counts
from robustjax.smoothing.sequences import (
    binomial_sequence_lower,
    binomial_sequence_upper,
    bounded_mean_lower,
    stage_alpha,
    stage_sizes,
)
from robustjax.smoothing.subspaces import Subspace, named_subspace, subspace
from robustjax.smoothing.threats import norm_radius

__all__ = [
    "ABSTAIN",
    "Certificate",
    "GradientBounds",
    "GradientEvidence",
    "Moments",
    "Subspace",
    "WorstCase",
    "binomial_sequence_lower",
    "binomial_sequence_upper",
    "bounded_mean_lower",
    "certify",
    "certify_adaptively",
    "class_counts",
    "class_moments",
    "class_probability_bounds",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "first_order_radius",
    "gradient_norm_bounds",
    "min_num_estimation",
    "min_num_prediction",
    "named_subspace",
    "needed_bounds",
    "norm_radius",
    "predict",
    "smoothed",
    "stage_alpha",
    "stage_sizes",
    "subspace",
    "worst_case_probability",
    "worst_case_radius",
    "zeroth_order_radius",
]
