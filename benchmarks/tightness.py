"""How much wider bounds are than what a function does in a box, operation by operation.

    python -m benchmarks.tightness

Every function mixes two inputs before the operation and its entries after it, so that
linear bounds have something to keep; the true range is taken on a fine grid.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robustjax import bounds

_GRID = 201
_NUM_BOXES = 6
_WIDTHS = (0.1, 0.5)
_METHODS = ("ibp", "crown")
_Function = Callable[[jax.Array], jax.Array]


def _mixed(operation: _Function) -> _Function:
    """The sum of an operation's entries with signs, and of the inputs."""

    def fn(x: jax.Array) -> jax.Array:
        rows = jnp.array([[1.0, 0.5], [-0.7, 1.0], [0.4, -1.2]])
        y = operation(jnp.matmul(rows, x) + jnp.array([0.1, -0.2, 0.3]))
        return (y[0] - 0.5 * y[1] + y[-1] - 0.8 * x[0])[None]

    return fn


def _bin(x: jax.Array, side: str) -> jax.Array:
    edges = jnp.array([-0.5, 0.0, 0.5])
    found = jnp.searchsorted(edges, x, side=side, method="compare_all")
    return found.astype(x.dtype)


CASES: dict[str, _Function] = {  # by primitive, or by function of JAX
    "abs": jnp.abs,
    "acos": lambda x: jnp.arccos(x / 3),
    "acosh": lambda x: jnp.arccosh(3.5 + x),
    "and": lambda x: jnp.where((x > 0) & (x < 0.5), x, 0.2),
    "argmax": lambda x: jnp.argmax(x) * jnp.ones(3),
    "argmin": lambda x: jnp.argmin(x) * jnp.ones(3),
    "asin": lambda x: jnp.arcsin(x / 3),
    "asinh": lambda x: jnp.arcsinh(3 * x),
    "atan": lambda x: jnp.arctan(3 * x),
    "atan2": lambda x: jnp.arctan2(x, 3.0 + x[::-1]),
    "atanh": lambda x: jnp.arctanh(x / 3),
    "bessel_i0e": lambda x: lax.bessel_i0e(1.5 + x),
    "bessel_i1e": lambda x: lax.bessel_i1e(1.5 + x),
    "cbrt": jnp.cbrt,
    "ceil": lambda x: jnp.ceil(4 * x) / 4,
    "clamp": lambda x: lax.clamp(-0.2, x, 0.3),
    "cos": lambda x: jnp.cos(3 * x),
    "cosh": jnp.cosh,
    "cumlogsumexp": lax.cumlogsumexp,
    "cummax": lax.cummax,
    "cummin": lax.cummin,
    "cumprod": lambda x: jnp.cumprod(1 + x),
    "digamma": lambda x: lax.digamma(4.0 + x),
    "div": lambda x: x / (2.0 + x[::-1]),
    "dot_general": lambda x: jnp.outer(x, x) @ x[:, None][:, 0],
    "eq": lambda x: jnp.where(jnp.round(4 * x) == 1.0, x, 0.2),
    "erf": lax.erf,
    "erf_inv": lambda x: lax.erf_inv(x / 3),
    "erfc": lax.erfc,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": lambda x: jnp.floor(4 * x) / 4,
    "ge": lambda x: jnp.where(x >= x[0], x, 0.2),
    "gt": lambda x: jnp.where(x > 0.1, x, 0.2),
    "igamma": lambda x: lax.igamma(jnp.full_like(x, 2.0), 3.0 + x),
    "igammac": lambda x: lax.igammac(jnp.full_like(x, 2.0), 3.0 + x),
    "integer_pow": lambda x: x**3,
    "is_finite": lambda x: jnp.where(jnp.isfinite(x), x, 0.0),
    "le": lambda x: jnp.where(x <= 0.1, x, 0.2),
    "le_to": lambda x: _bin(x, "left"),
    "lgamma": lambda x: lax.lgamma(4.0 + x),
    "log": lambda x: jnp.log(3.0 + x),
    "log1p": lambda x: jnp.log1p(2.0 + x),
    "log2": lambda x: jnp.log2(3.0 + x),
    "logistic": lambda x: jax.nn.sigmoid(3 * x),
    "lt": lambda x: jnp.where(x < 0.1, x, 0.2),
    "lt_to": lambda x: _bin(x, "right"),
    "max": lambda x: jnp.maximum(x, x[::-1]),
    "min": lambda x: jnp.minimum(x, 0.1),
    "mul": lambda x: x * x[::-1],
    "ne": lambda x: jnp.where(jnp.round(4 * x) != 1.0, x, 0.2),
    "not": lambda x: jnp.where(~(x > 0.1), x, 0.2),
    "one_minus_square": lambda x: 1 - jnp.square(x),
    "or": lambda x: jnp.where((x > 0.3) | (x < 0), x, 0.2),
    "polygamma": lambda x: jax.scipy.special.polygamma(1, 4.0 + x),
    "polynomial": lambda x: jnp.polyval(jnp.array([0.5, -0.2, 0.3, 1.0]), x),
    "pow": lambda x: jnp.power(3.0 + x, 0.7),
    "reduce_and": lambda x: jnp.where(jnp.all(x > -0.5), x, 0.2),
    "reduce_max": lambda x: jnp.max(x) * jnp.ones(3),
    "reduce_min": lambda x: jnp.min(x) * jnp.ones(3),
    "reduce_or": lambda x: jnp.where(jnp.any(x > 0.5), x, 0.2),
    "reduce_precision": lambda x: lax.reduce_precision(x, 8, 7),
    "reduce_prod": lambda x: jnp.prod(1 + x) * jnp.ones(3),
    "reduce_window_max": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (2,), (1,), "SAME"
    ),
    "reduce_window_min": lambda x: lax.reduce_window(
        x, jnp.inf, lax.min, (2,), (1,), "SAME"
    ),
    "regularized_incomplete_beta": lambda x: jax.scipy.special.betainc(
        2.0, 1.5, jax.nn.sigmoid(x)
    ),
    "relu": jax.nn.relu,
    "rem": lambda x: lax.rem(x, 0.5),
    "round": lambda x: jnp.round(4 * x) / 4,
    "rsqrt": lambda x: lax.rsqrt(3.0 + x),
    "select_n": lambda x: jnp.where(x > x[::-1], x, 0.5),
    "sign": jnp.sign,
    "sin": lambda x: jnp.sin(3 * x),
    "sinh": jnp.sinh,
    "sort": jnp.sort,
    "sqrt": lambda x: jnp.sqrt(3.0 + x),
    "square": jnp.square,
    "tan": lambda x: jnp.tan(x / 2),
    "tanh": lambda x: jnp.tanh(2 * x),
    "top_k": lambda x: lax.top_k(x, 3)[0],
    "xor": lambda x: jnp.where((x > 0) ^ (x > 0.3), x, 0.2),
    "zeta": lambda x: jax.scipy.special.zeta(3.0, 4.0 + x),
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "exact_gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "hypot": lambda x: jnp.hypot(x, 1.0 + x[::-1]),
    "interp": lambda x: jnp.interp(x, jnp.linspace(-2.0, 2.0, 5), jnp.arange(5.0) ** 2),
    "leaky_relu": jax.nn.leaky_relu,
    "log_sigmoid": jax.nn.log_sigmoid,
    "log_softmax": jax.nn.log_softmax,
    "logaddexp": lambda x: jnp.logaddexp(x, x[::-1]),
    "logsumexp": lambda x: jax.nn.logsumexp(x) * jnp.ones(3),
    "mish": jax.nn.mish,
    "silu": jax.nn.silu,
    "softmax": jax.nn.softmax,
    "softplus": jax.nn.softplus,
}


