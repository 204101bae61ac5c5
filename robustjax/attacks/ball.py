"""Balls around inputs, cut by the valid range: where attacks move.

    linf:  P(x + delta) = clip(x + clip(delta, -epsilon, epsilon), low, high),
    l2:    P(x + delta) = clip(x + delta min(1, epsilon / |delta|), low, high).

Both conditions hold after P, as x itself is inside the range.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate

NORMS = ("linf", "l2")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ball:
    """One ball an example."""

    centre: jax.Array  # [n, ...], inside the range
    radius: jax.Array  # [n, 1, ...]
    norm: str = dataclasses.field(metadata={"static": True})
    valid_range: tuple[float, float] = dataclasses.field(metadata={"static": True})

    def project(self, x: jax.Array) -> jax.Array:
        """Into the ball, then into the range: both hold, as the centre does."""
        delta = x - self.centre
        if self.norm == "linf":
            delta = jnp.clip(delta, -self.radius, self.radius)
        else:
            length = _length(delta)
            delta *= jnp.minimum(1.0, self.radius / jnp.where(length > 0, length, 1.0))
        return jnp.clip(self.centre + delta, *self.valid_range)

    def step(self, x: jax.Array, gradient: jax.Array, size: ArrayLike) -> jax.Array:
        """Uphill by a share of the radius, and back into the ball."""
        return self.project(x + size * self.radius * self._direction(gradient))

    def random_point(self, key: jax.Array) -> jax.Array:
        """Uniform in the ball, then into the range."""
        noise = _random_direction(key, self.centre, self.norm)
        return self.project(self.centre + self.radius * noise)

    def _direction(self, gradient: jax.Array) -> jax.Array:
        """The step of length one that a linear loss likes best.

        A derivative that is NaN moves nothing, so that the input stays finite; an
        infinite one counts as the largest number.
        """
        gradient = jnp.nan_to_num(gradient, nan=0.0)
        if self.norm == "linf":
            return jnp.sign(gradient)
        axes = tuple(range(1, gradient.ndim))
        largest = jnp.abs(gradient).max(axis=axes, keepdims=True)
        gradient /= jnp.where(largest > 0, largest, 1.0)  # else squares underflow
        length = _length(gradient)
        return gradient / jnp.where(length > 0, length, 1.0)


def ball(
    x: ArrayLike,
    epsilon: ArrayLike,
    *,
    norm: str = "linf",
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> Ball:
    """Checks the arguments that all attacks have; numbers are float32 at least."""
    _validate.one_of(NORMS, norm=norm)
    _validate.at_least(0, epsilon=epsilon)
    if not valid_range[0] < valid_range[1]:
        raise ValueError(
            f"Expected a valid_range that is not empty, got {valid_range}."
        )
    centre = jnp.asarray(x)
    centre = centre.astype(jnp.promote_types(centre.dtype, jnp.float32))
    if centre.ndim < 2:
        raise ValueError(f"Expected x [n, ...], got shape {centre.shape}.")
    known = _validate.concrete(centre)
    if known is not None:
        is_inside = (known >= valid_range[0]) & (known <= valid_range[1])
        if not is_inside.all():
            raise ValueError(
                f"Expected x inside of valid_range {valid_range}, got {known.min()} "
                f"to {known.max()}."
            )
    radius = jnp.broadcast_to(jnp.asarray(epsilon, centre.dtype), centre.shape[:1])
    radius = radius.reshape(-1, *(1,) * (centre.ndim - 1))
    return Ball(centre, radius, norm, valid_range)


def _length(x: jax.Array) -> jax.Array:
    axes = tuple(range(1, x.ndim))
    return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))


def _random_direction(key: jax.Array, like: jax.Array, norm: str) -> jax.Array:
    """Uniform in the unit ball."""
    if norm == "linf":
        return jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)
    direction_key, length_key = jax.random.split(key)
    normal = jax.random.normal(direction_key, like.shape, like.dtype)
    share = jax.random.uniform(length_key, (len(like),), like.dtype)
    share = share ** (1 / math.prod(like.shape[1:]))
    return share.reshape(-1, *(1,) * (like.ndim - 1)) * normal / _length(normal)
