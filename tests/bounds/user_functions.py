"""Functions of a hidden layer that users write: name, function of 6 numbers.

`between` puts one between two matrices, from 4 inputs to 2 outputs. `REFUSED` names
those that cannot be bounded, and what the error says.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from jax.scipy import special, stats

SIZE = 6
NUM_INPUTS = 4


def _weights(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]))


def between(fn):
    """The function between two matrices, a function of 4 numbers."""

    def network(x):
        y = fn(x @ _weights(NUM_INPUTS, SIZE))
        return jnp.ravel(y) @ _weights(y.size, 2, seed=1)

    return network


def _spread(y):
    return y * jnp.arange(1.0, SIZE + 1)


def _bin(y, side):
    edges = jnp.array([-1.0, 0.0, 0.5])
    return jnp.searchsorted(edges, y, side=side, method="compare_all").astype(y.dtype)


def _softplus_of_scalar(y):
    return jnp.sum(nn.softplus(y))


@jax.custom_jvp
def _with_own_jvp(y):
    return jnp.sin(y)


_with_own_jvp.defjvp(lambda at, move: (jnp.sin(at[0]), jnp.cos(at[0]) * move[0]))


@jax.custom_vjp
def _with_own_vjp(y):
    return jnp.tanh(y)


_with_own_vjp.defvjp(lambda y: (jnp.tanh(y), y), lambda y, g: (g * jnp.sign(y),))


def _elman(y):
    def step(state, x):
        state = jnp.tanh(0.6 * state + x)
        return state, state

    return lax.scan(step, jnp.zeros(()), y)[1]


def _gru(y):
    def step(state, x):
        reset, keep = nn.sigmoid(x + state), nn.sigmoid(0.5 * x - state)
        state = (1 - keep) * state + keep * jnp.tanh(x + reset * state)
        return state, state

    return lax.scan(step, jnp.zeros(()), y[:3])[1]


def _lstm(y):
    def step(carry, x):
        cell, state = carry
        gates = nn.sigmoid(jnp.stack([x + state, x - state, 0.5 * x]))
        cell = gates[0] * cell + gates[1] * jnp.tanh(x)
        return (cell, gates[2] * jnp.tanh(cell)), cell

    return lax.scan(step, (jnp.zeros(()), jnp.zeros(())), y[:3])[1]


def _attention(y, mask=None):
    tokens = y.reshape(3, 2)
    scores = tokens @ _weights(2, 2) @ tokens.T
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return nn.softmax(scores, axis=-1) @ tokens


def _causal(y):
    return _attention(y, np.tri(3, dtype=bool))


def _rotary(y):
    first, second = jnp.split(y, 2)
    angle = jnp.arange(3.0)
    return jnp.concatenate(
        [
            first * jnp.cos(angle) - second * jnp.sin(angle),
            first * jnp.sin(angle) + second * jnp.cos(angle),
        ]
    )


def _group_norm(y):
    groups = y.reshape(2, 3)
    centred = groups - groups.mean(axis=1, keepdims=True)
    return centred / jnp.sqrt(groups.var(axis=1, keepdims=True) + 0.1)


def _residual_layers(y):
    def layer(y, weight):
        return y + 0.3 * nn.relu(y @ weight), None

    return lax.scan(layer, y, _weights(3, SIZE, SIZE))[0]


def _convolution(y):
    return lax.conv_general_dilated(
        y.reshape(1, 1, SIZE), _weights(1, 2, 1, 3)[0], (1,), "SAME"
    )  # fmt: skip


def _pooled(y, fill, reducer):
    return lax.reduce_window(y, fill, reducer, (2,), (2,), "VALID")


def _euler(y):
    """Steps of a pendulum."""

    def step(_, state):
        angle, speed = state
        return angle + 0.1 * speed, speed - 0.1 * jnp.sin(angle)

    return jnp.concatenate(lax.fori_loop(0, 4, step, (y[:3], y[3:])))


def _newton_root(y):
    target = 2 + nn.sigmoid(y)
    return lax.fori_loop(0, 3, lambda _, r: 0.5 * (r + target / r), 1.5 + 0 * y)


def _halved_thrice(y):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] / 2), (0, y))[1]


def _cosine_similarity(y):
    first, second = y[:3], y[3:] + 3
    lengths = jnp.linalg.norm(first + 2) * jnp.linalg.norm(second)
    return (first @ second / lengths)[None]


FUNCTIONS = {
    # Activations of jax.nn.
    "relu": nn.relu, "relu6": nn.relu6, "sigmoid": nn.sigmoid, "softplus": nn.softplus,
    "soft_sign": nn.soft_sign, "silu": nn.silu, "log_sigmoid": nn.log_sigmoid,
    "leaky_relu": nn.leaky_relu, "hard_sigmoid": nn.hard_sigmoid,
    "hard_silu": nn.hard_silu, "hard_tanh": nn.hard_tanh, "elu": nn.elu,
    "celu": nn.celu, "selu": nn.selu, "gelu": nn.gelu, "mish": nn.mish,
    "exact gelu": functools.partial(nn.gelu, approximate=False),
    "squareplus": nn.squareplus, "sparse_plus": nn.sparse_plus,
    "sparse_sigmoid": nn.sparse_sigmoid, "glu": nn.glu, "tanh": jnp.tanh,
    "softmax": nn.softmax, "log_softmax": nn.log_softmax,
    "standardize": functools.partial(nn.standardize, epsilon=0.1),
    "logsumexp": lambda y: nn.logsumexp(y, keepdims=True),
    # Activations written by hand.
    "quick gelu": lambda y: y * nn.sigmoid(1.702 * y),
    "gelu of erf": lambda y: y * (1 + lax.erf(y / np.sqrt(2))) / 2,
    "gelu of ndtr": lambda y: y * special.ndtr(y),
    "prelu": lambda y: jnp.where(y > 0, y, jnp.linspace(0.1, 0.6, SIZE) * y),
    "threshold": lambda y: jnp.where(y > 0.2, y, 0.0),
    "hard shrink": lambda y: y * (jnp.abs(y) > 0.5),
    "soft shrink": lambda y: jnp.sign(y) * jnp.maximum(jnp.abs(y) - 0.5, 0),
    "tanh shrink": lambda y: y - jnp.tanh(y),
    "bent identity": lambda y: (jnp.sqrt(y**2 + 1) - 1) / 2 + y,
    "inverse square root unit": lambda y: y / jnp.sqrt(1 + y**2),
    "scaled tanh": lambda y: 1.7159 * jnp.tanh(2 / 3 * y),
    "snake": lambda y: y + jnp.sin(3 * y) ** 2 / 3,
    "siren": lambda y: jnp.sin(5 * y), "gaussian": lambda y: jnp.exp(-(y**2)),
    "gabor": lambda y: jnp.exp(-(y**2)) * jnp.cos(3 * y),
    "serf": lambda y: y * lax.erf(jnp.log1p(jnp.exp(y))),
    "mish by hand": lambda y: y * jnp.tanh(nn.softplus(y)),
    "concatenated relu": lambda y: nn.relu(jnp.concatenate([y, -y])),
    "maxout": lambda y: jnp.max(y.reshape(3, 2), axis=1),
    "huber": lambda y: jnp.where(jnp.abs(y) < 1, y**2 / 2, jnp.abs(y) - 0.5),
    "log cosh": lambda y: jnp.log(jnp.cosh(y)), "squared relu": lambda y: nn.relu(y)**2,
    "pinball": lambda y: jnp.maximum(0.9 * y, -0.1 * y),
    "swiglu": lambda y: nn.silu(y[:3]) * y[3:],
    "straight through": lambda y: y + lax.stop_gradient(jnp.round(4 * y) / 4 - y),
    # Elementary and special functions.
    "expm1": jnp.expm1, "exp2": jnp.exp2, "log of one plus exp": lambda y: jnp.log1p(
        jnp.exp(y)), "log10": lambda y: jnp.log10(5 + y), "cbrt": jnp.cbrt,
    "cube": lambda y: y**3, "power of many": lambda y: y**9 / 50,
    "inverse square": lambda y: (1.5 + y**2) ** -2,
    "power 1.5": lambda y: (0.1 + jnp.abs(y)) ** 1.5,
    "root of power": lambda y: jnp.power(4 + y, 0.3),
    "power of two": lambda y: jnp.power(2.0, y),
    "power of itself": lambda y: jnp.power(5 + y, 0.3 * y), "square": jnp.square,
    "rsqrt": lambda y: lax.rsqrt(y**2 + 0.2), "reciprocal": lambda y: 1 / (5 + y),
    "sinh": jnp.sinh, "cosh": jnp.cosh, "tan": lambda y: jnp.tan(y / 6),
    "arctan": jnp.arctan, "arcsinh": jnp.arcsinh,
    "arcsin": lambda y: jnp.arcsin(jnp.tanh(y) / 2),
    "arccos": lambda y: jnp.arccos(jnp.sin(y) / 2),
    "arctanh": lambda y: jnp.arctanh(0.7 * jnp.tanh(y)),
    "arccosh": lambda y: jnp.arccosh(1.5 + y**2), "erf": lax.erf, "erfc": lax.erfc,
    "erf_inv": lambda y: lax.erf_inv(0.6 * jnp.tanh(y)),
    "arctan2": lambda y: jnp.arctan2(y, 1.5 + y[::-1] ** 2),
    "hypot": lambda y: jnp.hypot(y, 4 + y[::-1]),
    "logaddexp": lambda y: jnp.logaddexp(y, y[::-1]), "gammaln": lambda y: (
        special.gammaln(5 + y)), "digamma": lambda y: special.digamma(5 + y),
    "logit": lambda y: special.logit(nn.sigmoid(y)), "ndtr": special.ndtr,
    "xlogy": lambda y: special.xlogy(y, 5 + y), "entr": lambda y: special.entr(5 + y),
    "normal density": stats.norm.pdf, "logistic logpdf": stats.logistic.logpdf,
    "sinc of shifted": lambda y: jnp.sinc(5 + y), "bessel": special.i0e,
    "bessel of order one": special.i1e, "incomplete gamma": lambda y: (
        special.gammainc(2.0, 3 + y)), "its complement": lambda y: (
        special.gammaincc(2.0, 3 + y)), "incomplete beta": lambda y: (
        special.betainc(2.0, 3.0, nn.sigmoid(y))), "hurwitz zeta": lambda y: (
        special.zeta(5.0, lax.stop_gradient(4 + y))),
    "trigamma": lambda y: special.polygamma(1, 4 + y),
    "interpolated": lambda y: jnp.interp(
        y, jnp.arange(-2.0, 3), jnp.arange(5.0) ** 2),
    "copysign": lambda y: jnp.copysign(2.0, y),
    # Steps and comparisons.
    "floor": lambda y: jnp.floor(2 * y), "ceil": jnp.ceil, "sign": jnp.sign,
    "round": lambda y: jnp.round(3 * y), "trunc": lambda y: jnp.trunc(2 * y),
    "mod": lambda y: jnp.mod(y, 1.0),
    "mod of many": lambda y: jnp.mod(y, jnp.linspace(0.8, 1.4, SIZE)),
    "powers": lambda y: jnp.power(5 + y, jnp.linspace(-1.0, 2.5, SIZE)),
    "fmod": lambda y: jnp.fmod(y, 0.7), "mod of two": lambda y: jnp.mod(y, 5 + y[::-1]),
    "searched": lambda y: jnp.searchsorted(
        jnp.array([-1.0, 0.0, 0.5]), y).astype(y.dtype),
    "floor_divide": lambda y: y // 0.5, "heaviside": lambda y: jnp.heaviside(y, 0.5),
    "bfloat16": lambda y: y.astype(jnp.bfloat16).astype(y.dtype) ** 2,
    "half": lambda y: jnp.tanh(y.astype(jnp.float16)),
    "short mantissa": lambda y: lax.reduce_precision(y, 8, 7),
    "clip": lambda y: jnp.clip(y, -0.4, 0.6), "nan_to_num": jnp.nan_to_num,
    "isnan": lambda y: jnp.where(jnp.isnan(y), 0.0, y),
    "bins": lambda y: _bin(y, "left") + _bin(y, "right"),
    "exclusive or": lambda y: ((y > 0) ^ (y > 0.5)) * y,
    "all": lambda y: jnp.all(y > -1) * y, "any": lambda y: jnp.any(y > 1) * y,
    "equal": lambda y: (jnp.round(y) == 0).astype(y.dtype),
    "count": lambda y: jnp.sum(y > 0.2) * y,
    # Order.
    "sort": jnp.sort, "top_k": lambda y: lax.top_k(y, 3)[0], "median": lambda y: (
        jnp.median(y)[None]), "quantile": lambda y: jnp.quantile(y, 0.3)[None],
    "argsort": lambda y: y[jnp.argsort(y)], "argmin": lambda y: _spread(jnp.argmin(y)),
    "one hot of argmax": lambda y: nn.one_hot(jnp.argmax(y), SIZE),
    "take the largest": lambda y: jnp.take(y, jnp.argmax(y), mode="clip")[None],
    "maximum": lambda y: jnp.maximum(y, y[::-1]), "ptp": lambda y: jnp.ptp(y)[None],
    "max": lambda y: _spread(jnp.max(y)), "min": lambda y: _spread(jnp.min(y)),
    "sort by key": lambda y: lax.sort((jnp.abs(y), y), num_keys=1)[1],
    # Reductions, norms and scans.
    "mean": lambda y: y - jnp.mean(y), "var": lambda y: y * jnp.var(y),
    "std": lambda y: y / (jnp.std(y) + 0.5), "prod": lambda y: _spread(jnp.prod(y)),
    "prod of many": lambda y: _spread(jnp.prod(jnp.tile(1.5 * y, 3))),
    "cumsum": jnp.cumsum, "cumprod": jnp.cumprod, "cummax": lax.cummax,
    "cumlogsumexp": lax.cumlogsumexp, "reversed cummin": lambda y: lax.cummin(
        y, reverse=True), "reversed cumprod": lambda y: lax.cumprod(y, reverse=True),
    "l1 norm": lambda y: jnp.linalg.norm(y, 1)[None],
    "linf norm": lambda y: jnp.linalg.norm(y, jnp.inf)[None],
    "l2 normalised": lambda y: y / jnp.linalg.norm(4 + y), "rms norm": lambda y: (
        y * lax.rsqrt(jnp.mean(y**2) + 0.1)), "group norm": _group_norm,
    "cosine similarity": _cosine_similarity, "diff": jnp.diff,
    "trapezoid": lambda y: jnp.trapezoid(y**2)[None], "associative scan": lambda y: (
        lax.associative_scan(jnp.multiply, y)),
    "weighted average": lambda y: jnp.average(y, weights=nn.softmax(y))[None],
    # Linear algebra, attention and signals.
    "outer": lambda y: jnp.outer(y, y)[0], "dot": lambda y: jnp.dot(y, y) * y,
    "cross": lambda y: jnp.cross(y[:3], y[3:]), "attention": _attention,
    "gram": lambda y: y.reshape(2, 3) @ y.reshape(2, 3).T, "causal attention": _causal,
    "quadratic form": lambda y: (y @ _weights(SIZE, SIZE) @ y)[None],
    "einsum": lambda y: jnp.einsum("i,ij->j", y, _weights(SIZE, 3)),
    "distances": lambda y: jnp.sum((y[:, None] - y[None]) ** 2, axis=1),
    "rotary": _rotary, "convolution": _convolution, "convolve": lambda y: jnp.convolve(
        y, jnp.array([0.2, 0.5, 0.3]), "same"), "max pooling": lambda y: _pooled(
        y, -jnp.inf, lax.max), "average pooling": lambda y: _pooled(y, 0.0, lax.add),
    "spectrum": lambda y: jnp.abs(jnp.fft.rfft(y)) ** 2,
    "polyval": lambda y: jnp.polyval(jnp.array([0.1, -0.4, 0.3, 1.0]), y),
    # Moving entries.
    "roll": lambda y: jnp.roll(y, 2), "flip": jnp.flip, "stride": lambda y: y[::2],
    "repeat": lambda y: jnp.repeat(y[:3], 2), "tile": lambda y: jnp.tile(y, 2),
    "reflected pad": lambda y: jnp.pad(y, 2, mode="reflect"), "split": lambda y: (
        jnp.concatenate(jnp.split(y, 3)[::-1])), "take": lambda y: jnp.take(
        y, np.array([5, 0, 0])), "stack": lambda y: jnp.stack([y, 2 * y], axis=1),
    "set": lambda y: y.at[2].set(y[0]), "add at": lambda y: y.at[
        np.array([0, 0, 1])].add(y[3:]), "multiply at": lambda y: y.at[1].multiply(3.0),
    "subtract at": lambda y: y.at[np.array([0, 2])].subtract(y[:2]),
    "segment_sum": lambda y: jax.ops.segment_sum(y, np.array([0, 1, 0, 2, 1, 0]), 3),
    "dynamic_slice": lambda y: lax.dynamic_slice(y, (2,), (3,)),
    "dynamic_update": lambda y: lax.dynamic_update_slice(y, 2 * y[:2], (3,)),
    # Loops, branches and transformations.
    "elman": _elman, "gru": _gru, "lstm": _lstm, "residual layers": _residual_layers,
    "euler": _euler, "newton root": _newton_root, "while": _halved_thrice,
    "map": lambda y: lax.map(jnp.tanh, y), "known branch": lambda y: lax.cond(
        True, jnp.sin, jnp.cos, y), "branch": lambda y: lax.cond(
        y[0] > 0, jnp.tanh, lambda v: 0.5 * v, y), "vmap": jax.vmap(nn.gelu),
    "own jvp": _with_own_jvp, "own vjp": _with_own_vjp, "checkpoint": jax.checkpoint(
        jnp.tanh), "jit of jit": jax.jit(jax.jit(jnp.sin)),
    "grad": jax.grad(_softplus_of_scalar), "jacfwd": jax.jacfwd(jnp.tanh),
    "jvp": lambda y: jax.jvp(nn.silu, (y,), (jnp.ones(SIZE),))[1],
    "stop_gradient": lambda y: y * lax.stop_gradient(y),
    "barrier": lambda y: jnp.tanh(lax.optimization_barrier(y)),
}  # fmt: skip

REFUSED = {
    "next float": (lambda y: jnp.nextafter(y, y + 1), "'nextafter'"),
    "solve": (lambda y: jnp.linalg.solve(
        3 * jnp.eye(2) + y[:4].reshape(2, 2), y[4:]), "'lu'"),
    "cholesky": (lambda y: jnp.linalg.cholesky(
        3 * jnp.eye(3) + jnp.outer(y[:3], y[:3])), "'cholesky'"),
    "loop until": (lambda y: lax.while_loop(
        lambda v: v[0] < 1, lambda v: v + 1, y), "steps is not known"),
    "callback": (lambda y: jax.pure_callback(np.sin, y, y), "'pure_callback'"),
}  # fmt: skip
