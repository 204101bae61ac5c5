"""What the first CROWN bounds of a network cost, tracing and compiling included."""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from robustjax import bounds

_EPSILON = 0.01


class _Network(nn.Module):
    """Two convolutions and two dense layers, strided or with max pooling."""

    is_pooled: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for channels in (16, 32):
            if self.is_pooled:
                x = nn.relu(nn.Conv(channels, (3, 3))(x))
                x = nn.max_pool(x, (2, 2), (2, 2))
            else:
                x = nn.relu(nn.Conv(channels, (4, 4), strides=2)(x))
        x = nn.relu(nn.Dense(100)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class _Attention(nn.Module):
    """One block of a transformer on 8 tokens of 16 features."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=16)(y, y)
        y = nn.gelu(nn.Dense(32)(nn.LayerNorm()(x)))
        x = x + nn.Dense(16)(y)
        return nn.Dense(10)(jnp.mean(x, axis=1))


_NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "cnn 16-32-100": (_Network(False), (28, 28, 1)),
    "cnn with max pooling": (_Network(True), (14, 14, 1)),
    "attention block": (_Attention(), (8, 16)),
}


def measure() -> list[dict[str, Any]]:
    """Seconds of the first, the second and a further call for each network."""
    return [_row(name, module, shape) for name, (module, shape) in _NETWORKS.items()]


def _row(name: str, module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *shape)))

    def apply_fn(x: jax.Array) -> jax.Array:
        return jnp.asarray(module.apply(params, x))

    network = bounds.compiled(bounds.single(apply_fn), shape)
    centre = np.full(shape, 0.5, np.float32)
    box = centre - _EPSILON, centre + _EPSILON
    first, second = (np.asarray(bounds.margin_rows(k, num_classes=10)) for k in (0, 1))
    calls = {
        "first call s": lambda: network.linear_bounds(*box, spec=first),
        "second specification s": lambda: network.linear_bounds(*box, spec=second),
        "64 boxes, first call s": lambda: network.linear_bounds(
            *(np.stack([end] * 64) for end in box), spec=first
        ),
    }
    return {"network": name} | {what: _seconds(call) for what, call in calls.items()}


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
