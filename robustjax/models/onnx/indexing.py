"""Operators of ONNX that choose entries: gathers, scatters, extrema, running sums.

Indices count from the end where they are negative. Indices that are known while the
file is read arrive as NumPy arrays, all others are computed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robustjax.models.onnx import shaping

_Rule = Callable[..., Any]


def _counted(indices: Any, length: int) -> Any:
    """Indices from the start of an axis; raises ValueError for known ones outside."""
    if isinstance(indices, np.ndarray):
        if np.any((indices < -length) | (indices >= length)):
            raise ValueError(f"an index is outside of [{-length}, {length}).")
        return np.where(indices < 0, indices + length, indices).astype(np.int32)
    return jnp.where(indices < 0, indices + length, indices)


def _gather(x: jax.Array, indices: Any, *, axis: int = 0) -> jax.Array:
    """Slices along an axis; one index in a scalar is a plain slice."""
    indices = _counted(indices, x.shape[axis])
    if isinstance(indices, np.ndarray) and indices.size == 1:
        piece = lax.slice_in_dim(x, indices.item(), indices.item() + 1, axis=axis)
        axis %= x.ndim
        return piece.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])
    return jnp.take(x, indices, axis, mode="clip")


def _gather_elements(x: jax.Array, indices: Any, *, axis: int = 0) -> jax.Array:
    grid = _grid(_counted(indices, x.shape[axis]), axis)
    return jnp.asarray(x)[grid]


def _grid(indices: Any, axis: int) -> tuple[Any, ...]:
    """Index arrays of all axes, of which one has these indices."""
    grid = list(np.indices(indices.shape, np.int32, sparse=True))
    grid[axis] = indices
    return tuple(grid)


def _gather_nd(x: jax.Array, indices: Any, *, batch_dims: int = 0) -> jax.Array:
    """Slices at index vectors, which are the last axis of the indices."""
    return jnp.asarray(x)[_vectors(x, indices, batch_dims)]


def _vectors(x: Any, indices: Any, batch_dims: int = 0) -> tuple[Any, ...]:
    """Index arrays of the leading axes of x from index vectors."""
    shape = indices.shape[:-1]
    batch = np.indices(shape, np.int32, sparse=True)[:batch_dims] if batch_dims else ()
    lengths = x.shape[batch_dims : batch_dims + indices.shape[-1]]
    places = [_counted(indices[..., i], n) for i, n in enumerate(lengths)]
    return (*batch, *places)


def _scatter_elements(
    x: jax.Array, indices: Any, updates: jax.Array, *, axis: int = 0, **how: str
) -> jax.Array:
    grid = _grid(_counted(indices, x.shape[axis]), axis)
    return _scattered(x, grid, updates, **how)


def _scatter_nd(x: jax.Array, indices: Any, updates: Any, **how: str) -> jax.Array:
    return _scattered(x, _vectors(x, indices), updates, **how)


def _scattered(
    x: Any, places: tuple[Any, ...], updates: Any, *, reduction: str = "none"
) -> jax.Array:
    """The array with updates at places."""
    names = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}
    if reduction not in names:
        raise ValueError(f"reduction {reduction!r} is not supported.")
    return getattr(jnp.asarray(x).at[places], names[reduction])(updates)


def _one_hot(indices: Any, depth: Any, values: jax.Array, *, axis: int = -1) -> Any:
    """The second value at the index along a new axis, the first value elsewhere."""
    if isinstance(depth, np.ndarray):  # which may be a float by the standard
        depth = depth.astype(np.int64)
    (length,) = shaping.integers("depth", depth)
    axis %= indices.ndim + 1
    shape = [1] * (indices.ndim + 1)
    shape[axis] = length
    places = jnp.arange(length).reshape(shape)
    chosen = jnp.expand_dims(jnp.asarray(indices), axis)
    is_chosen = jnp.where(chosen < 0, chosen + length, chosen) == places
    return jnp.where(is_chosen, values[1], values[0])


def _top_k(
    x: jax.Array,
    count: Any = None,
    *,
    axis: int = -1,
    k: int = 0,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """The count was an attribute before version 10, and is an input since."""
    del sorted  # they always are
    (k,) = (k,) if count is None else shaping.integers("k", count)
    moved = jnp.moveaxis(x, axis, -1)
    values, places = lax.top_k(moved if largest else -moved, k)
    values = values if largest else -values
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(places, -1, axis)


def _extreme(function: Callable[..., jax.Array]) -> _Rule:
    """The rule of `jnp.argmax` or `jnp.argmin`."""

    def apply(
        x: jax.Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
    ) -> jax.Array:
        if not select_last_index:
            return function(x, axis, keepdims=bool(keepdims))
        places = function(jnp.flip(x, axis), axis, keepdims=bool(keepdims))
        return x.shape[axis] - 1 - places

    return apply


def _running(function: Callable[..., jax.Array], start: int) -> _Rule:
    """The rule of `jnp.cumsum` or `jnp.cumprod`, whose empty result is `start`."""

    def apply(
        x: jax.Array, axis: Any, *, exclusive: int = 0, reverse: int = 0
    ) -> jax.Array:
        (along,) = shaping.integers("axis", axis)
        along %= x.ndim
        x = jnp.flip(x, along) if reverse else x
        y = function(x, along)
        if exclusive:
            widths = [(0, 0, 0)] * x.ndim
            widths[along] = (1, -1, 0)
            y = lax.pad(y, jnp.asarray(start, x.dtype), widths)
        return jnp.flip(y, along) if reverse else y

    return apply


def _compress(x: jax.Array, condition: Any, *, axis: int | None = None) -> jax.Array:
    places = np.flatnonzero(shaping.integers("the condition", condition))
    if axis is None:
        return _gather(x.reshape(-1), places)
    return _gather(x, places, axis=axis)


RULES: dict[str, _Rule] = {
    "ArgMax": _extreme(jnp.argmax),
    "ArgMin": _extreme(jnp.argmin),
    "Compress": _compress,
    "CumProd": _running(jnp.cumprod, 1),
    "CumSum": _running(jnp.cumsum, 0),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TopK": _top_k,
}
