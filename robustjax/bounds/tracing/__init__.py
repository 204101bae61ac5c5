"""Functions read as graphs: what JAX traces, node by node."""

from robustjax.bounds.tracing.calls import CALLED, CALLS
from robustjax.bounds.tracing.jaxprs import trace, without_casts
from robustjax.bounds.tracing.reach import Range, ranges

__all__ = ["CALLED", "CALLS", "Range", "ranges", "trace", "without_casts"]
