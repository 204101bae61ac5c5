"""Derivatives of JAX functions against central differences, in one compiled program."""

import functools

import jax
import numpy as np

_STEP = 1e-4  # its square is the relative error of a central difference


def assert_close(fn, *args, tolerance=1e-5):
    """Checks jvp and vjp of fn in float64, along a random direction of all arguments.

    Args:
        fn: from arrays to an array or a tuple of arrays.
        *args: numbers at which it is smooth.
        tolerance: relative and absolute.
    """
    rng = np.random.default_rng(0)
    args = tuple(np.asarray(value, np.float64) for value in args)
    along = tuple(rng.normal(size=value.shape) for value in args)
    with jax.enable_x64(True):
        shapes = jax.eval_shape(fn, *args)
        weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
        found = _derivatives(fn, args, along, weights)
    slopes, pulled, ends = jax.tree.map(np.asarray, found)
    expected = jax.tree.map(lambda leaf: (leaf[1] - leaf[0]) / (2 * _STEP), ends)
    check = functools.partial(
        np.testing.assert_allclose, rtol=tolerance, atol=tolerance
    )
    jax.tree.map(check, slopes, expected)
    check(_dot(pulled, along), _dot(weights, expected))


@functools.partial(jax.jit, static_argnums=0)
def _derivatives(fn, args, along, weights):
    def moved(step):
        return fn(*(x + step * d for x, d in zip(args, along, strict=True)))

    _, jvp = jax.linearize(fn, *args)
    pull = jax.linear_transpose(jvp, *args)
    ends = jax.vmap(moved)(np.array([-_STEP, _STEP]))
    return jvp(*along), pull(weights), ends


def _dot(tree, other):
    parts = jax.tree.map(lambda a, b: np.sum(np.asarray(a) * b), tree, other)
    return sum(jax.tree.leaves(parts))
