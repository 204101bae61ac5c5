"""The analytic Gaussian world: rules against l2 shifts, and the score SynBench."""

from robustjax.synbench.bayes_rule import LinearRule, linear_accuracy, robust_bayes
from robustjax.synbench.expected_margins import (
    ExpectedMargin,
    accuracy_of_scaled_bound,
    expected_margin,
    expected_scaled_bound,
    scaled_bound_of_signal,
)
from robustjax.synbench.gaussian_pair import FactorCovariance, Sample, sample
from robustjax.synbench.moments import (
    FeatureMoments,
    feature_moments,
    merge_moments,
    oas_shrinkage,
    pooled_covariance,
)
from robustjax.synbench.pipeline import ScaleResult, measure_scale
from robustjax.synbench.result import SynBenchResult
from robustjax.synbench.score import score_of_scales, synbench
from robustjax.synbench.task import IMAGENET_MEAN, IMAGENET_STD, Task
from robustjax.synbench.tradeoff_curves import (
    SCALES,
    THRESHOLDS,
    bound_curve,
    curve_area,
    finite_sample_ceiling,
    reference_curve,
    score_of_curves,
)
from robustjax.synbench.transfer_scores import h_score, log_me, numpy_moments, rank_me
from robustjax.synbench.uncertainty import ScoreDifference, compare_scores

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
