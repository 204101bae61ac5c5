"""Functions of the user as arguments of compiled programs."""

import functools
import importlib
import inspect
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
from jax.tree_util import Partial


def as_partial(fn: Callable[..., Any]) -> Partial:
    """A function as a `Partial`, whose compiled program can be found again.

    [host] A function is known by its identity, as to `jax.jit`: what it closes over is
    read when it is compiled, and not again. An object with state (a bound method, an
    NNX module) may have changed since, so it is compiled again each time.

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
    return Partial(functools.partial(fn))  # equal to no other: compiles again


def named(name: str) -> Any:
    """What `package.module:attribute` names, the current folder first. [host].

    A module there is found even if another one of that name is installed, or lies
    next to the script that runs, unless that one has been imported already.

    Args:
        name: a module and an attribute of it.

    Returns:
        The attribute.

    Raises:
        ImportError: if there is no such module.
        AttributeError: if it has no such attribute.
    """
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # for what it imports later on
    sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), attribute)
    finally:
        sys.path.remove(here)


@jax.jit
def applied(fn: Partial, x: jax.Array) -> jax.Array:
    """What a function gives, compiled once for each function and shape. [device]."""
    return fn(x)
