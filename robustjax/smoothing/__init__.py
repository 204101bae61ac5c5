"""Higher-order certification: radii of any classifier under Gaussian noise."""

from robustjax.smoothing.adaptive import certify_adaptively
from robustjax.smoothing.certificate import Certificate, GradientEstimates
from robustjax.smoothing.certification import certify
from robustjax.smoothing.confidence.binomial import (
    class_probability_bounds,
    clopper_pearson_lower,
    clopper_pearson_upper,
    min_num_estimation,
    min_num_prediction,
)
from robustjax.smoothing.confidence.budget import needed_bounds
from robustjax.smoothing.confidence.gradient_norms import (
    GradientBounds,
    gradient_norm_bounds,
)
from robustjax.smoothing.confidence.sequences import (
    binomial_sequence_lower,
    binomial_sequence_upper,
    bounded_mean_lower,
    stage_alpha,
    stage_sizes,
)
from robustjax.smoothing.derivatives import smoothed
from robustjax.smoothing.prediction import predict
from robustjax.smoothing.radii.first_order import first_order_radius
from robustjax.smoothing.radii.general_moments import (
    WorstCase,
    worst_case_probability,
    worst_case_radius,
)
from robustjax.smoothing.radii.norm_balls import norm_radius
from robustjax.smoothing.radii.zeroth_order import zeroth_order_radius
from robustjax.smoothing.sampling.moments import Moments, class_moments
from robustjax.smoothing.sampling.subspaces import Subspace, named_subspace, subspace
from robustjax.smoothing.sampling.vote_counts import ABSTAIN, class_counts

__all__ = [
    "ABSTAIN",
    "Certificate",
    "GradientBounds",
    "GradientEstimates",
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
