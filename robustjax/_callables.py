"""Functions of the user as arguments of compiled programs."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial


def as_partial(fn: Callable[..., Any]) -> Partial:
    """A function as a `Partial`, whose compiled program can be found again.

    [host] A function is known by its identity, as to `jax.jit`: what it closes over is
    read when it is compiled, and not again. An object with state (a bound method, an
    NNX module) may have changed since, so it is compiled anew each time.

    Args:
        fn: any callable; a `Partial` is returned as it is.

    Returns:
        A `jax.tree_util.Partial`.
    """
    if isinstance(fn, Partial):
        return fn
    stable = (types.FunctionType, types.BuiltinFunctionType, functools.partial)
    if isinstance(inspect.unwrap(fn), stable):  # unwrapped: also if jitted
        return Partial(fn)
    return Partial(functools.partial(fn))  # equal to no other: compiles anew


@jax.jit
def applied(fn: Partial, x: jax.Array) -> jax.Array:
    """What a function gives, compiled once for each function and shape. [device]."""
    return fn(x)
