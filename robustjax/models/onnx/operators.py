"""The operators of ONNX as JAX functions.

A rule takes the inputs of an operator by position, None where one is left out, and its
attributes by keyword, under the names and with the defaults of the standard. Integers
that give shapes, axes and paddings are known while the file is read and arrive as NumPy
arrays. Products run in full precision, and every rule keeps the dtype of its inputs.

Reference:
    ONNX operator schemas, github.com/onnx/onnx, docs/Operators.md.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from robustjax.models.onnx import (
    elementwise,
    indexing,
    normalizing,
    pooling,
    recurrent,
    reductions,
    resizing,
    shaping,
)

_Rule = Callable[..., Any]
_broadcasting = elementwise.broadcasting

# Positions of the inputs that shape an output, or decide on the computation.
CONSTANT_INPUTS = {
    "CastLike": (1,),
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "CumProd": (1,),
    "CumSum": (1,),
    "Dropout": (2,),
    "Expand": (1,),
    "GRU": (4,),
    "If": (0,),
    "LSTM": (4,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Pow": (1,),
    "RNN": (4,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
} | dict.fromkeys(reductions.RULES, (1,))
# Operators that take the floating-point dtype of the network as an argument.
TYPED = ("Cast", "CastLike")
_BY_READER = ("Constant", "EyeLike", "If", "Shape", "Size")
_OF_CONSTANTS = ("ConstantOfShape", "NonZero", "Range")


def names() -> tuple[str, ...]:
    """Names of the operators that need no expansion into others, in order. [host]."""
    return tuple(sorted((*_RULES, *_BY_READER, *_OF_CONSTANTS)))


def bind(
    op_type: str,
    attributes: Mapping[str, Any],
    *,
    opset: int,
    num_outputs: int = 1,
) -> _Rule:
    """An operator with its attributes, as a function of its inputs. [host].

    Args:
        op_type: name of the operator in the default domain of ONNX.
        attributes: values by name, as `onnx.helper.get_attribute_value` gives them.
        opset: version of the operator set, which decides on some defaults.
        num_outputs: number of outputs of the node.

    Returns:
        A [device] function from the operator's inputs to its first output, or to a
        tuple of its outputs.

    Raises:
        ValueError: if the operator is not supported.
    """
    if op_type in _OF_CONSTANTS or op_type == "If":
        raise ValueError("the operator is supported only where its inputs are known.")
    if op_type not in _RULES:
        known = ", ".join(sorted(_RULES))
        raise ValueError(f"the operator is not supported; these are: {known}.")
    rule = _RULES[op_type]
    if opset < 13:
        rule = normalizing.BEFORE_13.get(op_type, rule)
    if opset < 11:
        rule = resizing.BEFORE_11.get(op_type, rule)
    options = {k: _text(v) for k, v in attributes.items()}
    if op_type == "Split":
        options["count"] = num_outputs
    return functools.partial(rule, **options)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _gemm(
    a: jax.Array,
    b: jax.Array,
    c: jax.Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
) -> jax.Array:
    """Alpha A B + beta C."""
    product = alpha * _matmul(a.T if transA else a, b.T if transB else b)
    return product if c is None else _broadcasting(jnp.add)(product, beta * c)


def _einsum(*arrays: jax.Array, equation: str) -> jax.Array:
    return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)


def _conv(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None = None, **attributes: Any
) -> jax.Array:
    y = pooling.conv(x, weight, **attributes)
    return y if bias is None else y + pooling.per_channel(bias, y)


def _conv_transpose(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None = None, **attributes: Any
) -> jax.Array:
    y = pooling.conv_transpose(x, weight, **attributes)
    return y if bias is None else y + pooling.per_channel(bias, y)


def _dropout(
    x: jax.Array,
    rate: Any = None,
    training_mode: Any = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
) -> jax.Array:
    """The input: nothing is dropped at inference."""
    del rate, ratio, seed
    normalizing.check_is_inference(training_mode)
    return x


_RULES: dict[str, _Rule] = {
    **elementwise.RULES,
    **indexing.RULES,
    **normalizing.RULES,
    **recurrent.RULES,
    **reductions.RULES,
    **resizing.RULES,
    **shaping.RULES,
    "AveragePool": pooling.average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": pooling.global_average_pool,
    "GlobalLpPool": pooling.global_lp_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    "LpPool": pooling.lp_pool,
    "MatMul": _matmul,
    "MaxPool": pooling.max_pool,
}
