"""Functions read as graphs: what JAX traces, node by node."""

from robustjax.bounds.tracing.calls import CALLED, CALLS
from robustjax.bounds.tracing.jaxprs import trace, without_casts

__all__ = ["CALLED", "CALLS", "trace", "without_casts"]
