"""Certificates from counts and moments of the noise samples, on the host.

    R = max(R_0(p_A, p_B), R_1(p_A, U, l)) if p_A > p_B, else 0 and abstention,

with the zeroth-order radius R_0, and at order 1 the radius R_1 of `norm_balls` from an
upper bound U of the dual norm of the gradient and a lower bound l of its length.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustjax import norms
from robustjax.smoothing.certificate import Certificate, GradientEstimates
from robustjax.smoothing.confidence import (
    binomial,
    budget,
    gradient_norms,
    moment_sums,
    sequences,
)
from robustjax.smoothing.radii import norm_balls, zeroth_order
from robustjax.smoothing.sampling import moments, vote_counts
from robustjax.smoothing.settings import Settings


def from_counts(
    settings: Settings,
    counts: NDArray[np.int32],
    *,
    selected: NDArray[np.int32],
    bound: str = "clopper_pearson",
    stage: NDArray[np.int32] | int = 0,
) -> Certificate:
    """Zeroth-order certificates from class counts `[n, k + 1]`. [host].

    Guarantee: `Certificate`'s, if class A was selected on other samples and the counts
    are of a fixed number of samples, or of any number with bound="sequence".

    Args:
        settings: what is asked for.
        counts: samples won by each class, the last column invalid ones.
        selected: class A of each example.
        bound: "clopper_pearson" or "sequence", which holds at any stopping time.
        stage: in which an adaptive run ended.

    Returns:
        The certificates.
    """
    num_samples = counts.sum(axis=-1, dtype=np.int32)
    votes, runner_up_votes = vote_counts.votes_of(counts, selected)
    if bound == "sequence":
        p_lower = sequences.binomial_sequence_lower(
            votes, num_samples, alpha=settings.alpha
        )
        p_upper = 1 - p_lower
    else:
        p_lower, p_upper = binomial.class_probability_bounds(
            votes,
            runner_up_votes,
            num_samples,
            alpha=settings.alpha,
            num_classes=settings.num_classes,
            runner_up=settings.runner_up,
        )
    return _certificate(
        settings,
        probability=(p_lower, p_upper),
        gradient={},
        counts=counts,
        selected=selected,
        bound=bound,
        stage=stage,
        failed=np.zeros(len(counts), bool),
    )


def from_moments(
    settings: Settings,
    sums: moments.Moments,
    *,
    alpha: float | None = None,
    stage: NDArray[np.int32] | int = 0,
) -> Certificate:
    """Certificates from moments: of first order, or of soft votes. [host].

    At order 1 half of alpha pays for the class probability, half for the gradient; see
    `budget`.

    Args:
        settings: what is asked for.
        sums: sums over the noise samples, as NumPy arrays.
        alpha: failure probability of this stage, settings.alpha by default.
        stage: in which an adaptive run ended.

    Returns:
        The certificates; examples with sums that are not finite have `failed`.
    """
    alpha = settings.alpha if alpha is None else alpha
    share = budget.split((), alpha=alpha).probability if settings.order else alpha
    p_lower = gradient_norms.class_probability_lower(
        sums, alpha=share, votes=settings.votes
    )
    return _certificate(
        settings,
        probability=(p_lower, 1 - p_lower),
        gradient=_gradient(settings, sums, p_lower, alpha=alpha),
        counts=np.asarray(sums.counts),
        selected=np.asarray(sums.selected),
        bound="betting" if settings.votes == "soft" else "clopper_pearson",
        stage=stage,
        failed=~moment_sums.is_finite(sums),
    )


def _gradient(
    settings: Settings,
    sums: moments.Moments,
    p_lower: NDArray[np.float64],
    *,
    alpha: float,
) -> dict[str, GradientEstimates]:
    """The evidence of every norm, under one budget or each under its own.

    Every budget has the same share for p_lower.
    """
    if settings.order == 0:
        return {}
    shares = budget.events(
        settings.norms,
        alpha=alpha,
        simultaneous=settings.simultaneous,
        method=settings.method,
    )
    paid: Any = None
    found = {}
    for norm, share in shares.items():
        if share is not paid:
            paid = share
            bounds = gradient_norms.given_probability(
                p_lower,
                sums,
                levels=share.gradient,
                method=settings.method,
                subspaces=settings.subspaces or {},
                votes=settings.votes,
            )
        found[norm] = _evidence_of(norm, bounds, settings)
    return found


def _evidence_of(
    norm: str, bounds: gradient_norms.GradientBounds, settings: Settings
) -> GradientEstimates:
    name = norms.subspace_name(norm)
    return GradientEstimates(
        bounds.dual_estimate(norm),
        bounds.dual_upper(norm, dim=settings.dim),
        bounds.l2_lower if name is None else bounds.complement_lower[name],
    )


def _certificate(
    settings: Settings,
    *,
    probability: tuple[NDArray[np.float64], NDArray[np.float64]],
    gradient: Mapping[str, GradientEstimates],
    counts: NDArray[np.int32],
    selected: NDArray[np.int32],
    bound: str,
    stage: NDArray[np.int32] | int,
    failed: NDArray[np.bool_],
) -> Certificate:
    p_lower = np.where(failed, 0.0, probability[0])
    p_upper = np.where(failed, 1.0, probability[1])
    is_certified = (p_lower > p_upper) & (selected < settings.num_classes)
    votes, runner_up_votes = vote_counts.votes_of(counts, selected)
    zeroth = _zeroth_radii(settings, p_lower, p_upper)
    radii = {
        norm: np.maximum(
            zeroth[norm],
            0.0 if not gradient else _first_radius(settings, norm, p_lower, gradient),
        )
        for norm in settings.norms
    }
    return Certificate(
        prediction=np.where(is_certified, selected, vote_counts.ABSTAIN).astype(
            np.int32
        ),
        radius={n: np.where(is_certified, r, 0.0) for n, r in radii.items()},
        p_lower=p_lower,
        count=votes,
        num_samples=counts.sum(axis=-1, dtype=np.int32),
        alpha=settings.alpha,
        sigma=settings.sigma,
        simultaneous=settings.simultaneous or settings.order == 0,
        num_invalid=counts[:, -1],
        p_upper=p_upper,
        runner_up_count=runner_up_votes,
        runner_up=settings.runner_up,
        votes=settings.votes,
        selected=selected,
        counts=counts,
        num_selection=settings.num_selection,
        order=settings.order,
        zeroth_radius={n: np.where(is_certified, r, 0.0) for n, r in zeroth.items()},
        gradient=dict(gradient),
        form=settings.form,
        bound=bound,
        stage=np.broadcast_to(np.int32(stage), selected.shape).copy(),
        failed=failed,
    )


def _zeroth_radii(
    settings: Settings, p_lower: NDArray[np.float64], p_upper: NDArray[np.float64]
) -> dict[str, Any]:
    return {
        norm: zeroth_order.zeroth_order_radius(
            p_lower,
            sigma=settings.sigma,
            p_upper=None if settings.runner_up == "complement" else p_upper,
            norm=norm,
            dim=settings.dim,
        )
        for norm in settings.norms
    }


def _first_radius(
    settings: Settings,
    norm: str,
    p_lower: NDArray[np.float64],
    gradient: Mapping[str, GradientEstimates],
) -> Any:
    return norm_balls.norm_radius(
        p_lower,
        gradient[norm].dual_upper,
        gradient[norm].length_lower,
        norm=norm,
        dim=settings.dim,
        sigma=settings.sigma,
        form=settings.form,
    )
