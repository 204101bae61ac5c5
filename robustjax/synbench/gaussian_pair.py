"""Samples of a pair of Gaussian classes, made on the device where they are used.

    P(y = 1) = tau,   x | y = 1 ~ N(c + m, S),   x | y = 0 ~ N(c - m, S).

Sample i depends on the key and on i alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.synbench import spectrum

BLOCK = 16  # samples of one key: a constant, so that batches do not change samples


class FactorCovariance(NamedTuple):
    """The covariance diag(diagonal) + sum over r of factors[r] factors[r]'."""

    diagonal: jax.Array  # of the shape of the mean, >= 0
    factors: jax.Array  # [r, ...], each of the shape of the mean


Covariance = ArrayLike | FactorCovariance | None


class Sample(NamedTuple):
    """Inputs and their classes."""

    x: jax.Array  # [n, ...], each of the shape of the mean
    y: jax.Array  # [n], int32, 0 or 1


def sample(
    key: jax.Array,
    mean: ArrayLike,
    *,
    num_samples: int,
    start: int | jax.Array = 0,
    covariance: Covariance = None,
    prior: ArrayLike = 0.5,
    center: ArrayLike = 0.0,
    valid_range: tuple[ArrayLike, ArrayLike] | None = None,
    is_stratified: bool = False,
) -> Sample:
    """Samples of two Gaussian classes: 1 at center + mean, 0 at center - mean.

    [device] Pure, jittable, vmappable; differentiable in mean, center and variances.
    Sample i depends on the key and on i alone: batches of any size, made anywhere, are
    parts of one sequence.

    Args:
        key: random key of the sequence.
        mean: half the difference of the class means, of any shape but a scalar.
        num_samples: how many, >= 1.
        start: index of the first one, a multiple of 16.
        covariance: of each class: None for the identity, a number or an array of the
            mean's shape for variances, a positive definite `[p, p]` matrix for a mean
            `[p]`, or a `FactorCovariance`.
        prior: P(y = 1), in (0, 1).
        center: midpoint of the class means, a number or of the mean's shape.
        valid_range: clips inputs to (low, high); None leaves them as they are.
        is_stratified: gives class 1 its share exactly, in a fixed order, instead of by
            chance.

    Returns:
        A `Sample`; x has the dtype of the mean, float32 for Python and NumPy numbers.

    Raises:
        ValueError: if a shape does not fit, or a concrete value is out of range.

    Example:
        >>> draw = jax.jit(sample, static_argnames="num_samples")
        >>> x, y = draw(jax.random.key(0), jnp.ones(3), num_samples=5)
        >>> x.shape, y.shape
        ((5, 3), (5,))

    Reference: the task of SynBench, Ko et al. (2024), ICML; the keys are ours.
    """
    mean = jnp.asarray(mean, None if isinstance(mean, jax.Array) else jnp.float32)
    _validate.integer(1, num_samples=num_samples)
    _validate.open_interval(0, 1, prior=prior)
    _check_covariance(covariance, mean.shape)
    if mean.ndim == 0:
        raise ValueError("Expected mean to have a dimension at least, got a number.")
    if isinstance(start, int) and (start < 0 or start % BLOCK):
        raise ValueError(f"Expected start as a multiple of {BLOCK}, got {start}.")
    middle = jnp.broadcast_to(jnp.asarray(center, mean.dtype), mean.shape)
    numbers = start // BLOCK + jnp.arange(-(-num_samples // BLOCK))

    def block(number: jax.Array) -> Sample:
        for_class, for_noise = jax.random.split(jax.random.fold_in(key, number))
        if is_stratified:
            y = _share(number * BLOCK + jnp.arange(BLOCK), jnp.asarray(prior))
        else:
            y = jax.random.bernoulli(for_class, prior, (BLOCK,))
        signs = jnp.where(y, 1.0, -1.0).astype(mean.dtype)
        x = middle[None] + signs.reshape(-1, *[1] * mean.ndim) * mean[None]
        return Sample(x + _noise(for_noise, mean, covariance), y.astype(jnp.int32))

    x, y = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num_samples],
        jax.vmap(block)(numbers),
    )
    return Sample(x if valid_range is None else jnp.clip(x, *valid_range), y)


def _check_covariance(covariance: Covariance, shape: tuple[int, ...]) -> None:
    """Raises ValueError for concrete values that are no covariance."""
    if isinstance(covariance, FactorCovariance):
        _validate.at_least(0, diagonal=covariance.diagonal)
    elif covariance is not None and np.shape(covariance) == shape * 2:
        spectrum.check_matrix(covariance)
    elif covariance is not None:
        _validate.at_least(0, covariance=covariance)


def _share(index: jax.Array, prior: jax.Array) -> jax.Array:
    """Class 1 wherever the count of it, prior * (index + 1), takes its next step."""
    return jnp.floor((index + 1) * prior) > jnp.floor(index * prior)


def _noise(key: jax.Array, mean: jax.Array, covariance: Covariance) -> jax.Array:
    """Noise of one block, `[16, *shape]`."""
    shape, dtype = (BLOCK, *mean.shape), mean.dtype
    if isinstance(covariance, FactorCovariance):
        for_own, for_factors = jax.random.split(key)
        own = jax.random.normal(for_own, shape, dtype)
        factors = jnp.asarray(covariance.factors, dtype)
        weights = jax.random.normal(for_factors, (BLOCK, len(factors)), dtype)
        shared = jnp.tensordot(weights, factors, axes=1, precision="highest")
        return own * jnp.sqrt(jnp.asarray(covariance.diagonal, dtype))[None] + shared
    noise = jax.random.normal(key, shape, dtype)
    if covariance is None:
        return noise
    covariance = jnp.asarray(covariance, dtype)
    if covariance.shape in ((), mean.shape):
        return noise * jnp.sqrt(jnp.broadcast_to(covariance, mean.shape))[None]
    if covariance.shape == mean.shape * 2 and mean.ndim == 1:
        root = jnp.linalg.cholesky(covariance)
        known = _validate.concrete(root)
        if known is not None and not np.isfinite(known).all():
            raise ValueError(
                "Expected a positive definite covariance, got a singular one; give the "
                "diagonal and factors of a FactorCovariance."
            )
        return jnp.matmul(noise, root.T, precision="highest")
    raise ValueError(
        f"Expected covariance to be a number, of shape {mean.shape} or, for a vector "
        f"mean, {mean.shape * 2}, got {covariance.shape}."
    )
