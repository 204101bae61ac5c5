"""Random programs and their derivatives, as JAX writes them: bounds hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.extend import core

from robustjax import bounds

_SIZE = 3


@jax.custom_jvp
def _cubic(x):
    """Its derivative is half of the true one, on purpose."""
    return x**3 / 3


@_cubic.defjvp
def _cubic_jvp(primals, tangents):
    (x,), (t,) = primals, tangents
    return _cubic(x), 0.5 * x**2 * t


@jax.custom_vjp
def _clipped(x):
    """The identity, whose derivative is clipped."""
    return 1.0 * x


_clipped.defvjp(lambda x: (1.0 * x, x), lambda x, t: (jnp.clip(t * x, -0.5, 0.5),))


@jax.jit
def softplus(x):
    """Not the one of JAX."""
    return -jnp.tanh(x)


_ACTIVATIONS = (
    jax.nn.softplus, jax.nn.log_sigmoid, jax.nn.silu, jax.nn.elu, jax.nn.selu,
    jax.nn.celu, jax.nn.leaky_relu, jax.nn.relu, jax.nn.gelu, jax.nn.softmax,
    jax.nn.sigmoid, jax.nn.hard_swish, jax.nn.relu6, jax.nn.soft_sign, jnp.tanh,
    jnp.sin, jnp.exp, jnp.abs, jnp.square, _cubic, softplus,
    lambda x: jax.nn.elu(x, 2.0), lambda x: jax.nn.leaky_relu(x, -0.3),
    lambda x: jnp.where(x > 0, x, 0.2 * x), lambda x: x * jnp.sum(x > 0.1),
    lambda x: jnp.maximum(x, x[::-1]), lambda x: x / (2 + jnp.sum(x**2)),
)  # fmt: skip
_WRAPPERS = (
    lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f)),
    lambda f: jax.checkpoint(jax.jit(f)),
    lambda f: lambda x: jax.vmap(f)(jnp.stack([x, 0.5 * x])).sum(axis=0),
)  # fmt: skip


def _total(fn):
    return lambda x: jnp.sum(fn(x) * jnp.array([1.0, -0.5, 0.7]))


def _along(fn):
    return lambda x: jax.jvp(fn, (x,), (jnp.array([0.3, -1.0, 0.6]),))[1]


_DERIVATIVES = (
    lambda f: f,
    lambda f: jax.grad(_total(f)),
    _along,
    lambda f: lambda x: jax.vjp(f, x)[1](jnp.array([1.0, 2.0, -0.3]))[0],
    lambda f: lambda x: jax.jacfwd(f)(x).ravel(),
    lambda f: lambda x: jax.jacrev(f)(x).ravel(),
    lambda f: lambda x: jax.hessian(_total(f))(x).ravel(),
    lambda f: _along(jax.grad(_total(f))),
    lambda f: jax.grad(lambda x: jnp.sum(_along(f)(x) ** 2)),
)


_BACKWARD = (0, 1, 3, 5)  # that is all that functions with a custom_vjp have


def _program(seed):
    """Layers with weights, wrapped somehow, and the derivative that is taken."""
    rng = np.random.default_rng(seed)
    fn = lambda x: x  # noqa: E731
    for _ in range(rng.integers(1, 4)):
        activation = _ACTIVATIONS[rng.integers(len(_ACTIVATIONS))]
        if seed % len(_DERIVATIVES) in _BACKWARD and not rng.integers(9):
            activation = _clipped
        wrapped = _WRAPPERS[rng.integers(len(_WRAPPERS))](activation)
        weight = np.float32(rng.normal(size=(_SIZE, _SIZE)) / np.sqrt(_SIZE))
        fn = functools.partial(_layer, fn, wrapped, weight)
    return _DERIVATIVES[seed % len(_DERIVATIVES)](fn)


def _layer(before, wrapped, weight, x):
    return wrapped(jnp.matmul(before(x), jnp.asarray(weight, x.dtype)) + 0.1)


class DerivativesTest(parameterized.TestCase):
    @pytest.mark.newest
    @pytest.mark.slow
    def test_bounds_of_some_programs_hold(self):
        self._check(range(0, 40, 8), num_samples=500, methods=("ibp",))

    @parameterized.parameters(range(12))
    @pytest.mark.slow
    def test_bounds_of_many_programs_hold(self, part):
        """Nine derivatives of 36 programs, for a third of them also by lines."""
        methods = ("ibp", "crown-ibp") if part % 3 == 0 else ("ibp",)
        seeds = range(27 * part, 27 * (part + 1))
        self._check(seeds, num_samples=10_000, methods=methods)

    def _check(self, seeds, *, num_samples, methods):
        """In a small and a large box; what has no rule is refused by name."""
        num_bounded = 0
        rng = np.random.default_rng(seeds[0])
        for seed in seeds:
            fn = _program(seed)
            centre = rng.uniform(-1, 1, _SIZE)
            share = rng.uniform(-1, 1, (num_samples, _SIZE))
            share[::2] = np.sign(share[::2])

            def evaluate(lower, upper, points, fn=fn):
                found = [
                    bounds.linear_bounds(fn, lower, upper, method=m, rounding="cover")
                    for m in methods
                ]
                values = jax.vmap(fn)(points)
                return found, values.min(axis=0), values.max(axis=0)

            with jax.enable_x64(True):
                evaluate = jax.jit(evaluate)
                try:
                    for width in (0.05, 0.6):
                        found, least, most = jax.device_get(evaluate(
                            centre - width, centre + width, centre + width * share
                        ))  # fmt: skip
                        slack = 1e-12 * (1 + np.abs([least, most]).max())
                        for own in found:
                            self.assertTrue(np.all(own.lower <= least + slack), seed)
                            self.assertTrue(np.all(own.upper >= most - slack), seed)
                    num_bounded += 1
                except bounds.UnsupportedError as error:
                    self.assertRegex(str(error), "No rule to carry|Bounds cannot")
        self.assertGreaterEqual(num_bounded, 0.9 * len(seeds))


class NameTest(absltest.TestCase):
    def test_a_function_that_has_the_name_of_another_keeps_its_own_bounds(self):
        """Its own, its derivative, and one of JAX with another slope inside."""
        low, high = -jnp.ones(1), jnp.ones(1)
        hidden = jax.jit(jax.nn.leaky_relu, static_argnames="negative_slope")
        functions = (
            softplus,
            jax.grad(lambda x: jnp.sum(jax.checkpoint(jax.nn.softplus)(x))),
            lambda x: hidden(x, negative_slope=-2.0),
        )

        @jax.jit
        def evaluate(low, high):
            return [
                (bounds.linear_bounds(fn, low, high), [fn(low), fn(0 * low), fn(high)])
                for fn in functions
            ]

        for own, values in jax.device_get(evaluate(low, high)):
            self.assertLessEqual(own.lower, np.min(values))
            self.assertGreaterEqual(own.upper, np.max(values))

    def test_one_minus_square_is_known_by_its_name(self):
        """JAX 0.12 writes the derivative of tanh so."""
        primitive = core.Primitive("one_minus_square")
        primitive.def_abstract_eval(lambda x: x)
        box = jnp.float32([-0.5, 1.0]), jnp.float32([2.0, 3.0])
        own = bounds.interval_bounds(primitive.bind, *box)
        np.testing.assert_allclose(own.lower, [-3, -8], rtol=1e-6)
        np.testing.assert_allclose(own.upper, [1, 0], atol=1e-6)


if __name__ == "__main__":
    absltest.main()
