"""The eigenvalues of a covariance, and the one root that every robust rule needs.

With S = V diag(d) V' and m_i the components of the mean in that basis, the worst shift
of length epsilon is z_i = m_i / (1 + lam d_i), and lam the root of |z| = epsilon.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NUM_STEPS = 10  # of Newton's method; enough on spectra over a hundred decades


class Spectrum(NamedTuple):
    """A covariance in its own basis; None stands for the basis of the inputs."""

    values: jax.Array  # [p], >= 0; 0 where they were cut
    vectors: jax.Array | None  # [p, p], orthonormal columns

    def project(self, v: jax.Array) -> jax.Array:
        """Components of a vector `[p]` in this basis."""
        if self.vectors is None:
            return v
        return jnp.matmul(self.vectors.T, v, precision="highest")

    def unproject(self, components: jax.Array) -> jax.Array:
        """The vector `[p]` with such components."""
        if self.vectors is None:
            return components
        return jnp.matmul(self.vectors, components, precision="highest")


def spectrum_of(covariance: jax.Array, *, cut: float | None = None) -> Spectrum:
    """Eigenvalues and vectors; those at or below the cut become 0. [device].

    Args:
        covariance: `[p]` variances, or a symmetric `[p, p]` matrix.
        cut: an absolute one; None: p times the machine epsilon of the largest.

    Returns:
        The `Spectrum`. No derivative passes.
    """
    covariance = jax.lax.stop_gradient(covariance)
    if covariance.ndim == 1:
        values, vectors = covariance, None
    else:
        values, vectors = jnp.linalg.eigh(covariance)
    rounding = len(values) * jnp.finfo(values.dtype).eps * jnp.max(values)
    is_kept = values > (rounding if cut is None else cut)
    return Spectrum(jnp.where(is_kept, values, 0), vectors)


def ridge_of(mean: jax.Array, values: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The ridge 1 / lam with which |ridge (S + ridge I)^-1 m| = epsilon. [device].

    Newton's method on 1 / |z| - 1 / epsilon, which is increasing and concave in lam,
    from below its root, where every step stays. The components with d_i <= d_k alone
    have a z of at least |m_(i<=k)| / (1 + lam d_k), which gives a start for every k.

    Args:
        mean: `[p]`, components m_i in the basis of the values.
        values: `[p]`, d_i >= 0, not all 0.
        epsilon: above the part of the mean where d_i = 0, and below |mean|; or 0.

    Returns:
        The ridge, >= 0; 0 if epsilon is 0.
    """
    order = jnp.argsort(values)
    values, mean = values[order], mean[order]
    largest = values[-1]
    scaled = values / largest
    is_zero = epsilon <= 0
    target = 1 / jnp.where(is_zero, 1, epsilon)

    def step(_: int, lam: jax.Array) -> jax.Array:
        shrunk = mean / (1 + lam * scaled)
        norm = jnp.linalg.norm(shrunk)
        slope = jnp.sum(shrunk**2 * scaled / (1 + lam * scaled)) / norm**3
        return jnp.maximum(lam, lam + (target - 1 / norm) / slope)

    lengths = jnp.sqrt(jnp.cumsum(mean**2))
    noise = jnp.where(scaled > 0, scaled, 1)
    starts = jnp.where(scaled > 0, (lengths * target - 1) / noise, 0)
    lower = jnp.where(is_zero, 1, jnp.max(starts))
    lam = jax.lax.fori_loop(0, NUM_STEPS, step, lower)
    return jnp.where(is_zero, 0, largest / lam)
