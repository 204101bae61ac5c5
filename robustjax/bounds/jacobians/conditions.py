"""When the derivatives of JAX say how far a function can move between two points.

It has to be continuous, and its derivatives have to be those of what it computes. What
jumps is seen in the graph of the function, and stands still if its interval is a point;
rules that replace derivatives are seen in its jaxpr.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from robustjax.bounds.graph import Graph
from robustjax.bounds.operations import Interval

_JUMPS = ("floor", "ceil", "round", "sign", "rem", "sort")  # sort: what keys move


def never_jumps(graph: Graph, intervals: Sequence[Interval]) -> jax.Array:
    """Whether all values that may jump are the same everywhere in a box. [device].

    Args:
        graph: from `tracing.trace`.
        intervals: bounds of all its values.

    Returns:
        A truth value.
    """
    is_still = jnp.array(True)
    for node, (low, high) in zip(graph.nodes, intervals[1:], strict=True):
        name = getattr(node.operation, "name", "")
        if name in _JUMPS or not node.is_float:
            is_still &= jnp.all(low == high)
        elif name == "atan2":
            is_still &= jnp.all(high - low < 4)  # at the cut it is 2 pi
    return is_still


def has_own_rules(jaxpr: Any) -> bool:
    """Whether derivatives are stopped, or have rules, outside of JAX itself. [host].

    Args:
        jaxpr: of the function.

    Returns:
        A truth value.
    """
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "stop_gradient" and not _is_of_jax(_caller(equation)):
            return True
        inner = jax.tree.leaves(dict(params), is_leaf=_is_jaxpr)
        jaxprs = [getattr(v, "jaxpr", v) for v in inner if _is_jaxpr(v)]
        if name.startswith(("custom_jvp", "custom_vjp")):
            info = getattr(jaxprs[0], "debug_info", None)
            place = str(getattr(info, "func_src_info", ""))
            if not _is_of_jax(place.partition(" at ")[2]):
                return True
        elif any(map(has_own_rules, jaxprs)):
            return True
    return False


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _caller(equation: Any) -> str:
    """The file that calls `stop_gradient`, "" where JAX does not know it."""
    traceback = getattr(equation.source_info, "traceback", None)
    frames = traceback.frames if traceback is not None else []
    names = [frame.function_name for frame in frames]
    at = names.index("stop_gradient") + 1 if "stop_gradient" in names else len(names)
    return frames[at].file_name if at < len(names) else ""


def _is_of_jax(place: str) -> bool:
    return place.startswith(os.path.dirname(jax.__file__))
