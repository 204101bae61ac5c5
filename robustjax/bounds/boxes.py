"""Boxes of inputs, checked where their values are known."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.bounds.operations import Interval


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
