"""Operators of ONNX that move numbers: reshapes, slices, joins, paddings."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_Rule = Callable[..., Any]


def integers(what: str, values: Any) -> tuple[int, ...]:
    """Integers that must be known before the network runs.

    Args:
        what: their name, for messages.
        values: numbers or an array of them.

    Raises:
        ValueError: if they depend on the input of the network, or are no integers.
    """
    if isinstance(values, jax.Array):
        raise ValueError(f"{what} must be a constant of the file, here it is computed.")
    array = np.ravel(values)
    if array.dtype.kind == "f" and array.size:
        raise ValueError(f"{what} must be integers, here it is {array.dtype}.")
    return tuple(int(v) for v in array)


def flatten(x: jax.Array, *, axis: int = 1) -> jax.Array:
    """A matrix, its rows the axes before this one, its columns the others.

    Args:
        x: an array.
        axis: the first axis of the columns.
    """
    return x.reshape((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _reshape(x: jax.Array, shape: Any, *, allowzero: int = 0) -> jax.Array:
    """A length of 0 keeps that of the input, unless zeros are allowed."""
    lengths = integers("the shape", shape)
    if not allowzero:
        lengths = tuple(n or x.shape[axis] for axis, n in enumerate(lengths))
    return x.reshape(lengths)


def _transpose(x: jax.Array, *, perm: Sequence[int] | None = None) -> jax.Array:
    return jnp.transpose(x, perm)


def _squeeze(
    x: jax.Array, which: Any = None, *, axes: Sequence[int] | None = None
) -> jax.Array:
    """The axes were an attribute before version 13, and are an input since."""
    axes = axes if which is None else integers("axes", which)
    return jnp.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(
    x: jax.Array, which: Any = None, *, axes: Sequence[int] = ()
) -> jax.Array:
    """The axes were an attribute before version 13, and are an input since."""
    return jnp.expand_dims(x, axes if which is None else integers("axes", which))


def _concat(*arrays: jax.Array, axis: int) -> jax.Array:
    return jnp.concatenate(arrays, axis)


def _expand(x: jax.Array, shape: Any) -> jax.Array:
    """Broadcast to a shape, whose lengths of 1 do not shorten an axis."""
    lengths = np.broadcast_shapes(x.shape, integers("the shape", shape))
    return jnp.broadcast_to(x, lengths)


def _tile(x: jax.Array, repeats: Any) -> jax.Array:
    return jnp.tile(x, integers("repeats", repeats))


def _split(
    x: jax.Array,
    sizes: Any = None,
    *,
    count: int,
    axis: int = 0,
    num_outputs: int | None = None,
    split: Sequence[int] | None = None,
) -> tuple[jax.Array, ...]:
    """Pieces along an axis: of given sizes, or equal ones of which the last is shorter.

    The sizes were an attribute before version 13, and are an input since.
    """
    length = x.shape[axis]
    if sizes is not None:
        split = integers("split", sizes)
    elif split is None:
        step = math.ceil(length / (num_outputs or count))
        split = [max(min(step, length - i * step), 0) for i in range(count)]
    if sum(split) != length or len(split) != count:
        raise ValueError(
            f"expected {count} pieces of an axis of length {length}, got {list(split)}."
        )
    ends = np.cumsum(split)
    return tuple(
        lax.slice_in_dim(x, int(end) - size, int(end), axis=axis)
        for size, end in zip(split, ends, strict=True)
    )


def _slice(
    x: jax.Array,
    first: Any = None,
    last: Any = None,
    which: Any = None,
    strides: Any = None,
    *,
    starts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> jax.Array:
    """From starts to ends along axes, in steps, which may be negative.

    Starts, ends and axes were attributes before version 10, and are inputs since.
    """
    starts = starts if first is None else integers("starts", first)
    ends = ends if last is None else integers("ends", last)
    axes = axes if which is None else integers("axes", which)
    axes = range(len(starts or ())) if axes is None else axes
    steps = [1] * len(axes) if strides is None else integers("steps", strides)
    for axis, *limits in zip(axes, starts or (), ends or (), steps, strict=True):
        x = _sliced(x, axis % x.ndim, slice(*limits))
    return x


def _sliced(x: jax.Array, axis: int, limits: slice) -> jax.Array:
    """A slice along one axis; one with negative steps is reversed and sliced."""
    places = range(x.shape[axis])[limits]
    if places.step < 0:
        places = places[::-1]
        x = _sliced(x, axis, slice(places.start, places.stop, places.step))
        return lax.rev(x, (axis,)) if x.shape[axis] > 1 else x
    if len(places) == x.shape[axis]:
        return x
    stop = max(places.stop, places.start)
    return lax.slice_in_dim(x, places.start, stop, places.step, axis)


def _pad(
    x: jax.Array,
    widths: Any = None,
    fill: jax.Array | None = None,
    axes: Any = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] = (),
    value: float = 0.0,
) -> jax.Array:
    """Widths, all lower ends first, and fill were attributes before version 11."""
    pads = pads if widths is None else integers("pads", widths)
    padded = range(x.ndim) if axes is None else integers("axes", axes)
    ends = zip(pads[: len(padded)], pads[len(padded) :], strict=True)
    config = [(0, 0)] * x.ndim  # below, above
    for axis, end in zip(padded, ends, strict=True):
        config[axis] = end
    if mode == "constant":
        fill = jnp.asarray(value if fill is None else fill, x.dtype)
        return lax.pad(x, fill.reshape(()), [(*end, 0) for end in config])
    if mode not in ("edge", "reflect", "wrap"):
        raise ValueError(f"mode {mode!r} is not supported.")
    for axis, (low, high) in enumerate(config):  # negative widths cut
        stop = x.shape[axis] + min(high, 0)
        x = lax.slice_in_dim(x, max(-low, 0), stop, axis=axis)
    return jnp.pad(x, [(max(low, 0), max(high, 0)) for low, high in config], mode)


def _depth_to_space(x: jax.Array, *, blocksize: int, mode: str = "DCR") -> jax.Array:
    """Channels moved into blocks of pixels."""
    n, c, height, width = x.shape
    b = blocksize
    if mode == "DCR":
        y = x.reshape(n, b, b, c // b**2, height, width).transpose(0, 3, 4, 1, 5, 2)
    elif mode == "CRD":
        y = x.reshape(n, c // b**2, b, b, height, width).transpose(0, 1, 4, 2, 5, 3)
    else:
        raise ValueError(f"mode {mode!r} is not supported.")
    return y.reshape(n, c // b**2, height * b, width * b)


def _space_to_depth(x: jax.Array, *, blocksize: int, mode: str = "DCR") -> jax.Array:
    """Blocks of pixels moved into channels."""
    n, c, height, width = x.shape
    b = blocksize
    y = x.reshape(n, c, height // b, b, width // b, b)
    order = {"DCR": (0, 3, 5, 1, 2, 4), "CRD": (0, 1, 3, 5, 2, 4)}
    if mode not in order:
        raise ValueError(f"mode {mode!r} is not supported.")
    return y.transpose(order[mode]).reshape(n, c * b * b, height // b, width // b)


def _trilu(x: jax.Array, diagonal: Any = None, *, upper: int = 1) -> jax.Array:
    (k,) = (0,) if diagonal is None else integers("k", diagonal)
    part = jnp.triu if upper else jnp.tril
    if x.dtype == bool:
        return x & part(np.ones(x.shape, bool), k)
    return part(x, k)


RULES: dict[str, _Rule] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
