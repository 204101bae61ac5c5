"""The eigenvalues of a covariance, and the one root that every robust rule needs.

With S = V diag(d) V' and m_i the components of the mean in that basis, the worst shift
of length epsilon is

    z_i = m_i / (1 + lam d_i),   lam > 0 the root of |z| = epsilon.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate

_NUM_STEPS = 72  # halvings of log lam, from a hundred decades to rounding
_INDEFINITE = 8  # tolerance for negative eigenvalues, in units of rounding
_ASYMMETRY = 1e-6  # of entries, relative to the largest, that rounding may leave


class Spectrum(NamedTuple):
    """A covariance in its own basis; None stands for the basis of the inputs."""

    values: jax.Array  # [p], >= 0; 0 where they were cut
    vectors: jax.Array | None  # [p, p], orthonormal columns
    rounding: jax.Array | float  # the largest value that a 0 may stand for

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


def check_matrix(covariance: ArrayLike) -> None:
    """Raises ValueError unless a concrete matrix is a covariance, up to rounding.

    [host] Mirrored entries may differ by 1e-6 of the largest one (3e-4 in float32), as
    only the symmetric part is used. Eigenvalues may be as negative as in `spectrum_of`.

    Args:
        covariance: `[p, p]`; one that JAX traces passes.
    """
    matrix = _validate.concrete(covariance)
    if matrix is None:
        return
    if matrix.dtype.kind != "f":
        matrix = matrix.astype(float)
    if fault := _fault_of(matrix):
        raise ValueError(
            f"Expected a symmetric positive semidefinite covariance, got {fault}."
        )


def _fault_of(matrix: np.ndarray) -> str:
    """Why a matrix is no covariance; empty if it is one."""
    if not np.isfinite(matrix).all():
        return "entries that are not finite"
    eps = np.finfo(matrix.dtype).eps
    gap, largest = (np.max(np.abs(v), initial=0) for v in (matrix - matrix.T, matrix))
    if gap > max(_ASYMMETRY, np.sqrt(eps)) * largest:
        return f"entries that differ by {gap:.6g} from their mirror images"
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    is_diagonal = (matrix == np.diag(np.diagonal(matrix))).all()
    rounding = 0 if is_diagonal else len(values) * eps * np.max(np.abs(values))
    least = np.min(values, initial=0)
    return f"an eigenvalue {least:.6g}" if least < -_INDEFINITE * rounding else ""


def spectrum_of(covariance: jax.Array, *, cut: ArrayLike | None = None) -> Spectrum:
    """Eigenvalues and vectors; those at or below the cut become 0. [device].

    Args:
        covariance: `[p]` variances, or a symmetric `[p, p]` matrix.
        cut: an absolute one; None: the rounding of the values.

    Returns:
        The `Spectrum`. Its rounding is p times the machine epsilon of the largest
        value, and 0 for variances and diagonal matrices. NaN stands for a value that is
        negative beyond rounding. No derivative passes.
    """
    covariance = jax.lax.stop_gradient(covariance)
    rounding = jnp.zeros((), covariance.dtype)
    if covariance.ndim == 1:
        values, vectors = covariance, None
    else:
        values, vectors = jnp.linalg.eigh(covariance)
        is_diagonal = jnp.all(covariance == jnp.diag(jnp.diagonal(covariance)))
        largest = len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
        rounding = jnp.where(is_diagonal, rounding, largest)
    values = jnp.where(values < -_INDEFINITE * rounding, jnp.nan, values)
    is_cut = values <= (rounding if cut is None else cut)
    return Spectrum(jnp.where(is_cut, 0, values), vectors, rounding)


def ridge_of(mean: jax.Array, values: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The ridge 1 / lam with which |ridge (S + ridge I)^-1 m| = epsilon. [device].

    With h the length of the part of the mean where d_i = 0, which lam does not change,
    and n that of the rest, lam is the root of

        |m_i / (1 + lam d_i)|_(d_i > 0) = t = sqrt((epsilon - h) (epsilon + h)),

    and lies between (n / t - 1) / d_max and (n / t - 1) / d_min. This bracket is halved
    in log lam until it is rounding: derivatives would not help on spectra with gaps,
    where |z| is nearly constant over many decades of lam.

    Args:
        mean: `[p]`, components m_i in the basis of the values.
        values: `[p]`, d_i >= 0, not all 0.
        epsilon: at least h, and at most |mean|; or 0.

    Returns:
        The ridge, >= 0; 0 if epsilon is 0. At epsilon = h, where it would be 0 as well,
        that of epsilon (1 + machine epsilon).
    """
    eps, largest = jnp.finfo(mean.dtype).eps, jnp.max(values)
    scaled = values / largest
    is_noisy = scaled != 0
    hidden = _length(jnp.where(is_noisy, 0, mean))
    rest = jnp.where(is_noisy, mean, 0)
    whole = _length(rest)
    unit = rest / jnp.where(whole == 0, 1, whole)
    target = jnp.sqrt(jnp.maximum(epsilon - hidden, 0)) * jnp.sqrt(epsilon + hidden)
    target = jnp.maximum(target, jnp.sqrt(2 * eps) * hidden)
    is_zero = epsilon <= 0
    share = jnp.minimum(target / jnp.where(whole == 0, 1, whole), 1 - eps)
    share = jnp.where(is_zero, 0.5, share)

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        low, high = bracket
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        is_short = _length(unit / (1 + middle * scaled)) > share
        return jnp.where(is_short, middle, low), jnp.where(is_short, high, middle)

    low = 1 / share - 1
    least = jnp.min(jnp.where(is_noisy, scaled, 1))
    high = jnp.minimum(low / least, jnp.finfo(mean.dtype).max / 4)
    low, high = jax.lax.fori_loop(0, _NUM_STEPS, halve, (low, high))
    return jnp.where(is_zero, 0, largest / (jnp.sqrt(low) * jnp.sqrt(high)))


def _length(v: jax.Array) -> jax.Array:
    """The l2 norm, where squares may underflow or overflow."""
    largest = jnp.max(jnp.abs(v))
    safe = jnp.where(largest == 0, 1, largest)
    return safe * jnp.linalg.norm(v / safe)
