"""Noise level at which a class is no longer predicted at its own points.

    fraction[c, sigma] = share of the points of class c with argmax of votes = c.

Smoothing with more noise can win points back, so a sequence that never rises with
sigma, the nearest in least squares, is fitted to the shares of each class.
"""

from typing import NamedTuple

import jax
import numpy as np
import scipy.optimize
from jax.sharding import Mesh
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _callables, _validate
from robustjax.hidden_cost.regions import point_decisions
from robustjax.smoothing.sampling import base_classifier, streams, vote_counts


class ClassSurvival(NamedTuple):
    """Shares of the points of each class that the smoothed classifier still predicts.

    Rows of a class without points are nan.
    """

    sigmas: NDArray[np.float64]  # [s], ascending
    fraction: NDArray[np.float64]  # [k, s]
    fitted: NDArray[np.float64]  # [k, s], the nearest that does not rise with sigma
    sigma_before: NDArray[np.float64]  # [k], last with fitted >= level, 0 before all
    sigma_after: NDArray[np.float64]  # [k], first with fitted < level, inf after all
    num_points: NDArray[np.int64]  # [k]


def class_survival(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    labels: ArrayLike,
    sigmas: ArrayLike,
    num_classes: int,
    num_samples: int = 1000,
    level: float = 0.5,
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> ClassSurvival:
    """How many points of each class survive smoothing, by noise level.

    [host] A point survives if its label gets most votes (a plurality, not a majority;
    nothing abstains). The noise of a point is the same at every level but for its
    scale. Smoothing with more noise can also win points back, hence the fit, which
    never rises: the isotonic regression of the shares, in least squares.

    Guarantee: none by itself. Shares are of the points given and of finitely many noise
    samples; `classwise_report` has intervals.

    Args:
        key: random key, `jax.random.key(seed)`; a stream of its own is used.
        apply_fn: maps `[m, ...]` inputs in [0, 1] to `[m, num_classes]` logits; one
            with parameters as a `jax.tree_util.Partial`.
        x: `[n, ...]` floats in [0, 1].
        labels: `[n]` classes of the points.
        sigmas: noise levels in the units of x, positive, in any order; repeated ones
            count once.
        num_classes: number of classes, an integer >= 2.
        num_samples: noise samples of each point at each level.
        level: the share between whose crossing the two sigmas lie, in (0, 1].
        example_ids: `[n]` integers >= 0; default arange(n).
        chunk_size: samples in one forward batch, a multiple of 128.
        mesh: devices that share the samples.

    Returns:
        The `ClassSurvival`.

    Raises:
        ValueError: if an argument is out of range, or there are no sigmas.

    Example:
        >>> import jax.numpy as jnp
        >>> narrow = lambda x: jnp.stack([x[:, 0], 0.1 - x[:, 0]], axis=1) - 0.05
        >>> found = class_survival(
        ...     jax.random.key(0), narrow, jnp.array([[0.0], [1.0]]), labels=[1, 0],
        ...     sigmas=[0.1, 0.5], num_classes=2,
        ... )
        >>> found.fraction.tolist()
        [[1.0, 1.0], [1.0, 1.0]]

    Reference:
        ours; in the spirit of Mohapatra et al. (2021), AISTATS, arXiv 2003.01249.
    """
    levels = np.unique(np.asarray(sigmas, np.float64))
    if not levels.size:
        raise ValueError(f"Expected at least one of sigmas, got {sigmas}.")
    _validate.positive(sigmas=levels)
    if not 0 < level <= 1:
        raise ValueError(f"Expected level in (0, 1], got {level}.")
    num = len(point_decisions.finite_floats(x=x))
    label = point_decisions.check_labels(labels, num=num, num_classes=num_classes)
    partial = _callables.as_partial(apply_fn)
    stream = jax.random.fold_in(key, streams.SURVIVAL)
    counts = [
        vote_counts.class_counts(
            stream,
            partial,
            x,
            sigma=sigma,
            num_samples=num_samples,
            num_classes=num_classes,
            example_ids=example_ids,
            chunk_size=chunk_size,
            mesh=mesh,
        )
        for sigma in levels
    ]
    survives = np.argmax(np.stack(counts), axis=-1) == label  # [s, n]
    is_member = label == np.arange(num_classes)[:, None]  # [k, n]
    num_points = is_member.sum(axis=1)
    has_points = num_points > 0
    total = np.where(has_points, num_points, np.nan)[:, None]
    fraction = is_member @ survives.T.astype(np.float64) / total
    fitted = np.stack([_decreasing(row) for row in fraction])
    num_before = np.sum(fitted >= level, axis=1)
    return ClassSurvival(
        sigmas=levels,
        fraction=fraction,
        fitted=fitted,
        sigma_before=np.where(has_points, np.append(0, levels)[num_before], np.nan),
        sigma_after=np.where(has_points, np.append(levels, np.inf)[num_before], np.nan),
        num_points=num_points,
    )


def _decreasing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.isnan(values).any():
        return values
    return scipy.optimize.isotonic_regression(values, increasing=False).x