def excess(name: str) -> dict[str, float]:
    """Mean of (width of the bounds / width of the range) - 1, by method, in float64."""
    fn = _mixed(CASES[name])
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        centre = rng.uniform(-0.6, 0.6, (_NUM_BOXES, 2))
        radius = np.resize(_WIDTHS, _NUM_BOXES)[:, None] * rng.uniform(0.5, 1, (1, 2))
        lower, upper = jnp.asarray(centre - radius), jnp.asarray(centre + radius)
        share = np.linspace(0, 1, _GRID)
        grid = np.stack(np.meshgrid(share, share), axis=-1).reshape(-1, 2)
        points = lower[:, None] + jnp.asarray(grid)[None] * (upper - lower)[:, None]
        values = jax.jit(jax.vmap(jax.vmap(fn)))(points)[..., 0]
        true = values.max(axis=1) - values.min(axis=1)
        found = {}
        for method in _METHODS:
            bound = jax.jit(
                jax.vmap(
                    lambda low, high, m=method: bounds.linear_bounds(
                        fn, low, high, method=m
                    )
                )
            )(lower, upper)
            width = (bound.upper - bound.lower)[:, 0]
            found[method] = float(jnp.mean(width / true) - 1)
        return found


def table() -> str:
    """The table of the documentation."""
    lines = ["| operation | ibp | crown |", "|---|---|---|"]
    for name in CASES:
        of = excess(name)
        lines.append(f"| `{name}` | {of['ibp']:.0%} | {of['crown']:.0%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
