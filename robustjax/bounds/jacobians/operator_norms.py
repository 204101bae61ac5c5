"""Operator norms of all matrices whose entries have at most some sizes m_ij.

The largest column sum of m for l1, the largest row sum for linf. For l2 the largest
singular value of m, as all its entries are >= 0: with C = m' m, its square is at most

    max over j of (C v)_j / v_j  for any v > 0,   |m|_1 |m|_inf,   and sum of m_ij^2.

The vector v comes from power iteration; the bound holds wherever that stops.

Reference:
    Horn and Johnson (2013), Matrix Analysis, section 8.1, for the first (Collatz and
    Wielandt), and section 5.6.
"""

import jax
import jax.numpy as jnp

_NUM_POWERS = 30
_ADDED = 1e-6  # to the entries of C, all together: no entry of v becomes zero
_HIGHEST = jax.lax.Precision.HIGHEST


def largest(size: jax.Array, norm: str) -> jax.Array:
    """The largest norm that a matrix may have, up to rounding. [device].

    Args:
        size: `[k, n]`, >= 0.
        norm: "l1", "l2" or "linf", of both sides.

    Returns:
        A number.
    """
    if not size.size:
        return jnp.zeros((), size.dtype)
    if norm != "l2":
        return jnp.max(jnp.sum(size, axis=0 if norm == "l1" else 1))
    most = jnp.max(size)
    scale = jnp.where((most > 0) & (most < jnp.inf), most, 1.0)
    matrix = size / scale  # squares neither overflow nor vanish
    squares = (
        _by_ratio(matrix),
        largest(matrix, "l1") * largest(matrix, "linf"),
        jnp.sum(matrix**2),
    )
    return scale * jnp.sqrt(jnp.nanmin(jnp.stack(squares)))


def _by_ratio(matrix: jax.Array) -> jax.Array:
    """The square of the largest singular value, from above."""

    def times(vector: jax.Array) -> jax.Array:
        image = jnp.matmul(matrix, vector, precision=_HIGHEST)
        image = jnp.matmul(matrix.T, image, precision=_HIGHEST)
        return image + _ADDED / len(vector) * jnp.sum(vector)

    def power(_: int, vector: jax.Array) -> jax.Array:
        image = jax.lax.stop_gradient(times(vector))
        return image / jnp.max(image)

    vector = jnp.ones_like(matrix[0])
    vector = jax.lax.stop_gradient(jax.lax.fori_loop(0, _NUM_POWERS, power, vector))
    return jnp.max(times(vector) / vector)
