"""Linear rules estimated from features, and their margins on other features.

All in float64 on the host. From the class means and the pooled covariance S_n of
training features, with shrinkage rho and relative radius e,

    m = (mean_1 - mean_0) / 2,                  (1)
    c = (mean_1 + mean_0) / 2,                  (2)
    S = (1 - rho) S_n + rho trace(S_n) / p I,   (3)
    w = the rule of `bayes_rule` at e |m|;      (4)

and of a test feature x, which is correct where g has the sign of its class,

    g = w' (x - c) - offset,                    (5)
    u = |g| / w'm, the scaled bound.            (6)
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax._precision import float64_on_cpu
from robustjax.synbench import bayes_rule, moments, spectrum
from robustjax.synbench.moments import FeatureMoments
from robustjax.synbench.task import Task

_Numbers = jax.Array | np.ndarray
_SURE = 10.0  # deviations of the largest noise that rounding may hide


class Rules(NamedTuple):
    """Rules for all radii, in the coordinates of the features."""

    weight: jax.Array  # [p, e]
    offset: _Numbers
    center: jax.Array  # [p]
    unit: _Numbers  # [e], weight @ mean: margins are told in units of it
    multiplier: _Numbers  # [e]
    rank: jax.Array
    noiseless: jax.Array  # share of the mean in directions below the cut
    shrinkage: jax.Array


def host(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a JAX function in float64 on the CPU."""
    with float64_on_cpu():
        return function(*args, **kwargs)


@jax.jit
def moments_of(features: jax.Array, labels: jax.Array) -> FeatureMoments:
    """Moments of a batch in float64, where x64 is on."""
    return moments.feature_moments(features.astype(jnp.float64), labels)


merged = jax.jit(moments.merge_moments)


def rules_of(own: FeatureMoments, task: Task) -> Rules:
    """The robust rules of all radii of a task, by one eigendecomposition. [host]."""
    return host(
        _rules_of,
        own,
        np.asarray(task.relative_epsilons, float),
        prior=task.rule_prior,
        cut=task.cut,
        shrinkage=None if task.shrinkage == "oas" else task.shrinkage,
    )


@jax.jit
def _rules_of(
    own: FeatureMoments,
    relative_epsilons: jax.Array,
    *,
    prior: jax.Array,
    cut: jax.Array | None,
    shrinkage: jax.Array | None,
) -> Rules:
    """The rules, with shrinkage by `oas_shrinkage` where none is given.

    Without a cut, noise below the rounding of moments counts as that much noise.

    Directions of such noise are used where the mean is _SURE deviations long in them:
    features that are constant within each class, with another value in each, separate
    them, while constant and linear dependent features add nothing.
    """
    mean, rounding = _half_difference(own)
    covariance = moments.pooled_covariance(own)
    num_features = len(mean)
    weight = (
        moments.oas_shrinkage(covariance, num_samples=own.counts.sum() - 2)
        if shrinkage is None
        else jnp.asarray(shrinkage, covariance.dtype)
    )
    average = jnp.trace(covariance) / num_features
    covariance = (1 - weight) * covariance
    covariance += weight * average * jnp.eye(num_features)  # (3)
    basis = spectrum.spectrum_of(covariance, cut=cut)
    components = basis.project(mean)
    least = jnp.maximum(basis.rounding, rounding**2) if cut is None else 0.0
    is_kept = basis.values > least
    noiseless = jnp.linalg.norm(jnp.where(is_kept, 0, components))
    is_sure = (noiseless > _SURE * jnp.sqrt(least)) & (cut is None)
    used = jnp.where(is_kept | is_sure, components, 0)
    values = jnp.where(is_kept, basis.values, least)
    length = jnp.linalg.norm(used)

    def rule(epsilon: jax.Array) -> bayes_rule.LinearRule:
        own_values = spectrum.Spectrum(values, None, 0.0)
        return bayes_rule.rule_of(
            own_values, used, values, epsilon=epsilon * length, prior=jnp.asarray(prior)
        )

    found = jax.vmap(rule)(relative_epsilons)
    whole = jnp.linalg.norm(components)
    return Rules(
        weight=jax.vmap(basis.unproject)(jnp.asarray(found.weight)).T,  # (4)
        offset=found.offset[0],
        center=(own.mean[1] + own.mean[0]) / 2,  # (2)
        unit=found.weight @ used,
        multiplier=found.multiplier,
        rank=is_kept.sum(),
        noiseless=noiseless / jnp.where(whole > 0, whole, 1),
        shrinkage=weight,
    )


def _half_difference(own: FeatureMoments) -> tuple[jax.Array, jax.Array]:
    """Half the difference of the class means, and the largest rounding of a mean.

    A sum of n numbers errs by about sqrt(n) machine epsilons; differences below are 0.
    """
    difference = own.mean[1] - own.mean[0]
    relative = 4 * jnp.sqrt(own.counts.sum()) * jnp.finfo(difference.dtype).eps
    rounding = relative * jnp.abs(own.mean).max(axis=0)
    # (1)
    return jnp.where(jnp.abs(difference) > rounding, difference / 2, 0), rounding.max()


@functools.partial(jax.jit, static_argnames="num_groups")
def test_sums(
    features: jax.Array,
    labels: jax.Array,
    made: list[Rules],
    group: jax.Array,
    *,
    num_groups: int,
) -> list[jax.Array]:
    """Sums of the `test_terms` of every group, `[e, num_groups, 4]` for each rules."""
    is_in = (jnp.arange(num_groups)[:, None] == group[None]).astype(jnp.float64)
    return [is_in @ test_terms(features, labels, own) for own in made]


def test_terms(features: jax.Array, labels: jax.Array, rules: Rules) -> jax.Array:
    """`[e, n, 4]`: one, whether correct, u where it is, u squared where it is."""
    centred = features.astype(jnp.float64) - rules.center[None]
    margin = (centred @ rules.weight - rules.offset).T  # (5)
    signed = jnp.where(labels == 1, 1, -1)[None] * margin
    is_usable = rules.unit > 0
    scaled = signed / jnp.where(is_usable, rules.unit, 1)[:, None]  # (6)
    is_correct = (signed > 0) & is_usable[:, None]
    u = jnp.where(is_correct, scaled, 0)
    return jnp.stack([jnp.ones_like(u), is_correct.astype(u.dtype), u, u * u], axis=-1)
