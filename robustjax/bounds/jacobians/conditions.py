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

_BY_DEFJVPS = ("relu", "relu6", "log1mexp", "logit")
_SHIFTS = ("_logsumexp", "_softmax_deprecated", "log_softmax", "logsumexp")
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
    """Whether derivatives may not be those of the function. [host].

    They are stopped, or replaced by rules, outside of the functions of JAX that are
    known to do so with care, or the function rounds its numbers on purpose.

    Args:
        jaxpr: of the function.

    Returns:
        A truth value.
    """
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "stop_gradient" and not _is_shift(equation):
            return True
        if name == "reduce_precision" or name.startswith("custom_vjp"):
            return True
        if name.startswith("custom_jvp"):
            if not _is_rule_of_jax(params):
                return True
        elif any(map(has_own_rules, _jaxprs(params))):
            return True
    return False


def is_reverse_only(jaxpr: Any) -> bool:
    """Whether a function has rules for reverse mode that forward mode lacks. [host]."""
    return _has(jaxpr, "custom_vjp")


def _jaxprs(params: Any) -> list[Any]:
    inner = jax.tree.leaves(dict(params), is_leaf=_is_jaxpr)
    return [getattr(value, "jaxpr", value) for value in inner if _is_jaxpr(value)]


def _is_rule_of_jax(params: Any) -> bool:
    """Whether JAX wrote both a function and the rule of its derivative.

    Rules by `defjvps` have their place in JAX whoever wrote them. So the function has
    to be one of those in JAX that have such rules, and no function that calls it.
    """
    (inner,) = _jaxprs({"call_jaxpr": params["call_jaxpr"]})
    name, place = _source(inner)
    _, place_of_rule = _source(params.get("jvp_jaxpr_fun"))
    if not (_is_of_jax(place) and _is_of_jax(place_of_rule)):
        return False
    if "custom_derivatives.py" not in place_of_rule:
        return True
    return name in _BY_DEFJVPS and not _has(inner, "custom_jvp")


def _has(jaxpr: Any, kind: str) -> bool:
    return any(
        equation.primitive.name.startswith(kind)
        or any(_has(inner, kind) for inner in _jaxprs(equation.params))
        for equation in jaxpr.eqns
    )


def _source(traced: Any) -> tuple[str, str]:
    """Name and place of a function, empty where JAX does not know them."""
    info = getattr(traced, "debug_info", None)
    name, _, place = str(getattr(info, "func_src_info", "") or "").partition(" at ")
    return name, place


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns")


def _is_shift(equation: Any) -> bool:
    """Whether the largest entry is kept fixed that softmax and the like subtract."""
    traceback = getattr(equation.source_info, "traceback", None)
    frames = traceback.frames if traceback is not None else []
    names = [frame.function_name for frame in frames]
    if "stop_gradient" not in names:
        return False
    at = names.index("stop_gradient") + 1
    return at < len(names) and names[at] in _SHIFTS and _is_of_jax(frames[at].file_name)


def _is_of_jax(place: str) -> bool:
    return place.startswith(os.path.dirname(jax.__file__) + os.sep)
