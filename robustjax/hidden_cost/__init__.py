"""What smoothing costs: shrinking regions, and the classes that pay for it."""

from robustjax.hidden_cost.closed_forms.balls import (
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
from robustjax.hidden_cost.closed_forms.boxes import (
    box_class_probability,
    cube_vanishing_sigma,
    half_space_class_probability,
    line_class_probabilities,
)
from robustjax.hidden_cost.closed_forms.cones import (
    cone_apex_shift,
    cone_class_probability,
)
from robustjax.hidden_cost.closed_forms.noise_training import (
    GaussianWorld,
    PointWorld,
    gaussian_world,
    point_world,
)
from robustjax.hidden_cost.disparity.accuracy_gaps import holm_adjusted
from robustjax.hidden_cost.disparity.classwise import (
    ClassRadii,
    ClasswiseReport,
    classwise_report,
)
from robustjax.hidden_cost.disparity.confusion import (
    off_diagonal_norm,
    plurality,
    smoothed_confusion,
)
from robustjax.hidden_cost.disparity.statistics import Disparity, PredictedShares
from robustjax.hidden_cost.disparity.tables import classwise_findings, classwise_rows
from robustjax.hidden_cost.regions.rays import RayShrinkage, ray_shrinkage
from robustjax.hidden_cost.regions.slices import (
    AreaFractions,
    SliceMap,
    area_fractions,
    slice_map,
    transition_matrix,
)
from robustjax.hidden_cost.regions.survival import ClassSurvival, class_survival

__all__ = [
    "AreaFractions",
    "CenterCertificate",
    "ClassRadii",
    "ClassSurvival",
    "ClasswiseReport",
    "Disparity",
    "GaussianWorld",
    "PointWorld",
    "PredictedShares",
    "RayShrinkage",
    "SliceMap",
    "area_fractions",
    "ball_class_probability",
    "ball_radius_bounds",
    "ball_vanishing_sigma",
    "best_center_certificate",
    "box_class_probability",
    "class_survival",
    "classwise_findings",
    "classwise_report",
    "classwise_rows",
    "cone_apex_shift",
    "cone_class_probability",
    "cube_vanishing_sigma",
    "curvature_shift",
    "gaussian_world",
    "half_space_class_probability",
    "holm_adjusted",
    "line_class_probabilities",
    "max_certified_quantile",
    "min_sigma_for_radius",
    "off_diagonal_norm",
    "plurality",
    "point_world",
    "ray_shrinkage",
    "slice_map",
    "smoothed_ball_radius",
    "smoothed_confusion",
    "transition_matrix",
]
