"""Randomized smoothing: certified radii of any classifier, and what smoothing costs."""

from robustjax.smoothing.accuracy_gaps import holm_adjusted
from robustjax.smoothing.adaptive import certify_adaptively
from robustjax.smoothing.augmentation import (
    GaussianWorld,
    PointWorld,
    gaussian_world,
    point_world,
)
from robustjax.smoothing.ball_regions import (
    CenterCertificate,
    ball_class_probability,
    ball_radius_bounds,
    ball_vanishing_sigma,
    best_center_certificate,
    curvature_shift,
    max_certified_quantile,
    min_sigma_for_radius,
    smoothed_ball_radius,
)
from robustjax.smoothing.box_regions import (
    box_class_probability,
    cube_vanishing_sigma,
    half_space_class_probability,
    line_class_probabilities,
)
from robustjax.smoothing.budget import needed_bounds
from robustjax.smoothing.certificate import Certificate, GradientEvidence
from robustjax.smoothing.certification import certify
from robustjax.smoothing.cone_regions import cone_apex_shift, cone_class_probability
from robustjax.smoothing.confidence import (
    class_probability_bounds,
    clopper_pearson_lower,
    clopper_pearson_upper,
    min_num_estimation,
    min_num_prediction,
)
from robustjax.smoothing.confusion import (
    off_diagonal_norm,
    plurality,
    smoothed_confusion,
)
from robustjax.smoothing.disparity import ClassRadii, ClasswiseReport, classwise_report
from robustjax.smoothing.disparity_statistics import Disparity, PredictedShares
from robustjax.smoothing.disparity_tables import classwise_findings, classwise_rows
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
from robustjax.smoothing.rays import RayShrinkage, ray_shrinkage
from robustjax.smoothing.sampling import ABSTAIN, class_counts
from robustjax.smoothing.sequences import (
    binomial_sequence_lower,
    binomial_sequence_upper,
    bounded_mean_lower,
    stage_alpha,
    stage_sizes,
)
from robustjax.smoothing.slices import (
    AreaFractions,
    SliceMap,
    area_fractions,
    slice_map,
    transition_matrix,
)
from robustjax.smoothing.subspaces import Subspace, named_subspace, subspace
from robustjax.smoothing.survival import ClassSurvival, class_survival
from robustjax.smoothing.threats import norm_radius

__all__ = [
    "ABSTAIN",
    "AreaFractions",
    "CenterCertificate",
    "Certificate",
    "ClassRadii",
    "ClassSurvival",
    "ClasswiseReport",
    "Disparity",
    "GaussianWorld",
    "GradientBounds",
    "GradientEvidence",
    "Moments",
    "PointWorld",
    "PredictedShares",
    "RayShrinkage",
    "SliceMap",
    "Subspace",
    "WorstCase",
    "area_fractions",
    "ball_class_probability",
    "ball_radius_bounds",
    "ball_vanishing_sigma",
    "best_center_certificate",
    "binomial_sequence_lower",
    "binomial_sequence_upper",
    "bounded_mean_lower",
    "box_class_probability",
    "certify",
    "certify_adaptively",
    "class_counts",
    "class_moments",
    "class_probability_bounds",
    "class_survival",
    "classwise_findings",
    "classwise_report",
    "classwise_rows",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "cone_apex_shift",
    "cone_class_probability",
    "cube_vanishing_sigma",
    "curvature_shift",
    "first_order_radius",
    "gaussian_world",
    "gradient_norm_bounds",
    "half_space_class_probability",
    "holm_adjusted",
    "line_class_probabilities",
    "max_certified_quantile",
    "min_num_estimation",
    "min_num_prediction",
    "min_sigma_for_radius",
    "named_subspace",
    "needed_bounds",
    "norm_radius",
    "off_diagonal_norm",
    "plurality",
    "point_world",
    "predict",
    "ray_shrinkage",
    "slice_map",
    "smoothed",
    "smoothed_ball_radius",
    "smoothed_confusion",
    "stage_alpha",
    "stage_sizes",
    "subspace",
    "transition_matrix",
    "worst_case_probability",
    "worst_case_radius",
    "zeroth_order_radius",
]
