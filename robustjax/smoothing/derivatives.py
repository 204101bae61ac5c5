"""Smoothed functions that JAX can differentiate: g(x) = E fn(x + sigma z), z ~ N(0, I).

    "score":     dg/dx = E[fn(x + sigma z) z] / sigma,
    "pathwise":  dg/dx = E[fn'(x + sigma z)].

The noise comes in the blocks that `class_counts` draws from the same key. Memory is
that of one batch, whatever the number of samples and the order of the derivative.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax.smoothing.sampling import noise_blocks

ESTIMATORS = ("score", "pathwise")


class SmoothedFn(Protocol):
    """What `smoothed` returns."""

    def __call__(
        self, key: jax.Array, x: ArrayLike, *, example_id: ArrayLike = 0
    ) -> jax.Array:
        """An estimate of E fn(x + sigma z) from the noise of (key, example_id)."""


def smoothed(
    fn: Callable[[jax.Array], jax.Array],
    *,
    sigma: ArrayLike,
    num_samples: int,
    estimator: str = "score",
    chunk_size: int | None = None,
) -> SmoothedFn:
    """The Gaussian smoothing of a function, with derivatives of any order.

    [device] Returns `g(key, x)`, a Monte Carlo estimate of E fn(x + sigma z). It is
    pure, and works under `jit`, `vmap`, `jax.grad`, `jacfwd`, `jacrev` and `hessian`.
    "score" asks nothing of `fn`, which may be piecewise constant, such as a vote.
    "pathwise" differentiates `fn`, which has to be smooth enough.

    Guarantee:
        Value and derivatives by x and sigma, of every order, are unbiased estimates of
        those of E fn(x + sigma z), from the same noise for the same key. Derivatives by
        what `fn` closes over, or by the parameters of a `Partial`, go through `fn` with
        both estimators. "pathwise" needs a k-th derivative of `fn` that is the integral
        of the next: it misses the jumps of a step function, and the jumps in the slope
        of a ReLU network from the second derivative on.

    The method of "score": fix the points y_i = x + sigma z_i, and give each the weight
    w_i = N(y_i; x, sigma^2 I) / N(y_i; as drawn), whose value is 1. The estimate is
    mean_i[(f_i - b_i) w_i + b_i], with b_i the mean of the other values. So each
    derivative is the sample covariance, with n - 1 in the denominator, of f_i and the
    derivative of w_i. It does not change if a constant is added to `fn`.

    Edge cases: a value of `fn` that is not finite makes the estimate so.

    Args:
        fn: maps a batch `[m, ...]` to `[m]` or `[m, ...]`, row by row. Booleans and
            integers count as numbers ("score" only). Pass a function with parameters
            as a `jax.tree_util.Partial(fn, params)`, so that new values of them cause
            no new compilation.
        sigma: noise level, in the units of x, positive. It may be traced.
        num_samples: noise samples, an integer >= 1; >= 2 for "score".
        estimator: "score" or "pathwise".
        chunk_size: samples in one batch, a multiple of 128; the default is 256 on a CPU
            and 2048 elsewhere. Memory grows with it; the noise does not depend on it.

    Returns:
        `g(key, x, *, example_id=0)`; x is one example `[...]`, floats, in or out of
        [0, 1]; the result has the shape of one row of `fn`. To map over examples with
        independent noise, give each its own key or example_id.

    Raises:
        ValueError: if an argument is out of range; `g` raises it if x is not of floats,
            if `fn` does not keep the batch axis, or if "pathwise" gets values that have
            no derivative.

    Example:
        >>> vote = lambda x: x.sum(axis=-1) > 0  # E vote(x + z) = Phi(sum(x) / 2)
        >>> g = smoothed(vote, sigma=1.0, num_samples=10_000)
        >>> gradient = jax.grad(g, argnums=1)(jax.random.key(0), jnp.zeros(4))
        >>> print(gradient.round(1))  # phi(0) / 2
        [0.2 0.2 0.2 0.2]

    Reference:
        Stein (1981), Annals of Statistics 9(6); Foerster et al. (2018), arXiv
        1802.05098, for weights that carry all orders. The baseline's form is ours.
    """
    _validate.one_of(ESTIMATORS, estimator=estimator)
    _validate.integer(2 if estimator == "score" else 1, num_samples=num_samples)
    noise_blocks.check_sigma(sigma)
    options = dict(
        estimator=estimator,
        num_samples=int(num_samples),
        blocks_per_step=noise_blocks.items_in_step(chunk_size),
    )
    partial = _callables.as_partial(fn)

    def smoothed_fn(
        key: jax.Array, x: ArrayLike, *, example_id: ArrayLike = 0
    ) -> jax.Array:
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"Expected x as floats, got {x.dtype}.")
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        source = _Source(key, partial, x, jnp.asarray(sigma, x.dtype), example_id)
        return _estimate(source, **options)

    return smoothed_fn


class _Source(NamedTuple):
    """Where samples come from; all of it is traced, so none of it causes a retrace."""

    key: jax.Array
    fn: Partial
    x: jax.Array
    sigma: jax.Array
    example_id: ArrayLike


@functools.partial(
    jax.jit, static_argnames=("estimator", "num_samples", "blocks_per_step")
)
def _estimate(
    source: _Source, *, estimator: str, num_samples: int, blocks_per_step: int
) -> jax.Array:
    sums_of_step: Callable[[_Source, jax.Array], tuple[jax.Array, ...]]
    sums_of_step = functools.partial(
        _score_sums if estimator == "score" else _pathwise_sums,
        num_samples=num_samples,
        blocks_per_step=blocks_per_step,
    )
    # What a step needs for derivatives is drawn and computed again, not stored.
    sums_of_step = jax.checkpoint(sums_of_step, prevent_cse=False)
    num_steps = -(-num_samples // (noise_blocks.BLOCK_SIZE * blocks_per_step))
    steps = jnp.arange(num_steps, dtype=jnp.int32)

    def add_step(
        sums: tuple[jax.Array, ...], step: jax.Array
    ) -> tuple[tuple[jax.Array, ...], None]:
        return jax.tree.map(jnp.add, sums, sums_of_step(source, step)), None

    like = jax.eval_shape(sums_of_step, source, steps[0])
    zeros = jax.tree.map(lambda sum_: jnp.zeros(sum_.shape, sum_.dtype), like)
    (values, *weighted), _ = jax.lax.scan(add_step, zeros, steps)
    mean = values / num_samples
    if not weighted:
        return mean
    weights, weighted_values = weighted
    return mean + (weighted_values - mean * weights) / (num_samples - 1)


def _pathwise_sums(
    source: _Source, step: jax.Array, *, num_samples: int, blocks_per_step: int
) -> tuple[jax.Array]:
    """The sum of the values over one step."""
    noise, is_used = _samples(source, step, num_samples, blocks_per_step)
    values = _values(source.fn, source.x[None] + source.sigma * noise)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"Expected fn to return floats, which have derivatives, got "
            f'{values.dtype}; use estimator="score".'
        )
    return (_sum(values, is_used),)


def _score_sums(
    source: _Source, step: jax.Array, *, num_samples: int, blocks_per_step: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sums of the values, of the weights and of their products over one step."""
    x, sigma = source.x, source.sigma
    noise, is_used = _samples(source, step, num_samples, blocks_per_step)
    with jax.named_scope("robustjax.smoothing.values"):
        stimuli = jax.lax.stop_gradient(x[None] + sigma * noise)
        values = _values(source.fn, stimuli)
        values = values.astype(jnp.promote_types(values.dtype, x.dtype))
    # The log ratio of densities at a stimulus, in terms of `shift` and `shrinkage`;
    # both are exactly 0, and only their derivatives are not. A difference of two log
    # densities would lose its digits in high dimension.
    shift = jnp.ravel(x - jax.lax.stop_gradient(x)) / sigma
    shrinkage = (sigma - jax.lax.stop_gradient(sigma)) / sigma
    noise = noise.reshape(len(noise), -1)
    along = jnp.matmul(noise, shift, precision=jax.lax.Precision.HIGHEST)
    square = jnp.sum(noise**2, axis=1)
    length = shrinkage**2 * square + 2 * shrinkage * along + jnp.sum(shift**2)
    log_ratio = shrinkage * square + along - length / 2 + x.size * jnp.log1p(-shrinkage)
    weights = jnp.exp(log_ratio)
    weighted = values * weights.reshape(-1, *[1] * (values.ndim - 1))
    return _sum(values, is_used), _sum(weights, is_used), _sum(weighted, is_used)


