"""The operators of ONNX as JAX functions.

A rule takes the inputs of an operator by position, None where one is left out, and its
attributes by keyword, under the names and with the defaults of the standard. Integers
that give shapes, axes and paddings are constants of the file and arrive as NumPy
arrays. Products run in full precision, and every rule keeps the dtype of its inputs.

Reference:
    ONNX operator schemas, github.com/onnx/onnx, docs/Operators.md.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robustjax.models.onnx import pooling

_Rule = Callable[..., jax.Array]
# Attributes are float32 numbers, and so are the defaults of the standard.
_LEAK, _EPSILON = float(np.float32(0.01)), float(np.float32(1e-5))


def bind(op_type: str, attributes: Mapping[str, Any], *, opset: int) -> _Rule:
    """An operator with its attributes, as a function of its inputs. [host].

    Args:
        op_type: name of the operator in the default domain of ONNX.
        attributes: values by name, as `onnx.helper.get_attribute_value` gives them.
        opset: version of the operator set, which decides on some defaults.

    Returns:
        A [device] function from the operator's inputs to its first output.

    Raises:
        ValueError: if the operator is not supported.
    """
    if op_type not in _RULES:
        known = ", ".join(sorted(_RULES))
        raise ValueError(f"the operator is not supported; these are: {known}.")
    is_old_softmax = op_type == "Softmax" and opset < 13
    rule = _softmax_of_trailing_axes if is_old_softmax else _RULES[op_type]
    return functools.partial(rule, **{k: _text(v) for k, v in attributes.items()})


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _integers(what: str, values: Any) -> tuple[int, ...]:
    """Integers that must be known before the network runs."""
    if isinstance(values, jax.Array):
        raise ValueError(f"{what} must be a constant of the file, here it is computed.")
    return tuple(int(v) for v in np.ravel(values))


def _check_is_inference(training_mode: Any) -> None:
    if training_mode is not None and any(_integers("training_mode", training_mode)):
        raise ValueError("training_mode = 1 is not supported.")


def _broadcasting(function: _Rule) -> _Rule:
    """The function of two arrays, after leading axes have made their ranks equal."""

    def apply(a: jax.Array, b: jax.Array) -> jax.Array:
        rank = max(np.ndim(a), np.ndim(b))
        return function(
            *(jnp.reshape(v, (1,) * (rank - np.ndim(v)) + np.shape(v)) for v in (a, b))
        )

    return apply


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


def _conv(
    x: jax.Array, weight: jax.Array, bias: jax.Array | None = None, **attributes: Any
) -> jax.Array:
    y = pooling.conv(x, weight, **attributes)
    return y if bias is None else y + pooling.per_channel(bias, y)


def _batch_normalization(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    *,
    epsilon: float = _EPSILON,
    momentum: float = 0.0,
    spatial: int = 1,
    training_mode: int = 0,
) -> jax.Array:
    """With the stored moments; the momentum is for training."""
    del momentum
    _check_is_inference(training_mode)
    if not spatial:
        raise ValueError("spatial = 0 is not supported.")
    slope = scale / jnp.sqrt(variance + epsilon)
    mean, slope, bias = (pooling.per_channel(v, x) for v in (mean, slope, bias))
    return (x - mean) * slope + bias


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
    _check_is_inference(training_mode)
    return x


def _leaky_relu(x: jax.Array, *, alpha: float = _LEAK) -> jax.Array:
    return jax.nn.leaky_relu(x, alpha)


def _clip(
    x: jax.Array,
    low: jax.Array | None = None,
    high: jax.Array | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> jax.Array:
    """The limits were attributes before version 11, and are inputs since."""
    for bound, limits in ((jnp.maximum, (low, min)), (jnp.minimum, (high, max))):
        for limit in limits:
            if limit is not None:
                x = bound(x, jnp.asarray(limit, x.dtype).reshape(()))
    return x


def _softmax(x: jax.Array, *, axis: int = -1) -> jax.Array:
    return jax.nn.softmax(x, axis)


def _softmax_of_trailing_axes(x: jax.Array, *, axis: int = 1) -> jax.Array:
    """Before version 13: over all axes from this one on."""
    return jax.nn.softmax(_flatten(x, axis=axis), -1).reshape(x.shape)


def _flatten(x: jax.Array, *, axis: int = 1) -> jax.Array:
    """A matrix, its rows the axes before this one, its columns the others."""
    return x.reshape((math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _reshape(x: jax.Array, shape: Any, *, allowzero: int = 0) -> jax.Array:
    """A length of 0 keeps that of the input, unless zeros are allowed."""
    lengths = _integers("the shape", shape)
    if not allowzero:
        lengths = tuple(n or x.shape[axis] for axis, n in enumerate(lengths))
    return x.reshape(lengths)


def _transpose(x: jax.Array, *, perm: Sequence[int] | None = None) -> jax.Array:
    return jnp.transpose(x, perm)


def _squeeze(
    x: jax.Array, which: Any = None, *, axes: Sequence[int] | None = None
) -> jax.Array:
    """The axes were an attribute before version 13, and are an input since."""
    axes = axes if which is None else _integers("axes", which)
    return jnp.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(
    x: jax.Array, which: Any = None, *, axes: Sequence[int] = ()
) -> jax.Array:
    """The axes were an attribute before version 13, and are an input since."""
    return jnp.expand_dims(x, axes if which is None else _integers("axes", which))


def _concat(*arrays: jax.Array, axis: int) -> jax.Array:
    return jnp.concatenate(arrays, axis)


def _pad(
    x: jax.Array,
    widths: Any = None,
    fill: jax.Array | None = None,
    axes: Any = None,
    *,
    mode: str = "constant",
    pads: Sequence[int] = (),
    value: float = 0.0,
) -> jax.Array:
    """Widths, all lower ends first, and fill were attributes before version 11."""
    if mode != "constant":
        raise ValueError(f"mode {mode!r} is not supported, only 'constant' is.")
    pads = pads if widths is None else _integers("pads", widths)
    padded = range(x.ndim) if axes is None else _integers("axes", axes)
    ends = zip(pads[: len(padded)], pads[len(padded) :], strict=True)
    config = [(0, 0, 0)] * x.ndim  # below, above, between
    for axis, (low, high) in zip(padded, ends, strict=True):
        config[axis] = (low, high, 0)
    fill = jnp.asarray(value if fill is None else fill, x.dtype)
    return lax.pad(x, fill.reshape(()), config)


_RULES: dict[str, _Rule] = {
    "Add": _broadcasting(jnp.add),
    "AveragePool": pooling.average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _broadcasting(jnp.divide),
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": pooling.global_average_pool,
    "Identity": lambda x: x,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "MaxPool": pooling.max_pool,
    "Mul": _broadcasting(jnp.multiply),
    "Pad": _pad,
    "Relu": jax.nn.relu,
    "Reshape": _reshape,
    "Sigmoid": jax.nn.sigmoid,
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _broadcasting(jnp.subtract),
    "Tanh": jnp.tanh,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
