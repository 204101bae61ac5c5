"""Classifiers on frozen features: linear probes, certified ones, nearest neighbours.

Nothing here knows the encoder: features `[n, p]` go in. A radius in feature space is
one of the probe alone, and says nothing of the encoder in front of it.
"""

from robustjax.probes.correlation import Correlation, Correlations, correlations
from robustjax.probes.feature_radius import (
    certified_feature_radius,
    robust_probe_accuracy,
)
from robustjax.probes.linear import LinearProbe, ProbeFit, linear_probe, robust_loss
from robustjax.probes.neighbors import nearest_neighbors

__all__ = [
    "Correlation",
    "Correlations",
    "LinearProbe",
    "ProbeFit",
    "certified_feature_radius",
    "correlations",
    "linear_probe",
    "nearest_neighbors",
    "robust_loss",
    "robust_probe_accuracy",
]
