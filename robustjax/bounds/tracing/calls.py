"""Calls in a jaxpr: what they call, and where in the user's code they stand."""

from jax.extend import core

from robustjax.bounds.operations import UnsupportedError

# Primitives that do nothing but call. Others have jaxprs for other ends: the step of a
# reduction, the body of a loop.
CALLS = (
    "checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr", "jit", "pjit", "remat", "remat2",
)  # fmt: skip
CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # their parameters
_CONTROL = ("custom_root", "custom_linear_solve")


def called(equation: core.JaxprEqn, site: str) -> core.ClosedJaxpr | None:
    """What a call calls; None for other primitives.

    Raises:
        UnsupportedError: for control flow.
    """
    name = equation.primitive.name
    if name in _CONTROL or equation.effects:
        raise UnsupportedError(
            f"Bounds cannot be carried through {name!r} ({site or 'source unknown'}): "
            "solvers and side effects are not followed."
        )
    if name not in CALLS:
        return None
    return closed(next(equation.params[k] for k in CALLED if k in equation.params))


def closed(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> core.ClosedJaxpr:
    """A jaxpr with its constants, of which one that is open has none. [host]."""
    if isinstance(jaxpr, core.ClosedJaxpr):
        return jaxpr
    return core.ClosedJaxpr(jaxpr, ())


def source(equation: core.JaxprEqn) -> str:
    """File and line of the user's code, "" where JAX does not know them."""
    frame = getattr(equation.source_info, "traceback", None)
    for entry in frame.frames if frame is not None else ():
        if "/jax/" not in entry.file_name and "/robustjax/" not in entry.file_name:
            return f"{entry.file_name}:{entry.line_num}"
    return ""
