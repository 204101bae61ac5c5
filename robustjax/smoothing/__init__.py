"""Randomized smoothing: certified radii of any classifier under Gaussian noise."""

from robustjax.smoothing.certification import ABSTAIN, Certificate, certify, predict
from robustjax.smoothing.confidence import (
    class_probability_bounds,
    clopper_pearson_lower,
    clopper_pearson_upper,
    min_num_estimation,
    min_num_prediction,
)
from robustjax.smoothing.radius import zeroth_order_radius
from robustjax.smoothing.sampling import class_counts

__all__ = [
    "ABSTAIN",
    "Certificate",
    "certify",
    "class_counts",
    "class_probability_bounds",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "min_num_estimation",
    "min_num_prediction",
    "predict",
    "zeroth_order_radius",
]
