"""Primitives of JAX that move and copy entries of an array.

    y_m = sum_n W_mn x_n along an axis, with W_mn = 1 where entry n goes to place m,

for slices, reversals, padding and what is put together; the zeros beyond are those of
the linear part. Reshapes and other orders of the axes are written when needed.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from robustjax.semantic.export.onnx_nodes import Tensor, Writer
from robustjax.semantic.export.single_steps import Step


def reshape(writer: Writer, step: Step, x: Tensor) -> Tensor | None:
    """The entries in the order they have; axes of length one come and go. [host]."""
    if step.name == "reshape" and step.params["dimensions"] is not None:
        return None
    old = [axis for axis, length in enumerate(x.shape) if length > 1]
    new = [axis for axis, length in enumerate(step.shape) if length > 1]
    if [x.shape[axis] for axis in old] == [step.shape[axis] for axis in new]:
        return _renamed(x, dict(zip(old, new, strict=True)), step.shape)
    dims = tuple(step.shape[axis] for axis in new) or (1,)
    name = writer.arranged(x, range(len(x.shape)), dims)
    return Tensor(name, dims, tuple(new) or (-1,), step.shape, x.factor)


def _renamed(x: Tensor, names: Mapping[int, int], shape: tuple[int, ...]) -> Tensor:
    """The same tensor with other numbers of its axes."""
    return x._replace(axes=tuple(names.get(axis, -1) for axis in x.axes), shape=shape)


def transpose(writer: Writer, step: Step, x: Tensor) -> Tensor:
    """Another order of the axes: that in the file stays. [host]."""
    new = {old: axis for axis, old in enumerate(step.params["permutation"])}
    return _renamed(x, new, step.shape)


def broadcast(writer: Writer, step: Step, x: Tensor) -> Tensor:
    """Copies along axes. [host]."""
    places = dict(enumerate(step.params["broadcast_dimensions"]))
    old = {new: x.shape[axis] for axis, new in places.items()}
    more = [a for a, n in enumerate(step.shape) if n > 1 and old.get(a, 1) == 1]
    if not more:
        names = {axis: new for axis, new in places.items() if x.shape[axis] > 1}
        return _renamed(x, names, step.shape)
    ones = np.ones((math.prod(step.shape[axis] for axis in more), 1))
    name, dims, free = writer.summed(x, (), ones)
    kept = [places[axis] for axis in free if x.shape[axis] > 1]
    return writer.tensor(name, dims, shape=step.shape, axes=[*more, *kept])


def _along(writer: Writer, x: Tensor, axis: int, weights: np.ndarray) -> Tensor:
    """Weights `[m, n]` times what stands along an axis."""
    if np.array_equal(weights, np.eye(x.shape[axis])):
        return x
    shape = (*x.shape[:axis], len(weights), *x.shape[axis + 1 :])
    name, dims, free = writer.summed(x, (axis,), weights)
    return writer.tensor(name, dims, shape=shape, axes=[axis, *free])


def part(writer: Writer, step: Step, x: Tensor) -> Tensor:
    """A slice, with steps. [host]."""
    params = step.params
    strides = params["strides"] or (1,) * len(x.shape)
    ends = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    for axis, (start, limit, stride) in enumerate(ends):
        x = _along(writer, x, axis, np.eye(x.shape[axis])[start:limit:stride])
    return x


def dynamic_part(writer: Writer, step: Step, x: Tensor) -> Tensor:
    """A slice of given size, moved inside where it begins too late. [host]."""
    ends = zip(step.operands[1:], step.params["slice_sizes"], strict=True)
    for axis, (start, size) in enumerate(ends):
        first = min(max(int(start), 0), x.shape[axis] - size)
        x = _along(writer, x, axis, np.eye(x.shape[axis])[first : first + size])
    return x


def taken(writer: Writer, step: Step, x: Tensor) -> Tensor | None:
    """Slices of an axis by constant indices, as `jnp.take` gives. [host]."""
    where, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    indices = np.asarray(step.operands[1]).ravel()
    (axis, *others) = where.start_index_map
    one_each = tuple(1 if a == axis else n for a, n in enumerate(x.shape))
    in_place = tuple(a for a in range(len(step.shape)) if a not in where.offset_dims)
    if (
        others
        or where.operand_batching_dims
        or where.collapsed_slice_dims != (axis,)
        or sizes != one_each
        or in_place not in ((), (axis,))
        or np.any((indices < 0) | (indices >= x.shape[axis]))
    ):
        return None
    found = _along(writer, x, axis, np.eye(x.shape[axis])[indices])
    return reshape(writer, step, found)


def reverse(writer: Writer, step: Step, x: Tensor) -> Tensor:
    """The entries in reverse order along axes. [host]."""
    for axis in step.params["dimensions"]:
        x = _along(writer, x, axis, np.eye(x.shape[axis])[::-1])
    return x


def _placed(
    writer: Writer, x: Tensor, axis: int, places: np.ndarray, length: int
) -> Tensor:
    """Slices of an axis at places of a longer or shorter one, zeros elsewhere."""
    is_there = places[None] == np.arange(length)[:, None]
    return _along(writer, x, axis, is_there.astype(np.float64))


def pad(writer: Writer, step: Step, x: Tensor) -> Tensor:
    """Zeros around and between the entries; fewer entries where negative. [host]."""
    for axis, (low, _, inner) in enumerate(step.params["padding_config"]):
        places = low + (inner + 1) * np.arange(x.shape[axis])
        x = _placed(writer, x, axis, places, step.shape[axis])
    return x


def concatenate(writer: Writer, step: Step, tensors: Sequence[Tensor | None]) -> Tensor:
    """The sum of the arrays, each put in its place among zeros. [host]."""
    axis, start, terms = step.params["dimension"], 0, []
    for operand, shape in zip(step.operands, step.shapes, strict=True):
        x = tensors[operand] if isinstance(operand, int) else None
        if x is not None:
            places = start + np.arange(shape[axis])
            terms.append(_placed(writer, x, axis, places, step.shape[axis]))
        start += shape[axis]
    return functools.reduce(writer.added, terms)
