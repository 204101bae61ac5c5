"""Operators of ONNX that subtract means and divide by deviations, and softmax.

Images are `[n, c, *spatial]`. Variances divide by the number of entries.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robustjax.models.onnx import elementwise, pooling, shaping

_Rule = Callable[..., Any]
_plus = elementwise.broadcasting(jnp.add)
_times = elementwise.broadcasting(jnp.multiply)
# Attributes are float32 numbers, and so are the defaults of the standard.
_EPSILON = float(np.float32(1e-5))


def check_is_inference(training_mode: Any) -> None:
    """Raises ValueError unless an operator is that of inference.

    Args:
        training_mode: the attribute or the input, None where it is left out.
    """
    if training_mode is not None and any(
        shaping.integers("training_mode", training_mode)
    ):
        raise ValueError("training_mode = 1 is not supported.")


def _standardized(
    x: jax.Array, axes: Sequence[int], epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Deviations from the mean over the deviation, the mean, and 1 / deviation."""
    mean = jnp.mean(x, axes, keepdims=True)
    centered = x - mean
    variance = jnp.mean(jnp.square(centered), axes, keepdims=True)
    inverse = lax.rsqrt(variance + epsilon)
    return centered * inverse, mean, inverse


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
    check_is_inference(training_mode)
    if not spatial:
        raise ValueError("spatial = 0 is not supported.")
    slope = scale / jnp.sqrt(variance + epsilon)
    mean, slope, bias = (pooling.per_channel(v, x) for v in (mean, slope, bias))
    return (x - mean) * slope + bias


def _layer_normalization(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = _EPSILON,
    stash_type: int = 1,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Over all axes from this one on; also the mean and 1 / deviation."""
    del stash_type  # the type of the moments, which is that of the network
    axes = range(axis % x.ndim, x.ndim)
    y, mean, inverse = _standardized(x, tuple(axes), epsilon)
    y = _times(y, scale)
    return (y if bias is None else _plus(y, bias)), mean, inverse


def _rms_normalization(
    x: jax.Array,
    scale: jax.Array,
    *,
    axis: int = -1,
    epsilon: float = _EPSILON,
    stash_type: int = 1,
) -> jax.Array:
    """Over the root of the mean square of all axes from this one on."""
    del stash_type
    axes = tuple(range(axis % x.ndim, x.ndim))
    square = jnp.mean(jnp.square(x), axes, keepdims=True)
    return _times(x * lax.rsqrt(square + epsilon), scale)


def _instance_normalization(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float = _EPSILON
) -> jax.Array:
    y, _, _ = _standardized(x, tuple(range(2, x.ndim)), epsilon)
    return y * pooling.per_channel(scale, x) + pooling.per_channel(bias, x)


def _group_normalization(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    *,
    num_groups: int,
    epsilon: float = _EPSILON,
    stash_type: int = 1,
) -> jax.Array:
    """Over groups of channels; scales and biases are of each channel."""
    del stash_type
    grouped = x.reshape(x.shape[0], num_groups, -1)
    y = _standardized(grouped, (2,), epsilon)[0].reshape(x.shape)
    return y * pooling.per_channel(scale, x) + pooling.per_channel(bias, x)


def _mean_variance_normalization(
    x: jax.Array, *, axes: Sequence[int] = (0, 2, 3)
) -> jax.Array:
    mean = jnp.mean(x, tuple(axes), keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), tuple(axes), keepdims=True)
    return (x - mean) / (jnp.sqrt(variance) + 1e-9)


def _local_response_normalization(
    x: jax.Array,
    *,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    bias: float = 1.0,
) -> jax.Array:
    """Over a power of the sum of squares of neighbouring channels."""
    ends = [(0, 0, 0)] * x.ndim
    ends[1] = ((size - 1) // 2, size // 2, 0)
    squares = lax.pad(jnp.square(x), jnp.zeros((), x.dtype), ends)
    shifts = (lax.slice_in_dim(squares, i, i + x.shape[1], axis=1) for i in range(size))
    return x / (bias + alpha / size * sum(shifts)) ** beta


def _lp_normalization(x: jax.Array, *, axis: int = -1, p: int = 2) -> jax.Array:
    """Over the norm along an axis; zeros stay zeros."""
    if p == 1:
        norm = jnp.sum(jnp.abs(x), axis, keepdims=True)
    else:
        norm = jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True))
    return jnp.where(norm == 0, 0, x / jnp.where(norm == 0, 1, norm))


def _softmax(x: jax.Array, *, axis: int = -1) -> jax.Array:
    return jax.nn.softmax(x, axis)


def _log_softmax(x: jax.Array, *, axis: int = -1) -> jax.Array:
    return jax.nn.log_softmax(x, axis)


def _hardmax(x: jax.Array, *, axis: int = -1) -> jax.Array:
    """One at the first of the largest entries along an axis, zero elsewhere."""
    length = x.shape[axis]
    return jax.nn.one_hot(jnp.argmax(x, axis), length, axis=axis, dtype=x.dtype)


def _of_trailing_axes(rule: _Rule) -> _Rule:
    """The rule before version 13: over all axes from the given one on."""

    def apply(x: jax.Array, *, axis: int = 1) -> jax.Array:
        rows = shaping.flatten(x, axis=axis)
        return rule(rows, axis=-1).reshape(x.shape)

    return apply


RULES: dict[str, _Rule] = {
    "BatchNormalization": _batch_normalization,
    "GroupNormalization": _group_normalization,
    "Hardmax": _hardmax,
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response_normalization,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp_normalization,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "RMSNormalization": _rms_normalization,
    "Softmax": _softmax,
}
BEFORE_13: dict[str, _Rule] = {
    name: _of_trailing_axes(RULES[name])
    for name in ("Hardmax", "LogSoftmax", "Softmax")
}
