"""The analytic Gaussian world: rules against l2 shifts, and the score SynBench."""

from robustjax.gaussian.classifier import LinearRule, linear_accuracy, robust_bayes
from robustjax.gaussian.companions import h_score, log_me, numpy_moments, rank_me
from robustjax.gaussian.margins import (
    ExpectedMargin,
    accuracy_of_scaled_bound,
    expected_margin,
    expected_scaled_bound,
    scaled_bound_of_signal,
)
from robustjax.gaussian.measurement import ScaleResult, measure_scale
from robustjax.gaussian.mixture import FactorCovariance, Sample, sample
from robustjax.gaussian.moments import (
    FeatureMoments,
    feature_moments,
    merge_moments,
    oas_shrinkage,
    pooled_covariance,
)
from robustjax.gaussian.result import SynBenchResult
from robustjax.gaussian.score import score_of_scales, synbench
from robustjax.gaussian.task import IMAGENET_MEAN, IMAGENET_STD, Task
from robustjax.gaussian.tradeoff import (
    SCALES,
    THRESHOLDS,
    bound_curve,
    curve_area,
    finite_sample_ceiling,
    reference_curve,
    score_of_curves,
)
from robustjax.gaussian.uncertainty import ScoreDifference, compare_scores

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "SCALES",
    "THRESHOLDS",
    "ExpectedMargin",
    "FactorCovariance",
    "FeatureMoments",
    "LinearRule",
    "Sample",
    "ScaleResult",
    "ScoreDifference",
    "SynBenchResult",
    "Task",
    "accuracy_of_scaled_bound",
    "bound_curve",
    "compare_scores",
    "curve_area",
    "expected_margin",
    "expected_scaled_bound",
    "feature_moments",
    "finite_sample_ceiling",
    "h_score",
    "linear_accuracy",
    "log_me",
    "measure_scale",
    "merge_moments",
    "numpy_moments",
    "oas_shrinkage",
    "pooled_covariance",
    "rank_me",
    "reference_curve",
    "robust_bayes",
    "sample",
    "scaled_bound_of_signal",
    "score_of_curves",
    "score_of_scales",
    "synbench",
]
