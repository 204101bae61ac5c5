"""Linear subspaces of the input, such as a colour channel, and projections on them.

    P v = mask * v  for coordinates,   P v = B (B' v)  for an orthonormal basis B,

and v - P v is the projection on the complement.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

_COLOURS = ("red", "green", "blue")
_BUILT_IN = re.compile(rf"{'|'.join(_COLOURS)}|channel[0-9]+")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")  # fits into a flag and a column's header
_TOLERANCE = 1e-5  # of what is given in float32
_Array = TypeVar("_Array", jax.Array, np.ndarray)


class Subspace(NamedTuple):
    """A subspace of R^d: some of the coordinates, or the span of a basis.

    A pytree. Exactly one of its fields is an array.
    """

    mask: Any = None  # float32 [d], 1 for the coordinates that span it, else 0
    basis: Any = None  # [d, k], orthonormal columns; float64 on the host

    @property
    def dim(self) -> int:
        """The number of coordinates d."""
        return len(self.basis if self.mask is None else self.mask)

    def project(self, v: _Array) -> _Array:
        """Orthogonal projection of vectors `[..., d]` on the subspace.

        [device] Pure, jittable; NumPy arrays are projected on the host in their dtype.

        Guarantee:
            Exact for a mask. The basis is orthonormal to 1e-14 in float64 and to 1e-6
            in float32, where projections are wrong by about as much times the length.

        Args:
            v: vectors along the last axis.

        Returns:
            Array of the same shape and dtype.
        """
        if self.mask is not None:
            return v * _like(self.mask, v).reshape(*[1] * (v.ndim - 1), -1)
        basis = _like(self.basis, v)
        if isinstance(v, np.ndarray):
            return (v @ basis) @ basis.T
        highest = jax.lax.Precision.HIGHEST
        components = jnp.matmul(v, basis, precision=highest)
        return jnp.matmul(components, basis.T, precision=highest)

    def complement(self, v: _Array) -> _Array:
        """Projection on the orthogonal complement, `v - project(v)`. [device].

        Args:
            v: vectors along the last axis.

        Returns:
            Array of the same shape and dtype.
        """
        return v - self.project(v)


def subspace(mask_or_projector: ArrayLike, *, shape: Sequence[int]) -> Subspace:
    """The subspace of inputs of a shape that a mask, a basis or a projector describes.

    [host] With d the number of coordinates, one of

    - a mask, boolean or 0/1, of the example's shape or `[d]`: the coordinates it marks;
    - an orthonormal basis `[d, k]`, one vector a column;
    - a projector `[d, d]`, symmetric and idempotent; it is factorised, in O(d^3).

    Guarantee:
        The stored basis is orthonormal to 1e-14, so the length of a projection in
        float64 is right to 1e-14 relative. The span of a basis is kept to as much; that
        of a projector is kept to its own error, of at most 1e-5.

    Args:
        mask_or_projector: the array.
        shape: shape of one example, `[h, w, c]` say.

    Returns:
        A `Subspace`; the whole space is one.

    Raises:
        ValueError: for another shape, an empty subspace, a mask with values other than
            0 and 1, and a basis or projector that is not one within 1e-5.

    Example:
        >>> half = subspace([1, 1, 0, 0], shape=(2, 2))
        >>> half.project(np.array([3.0, 4.0, 5.0, 6.0])).tolist()
        [3.0, 4.0, 0.0, 0.0]
    """
    shape = tuple(shape)
    dim = math.prod(shape)
    array = np.asarray(mask_or_projector)
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"Expected a subspace as finite numbers, got {array.dtype}.")
    if array.shape in (shape, (dim,)):
        return Subspace(mask=_mask(array))
    if array.ndim != 2 or len(array) != dim or not 0 < array.shape[1] <= dim:
        raise ValueError(
            f"Expected a subspace as a mask {shape} or [{dim}], an orthonormal basis "
            f"[{dim}, k] or a projector [{dim}, {dim}], got shape {array.shape}."
        )
    array = array.astype(np.float64)
    if array.shape == (dim, dim):
        return Subspace(basis=_range(array))
    error = np.abs(array.T @ array - np.eye(array.shape[1])).max()
    if error > _TOLERANCE:
        raise ValueError(
            f"Expected a basis of orthonormal columns, got products wrong by {error:g}."
        )
    return Subspace(basis=np.linalg.qr(array)[0])


def named_subspace(name: str, *, shape: Sequence[int]) -> Subspace:
    """One channel of an image.

    [host]

    Args:
        name: "red", "green" or "blue" of an image `[h, w, 3]`, or "channel0",
            "channel1" and so on of any shape `[..., c]`.
        shape: shape of one example.

    Returns:
        The `Subspace` of all coordinates of that channel.

    Raises:
        ValueError: for a name that this shape does not have.

    Example:
        >>> named_subspace("green", shape=(1, 2, 3)).mask.tolist()
        [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """
    shape = tuple(shape)
    is_colour = len(shape) == 3 and shape[-1] == len(_COLOURS)
    if name in _COLOURS and not is_colour:
        raise ValueError(
            f"Expected images [h, w, 3] for the subspace {name!r}, got shape {shape}."
        )
    channels = [f"channel{i}" for i in range(shape[-1] if shape else 0)]
    names = [*(_COLOURS if is_colour else ()), *channels]
    if name not in names:
        known = ", ".join(names)
        raise ValueError(
            f"Unknown subspace {name!r}; choose one of those of {shape}: {known}."
        )
    mask = np.zeros(shape, bool)
    mask[..., names.index(name) % len(channels)] = True
    return subspace(mask, shape=shape)


def by_name(
    names: Iterable[str], *, masks: Mapping[str, ArrayLike], shape: Sequence[int]
) -> dict[str, Subspace]:
    """The subspaces of these names: one of the masks, or else a channel of the input.

    [host]

    Args:
        names: names of subspaces, each once.
        masks: name -> mask, basis or projector, as in `subspace`.
        shape: shape of one example.

    Returns:
        Name -> `Subspace`, in the order of the names.

    Raises:
        ValueError: if a mask has the name of a channel or one that does not fit into a
            flag, if two names stand for the same subspace, and as in `subspace` and
            `named_subspace`.

    Example:
        >>> list(by_name(["top", "red"], masks={"top": [1, 0, 0]}, shape=(1, 1, 3)))
        Traceback (most recent call last):
        ValueError: Expected different subspaces, got the same one as 'top' and 'red'.
    """
    for name in masks:
        if _BUILT_IN.fullmatch(name):
            raise ValueError(
                f"Expected another name for the mask {name!r}: {', '.join(_COLOURS)}, "
                "channel0, channel1, ... are channels of the input."
            )
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"Expected the name of a mask in a-z, 0-9, '_', '.', '-', got {name!r}."
            )
    found = {
        name: subspace(masks[name], shape=shape)
        if name in masks
        else named_subspace(name, shape=shape)
        for name in names
    }
    for first, second in itertools.combinations(found, 2):
        if _is_same(found[first], found[second]):
            raise ValueError(
                f"Expected different subspaces, got the same one as {first!r} and "
                f"{second!r}."
            )
    return found


def _is_same(a: Subspace, b: Subspace) -> bool:
    """Whether two subspaces have one rank and one contains the basis of the other."""
    if b.basis is None:
        a, b = b, a
    if b.basis is None:
        return np.array_equal(a.mask, b.mask)
    rank = np.sum(a.mask) if a.basis is None else a.basis.shape[1]
    is_inside = np.abs(a.complement(b.basis.T)).max() <= _TOLERANCE
    return bool(rank == b.basis.shape[1] and is_inside)


def _mask(array: np.ndarray) -> np.ndarray:
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(
            f"Expected a mask of 0 and 1, got {array.min()} to {array.max()}."
        )
    if not array.any():
        raise ValueError("Expected a mask that marks a coordinate, got an empty one.")
    return array.ravel().astype(np.float32)


def _range(projector: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the range of a projector."""
    asymmetry = np.abs(projector - projector.T).max()
    if asymmetry > _TOLERANCE:
        raise ValueError(
            f"Expected a symmetric projector, got entries that differ by {asymmetry:g}."
        )
    values, vectors = np.linalg.eigh((projector + projector.T) / 2)
    error = np.minimum(np.abs(values), np.abs(values - 1)).max()
    if error > _TOLERANCE:
        raise ValueError(
            f"Expected a projector with eigenvalues 0 and 1, got one off by {error:g}."
        )
    if not (values > 0.5).any():
        raise ValueError("Expected a projector of rank >= 1, got rank 0.")
    return np.linalg.qr(vectors[:, values > 0.5])[0]


def _like(array: Any, v: _Array) -> Any:
    """The array for computations with v: in NumPy where v is, and of its dtype."""
    return (np if isinstance(v, np.ndarray) else jnp).asarray(array, v.dtype)
