"""Bounds that cover their rounding, against exact arithmetic."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds

_METHODS = ("ibp", "crown-ibp", "crown")


def _exactly(array):
    return np.vectorize(fractions.Fraction, otypes=[object])(array)


def _relu_net(first, last, x):
    return jnp.maximum(x @ first, 0.0) @ last


def _least_of_relu_net(first, last, lower, upper):
    """The least value on a range around zero, where all pieces end."""
    first, last = _exactly(first[0]), _exactly(last[:, 0])
    return min(
        sum(max(point * w, 0) * v for w, v in zip(first, last, strict=True))
        for point in _exactly(np.array([lower[0], 0.0, upper[0]]))
    )


class AffineTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_no_bound_is_inside_of_the_exact_range(self):
        """1,000 affine functions of 12 inputs whose terms cancel, at scales to 1e9."""

        @jax.jit
        def lowest(weight, lower, upper):
            def fn(x):
                return x @ weight

            options = dict(spec=jnp.array([[1.0, -1.0]]), rounding="cover")
            return [
                bounds.linear_bounds(fn, lower, upper, method=method, **options)
                for method in _METHODS
            ]

        rng = np.random.default_rng(0)
        num_tight = 0
        for _ in range(1000):
            scale = 10.0 ** rng.integers(0, 10)
            weight = rng.normal(size=(12, 2)) * scale
            weight[:, 1] = weight[:, 0] * (1 + 1e-15 * rng.integers(-9, 9, 12))
            lower = rng.uniform(-1, 1, 12)
            upper = lower + rng.uniform(0, 1, 12) * rng.integers(0, 2)
            with jax.enable_x64(True):
                found = jax.device_get(lowest(weight, lower, upper))
            row, ends = _exactly(weight) @ [1, -1], _exactly(np.stack([lower, upper]))
            products = row * ends
            least, most = products.min(axis=0).sum(), products.max(axis=0).sum()
            for own in found:
                self.assertLessEqual(fractions.Fraction(float(own.lower[0])), least)
                self.assertGreaterEqual(fractions.Fraction(float(own.upper[0])), most)
            num_tight += float(least) - found[2].lower[0] < 1e-11 * scale
        self.assertEqual(num_tight, 1000)

    def test_a_huge_end_does_not_swallow_the_other(self):
        """The interval of exp(40 x) reaches 2e17; the margin is -.5 at x = -1."""

        def fn(x):
            return jnp.stack([jnp.tanh(jnp.exp(40 * x[0]) - 5) + 0.5, 0 * x[0]])

        box = np.array([[-1.0]]), np.array([[1.0]])
        for method in _METHODS:
            own = bounds.verify(fn, *box, labels=np.array([0]), method=method)
            self.assertFalse(own.is_verified[0])
        single = bounds.interval_bounds(
            lambda x: jnp.exp(20 * x) - 5, -jnp.ones(1), jnp.ones(1)
        )
        np.testing.assert_allclose(single.lower, -5, atol=1e-6)


class NetworkTest(parameterized.TestCase):
    def test_no_wrong_unsat_of_networks_of_one_input(self):
        self._check(20)

    @pytest.mark.slow
    def test_no_wrong_unsat_of_many_networks(self):
        self._check(1000)

    def _check(self, num_draws):
        """Weights up to 1e9; limits a few roundings below and above the minimum.

        Of a net without biases on one input the minimum is at an end or at zero.
        """
        rng = np.random.default_rng(1)
        num_tried = num_decided = 0
        for draw in range(num_draws):
            scale = 10.0 ** (1 + draw % 9)
            first, last = rng.normal(size=(1, 8)) * scale, rng.normal(size=(8, 1))
            lower, upper = np.array([-rng.uniform()]), np.array([rng.uniform()])
            least = _least_of_relu_net(first, last, lower, upper)
            near = float(least)
            for steps in (-1, 1, 1e3, 1e6):
                limit = near - steps * np.spacing(abs(near))
                fn = jax.tree_util.Partial(_relu_net, first, last)
                own = bounds.exclude(
                    fn, lower, upper, rows=[[1.0]], offsets=[-limit], max_boxes=100
                )
                if least <= fractions.Fraction(limit):
                    self.assertNotEqual(own.status, "unsat", (draw, steps))
                elif steps >= 1e3 and near != 0:
                    num_tried += 1
                    num_decided += own.status == "unsat"
        self.assertGreater(num_tried, num_draws / 2)
        self.assertGreater(num_decided, 0.9 * num_tried)


class ConstantTest(absltest.TestCase):
    def test_what_is_computed_of_weights_is_not_rounded_to_float32(self):
        """1 / sqrt(3) of float32 is 1.2e-8 too small."""

        def fn(limit, x):
            factor = 1 / jnp.sqrt(jnp.float32(3.0))
            return jnp.stack([factor * x[0], limit])

        for distance, expected in ((1e-9, False), (-1e-9, True)):
            limit = np.float64(np.sqrt(1 / 3) + distance)
            with jax.enable_x64(True):
                own = bounds.verify(
                    jax.tree_util.Partial(fn, limit),
                    np.ones((1, 1)), np.ones((1, 1)), labels=np.array([0]),
                )  # fmt: skip
            self.assertEqual(own.is_verified[0], expected)


if __name__ == "__main__":
    absltest.main()
