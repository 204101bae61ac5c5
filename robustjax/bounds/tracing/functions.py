"""Rules of functions of JAX that are made of several primitives."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from robustjax.bounds import operations
from robustjax.bounds.tracing import calls


def rule_of(called: core.ClosedJaxpr) -> operations.FunctionRule | None:
    """The rule of a function of JAX, None for anybody else's.

    Its derivatives are calls of the same name, and so may others be: the call has to do
    to the letter what the function does that has the rule.
    """
    info = getattr(called.jaxpr, "debug_info", None)
    name, _, _ = str(getattr(info, "func_src_info", "") or "").partition(" at ")
    found = operations.for_function(name)
    if not found or len(called.out_avals) != 1 or called.consts:
        return None
    avals: list[Any] = list(called.in_avals)
    structs = tuple((a.shape, jnp.dtype(a.dtype), bool(a.weak_type)) for a in avals)
    body = str(called.jaxpr)  # traced with or without x64
    for original, rule in found:
        if body in (_body_of(original, structs, has_x64) for has_x64 in (True, False)):
            return rule
    return None


@functools.lru_cache(maxsize=256)
def _body_of(original: Callable[..., Any], structs: Any, has_x64: bool) -> str | None:
    """The jaxpr that a compiled function of JAX calls for such arguments."""
    if not has_x64 and any(dtype.itemsize > 4 for _, dtype, _ in structs):
        return None
    try:
        with jax.enable_x64(has_x64):
            arguments = [
                jax.ShapeDtypeStruct(shape, dtype, weak_type=weak)
                for shape, dtype, weak in structs
            ]
            (equation,) = jax.make_jaxpr(original)(*arguments).jaxpr.eqns
    except (TypeError, ValueError):
        return None  # it takes no such arguments, or does more than to call
    called = calls.called(equation, "")
    return None if called is None else str(called.jaxpr)
