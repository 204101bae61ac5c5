"""Quadrature in the plane for the dual under moment constraints.

Inside of a rectangle that reaches out 7.5 standard deviations, a product rule for

    (phi(z1) + phi(z1 - r)) phi(z2),

the sum of both densities, by which functions are divided that would grow without bound.
The mass outside of it is summed up by a coarse rule, up to 16 standard deviations.

Reference: ours.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax.special.normal import normal_pdf

_REACH = 7.5  # standard deviations that the grid reaches out
_RINGS = 34  # nodes beyond, to each side
_DISTANCE = 0.25  # between these
_INNER = 64  # nodes of the coarse rule across the grid

Moments = Callable[[jax.Array], jax.Array]


class Grid(NamedTuple):
    """A product rule for the sum of both densities, that of z and that of z - r."""

    moments: jax.Array  # [n, n, k], psi / (1 + L)
    share: jax.Array  # [n, 1], L / (1 + L)
    weight: jax.Array  # [n, n]


def grid(
    moment_functions: Moments,
    r: jax.Array,
    num_nodes: int,
    *,
    shift: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
) -> Grid:
    """The rule inside of the rectangle. [device].

    Args:
        moment_functions: psi, maps points `[..., 2]` to `[..., k]`.
        r: length of the perturbation.
        num_nodes: n, in each direction.
        shift: of the nodes, in units of their distances.
    """
    at = jnp.arange(num_nodes, dtype=r.dtype)
    x1, x2 = ((at + own) / (num_nodes - 1) for own in shift)
    z1, z2 = (2 * _REACH + r) * x1 - _REACH, 2 * _REACH * x2 - _REACH
    cell = (2 * _REACH + r) * (2 * _REACH) / (num_nodes - 1) ** 2
    along, across = normal_pdf(z1) + normal_pdf(z1 - r), normal_pdf(z2)
    moments, share = _divided(moment_functions, r, z1, z2)
    return Grid(moments, share, cell * along[:, None] * across[None, :])


def left_out(
    moment_functions: Moments, r: jax.Array, multipliers: jax.Array
) -> jax.Array:
    """What the dual may lose outside of the rectangle: too much rather than too little.

    [device] E[(lambda . psi - L)_+] there, twice, and four times its part beyond 15
    standard deviations for what lies beyond 16. Logarithms keep what a density that
    underflows would hide; infinite where a function of the moments is.
    """
    beyond = _REACH + _DISTANCE * jnp.arange(_RINGS + 1, dtype=r.dtype)
    inner = jnp.linspace(0.0, 1.0, _INNER, dtype=r.dtype)
    sides = []
    for length in (2 * _REACH + r, jnp.asarray(2 * _REACH, r.dtype)):
        places = jnp.concatenate(
            [-beyond[::-1], length * inner - _REACH, length - 2 * _REACH + beyond]
        )
        distance = jnp.full(_INNER, length / (_INNER - 1))
        ring = jnp.full(_RINGS + 1, _DISTANCE, r.dtype)
        sides.append((places, jnp.concatenate([ring, distance, ring])))
    (z1, step1), (z2, step2) = sides
    number = jnp.arange(len(z1))
    depth = jnp.maximum(_RINGS - number, number - (_RINGS + 1 + _INNER))  # of the ring
    depth = jnp.maximum(depth[:, None], depth[None, :])
    along = jnp.logaddexp(_log_pdf(z1), _log_pdf(z1 - r)) + jnp.log(step1)
    log_weight = along[:, None] + (_log_pdf(z2) + jnp.log(step2))[None, :]
    moments, share = _divided(moment_functions, r, z1, z2)
    moments = jnp.where((multipliers == 0)[None, None, :], 0.0, moments)
    excess = moments @ multipliers - share
    is_counted = (depth >= 0) & ~(excess <= 0)  # NaN counts
    mass = jnp.exp(jnp.log(jnp.where(is_counted, excess, 1.0)) + log_weight)
    mass = jnp.where(is_counted, mass, 0.0)
    is_last = depth > _RINGS - 1 / _DISTANCE
    return 2 * jnp.sum(mass) + 4 * jnp.sum(jnp.where(is_last, mass, 0.0))


def _divided(
    moment_functions: Moments, r: jax.Array, z1: jax.Array, z2: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Psi / (1 + L) and L / (1 + L) on a product of nodes."""
    log_likelihood = (r * (z1 - 0.5 * r))[:, None]
    psi = moment_functions(jnp.stack(jnp.meshgrid(z1, z2, indexing="ij"), axis=-1))
    moments = psi * jax.nn.sigmoid(-log_likelihood)[..., None]
    return moments, jax.nn.sigmoid(log_likelihood)


def _log_pdf(z: jax.Array) -> jax.Array:
    return -0.5 * (z * z + jnp.log(2 * jnp.pi))
