"""Figures of robustness: certified accuracy and regions, and what smoothing costs.

Needs matplotlib (`pip install robustjax[plot]`), which is imported on use. Figures are
made without pyplot, so nothing global changes and no display is needed.
"""

from robustjax.plotting.attacked import accuracy_under_attack
from robustjax.plotting.certification import (
    certified_accuracy_by_norm,
    certified_accuracy_curve,
    certified_region,
)
from robustjax.plotting.disparity import (
    accuracy_by_class,
    noise_heat_map,
    region_slice,
    shrinkage_along_rays,
)
from robustjax.plotting.semantic import image_grid, radius_histograms
from robustjax.plotting.style import save
from robustjax.plotting.synbench import synbench_scores

__all__ = [
    "accuracy_by_class",
    "accuracy_under_attack",
    "certified_accuracy_by_norm",
    "certified_accuracy_curve",
    "certified_region",
    "image_grid",
    "noise_heat_map",
    "radius_histograms",
    "region_slice",
    "save",
    "shrinkage_along_rays",
    "synbench_scores",
]
