"""Operators of ONNX on each number: arithmetic, activations, comparisons, casts.

Arrays of several shapes broadcast as in NumPy. Every rule keeps the type of its
floating-point inputs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_Rule = Callable[..., jax.Array]
_FLOATS = {1, 10, 11, 16}  # numbers of element types: float32, 16, 64 and bfloat16
_BOOLEAN = 9
_LARGEST_POWER = 64  # that is computed by products
_INTEGERS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"}
_INTEGERS |= {12: "uint32", 13: "uint64"}


def _number(value: float) -> float:
    """A default of the standard: the number of float32 next to it."""
    return float(np.float32(value))


def broadcasting(function: _Rule) -> _Rule:
    """The function of arrays, after leading axes have made their ranks equal.

    Args:
        function: of arrays of one rank.
    """

    def apply(*arrays: jax.Array) -> jax.Array:
        rank = max(np.ndim(v) for v in arrays)
        return function(
            *(jnp.reshape(v, (1,) * (rank - np.ndim(v)) + np.shape(v)) for v in arrays)
        )

    return apply


def _of_many(function: _Rule) -> _Rule:
    """A function of two arrays as one of any number of arrays, from the left."""
    return lambda *arrays: functools.reduce(broadcasting(function), arrays)


def _is_integer(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


def _divide(a: jax.Array, b: jax.Array) -> jax.Array:
    """Quotients; those of integers are rounded towards zero."""
    if _is_integer(a) and _is_integer(b):
        kind = jnp.result_type(a, b)
        return lax.div(*jnp.broadcast_arrays(a.astype(kind), b.astype(kind)))
    return jnp.divide(a, b)


def _modulo(a: jax.Array, b: jax.Array, *, fmod: int = 0) -> jax.Array:
    """Remainders with the sign of b, or with the sign of a if `fmod` is 1."""
    return broadcasting(jnp.fmod if fmod else jnp.mod)(a, b)


def _power(x: jax.Array, exponent: Any) -> jax.Array:
    """Powers of the type of x; of a known exponent by the function it stands for."""
    if isinstance(exponent, np.ndarray) and exponent.size == 1:
        value = exponent.item()
        shape = np.broadcast_shapes(x.shape, exponent.shape)
        x = jnp.broadcast_to(x, shape)
        if value == 0.5:
            return jnp.sqrt(x)
        is_product = value == np.round(value) and abs(value) <= _LARGEST_POWER
        if is_product and not (value < 0 and _is_integer(x)):
            return lax.integer_pow(x, int(value))
        exponent = np.asarray(value, x.dtype)
    return broadcasting(jnp.power)(x, exponent).astype(x.dtype)


def _mean(*arrays: jax.Array) -> jax.Array:
    return _of_many(jnp.add)(*arrays) / len(arrays)


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


def _where(condition: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(condition, a, b)


def _is_inf(
    x: jax.Array, *, detect_negative: int = 1, detect_positive: int = 1
) -> jax.Array:
    signs = (x < 0) * bool(detect_negative) + (x > 0) * bool(detect_positive)
    return jnp.isinf(x) & (signs > 0)


def _cast(
    x: jax.Array,
    *,
    dtype: Any,
    to: int,
    saturate: int = 1,
    round_mode: str = "up",
) -> jax.Array:
    """Numbers of another kind; all floating-point types are the one of the network."""
    del saturate, round_mode  # of types that are not supported
    if to in _FLOATS:
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype)
    if to == _BOOLEAN:
        return x != 0
    if to not in _INTEGERS:
        raise ValueError(f"a cast to element type {to} is not supported.")
    return x.astype(_integer(_INTEGERS[to]))


def _integer(name: str) -> Any:
    """The type of integers of a name, as wide as JAX computes."""
    if name not in _INTEGERS.values():
        raise ValueError(f"a cast to {name} is not supported.")
    return jax.dtypes.canonicalize_dtype(name)


def _cast_like(
    x: jax.Array,
    like: jax.Array,
    *,
    dtype: Any,
    saturate: int = 1,
    round_mode: str = "up",
) -> jax.Array:
    del saturate, round_mode
    if like.dtype.itemsize > 1 and jnp.issubdtype(like.dtype, jnp.floating):
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(dtype)
    if like.dtype == bool:
        return x != 0
    return x.astype(_integer(like.dtype.name))


def _leaky_relu(x: jax.Array, *, alpha: float = _number(0.01)) -> jax.Array:
    return jax.nn.leaky_relu(x, alpha)


def _thresholded_relu(x: jax.Array, *, alpha: float = 1.0) -> jax.Array:
    return jnp.where(x > alpha, x, 0)


def _elu(x: jax.Array, *, alpha: float = 1.0) -> jax.Array:
    return jax.nn.elu(x, alpha)


def _selu(
    x: jax.Array,
    *,
    alpha: float = _number(1.6732632423543772),
    gamma: float = _number(1.0507009873554805),
) -> jax.Array:
    return gamma * jax.nn.elu(x, alpha)


def _celu(x: jax.Array, *, alpha: float = 1.0) -> jax.Array:
    return jax.nn.celu(x, alpha)


def _gelu(x: jax.Array, *, approximate: str = "none") -> jax.Array:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _hard_sigmoid(
    x: jax.Array, *, alpha: float = _number(0.2), beta: float = 0.5
) -> jax.Array:
    return jnp.minimum(jnp.maximum(alpha * x + beta, 0), 1)


def _hard_swish(x: jax.Array) -> jax.Array:
    """X times its hard sigmoid of slope 1 / 6."""
    return x * _hard_sigmoid(x, alpha=1 / 6)


def _swish(x: jax.Array, *, alpha: float = 1.0) -> jax.Array:
    return x * jax.nn.sigmoid(alpha * x)


def _mish(x: jax.Array) -> jax.Array:
    return x * jnp.tanh(jax.nn.softplus(x))


def _shrink(x: jax.Array, *, bias: float = 0.0, lambd: float = 0.5) -> jax.Array:
    """Numbers of size above `lambd`, moved towards zero by `bias`; zero otherwise."""
    inner = jnp.where(x > lambd, x - bias, jnp.zeros_like(x))
    return jnp.where(x < -lambd, x + bias, inner).astype(x.dtype)


def _softsign(x: jax.Array) -> jax.Array:
    return x / (1 + jnp.abs(x))


def _along(values: Any, x: jax.Array, *, axis: int, block_size: int = 0) -> jax.Array:
    """Scales or zero points of a quantisation in the shape of x, or a scalar."""
    if np.size(values) == 1:
        return jnp.reshape(jnp.asarray(values), ())
    if block_size:
        repeated = jnp.repeat(jnp.asarray(values), block_size, axis)
        return lax.slice_in_dim(repeated, 0, x.shape[axis], axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    return jnp.reshape(jnp.asarray(values), shape)


def _quantize(
    x: jax.Array,
    scale: jax.Array,
    zero: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> jax.Array:
    """Rounded multiples of the scale: integers, kept as floating-point numbers."""
    del precision, saturate
    default = _INTEGERS.get(output_dtype or 2)
    kind = default if zero is None else zero.dtype
    if kind is None or not jnp.issubdtype(kind, jnp.integer):
        raise ValueError("only quantisation to integers is supported.")
    options = {"axis": axis, "block_size": block_size}
    y = jnp.round(x / _along(scale, x, **options))
    if zero is not None:
        y = y + _along(zero, x, **options).astype(y.dtype)
    limits = jnp.iinfo(kind)
    return jnp.minimum(jnp.maximum(y, limits.min), limits.max)


def _dequantize(
    x: jax.Array,
    scale: jax.Array,
    zero: Any = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> jax.Array:
    """The numbers that quantised ones stand for: scale (x - zero)."""
    del output_dtype
    options = {"axis": axis, "block_size": block_size}
    x = jnp.asarray(x).astype(scale.dtype)
    if zero is not None:
        x = x - _along(zero, x, **options).astype(scale.dtype)
    return x * _along(scale, x, **options)


RULES: dict[str, _Rule] = {
    "Abs": jnp.abs,
    "Acos": jnp.arccos,
    "Acosh": jnp.arccosh,
    "Add": broadcasting(jnp.add),
    "And": broadcasting(jnp.logical_and),
    "Asin": jnp.arcsin,
    "Asinh": jnp.arcsinh,
    "Atan": jnp.arctan,
    "Atanh": jnp.arctanh,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": jnp.ceil,
    "Celu": _celu,
    "Clip": _clip,
    "Cos": jnp.cos,
    "Cosh": jnp.cosh,
    "DequantizeLinear": _dequantize,
    "Div": broadcasting(_divide),
    "Elu": _elu,
    "Equal": broadcasting(jnp.equal),
    "Erf": lax.erf,
    "Exp": jnp.exp,
    "Floor": jnp.floor,
    "Gelu": _gelu,
    "Greater": broadcasting(jnp.greater),
    "GreaterOrEqual": broadcasting(jnp.greater_equal),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": lambda x: x,
    "IsInf": _is_inf,
    "IsNaN": jnp.isnan,
    "LeakyRelu": _leaky_relu,
    "Less": broadcasting(jnp.less),
    "LessOrEqual": broadcasting(jnp.less_equal),
    "Log": jnp.log,
    "Max": _of_many(jnp.maximum),
    "Mean": _mean,
    "Min": _of_many(jnp.minimum),
    "Mish": _mish,
    "Mod": _modulo,
    "Mul": broadcasting(jnp.multiply),
    "Neg": jnp.negative,
    "Not": jnp.logical_not,
    "Or": broadcasting(jnp.logical_or),
    "PRelu": broadcasting(jax.nn.leaky_relu),
    "Pow": _power,
    "QuantizeLinear": _quantize,
    "Reciprocal": jnp.reciprocal,
    "Relu": jax.nn.relu,
    "Round": jnp.round,
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": jax.nn.sigmoid,
    "Sign": jnp.sign,
    "Sin": jnp.sin,
    "Sinh": jnp.sinh,
    "Softplus": jax.nn.softplus,
    "Softsign": _softsign,
    "Sqrt": jnp.sqrt,
    "Sub": broadcasting(jnp.subtract),
    "Sum": _of_many(jnp.add),
    "Swish": _swish,
    "Tan": jnp.tan,
    "Tanh": jnp.tanh,
    "ThresholdedRelu": _thresholded_relu,
    "Where": broadcasting(_where),
    "Xor": broadcasting(jnp.logical_xor),
}
