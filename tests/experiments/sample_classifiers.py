"""Classifiers of the digits for --apply_fn=sample_classifiers:NAME, good and bad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import data


def _nearest(means: jax.Array, x: jax.Array) -> jax.Array:
    scores = x.reshape(len(x), -1) @ means.T
    return scores - jnp.sum(means**2, axis=-1)[None] / 2


def nearest_mean() -> jax.tree_util.Partial:
    """The nearest class mean, a linear classifier."""
    return _nearest_mean()


def _nearest_mean() -> jax.tree_util.Partial:
    digits = data.load("digits", split="train")
    images = digits.images.reshape(len(digits.labels), -1)
    means = [images[digits.labels == label].mean(axis=0) for label in range(10)]
    return jax.tree_util.Partial(_nearest, jnp.asarray(np.stack(means)))


def two_classes() -> functools.partial:
    """Logits of the wrong width."""
    return functools.partial(_nearest, jnp.zeros((2, 64)))


def sometimes_nan() -> functools.partial:
    """Non-finite logits where the noise on one pixel is large."""

    def apply_fn(x: jax.Array) -> jax.Array:
        logits = nearest_mean()(x)
        is_large = x.reshape(len(x), -1)[:, 0] > 0.4
        return jnp.where(is_large[:, None], jnp.nan, logits)

    return functools.partial(apply_fn)


def farthest_mean() -> jax.tree_util.Partial:
    """The opposite of the nearest class mean."""
    return jax.tree_util.Partial(_farthest, *_nearest_mean().args)


def _farthest(means: jax.Array, x: jax.Array) -> jax.Array:
    return -_nearest(means, x)


def on_the_host() -> functools.partial:
    """A classifier in NumPy, which JAX cannot trace."""
    return functools.partial(lambda x: np.asarray(x).reshape(len(x), -1)[:, :10])


def raising() -> None:
    """A factory with a bug."""
    raise KeyError("weights")


def number() -> int:
    """Not a classifier at all."""
    return 3


def gamma_derivatives():
    """A classifier with an operation that no bound goes through."""
    return _gamma_derivatives


def _gamma_derivatives(x: jax.Array) -> jax.Array:
    first = x.reshape(len(x), -1)[:, :10]
    return jax.lax.igamma_grad_a(1 + first, first)
