"""The functions that users write are bounded, by every method, and the bounds hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import user_functions
from absl.testing import absltest, parameterized

from robustjax import bounds
from robustjax.bounds import tracing

_NETWORKS = {
    name: user_functions.between(fn) for name, fn in user_functions.FUNCTIONS.items()
}
_NEEDED = (  # the only ones with their rules
    "bfloat16", "exclusive or", "prod of many", "short mantissa", "subtract at",
    "branch", "one hot of argmax", "argmin", "take the largest",
)  # fmt: skip
_THIRD = tuple(dict.fromkeys((*tuple(_NETWORKS)[::3], *_NEEDED)))
_SHAPE = (user_functions.NUM_INPUTS,)
_RADIUS = 0.25
# Gradients that cannot be followed, and what the error says.
_NO_GRADIENT = {
    "max pooling": "'select_and_scatter_add'", "interpolated": "sums of uint32",
    "spectrum": "'eq' of complex numbers",
} | dict.fromkeys(
    ("sort", "top_k", "median", "quantile", "take the largest", "sort by key",
     "argsort"),
    "places that depend",
)  # fmt: skip
_FORWARD_ONLY = {"while"}  # JAX has no reverse mode for these
_OF_GRADIENTS = tuple(
    name for name in _NETWORKS if name not in _NO_GRADIENT.keys() | _FORWARD_ONLY
)[::4]


def _boxes(count=3):
    rng = np.random.default_rng(0)
    centre = rng.uniform(-1, 1, (count, *_SHAPE))
    radius = _RADIUS * rng.uniform(size=centre.shape)
    return centre - radius, centre + radius


def _samples(lower, upper, count, seed=0):
    """Corners and points inside of a box."""
    share = np.random.default_rng(seed).uniform(size=(count, *_SHAPE))
    share[: count // 2] = np.round(share[: count // 2])
    return lower + share * (upper - lower)


def _climbed(fn, lower, upper, x, *, gradient=jax.grad, num_steps=20):
    """Where steps along the signs of gradients lead, for both signs of all outputs."""
    num_outputs = jax.eval_shape(fn, x[0]).size
    rows = np.concatenate([np.eye(num_outputs), -np.eye(num_outputs)])

    def climb(row, x):
        slope = gradient(lambda x: jnp.dot(row, fn(x)))

        def step(number, x):
            size = (upper - lower) / (2.0 + number)
            return jnp.clip(x + size * jnp.sign(slope(x)), lower, upper)

        return jax.lax.fori_loop(0, num_steps, step, x)

    found = jax.vmap(lambda row: jax.vmap(lambda x: climb(row, x))(x))(rows)
    return found.reshape(-1, *_SHAPE)


class UserFunctionsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_all_can_be_followed(self):
        x = jax.ShapeDtypeStruct(_SHAPE, jnp.float64)
        for name, fn in _NETWORKS.items():
            with self.subTest(name):
                graph = tracing.trace(fn, x)
                self.assertEqual(graph.shape_of(graph.output), (2,))
        self.assertGreaterEqual(len(_NETWORKS), 125)

    @parameterized.parameters(*user_functions.REFUSED)
    def test_what_is_refused_is_named(self, name):
        fn, text = user_functions.REFUSED[name]
        with self.assertRaisesRegex(bounds.UnsupportedError, text):
            bounds.interval_bounds(user_functions.between(fn), *np.zeros((2, *_SHAPE)))

    def test_intervals_of_a_third_hold_at_samples(self):
        """One program for all of them, as outputs of one function."""

        def joined(x):
            return jnp.concatenate([_NETWORKS[name](x) for name in _THIRD])

        bound = jax.jit(functools.partial(bounds.linear_bounds, joined, method="ibp"))
        values_at = jax.jit(jax.vmap(joined))
        names = np.repeat(_THIRD, 2)
        for lower, upper in zip(*_boxes(), strict=True):
            values = np.asarray(values_at(_samples(lower, upper, 1000)))
            self._check(bound(lower, upper), values, names)

    def _check(self, found, values, names, *, are_finite=True):
        lower, upper = (np.asarray(side) for side in (found.lower, found.upper))
        scale = 1e-12 * (1 + np.abs(values).max(axis=0))
        self.assertEmpty(names[lower > values.min(axis=0) + scale].tolist())
        self.assertEmpty(names[upper < values.max(axis=0) - scale].tolist())
        is_open = ~np.isfinite(lower) | ~np.isfinite(upper)
        if are_finite:
            self.assertEmpty(names[is_open].tolist())

    @parameterized.parameters(*_NETWORKS)
    @pytest.mark.slow
    def test_bounds_hold_at_many_samples_and_where_gradients_lead(self, name):
        fn = _NETWORKS[name]
        methods = ("ibp", "crown", "alpha") if name in _THIRD[::4] else ("ibp", "crown")

        @jax.jit
        def every(lower, upper):
            return [
                bounds.linear_bounds(fn, lower, upper, method=method)
                for method in methods
            ]

        @jax.jit
        def values_at(lower, upper, x):
            gradient = jax.jacfwd if name in _FORWARD_ONLY else jax.grad
            climbed = _climbed(fn, lower, upper, x[-100:], gradient=gradient)
            return jax.vmap(fn)(jnp.concatenate([x, climbed]))

        for lower, upper in zip(*_boxes(2), strict=True):
            x = _samples(lower, upper, 100_000)
            values = np.asarray(values_at(lower, upper, x))
            for found in every(lower, upper):
                self._check(found, values, np.array([name, name]))

    @pytest.mark.slow
    def test_gradients_can_be_followed(self):
        """All but those that are named; at least 90 were promised."""
        x = jax.ShapeDtypeStruct(_SHAPE, jnp.float64)
        names = _NETWORKS.keys() - _FORWARD_ONLY
        for name in names:
            gradient = jax.grad(lambda x, fn=_NETWORKS[name]: fn(x)[0])
            with self.subTest(name):
                if name not in _NO_GRADIENT:
                    tracing.trace(gradient, x)
                    continue
                text = _NO_GRADIENT[name]
                with self.assertRaisesRegex(bounds.UnsupportedError, text):
                    tracing.trace(gradient, x)
        self.assertGreaterEqual(len(names - _NO_GRADIENT.keys()), 170)

    @parameterized.parameters(*_OF_GRADIENTS)
    @pytest.mark.slow
    def test_bounds_of_gradients_hold_at_samples(self, name):
        gradient = jax.grad(lambda x: _NETWORKS[name](x)[0])
        lower, upper = (side[0] for side in _boxes())
        values = np.asarray(jax.jit(jax.vmap(gradient))(_samples(lower, upper, 1000)))
        bound = jax.jit(functools.partial(bounds.interval_bounds, gradient))
        names = np.repeat(name, len(lower))
        self._check(bound(lower, upper), values, names, are_finite=False)


class ExactTest(absltest.TestCase):
    """Rules alone, where the range is known."""

    def test_differences_at_places(self):
        own = bounds.interval_bounds(
            lambda x: x.at[np.array([0])].subtract(x[1:]),
            np.float32([0, 2]), np.float32([1, 5]),
        )  # fmt: skip
        np.testing.assert_allclose(own.lower, [-5, 2], rtol=1e-6)
        np.testing.assert_allclose(own.upper, [-1, 5], rtol=1e-6)

    def test_exclusive_or_of_what_is_false_true_or_either(self):
        """All nine pairs, in the order of their first ones."""
        low, high = (np.float32(side) for side in ([-2, -1, 1], [-1, 1, 2]))
        own = bounds.interval_bounds(
            lambda x: ((x[0] > 0) ^ (x[1] > 0)).astype(x.dtype),
            np.stack([np.repeat(low, 3), np.tile(low, 3)]),
            np.stack([np.repeat(high, 3), np.tile(high, 3)]),
        )
        self.assertEqual(own.lower.tolist(), [0, 0, 1, 0, 0, 0, 1, 0, 0])
        self.assertEqual(own.upper.tolist(), [0, 1, 1, 1, 1, 1, 1, 1, 0])

    def test_numbers_between_two_short_ones_become_either(self):
        x = np.float32([1 + 2**-8, -1 - 2**-8])
        own = bounds.interval_bounds(lambda x: jax.lax.reduce_precision(x, 8, 7), x, x)
        self.assertTrue(np.all(own.lower <= np.array([1, -1 - 2**-7])))
        self.assertTrue(np.all(own.upper >= np.array([1 + 2**-7, -1])))
        self.assertTrue(np.all(own.upper - own.lower < 2**-6))


if __name__ == "__main__":
    absltest.main()
