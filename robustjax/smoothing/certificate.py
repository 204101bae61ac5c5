"""The result of a certification: `Certificate` and `GradientEstimates`."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class GradientEstimates(NamedTuple):
    """What a first-order radius rests on; m = sigma * gradient of p, `[n]` each.

    For a subspace the dual norm is the l2 norm inside it, and the length that of the
    rest of m.
    """

    dual_norm: NDArray[np.float64]  # point estimate of the dual norm of m
    dual_upper: NDArray[np.float64]  # upper confidence bound of it
    length_lower: NDArray[np.float64]  # lower confidence bound of the l2 norm of m


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """Certified radii of n examples with the evidence they rest on. [host].

    Arrays are NumPy; probabilities and radii are float64. For each example and under
    its own budget `alpha`: with probability at least 1 - alpha over the noise, the
    smoothed classifier predicts `prediction` at every point nearer than the radius, or
    the example abstains. With several norms that holds in all of them at once where
    `simultaneous`, and in each norm alone otherwise.
    """

    prediction: NDArray[np.int32]  # [n], -1 where it abstains
    radius: dict[str, NDArray[np.float64]]  # norm -> [n], input units, 0 if abstaining
    p_lower: NDArray[np.float64]  # [n], lower bound of the selected class
    count: NDArray[np.int32]  # [n], estimation samples won by the selected class
    num_samples: NDArray[np.int32]  # [n], estimation samples of each example
    alpha: float  # failure probability for each example
    sigma: float  # as asked for, or its float32 rounding where that is less
    simultaneous: bool  # whether all norms hold jointly at alpha
    num_invalid: NDArray[np.int32]  # [n], estimation samples with non-finite logits
    p_upper: NDArray[np.float64]  # [n], upper bound of every other class
    runner_up_count: NDArray[np.int32]  # [n], samples of the strongest other class
    runner_up: str  # how p_upper was bounded
    votes: str  # "hard", the most frequent class; "soft", the largest mean probability
    selected: NDArray[np.int32]  # [n], class chosen on the selection samples
    counts: NDArray[np.int32]  # [n, k + 1], estimation counts, the last one invalid
    num_selection: int
    order: int
    zeroth_radius: dict[str, NDArray[np.float64]]  # what p_lower, p_upper alone give
    gradient: dict[str, GradientEstimates]  # norm -> evidence; empty at order 0
    form: str  # how first-order radii follow from it
    bound: str  # kind of p_lower: "clopper_pearson", "sequence" or "betting"
    stage: NDArray[np.int32]  # [n], stage of an adaptive run that it ended in, or 0
    failed: NDArray[np.bool_]  # [n], not certified since sums were not finite
