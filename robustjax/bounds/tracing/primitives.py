"""Primitives as functions, and what the dtypes of an equation tell."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from robustjax import _validate
from robustjax.bounds.rules import narrow_floats

_SMALL = 4096  # numbers of a constant that is evaluated while tracing
# Parameters that say which floats a result has.
_RESULT_DTYPES = {
    "convert_element_type": "new_dtype",
    "conv_general_dilated": "preferred_element_type",
    "dot_general": "preferred_element_type",
    "ragged_dot_general": "preferred_element_type",
}
# What they give of floats of more bits is not near what they give of the caller's.
_OF_BITS = (
    "bitcast_convert_type", "eig", "eigh", "nextafter", "random_gamma", "rng_uniform",
    "schur", "svd",
)  # fmt: skip


class Bind(NamedTuple):
    """A primitive with its parameters, as a function."""

    primitive: core.Primitive
    params: Mapping[str, Any]
    wide: Any = None  # a dtype for all floats, None where they keep theirs

    def __call__(self, *arguments: Any) -> Any:
        """What the primitive gives. [device]."""
        params = dict(self.params)
        if self.wide is not None:
            arguments = tuple(cast(a, self.wide) for a in arguments)
            name = _RESULT_DTYPES.get(self.primitive.name, "")
            dtype = params.get(name)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
                params[name] = self.wide
        return self.primitive.bind(*arguments, **params)


def has_narrow_floats(equation: core.JaxprEqn, wide: Any) -> bool:
    """Whether an equation has floats that are narrower than bounds. [host]."""
    found = dtypes([*equation.invars, *equation.outvars])
    return any(narrow_floats.are_narrower(dtype, wide) for dtype in found)


def is_of_bits(equation: core.JaxprEqn, wide: Any) -> bool:
    """Whether an equation would give something else for floats of more bits. [host]."""
    floats = [d for d in dtypes(equation.invars) if jnp.issubdtype(d, jnp.floating)]
    return equation.primitive.name in _OF_BITS and any(d != wide for d in floats)


def dtypes(variables: Sequence[Any]) -> list[Any]:
    """Those of variables of a jaxpr. [host]."""
    return [variable.aval.dtype for variable in variables]


def cast(argument: Any, dtype: Any) -> Any:
    """A constant in a dtype, if it holds floats. [host]."""
    if not jnp.issubdtype(jnp.result_type(argument), jnp.floating):
        return argument
    known = _validate.concrete(argument) if jnp.size(argument) <= _SMALL else None
    if known is None:
        return jnp.asarray(argument, dtype)
    return known.astype(dtype)  # where rules can see it


def folded(equation: core.JaxprEqn, arguments: Sequence[Any]) -> Any:
    """A small constant in another dtype or shape, in NumPy; None for others. [host]."""
    name, params = equation.primitive.name, equation.params
    size = math.prod(getattr(equation.outvars[0].aval, "shape", (0,)))
    if size > _SMALL or name not in ("convert_element_type", "broadcast_in_dim"):
        return None
    known = _validate.concrete(arguments[0])
    if known is None:
        return None
    if name == "convert_element_type":
        return known.astype(params["new_dtype"])
    own = [1] * len(params["shape"])
    for axis, length in zip(params["broadcast_dimensions"], known.shape, strict=True):
        own[axis] = length
    return np.broadcast_to(known.reshape(own), params["shape"])


def at_once(
    equation: core.JaxprEqn, arguments: Sequence[Any]
) -> contextlib.AbstractContextManager[Any]:
    """Evaluates integers and masks of known ones, where rules can see them. [host]."""
    kinds = (jnp.integer, jnp.bool_)
    found = dtypes(equation.outvars)
    are_integers = all(any(jnp.issubdtype(d, k) for k in kinds) for d in found)
    is_known = not any(isinstance(a, jax.core.Tracer) for a in arguments)
    if is_known and are_integers:
        return jax.ensure_compile_time_eval()
    return contextlib.nullcontext()


def rounds(equation: core.JaxprEqn) -> bool:
    """Whether an equation does nothing but round floats to others. [host]."""
    if equation.primitive.name == "reduce_precision":
        return True
    if equation.primitive.name != "convert_element_type":
        return False
    avals: list[Any] = [equation.invars[0].aval, equation.outvars[0].aval]
    return all(jnp.issubdtype(aval.dtype, jnp.floating) for aval in avals)