def _samples(
    source: _Source, step: jax.Array, num_samples: int, blocks_per_step: int
) -> tuple[jax.Array, jax.Array]:
    """Noise `[m, *shape]` of one step, and which of it is within num_samples `[m]`."""
    block = step * blocks_per_step + jnp.arange(blocks_per_step, dtype=jnp.int32)
    draw = functools.partial(noise_blocks.noise_block, shape=source.x.shape)
    with jax.named_scope("robustjax.smoothing.noise"):
        noise = jax.vmap(draw, in_axes=(None, None, 0))(
            source.key, source.example_id, block
        )
    noise = noise.reshape(-1, *source.x.shape).astype(source.x.dtype)
    first = step * (blocks_per_step * noise_blocks.BLOCK_SIZE)
    return noise, first + jnp.arange(len(noise), dtype=jnp.int32) < num_samples


def _values(fn: Partial, stimuli: jax.Array) -> jax.Array:
    values = jnp.asarray(fn(stimuli))
    if values.ndim == 0 or len(values) != len(stimuli):
        raise ValueError(
            f"Expected fn to map {stimuli.shape} to [{len(stimuli)}, ...], got "
            f"{values.shape}."
        )
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise ValueError(f"Expected fn to return real values, got {values.dtype}.")
    return values


def _sum(terms: jax.Array, is_used: jax.Array) -> jax.Array:
    """Sum over the used rows, in float32 or better."""
    is_used = is_used.reshape(-1, *[1] * (terms.ndim - 1))
    dtype = jnp.promote_types(terms.dtype, jnp.float32)
    return jnp.sum(jnp.where(is_used, terms.astype(dtype), 0), axis=0)
