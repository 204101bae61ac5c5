"""Nodes of an ONNX file, of operators that all verifiers read.

The only linear operators are Gemm and Conv:

    of a vector:      y_m = sum_k W_mk x_k,    Gemm,                              (1)
    at every place:   y_mp = sum_k W_mk x_kp,  Conv with a kernel of one pixel.   (2)

Axes that are summed over come first. Every tensor of the file has a batch axis in
front, whose length verifiers may change.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from robustjax.bounds import UnsupportedError

INPUT, OUTPUT = "parameters", "logits"
_MOST_AXES = 3
_MOST_SCALED = 2048  # factors of their own that are written as a diagonal matrix


class Node(NamedTuple):
    """One operator."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class Tensor(NamedTuple):
    """An array in the file, up to a factor, in an order of its own.

    Axes of length one may be left out of the file.
    """

    name: str
    dims: tuple[int, ...]  # in the file, without the batch axis
    axes: tuple[int, ...]  # which axis of the array each is; -1 for some of length one
    shape: tuple[int, ...]  # of the array
    factor: float = 1.0

    def order(self) -> list[int]:
        """All axes of the array, in the order of the file. [host]."""
        kept = [axis for axis in self.axes if axis >= 0]
        return kept + [a for a in range(len(self.shape)) if a not in kept]

    def in_memory(self, array: np.ndarray) -> np.ndarray:
        """Constants that broadcast to this shape, in the file, `[*dims]`. [host]."""
        spread = np.broadcast_to(array, self.shape)
        return np.transpose(spread, self.order()).reshape(self.dims)


