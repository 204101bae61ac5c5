"""On which entries of the input an entry can depend: from where to where by axis.

Carried in NumPy through the primitives of affine nodes, as the smallest index along
each axis and the smallest negative index, so that one rule serves both ends:

    reach(z_i) = min of reach(x_j) over all j for which z_i can depend on x_j.

What has no rule here depends on all that it takes, as a reach may be too large.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from robustjax import _validate
from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.operations import Affine, Elementwise, Narrowed, Product
from robustjax.bounds.tracing import calls

_MOST_NUMBERS = 2**27  # in all arrays together
_NOTHING = np.iinfo(np.int32).max  # what constants depend on
_Params = Mapping[str, Any]
_Rule = Callable[[_Params, list[Any]], "_Reach"]


class Range(NamedTuple):
    """From which to which index along one axis of the input entries depend on it."""

    first: np.ndarray  # of the shape of the value
    last: np.ndarray


class _Reach(NamedTuple):
    """Smallest indices, and smallest negative ones, of a value that is no constant."""

    ends: np.ndarray  # [2 * axes of the input, *shape of the value]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ends.shape[1:]

    def least(self, axes: Sequence[int], *, keepdims: bool = False) -> "_Reach":
        """Over axes of the value."""
        along = tuple(axis + 1 for axis in axes)
        return _Reach(np.min(self.ends, along, keepdims=keepdims, initial=_NOTHING))

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> "_Reach":
        """With entries moved alike for all ends."""
        return _Reach(np.stack([move(end) for end in self.ends]))


def ranges(graph: Graph, dtype: jax.typing.DTypeLike) -> list[list[Range]] | None:
    """The ranges of all values along every axis of the input. [host].

    Args:
        graph: from `tracing.trace`.
        dtype: of the input.

    Returns:
        For each value a `Range` an axis; None if there would be too many numbers, or
        an entry that depends on nothing.
    """
    num_axes = len(graph.shape)
    sizes = [math.prod(graph.shape_of(v)) for v in range(len(graph.nodes) + 1)]
    if num_axes < 2 or 2 * num_axes * sum(sizes) > _MOST_NUMBERS:
        return None
    index = np.indices(graph.shape, np.int32)
    found = [_Reach(np.concatenate([index, -index]))]
    for node in graph.nodes:
        found.append(_through(node, [found[value] for value in node.inputs], dtype))
        if np.any(found[-1].ends == _NOTHING):
            return None
    return [
        [Range(r.ends[axis], -r.ends[axis + num_axes]) for axis in range(num_axes)]
        for r in found
    ]


def _through(node: Node, inputs: list[_Reach], dtype: Any) -> _Reach:
    """The reach of a result; counts and truth values depend on many entries."""
    if node.is_float and isinstance(node.operation, Elementwise | Product | Narrowed):
        return _union(inputs)
    if not node.is_float or not isinstance(node.operation, Affine):
        return _whole(inputs, node.shape)
    structs = [jax.ShapeDtypeStruct(reach.shape, dtype) for reach in inputs]
    closed = jax.make_jaxpr(node.operation.point)(*structs)
    (found,) = _of_jaxpr(closed, inputs)
    return found if isinstance(found, _Reach) else _fill(inputs[0], node.shape)


def _of_jaxpr(closed: Any, arguments: Sequence[Any]) -> list[Any]:
    """Reaches and constants that a jaxpr gives for such arguments."""
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        results = _of_equation(equation, [read(atom) for atom in equation.invars])
        known |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _of_equation(equation: Any, values: list[Any]) -> list[Any]:
    name, shapes = equation.primitive.name, [v.aval.shape for v in equation.outvars]
    called = calls.called(equation, "")
    if called is not None:
        return _of_jaxpr(called, values)
    reaches = [value for value in values if isinstance(value, _Reach)]
    if not reaches:
        fold = _FOLDED.get(name)
        known = [_known(v) for v in values]
        if fold is None or any(v is None for v in known):
            return [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
        return [fold(equation.params, *known)]
    found: _Reach | None
    if name in _EACH:
        found = _union(reaches)
    elif name in _RULES:
        found = _RULES[name](equation.params, values)
    else:
        found = None
    if found is None or found.shape != shapes[0]:
        return [_whole(reaches, shape) for shape in shapes]
    return [found]


def _known(constant: Any) -> np.ndarray | None:
    is_known = not isinstance(constant, jax.ShapeDtypeStruct)
    return _validate.concrete(constant) if is_known else None


def _union(reaches: Sequence[_Reach]) -> _Reach:
    """The reach of a function of single entries; a scalar goes with any shape."""
    rank = max(len(reach.shape) for reach in reaches)
    ends = [
        r.ends.reshape(len(r.ends), *[1] * (rank - len(r.shape)), *r.shape)
        for r in reaches
    ]
    return _Reach(functools.reduce(np.minimum, ends))


def _whole(reaches: Sequence[_Reach], shape: Sequence[int]) -> _Reach:
    """Every entry depends on all that any does."""
    least = _union([r.least(range(len(r.shape))) for r in reaches]).ends
    one_each = least.reshape(-1, *[1] * len(shape))
    return _Reach(np.broadcast_to(one_each, (len(least), *shape)))


def _fill(like: _Reach, shape: Sequence[int]) -> _Reach:
    return _Reach(np.full((len(like.ends), *shape), _NOTHING, np.int32))


def _spread(params: _Params, x: np.ndarray) -> np.ndarray:
    shape = params["shape"]
    own = [1] * len(shape)
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        own[axis] = size
    return np.broadcast_to(x.reshape(own), shape)


_EACH = (
    "add", "add_any", "convert_element_type", "copy", "div", "mul", "neg",
    "select_n", "stop_gradient", "sub",
)  # fmt: skip
_FOLDED: dict[str, Callable[..., Any]] = {  # of indices
    "add": lambda params, x, y: x + y,
    "broadcast_in_dim": _spread,
    "lt": lambda params, x, y: x < y,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "select_n": lambda params, which, x, y: np.where(which, y, x),
}


def _slice(params: _Params, x: np.ndarray) -> np.ndarray:
    starts, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or [1] * x.ndim
    return x[tuple(map(slice, starts, ends, steps))]


def _of_move(move: Callable[[_Params, np.ndarray], np.ndarray]) -> _Rule:
    def rule(params: _Params, values: list[Any]) -> _Reach:
        return values[0].moved(functools.partial(move, params))

    return rule


def _reshape(params: _Params, values: list[Any]) -> _Reach:
    return values[0].moved(lambda x: x.reshape(params["new_sizes"]))


def _reduced(params: _Params, values: list[Any]) -> _Reach:
    return values[0].least(params["axes"])


def _concatenated(params: _Params, values: list[Any]) -> _Reach:
    axis = params["dimension"] + 1
    like = next(v for v in values if isinstance(v, _Reach))
    parts = [v if isinstance(v, _Reach) else _fill(like, np.shape(v)) for v in values]
    return _Reach(np.concatenate([part.ends for part in parts], axis))


def _padded(params: _Params, values: list[Any]) -> _Reach | None:
    x, filling = values
    config = params["padding_config"]
    if not isinstance(x, _Reach) or isinstance(filling, _Reach):
        return None
    if any(low < 0 or high < 0 for low, high, _ in config) or 0 in x.shape:
        return None
    sizes = [
        low + high + size + max(size - 1, 0) * inner
        for size, (low, high, inner) in zip(x.shape, config, strict=True)
    ]
    found = _fill(x, sizes)
    at = tuple(
        slice(low, low + max(size - 1, 0) * (inner + 1) + 1, inner + 1)
        for size, (low, _, inner) in zip(x.shape, config, strict=True)
    )
    found.ends[(slice(None), *at)] = x.ends
    return found


def _gathered(params: _Params, values: list[Any]) -> _Reach | None:
    """Whole slices at known places along one axis, as `jnp.take` gathers them."""
    x, places = values
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    indices = None if isinstance(places, _Reach) else _known(places)
    if indices is None or not isinstance(x, _Reach):
        return None
    (axis, *more) = numbers.start_index_map
    own = tuple(1 if k == axis else n for k, n in enumerate(x.shape))
    rest = tuple(k for k in range(len(x.shape)) if k != axis)
    along = indices.ndim - 1  # axes that the places bring
    is_simple = not more and tuple(numbers.collapsed_slice_dims) == (axis,)
    kept = tuple(k if k < axis else k + along - 1 for k in rest)
    if not is_simple or tuple(sizes) != own or tuple(numbers.offset_dims) != kept:
        return None
    at = np.clip(indices[..., 0], 0, x.shape[axis] - 1)
    return x.moved(lambda end: np.take(end, at, axis=axis))


def _multiplied(params: _Params, values: list[Any]) -> _Reach:
    """A matrix product sums over the contracted axes of both factors."""
    summed, batch = params["dimension_numbers"]
    shapes = [np.shape(v) for v in values]
    free = [
        [k for k in range(len(shape)) if k not in (*summed[i], *batch[i])]
        for i, shape in enumerate(shapes)
    ]
    common = [shapes[0][k] for k in batch[0]]
    own = [[shapes[i][k] for k in free[i]] for i in (0, 1)]
    found = []
    for i, value in enumerate(values):
        if not isinstance(value, _Reach):
            continue
        left = [k for k in range(len(shapes[i])) if k not in summed[i]]
        order = [left.index(k) for k in (*batch[i], *free[i])]
        ends = value.least(summed[i]).ends.transpose(0, *(k + 1 for k in order))
        ones = [[1] * len(own[k]) if k != i else own[k] for k in (0, 1)]
        ends = ends.reshape(len(ends), *common, *ones[0], *ones[1])
        whole = (len(ends), *common, *own[0], *own[1])
        found.append(_Reach(np.broadcast_to(ends, whole)))
    return _union(found)


class _Window(NamedTuple):
    """A window along one axis, as convolutions and poolings have it."""

    size: int
    stride: int
    padding: tuple[int, int]
    dilation: int  # of the window
    base_dilation: int  # of what it moves over

    def least(self, reach: _Reach, axis: int) -> _Reach:
        """Over the entries in each place of the window."""
        length = reach.shape[axis]
        spread = (length - 1) * self.base_dilation + 1
        span = (self.size - 1) * self.dilation + 1
        places = (sum(self.padding) + spread - span) // self.stride + 1
        first = np.arange(places) * self.stride - self.padding[0]
        found = np.full((), _NOTHING, np.int32)
        for step in range(self.size):
            index, rest = np.divmod(first + step * self.dilation, self.base_dilation)
            is_there = (rest == 0) & (index >= 0) & (index < length)
            taken = np.take(reach.ends, np.clip(index, 0, length - 1), axis + 1)
            mask = is_there.reshape(-1, *[1] * (len(reach.shape) - axis - 1))
            found = np.minimum(found, np.where(mask, taken, _NOTHING))
        return _Reach(found)


def _in_windows(params: _Params, values: list[Any]) -> _Reach:
    (found,) = values
    windows = zip(
        params["window_dimensions"], params["window_strides"], params["padding"],
        params["window_dilation"], params["base_dilation"], strict=True,
    )  # fmt: skip
    for axis, window in enumerate(windows):
        found = _Window(*window).least(found, axis)
    return found


def _convolved(params: _Params, values: list[Any]) -> _Reach | None:
    """A convolution with a constant kernel has windows, and groups of features."""
    x, kernel = values
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if not isinstance(x, _Reach) or isinstance(kernel, _Reach):
        return None
    if params["batch_group_count"] != 1:
        return None
    shape = np.shape(kernel)
    found = x.moved(lambda end: np.transpose(end, numbers.lhs_spec))
    batch, features, *space = found.shape
    split = found.moved(lambda e: e.reshape(batch, groups, features // groups, *space))
    found = split.least([2])
    windows = zip(
        [shape[k] for k in numbers.rhs_spec[2:]], params["window_strides"],
        params["padding"], params["rhs_dilation"], params["lhs_dilation"], strict=True,
    )  # fmt: skip
    for axis, window in enumerate(windows, start=2):
        found = _Window(*window).least(found, axis)
    num_each = shape[numbers.rhs_spec[0]] // groups
    back = np.argsort(numbers.out_spec)
    return found.moved(lambda e: np.transpose(np.repeat(e, num_each, axis=1), back))


_RULES: dict[str, Callable[..., _Reach | None]] = {
    "broadcast_in_dim": _of_move(_spread),
    "concatenate": _concatenated,
    "conv_general_dilated": _convolved,
    "dot_general": _multiplied,
    "gather": _gathered,
    "pad": _padded,
    "reduce_sum": _reduced,
    "reduce_window_sum": _in_windows,
    "reshape": _reshape,
    "rev": _of_move(lambda params, x: np.flip(x, params["dimensions"])),
    "slice": _of_move(_slice),
    "squeeze": _of_move(lambda params, x: np.squeeze(x, params["dimensions"])),
    "transpose": _of_move(lambda params, x: np.transpose(x, params["permutation"])),
}
