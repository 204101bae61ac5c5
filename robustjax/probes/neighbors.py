"""Nearest-neighbour classification of features, in blocks.

    prediction(q) = argmax over c of the number of i in N(q) with label c,

N(q) being the num_neighbors training features nearest to q, in l2 or by cosine.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import ArrayLike

from robustjax import _validate

METRICS = ("l2", "cosine")


def nearest_neighbors(
    features: ArrayLike,
    labels: ArrayLike,
    queries: ArrayLike,
    *,
    num_classes: int,
    num_neighbors: int = 20,
    metric: str = "l2",
    block_size: int = 1024,
) -> jax.Array:
    """The class that most of the nearest training features have.

    [device] Pure, jittable. Distances exist for one block of queries against one block
    of training features at a time. They are computed as ``|t|^2 - 2 q @ t`` around the
    mean of the training features, in float32 at least: neighbours whose distances
    differ by less than its rounding may swap.

    Edge cases:
        Ties of distances go to the earlier training feature; ties of votes to the
        smaller label. Training features that are not finite, or whose traced label
        is no class, are nobody's neighbours. A query that is not finite, or has no
        neighbour, gets -1. A feature of zeros has a cosine of 0 with every other.

    Args:
        features: `[n, p]` training features.
        labels: `[n]`, integers in [0, num_classes).
        queries: `[m, p]`.
        num_classes: k, >= 2.
        num_neighbors: how many vote, in [1, n].
        metric: "l2", or "cosine" for the largest cosines.
        block_size: queries and training features at a time, >= 1.

    Returns:
        `[m]` predicted labels, int32.

    Raises:
        ValueError: if an argument is out of range or shapes do not fit.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0], [4.0], [5.0]]), jnp.array([0, 0, 1, 1])
        >>> found = nearest_neighbors(x, y, jnp.array([[0.4], [9.0]]), num_classes=2,
        ...                           num_neighbors=2)
        >>> print(found)
        [0 1]

    Reference: elementary.
    """
    _validate.one_of(METRICS, metric=metric)
    _validate.integer(2, num_classes=num_classes)
    _validate.integer(1, num_neighbors=num_neighbors, block_size=block_size)
    x, classes, asked = (jnp.asarray(v) for v in (features, labels, queries))
    if x.ndim != 2 or x.shape[1] == 0 or classes.shape != x.shape[:1]:
        raise ValueError(
            f"Expected features [n, p] and labels [n], got {x.shape} and "
            f"{classes.shape}."
        )
    if asked.ndim != 2 or asked.shape[1] != x.shape[1]:
        raise ValueError(
            f"Expected queries [m, {x.shape[1]}], got shape {asked.shape}."
        )
    if num_neighbors > len(x):
        raise ValueError(
            f"Expected num_neighbors <= {len(x)}, the number of features, got "
            f"{num_neighbors}."
        )
    _validate.labels(num_classes, labels=labels)
    dtype = jnp.result_type(x.dtype, asked.dtype, jnp.float32)
    return _votes(
        x.astype(dtype),
        classes.astype(jnp.int32),
        asked.astype(dtype),
        num_classes=num_classes,
        num_neighbors=num_neighbors,
        metric=metric,
        block_size=block_size,
    )


@functools.partial(
    jax.jit,
    static_argnames=("num_classes", "num_neighbors", "metric", "block_size"),
)
def _votes(
    x: jax.Array,
    labels: jax.Array,
    queries: jax.Array,
    *,
    num_classes: int,
    num_neighbors: int,
    metric: str,
    block_size: int,
) -> jax.Array:
    is_valid = jnp.isfinite(x).all(axis=1) & (labels >= 0) & (labels < num_classes)
    x = jnp.where(is_valid[:, None], x, 0)
    if metric == "l2":
        mean = x.sum(axis=0) / jnp.maximum(is_valid.sum(), 1)
        x, queries = x - mean[None], queries - mean[None]
        penalty = 0.5 * (x**2).sum(axis=1)
    else:
        x, queries = _unit_rows(x), _unit_rows(queries)
        penalty = jnp.zeros(len(x), x.dtype)
    penalty = jnp.where(is_valid, penalty, jnp.inf)
    size = min(block_size, len(x))
    blocks = (
        _blocks(x, size, 0.0),
        _blocks(penalty, size, jnp.inf),
        _blocks(labels, size, 0),
    )

    def of_queries(own: jax.Array) -> jax.Array:
        def step(best: tuple[jax.Array, jax.Array], block: tuple) -> tuple:
            features, penalty, labels = block
            nearness = jnp.matmul(own, features.T, precision="highest") - penalty[None]
            nearness = jnp.where(jnp.isnan(nearness), -jnp.inf, nearness)
            classes = jnp.broadcast_to(labels[None], nearness.shape)
            # earlier ones come first, and of equals top_k takes the first
            joined = jnp.concatenate([best[0], nearness], axis=1)
            named = jnp.concatenate([best[1], classes], axis=1)
            nearest, where = jax.lax.top_k(joined, num_neighbors)
            return (nearest, jnp.take_along_axis(named, where, axis=1)), None

        shape = (len(own), num_neighbors)
        start = (jnp.full(shape, -jnp.inf, own.dtype), jnp.zeros(shape, jnp.int32))
        (nearness, classes), _ = jax.lax.scan(step, start, blocks)
        vote = jnp.isfinite(nearness).astype(jnp.int32)
        rows = jnp.arange(len(own))[:, None]
        votes = jnp.zeros((len(own), num_classes), jnp.int32)
        votes = votes.at[rows, classes].add(vote)
        winner = votes.argmax(axis=1).astype(jnp.int32)
        return jnp.where(votes.any(axis=1), winner, -1)

    size = max(1, min(block_size, len(queries)))
    found = jax.lax.map(of_queries, _blocks(queries, size, 0.0))
    return found.reshape(-1)[: len(queries)]


def _blocks(rows: jax.Array, size: int, fill: float) -> jax.Array:
    """`[b, size, ...]`, the last one filled up."""
    missing = -len(rows) % size
    widths = [(0, missing), *[(0, 0)] * (rows.ndim - 1)]
    padded = jnp.pad(rows, widths, constant_values=fill)
    return rearrange(padded, "(block row) ... -> block row ...", row=size)


def _unit_rows(x: jax.Array) -> jax.Array:
    largest = jnp.abs(x).max(axis=1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1)
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(length > 0, length, 1)