class Writer:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._num_made = 0
        self._sources: dict[str, tuple[str, tuple[int, ...]]] = {}  # of a Reshape
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator; returns the name of its output."""
        self._num_made += 1
        output = f"{kind.lower()}_{self._num_made}"
        self.nodes.append(Node(kind, inputs, output, attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """Adds a constant; returns its name."""
        name = f"constant_{len(self.constants)}"
        with np.errstate(over="ignore"):  # found here
            is_float = np.issubdtype(array.dtype, np.floating)
            stored = array.astype(np.float32 if is_float else np.int64)
        if not np.isfinite(stored).all():
            raise UnsupportedError(
                "Expected constants of the model that are finite in float32."
            )
        self.constants[name] = stored
        return name

    def tensor(
        self,
        name: str,
        dims: Sequence[int],
        *,
        shape: Sequence[int],
        axes: Sequence[int],
    ) -> Tensor:
        """A tensor with dims for given axes of the array, those of length one left out.

        Args:
            name: of an output with `dims`, in memory as the axes say.
            dims: that it has.
            shape: of the array.
            axes: of the array, in the order of the file.
        """
        kept = tuple(axis for axis in axes if shape[axis] > 1)
        wanted = tuple(shape[axis] for axis in kept) or (1,)
        name = self.reshaped(name, tuple(dims), wanted)
        return Tensor(name, wanted, kept or (-1,), tuple(shape))

    def arranged(self, x: Tensor, axes: Sequence[int], dims: Sequence[int]) -> str:
        """The name of a tensor, without its factor, with axes in an order, as dims."""
        wanted = [axis for axis in axes if x.shape[axis] > 1]
        name, now = x.name, x.dims
        if [a for a, n in zip(x.axes, x.dims, strict=True) if n > 1] != wanted:
            places = [x.axes.index(axis) for axis in wanted]
            places += [i for i in range(len(now)) if i not in places]
            name, now = self._transposed(name, now, places)
        return self.reshaped(name, now, tuple(dims))

    def _transposed(
        self, name: str, dims: tuple[int, ...], places: list[int]
    ) -> tuple[str, tuple[int, ...]]:
        """The name and dims of an output, axes that stay together as one.

        Marabou 2.0 applies the inverse permutation if it reads the file itself. So only
        permutations that are their own inverses are written.
        """
        runs = [
            [place for _, place in run]
            for _, run in itertools.groupby(enumerate(places), lambda p: p[1] - p[0])
        ]
        starts = sorted(run[0] for run in runs)
        order = [starts.index(run[0]) for run in runs]
        lengths = {run[0]: math.prod(dims[place] for place in run) for run in runs}
        now = tuple(lengths[start] for start in starts)
        name = self.reshaped(name, dims, now)
        for part in _own_inverses(order):
            name = self.node("Transpose", name, perm=[0, *(1 + p for p in part)])
            now = tuple(now[p] for p in part)
        return name, now

    def reshaped(self, name: str, old: tuple[int, ...], new: tuple[int, ...]) -> str:
        """The name of an output with new dims, one Reshape from where it was made."""
        name, old = self._sources.get(name, (name, old))
        if math.prod(old) != math.prod(new):
            raise ValueError(f"Expected as many entries as {old} has, got {new}.")
        if old == new:
            return name
        output = self.node("Reshape", name, self.constant(np.array([-1, *new])))
        self._sources[output] = name, old
        return output

    def gemm(self, name: str, weights: np.ndarray, biases: np.ndarray | None) -> str:
        """Weights `[m, k]` times a vector `[k]` in the file, plus biases `[m]`."""
        if biases is None:
            biases = np.zeros(len(weights))
        stored = self.constant(weights), self.constant(biases)
        return self.node("Gemm", name, *stored, transB=1)

    def conv(self, name: str, kernel: np.ndarray, **attributes: Any) -> str:
        """A kernel `[m, k, *window]` over `[k, *places]` in the file."""
        stored = self.constant(kernel)
        shape = list(kernel.shape[2:])
        return self.node("Conv", name, stored, kernel_shape=shape, **attributes)

    def summed(
        self, x: Tensor, over: Sequence[int], weights: np.ndarray
    ) -> tuple[str, tuple[int, ...], list[int]]:
        """Sums over axes with weights `[m, k]`, at every place of the other axes.

        Returns:
            A name, its dims, m and two of places if there are any, and the other axes
            in the order of the places.
        """
        free = [axis for axis in x.order() if axis not in over]
        first, *rest = [x.shape[axis] for axis in free if x.shape[axis] > 1] or [1]
        places = first, math.prod(rest)
        num_out, num_in = weights.shape
        weights = x.factor * weights
        if first == 1:
            name = self.arranged(x, over, (num_in,))
            return self.gemm(name, weights, None), (num_out,), free  # (1)
        name = self.arranged(x, [*over, *free], (num_in, *places))
        kernel = weights[..., None, None]
        return self.conv(name, kernel), (num_out, *places), free  # (2)

    def scaled(self, x: Tensor, factors: np.ndarray) -> Tensor:
        """A tensor times constants that broadcast to it."""
        factors = np.broadcast_to(factors, x.shape)
        over = [
            axis
            for axis in range(factors.ndim)
            if np.any(factors != factors.take([0], axis))
        ]
        free = [axis for axis in range(factors.ndim) if axis not in over]
        some = np.transpose(factors, [*over, *free]).reshape(
            math.prod(factors.shape[axis] for axis in over), -1
        )[:, 0]
        if not over:
            return x._replace(factor=x.factor * float(some[0]))
        if len(some) > _MOST_SCALED:
            stored = self.constant(x.factor * x.in_memory(factors))
            return x._replace(name=self.node("Mul", x.name, stored), factor=1.0)
        name, dims, free = self.summed(x, over, np.diag(some))
        return self.tensor(name, dims, shape=x.shape, axes=[*over, *free])

    def with_factor(self, x: Tensor, *, factor: float = 1.0) -> Tensor:
        """The same tensor with another factor."""
        if x.factor == factor:
            return x
        name, dims, free = self.summed(x, (), np.array([[1 / factor]]))
        return self.tensor(name, dims, shape=x.shape, axes=free)._replace(factor=factor)

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of tensors of one shape."""
        x = x if x.factor else self.with_factor(x)
        return self.entrywise("Add", x, self.with_factor(y, factor=x.factor))

    def entrywise(self, kind: str, *tensors: Tensor) -> Tensor:
        """An operator on entries of tensors of one shape, in the order of the first."""
        x = tensors[0]
        if any(y.shape != x.shape for y in tensors):
            shapes = [y.shape for y in tensors]
            raise UnsupportedError(f"Expected arrays of one shape, got {shapes}.")
        # Not all verifiers read more than three axes.
        dims = x.dims if len(x.dims) <= _MOST_AXES else (math.prod(x.dims),)
        names = [self.arranged(y, x.order(), dims) for y in tensors]
        return x._replace(name=self.reshaped(self.node(kind, *names), dims, x.dims))


def _own_inverses(order: Sequence[int]) -> list[list[int]]:
    """Permutations that are their own inverses, one or two that make up another.

    A cycle p(c_j) = c_(j+1) is c_j -> c_(-j), and then c_j -> c_(1-j).
    """
    if all(order[place] == at for at, place in enumerate(order)):
        return [list(order)]
    first, second = list(order), list(order)
    for start in range(len(order)):
        cycle = [start]
        while order[cycle[-1]] != start:
            cycle.append(order[cycle[-1]])
        for j, place in enumerate(cycle):
            first[place], second[place] = cycle[(1 - j) % len(cycle)], cycle[-j]
    return [first, second]
