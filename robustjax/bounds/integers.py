"""Integers that depend on the bounded input: counts of truth values and their sums.

Integers wrap around where they leave their dtype, and bounds of them are compared as
floats. So each has to stay where neither matters, which is known while tracing.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import _validate
from robustjax.bounds.operations import (
    Affine,
    Bounded,
    IntervalOnly,
    Operation,
    UnsupportedError,
)

_MOST = 2**24  # float32 holds every integer up to there


def is_integer(argument: Bounded) -> bool:
    """Whether a bounded value is an integer; Booleans do not count. [host]."""
    return jnp.issubdtype(argument.dtype, jnp.integer)


def check(operation: Operation, arguments: Sequence[Bounded]) -> None:
    """Raises UnsupportedError for integers in other than sums and comparisons. [host].

    Args:
        operation: what is done to the arguments.
        arguments: the bounded ones.
    """
    if isinstance(operation, Affine | IntervalOnly):
        return
    if any(map(is_integer, arguments)):
        name = getattr(operation, "name", "product")
        raise UnsupportedError(f"Bounds cannot follow {name!r} of integers.")


def largest(
    operation: Operation,
    arguments: Sequence[Bounded],
    result: Bounded,
    *,
    sizes: Mapping[int, int],
) -> int:
    """Upper bound on the absolute value of an integer result. [host].

    Args:
        operation: affine, or known by intervals.
        arguments: the bounded ones, truth values or integers.
        result: shape and dtype.
        sizes: the same bounds of all integers so far, by value.

    Raises:
        UnsupportedError: if it may exceed 2^24 or its dtype, or depends on constants
            that are traced.
    """
    of_each = [sizes.get(argument.value, 1) for argument in arguments]
    with jax.ensure_compile_time_eval():
        if isinstance(operation, Affine):
            ones = [jnp.ones(a.shape, a.dtype) for a in arguments]
            zeros = [jnp.zeros(a.shape, a.dtype) for a in arguments]
            parts = [operation.radius(*ones), operation.point(*zeros)]
            factors = [max(of_each), 1]
        else:
            assert isinstance(operation, IntervalOnly)
            ends = [_ends(a, size) for a, size in zip(arguments, of_each, strict=True)]
            parts, factors = list(operation.bounds(*ends)), [1, 1]
    known = [_validate.concrete(part) for part in parts]
    if any(part is None for part in known):
        raise UnsupportedError("Bounds cannot follow integers of traced constants.")
    absolute = [
        factor * np.abs(np.asarray(part, np.float64)).max(initial=0)
        for part, factor in zip(known, factors, strict=True)
    ]
    total = sum(absolute) if isinstance(operation, Affine) else max(absolute)
    if total > min(_MOST, jnp.iinfo(result.dtype).max):
        raise UnsupportedError(f"Bounds cannot follow integers as large as {total:g}.")
    return int(total)


def _ends(argument: Bounded, size: int) -> tuple[jax.Array, jax.Array]:
    is_signed = jnp.issubdtype(argument.dtype, jnp.signedinteger)
    high = jnp.full(argument.shape, size, argument.dtype)
    return (-high if is_signed else jnp.zeros_like(high)), high
