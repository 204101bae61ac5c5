"""Boxes of inputs, checked where their values are known, and trees of inputs.

A tree whose lower and upper leaves are l_k and u_k becomes one array: the one leaf with
l_k < u_k as it is, or several of them, flattened and joined. The other leaves are
constants of the function.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.bounds.operations import Interval


class Layout(NamedTuple):
    """Where the leaves of a tree of inputs are: in the bounded array, or constants."""

    structure: Any  # of the tree
    constants: tuple[Any, ...]  # one a leaf; None: it is bounded
    shapes: tuple[tuple[int, ...], ...]  # of the bounded leaves, in order

    def array(self, tree: Any) -> jax.Array:
        """The bounded leaves of a tree as one array. [device].

        Args:
            tree: of this structure.

        Returns:
            The only one as it is, several as `[n]`.
        """
        pairs = zip(self.structure.flatten_up_to(tree), self.constants, strict=True)
        leaves = [jnp.asarray(leaf) for leaf, constant in pairs if constant is None]
        return leaves[0] if len(leaves) == 1 else _joined(leaves)

    def tree(self, array: jax.Array) -> Any:
        """The tree that an array stands for. [device]."""
        return self._filled(array, self.constants)

    def weights(self, rows: jax.Array) -> Any:
        """Rows of the array as trees; leaves that are constants weigh nothing.

        [device]

        Args:
            rows: `[rows, *shape of the array]`.

        Returns:
            A tree of this structure, leaves `[rows, *shape of the leaf]`.
        """
        zeros = [
            None if c is None else jnp.zeros((len(rows), *np.shape(c)), rows.dtype)
            for c in self.constants
        ]
        return self._filled(rows, zeros)

    def function(self, fn: Callable[[Any], jax.Array]) -> Callable[..., jax.Array]:
        """A function of a tree as one of the array. [host]."""
        is_array = jax.tree_util.treedef_is_leaf(self.structure)
        return fn if is_array else lambda array: fn(self.tree(array))

    def _filled(self, array: jax.Array, others: Sequence[Any]) -> Any:
        """A tree with parts of an array, which may have one axis in front."""
        parts, end = [array], 0
        if len(self.shapes) > 1:
            parts = []
            for shape in self.shapes:
                start, end = end, end + math.prod(shape)
                part = jax.lax.slice_in_dim(array, start, end, axis=-1)
                parts.append(part.reshape(*array.shape[:-1], *shape))
        rest = iter(parts)
        leaves = [next(rest) if other is None else other for other in others]
        return jax.tree.unflatten(self.structure, leaves)


def laid_out(lower: Any, upper: Any) -> tuple[Layout, Interval]:
    """The layout of a tree of inputs, and the box of its bounded leaves. [device].

    A leaf is a constant if it is the same object in both trees, or if its values are
    known and equal. An array, a number, and a list or tuple of numbers is a tree of one
    leaf, which is always bounded; if all leaves are constants, those of floats are.

    Args:
        lower: a tree of lower corners.
        upper: of the same structure.

    Returns:
        Both.

    Raises:
        ValueError: if the structures differ, bounded leaves have different dtypes or
            none is bounded, or as `checked`.
    """
    low, high = _as_tree(lower), _as_tree(upper)
    structure: Any = jax.tree.structure(low)
    other: Any = jax.tree.structure(high)
    if structure != other:
        raise ValueError(
            f"Expected lower and upper of one structure, got {structure} and {other}."
        )
    pairs = list(zip(jax.tree.leaves(low), jax.tree.leaves(high), strict=True))
    if jax.tree_util.treedef_is_leaf(structure):
        are_exact = [False]
    else:
        are_exact = [_is_exact(*pair) for pair in pairs]
    if all(are_exact):  # one point
        are_exact = [not _is_float(end) for end, _ in pairs]
    ends = [
        checked(*pair)
        for pair, is_exact in zip(pairs, are_exact, strict=True)
        if not is_exact
    ]
    dtypes = sorted({str(one.dtype) for one, _ in ends})
    if len(dtypes) != 1:
        raise ValueError(f"Expected bounded leaves of one float dtype, got {dtypes}.")
    constants = tuple(
        end if is_exact else None
        for (end, _), is_exact in zip(pairs, are_exact, strict=True)
    )
    layout = Layout(structure, constants, tuple(one.shape for one, _ in ends))
    if len(ends) == 1:
        return layout, ends[0]
    return layout, (_joined([one for one, _ in ends]), _joined([o for _, o in ends]))


def checked(lower: ArrayLike, upper: ArrayLike) -> Interval:
    """The corners as arrays. [device].

    Args:
        lower: of any shape.
        upper: of the same shape and dtype.

    Returns:
        Both.

    Raises:
        ValueError: if they are not alike, no floats, or, where their values are known,
            empty or not finite.
    """
    low, high = jnp.asarray(lower), jnp.asarray(upper)
    if low.shape != high.shape or low.dtype != high.dtype:
        raise ValueError(
            f"Expected lower and upper alike, got {low.dtype}{list(low.shape)} and "
            f"{high.dtype}{list(high.shape)}."
        )
    if not jnp.issubdtype(low.dtype, jnp.floating):
        raise ValueError(f"Expected a box of floats, got {low.dtype}.")
    known: list[Any] = [_validate.concrete(v) for v in (low, high)]
    if known[0] is not None and known[1] is not None:
        check(*known)
    return low, high


def check(lower: np.ndarray, upper: np.ndarray) -> None:
    """Raises ValueError unless a box is finite and not empty, names where. [host]."""
    if lower.shape != upper.shape:
        raise ValueError(
            f"Expected lower and upper alike, got {lower.shape} and {upper.shape}."
        )
    for name, array in (("lower", lower), ("upper", upper)):
        if not np.isfinite(array).all():
            raise ValueError(f"Expected a finite box, got {name} with NaN or inf.")
    wrong = np.argwhere(lower > upper)
    if len(wrong):
        index = tuple(wrong[0].tolist())
        raise ValueError(
            f"Expected lower <= upper, got {lower[index]} > {upper[index]} at {index}."
        )


def check_broadcasts(shape: tuple[int, ...], **named: ArrayLike) -> None:
    """Raises ValueError unless all values broadcast against one example. [host]."""
    for name, value in named.items():
        own = np.shape(value)
        pairs = zip(own[::-1], shape[::-1], strict=False)
        if len(own) > len(shape) or any(size not in (1, n) for size, n in pairs):
            raise ValueError(
                f"Expected {name} to broadcast against an example {shape}, got {own}."
            )


def _as_tree(inputs: Any) -> Any:
    """A list or tuple of numbers is an array."""
    is_sequence = isinstance(inputs, list | tuple)
    if is_sequence and all(isinstance(n, int | float) for n in jax.tree.leaves(inputs)):
        return jnp.asarray(inputs)
    return inputs


def _is_exact(lower: Any, upper: Any) -> bool:
    """Whether a leaf is the same in both corners, as far as is known."""
    if lower is upper:
        return True
    low, high = _validate.concrete(lower), _validate.concrete(upper)
    if low is None or high is None or low.dtype != high.dtype:
        return False
    return np.array_equal(low, high)


def _is_float(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def _joined(leaves: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
