"""Matrix products of two bounded arrays, as the scores and values of attention are.

With centres a, b and radii r, s of two arrays,

    a b - |a| s - r |b| - r s <= x y <= a b + |a| s + r |b| + r s,

and for linear bounds McCormick's planes of all products, where they are not too many.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds.operations import Bounded, Contraction, Interval, IntervalOnly

_MOST_PRODUCTS = 2**17  # in one node: each row of a backward pass holds as many


def of(bind: Any, arguments: Sequence[Bounded]) -> Contraction | IntervalOnly:
    """The operation of a product of two bounded arrays. [host].

    Args:
        bind: `dot_general` or a convolution, in full precision.
        arguments: both factors.
    """

    def bounds(left: Interval, right: Interval) -> Interval:
        (a, r), (b, s) = (
            ((lower + upper) / 2, (upper - lower) / 2) for lower, upper in (left, right)
        )
        centre = bind(a, b)
        # So much wider that the sums below cover the rounding of that of the centre.
        unit = (a.size + 16) * jnp.finfo(centre.dtype).eps
        r, s = r + unit * (jnp.abs(a) + r), s + unit * (jnp.abs(b) + s)
        radius = bind(jnp.abs(a), s) + bind(r, jnp.abs(b)) + bind(r, s)
        return centre - radius, centre + radius

    name = bind.primitive.name
    if name != "dot_general":
        return IntervalOnly(name, bind, bounds)
    left, right = (a.shape for a in arguments)
    numbers = bind.params["dimension_numbers"]
    (of_left, of_right), (batch_left, batch_right) = numbers
    free_left = [k for k in range(len(left)) if k not in (*of_left, *batch_left)]
    free_right = [k for k in range(len(right)) if k not in (*of_right, *batch_right)]
    batch = [left[k] for k in batch_left]
    rows, columns = [left[k] for k in free_left], [right[k] for k in free_right]
    summed = [left[k] for k in of_left]
    shape = (*batch, *rows, *columns, *summed)
    if math.prod(shape) > _MOST_PRODUCTS:
        return IntervalOnly(name, bind, bounds)

    def spread_left(x: jax.Array) -> jax.Array:
        x = jnp.transpose(x, (*batch_left, *free_left, *of_left))
        x = x.reshape(*batch, *rows, *[1] * len(columns), *summed)
        return jnp.broadcast_to(x, shape)

    def spread_right(x: jax.Array) -> jax.Array:
        x = jnp.transpose(x, (*batch_right, *free_right, *of_right))
        x = x.reshape(*batch, *[1] * len(rows), *columns, *summed)
        return jnp.broadcast_to(x, shape)

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(x, axis=tuple(range(len(shape) - len(summed), len(shape))))

    return Contraction(name, bind, bounds, (spread_left, spread_right), total)
