"""Class means and the covariance around them, of features that come in batches.

    scatter = sum over i of (x_i - mean of its class)(x_i - mean of its class)',   (1)
    S = scatter / (n - number of classes).                                         (2)

Batches merge by class, with d the difference of their means:

    scatter = scatter_a + scatter_b + n_a n_b / (n_a + n_b) d d'.                  (3)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import float64_for_numbers
from robustjax.synbench import spectrum


class FeatureMoments(NamedTuple):
    """What linear rules need to know of features `[n, p]` with labels in [0, c)."""

    counts: jax.Array  # [c]
    mean: jax.Array  # [c, p], 0 where the count is
    scatter: jax.Array  # [p, p], sum over samples of (x - own mean)(x - own mean)'


def feature_moments(
    features: ArrayLike, labels: ArrayLike, *, num_classes: int = 2
) -> FeatureMoments:
    """Counts, class means and the pooled scatter around them.

    [device] Pure, jittable. Centred before it is squared, so that features far from
    zero lose no digits.

    Args:
        features: `[n, p]`.
        labels: `[n]`, integers in [0, num_classes); others are not counted.
        num_classes: how many classes, >= 2.

    Returns:
        The `FeatureMoments`, in the dtype of the features.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> x, y = jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1])
        >>> found = jax.jit(feature_moments)(x, y)
        >>> print(found.mean[:, 0], found.scatter[0, 0])
        [1. 5.] 2.0

    Reference: elementary.
    """
    _validate.integer(2, num_classes=num_classes)
    known = None if isinstance(labels, jax.Array) else _validate.concrete(labels)
    if known is not None:  # before a cast, which may wrap them
        labels = np.where((known >= 0) & (known < num_classes), known, -1)
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"Expected features [n, p] and labels [n], got {features.shape} and "
            f"{labels.shape}."
        )
    is_class = (labels[:, None] == jnp.arange(num_classes)[None]).astype(features.dtype)
    count = is_class.sum(axis=0)
    sums = jnp.matmul(is_class.T, features, precision="highest")
    mean = sums / jnp.maximum(count, 1)[:, None]
    own_mean = jnp.matmul(is_class, mean, precision="highest")
    is_counted = is_class.sum(axis=1, keepdims=True)
    centred = (features - own_mean) * is_counted
    scatter = jnp.matmul(centred.T, centred, precision="highest")  # (1)
    return FeatureMoments(count, mean, scatter)


@float64_for_numbers
def merge_moments(one: FeatureMoments, other: FeatureMoments) -> FeatureMoments:
    """The moments of two sets of samples together, from those of each.

    [host] for NumPy moments, in float64, and [device] (pure, jittable) for JAX arrays;
    associative up to rounding.

    Args:
        one: moments of one set.
        other: of another set, with as many classes and features.

    Returns:
        The `FeatureMoments` of both.

    Example:
        >>> of, label = jax.jit(feature_moments), jnp.array([0])
        >>> one, other = of(jnp.array([[1.0]]), label), of(jnp.array([[3.0]]), label)
        >>> both = jax.jit(merge_moments)(one, other)
        >>> print(both.mean[0, 0], both.scatter[0, 0])
        2.0 2.0

    Reference: Chan, Golub and LeVeque (1983), The American Statistician 37.
    """
    count = one.counts + other.counts
    change = other.mean - one.mean
    share = other.counts / jnp.maximum(count, 1)
    mean = one.mean + share[:, None] * change
    between = (one.counts * share)[:, None] * change
    scatter = (  # (3)
        one.scatter + other.scatter + jnp.matmul(between.T, change, precision="highest")
    )
    return FeatureMoments(count, mean, scatter)


def pooled_covariance(moments: FeatureMoments) -> jax.Array:
    """The covariance within classes, scatter / (n - number of classes).

    [device] Pure, jittable.

    Args:
        moments: of more samples than classes.

    Returns:
        `[p, p]`.

    Example:
        >>> x, y = jnp.array([[0.0], [2.0], [5.0]]), jnp.array([0, 0, 1])
        >>> print(pooled_covariance(jax.jit(feature_moments)(x, y)))
        [[2.]]
    """
    return moments.scatter / (moments.counts.sum() - len(moments.counts))  # (2)


def oas_shrinkage(covariance: ArrayLike, *, num_samples: ArrayLike) -> jax.Array:
    """The weight of the mean variance with which a sample covariance errs least.

    [device] Pure, jittable. The oracle approximating shrinkage for Gaussian samples;
    it takes a sum of squares of the covariance and no second look at the samples.

    Args:
        covariance: `[p, p]`, of samples.
        num_samples: degrees of freedom that it rests on, positive.

    Returns:
        rho in [0, 1], for (1 - rho) covariance + rho (trace / p) I.

    Raises:
        ValueError: if a concrete value is out of range or no covariance.

    Example:
        >>> print(oas_shrinkage(jnp.eye(4), num_samples=100).round(3))
        1.0

    Reference: Chen, Wiesel, Eldar and Hero (2010), IEEE Trans. Signal Processing 58,
        equation 23, without its terms in 2 / p, as scikit-learn has it.
    """
    _validate.positive(num_samples=num_samples)
    spectrum.check_matrix(covariance)
    covariance = jnp.asarray(covariance)
    num_features = len(covariance)
    mean_square = jnp.sum(covariance**2) / num_features**2
    squared_mean = (jnp.trace(covariance) / num_features) ** 2
    above = mean_square + squared_mean
    below = (num_samples + 1) * (mean_square - squared_mean / num_features)
    ratio = above / jnp.where(below > 0, below, 1)
    return jnp.where(below > 0, jnp.minimum(ratio, 1), 1)
