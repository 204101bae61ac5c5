"""Rules that are estimated from features, and what they say of other features.

All in float64 on the host.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax._precision import cpu
from robustjax.gaussian import classifier, moments, spectrum
from robustjax.gaussian.moments import FeatureMoments
from robustjax.gaussian.task import Task

_Numbers = jax.Array | np.ndarray


class Rules(NamedTuple):
    """Rules for all radii, in the coordinates of the features."""

    weight: jax.Array  # [p, e]
    offset: _Numbers
    center: jax.Array  # [p]
    unit: _Numbers  # [e], weight @ mean: margins are told in units of it
    multiplier: _Numbers  # [e]
    rank: jax.Array
    dropped: jax.Array
    shrinkage: jax.Array


def host(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a JAX function in float64 on the CPU."""
    with jax.enable_x64(True), jax.default_device(cpu()):
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
        shrinkage=task.shrinkage,
    )


@functools.partial(jax.jit, static_argnames=("cut", "shrinkage", "prior"))
def _rules_of(
    own: FeatureMoments,
    relative_epsilons: jax.Array,
    *,
    prior: float,
    cut: float | None,
    shrinkage: float | str,
) -> Rules:
    mean = (own.mean[1] - own.mean[0]) / 2
    covariance = moments.pooled_covariance(own)
    num_features = len(mean)
    weight = (
        moments.oas_shrinkage(covariance, num_samples=own.counts.sum() - 2)
        if shrinkage == "oas"
        else jnp.asarray(shrinkage, covariance.dtype)
    )
    average = jnp.trace(covariance) / num_features
    covariance = (1 - weight) * covariance
    covariance += weight * average * jnp.eye(num_features)
    basis = spectrum.spectrum_of(covariance, cut=cut)
    is_kept = basis.values > 0
    components = jnp.where(is_kept, basis.project(mean), 0)
    kept, whole = jnp.linalg.norm(components), jnp.linalg.norm(mean)

    def rule(epsilon: jax.Array) -> classifier.LinearRule:
        own_values = spectrum.Spectrum(basis.values, None)
        return classifier.rule_of(
            own_values, components, basis.values, epsilon=epsilon * kept,
            prior=jnp.asarray(prior),
        )  # fmt: skip

    found = jax.vmap(rule)(relative_epsilons)
    lost = jnp.sqrt(jnp.maximum(whole**2 - kept**2, 0))
    return Rules(
        weight=jax.vmap(basis.unproject)(jnp.asarray(found.weight)).T,
        offset=found.offset[0],
        center=(own.mean[1] + own.mean[0]) / 2,
        unit=found.weight @ components,
        multiplier=found.multiplier,
        rank=is_kept.sum(),
        dropped=jnp.where(whole > 0, lost / jnp.where(whole > 0, whole, 1), 0),
        shrinkage=weight,
    )


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
    margin = (centred @ rules.weight - rules.offset).T
    signed = jnp.where(labels == 1, 1, -1)[None] * margin
    is_usable = rules.unit > 0
    scaled = signed / jnp.where(is_usable, rules.unit, 1)[:, None]
    is_correct = (signed > 0) & is_usable[:, None]
    u = jnp.where(is_correct, scaled, 0)
    return jnp.stack([jnp.ones_like(u), is_correct.astype(u.dtype), u, u * u], axis=-1)
