"""The classifier that is smoothed: any function from inputs to logits.

It maps `[m, ...]` inputs, which noise has taken out of [0, 1], to real logits
`[m, num_classes]`, row by row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

ApplyFn = Callable[[jax.Array], jax.Array]
_ROWS = 128


def check_apply_fn(
    apply_fn: ApplyFn, shape: Sequence[int], *, num_classes: int
) -> None:
    """Raises ValueError unless `apply_fn` maps `[m, *shape]` to class logits.

    [host] Traces `apply_fn` abstractly; nothing is computed.

    Args:
        apply_fn: the classifier.
        shape: shape of one example.
        num_classes: number of classes that the logits must have.

    Raises:
        ValueError: if the result is not one real array `[m, num_classes]`.
    """
    batch = jax.ShapeDtypeStruct((_ROWS, *shape), jnp.float32)
    check_logits(jax.eval_shape(apply_fn, batch), batch.shape, num_classes=num_classes)


def check_logits(logits: Any, batch: tuple[int, ...], *, num_classes: int) -> None:
    """Raises ValueError unless logits suit a batch of this shape. [host].

    Args:
        logits: what the classifier returned; abstract values will do.
        batch: shape of what it was given, `[m, ...]`.
        num_classes: number of classes.

    Raises:
        ValueError: if the logits are not one real array `[m, num_classes]`.
    """
    expected = (batch[0], num_classes)
    found = getattr(logits, "shape", type(logits).__name__)
    dtype = getattr(logits, "dtype", "no dtype")
    if found != expected or jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"Expected apply_fn to map {batch} to real logits {expected} for "
            f"{num_classes} classes, got {found} of {dtype}."
        )
