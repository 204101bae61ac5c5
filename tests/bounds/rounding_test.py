"""Bounds that cover their rounding, against exact arithmetic."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds
from robustjax.bounds import interval, linear, propagate

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


class SumTest(absltest.TestCase):
    def test_additions_of_rows_that_swallow_small_ones_are_covered(self):
        """(2^24 + 280) x: going back, x gets 2^24, and then ones that it swallows."""

        def fn(x):
            small = x
            for _ in range(279):
                small = small + x
            return small + x * 2.0**24

        x = jnp.ones(1, jnp.float32)
        graph = propagate.trace(fn, x, covers_rounding=True)
        known = {0: (x, x)}
        for at, node in enumerate(graph.nodes):
            known[at + 1] = interval.through(node, known)
        rows = jnp.array([[1.0], [-1.0]], jnp.float32)
        form = linear.lower_form(graph, rows, value=graph.output, known=known)
        least, minus_most = linear.least(form, known[0])[:, 0]
        self.assertBetween(2**24 + 280, least, -minus_most)
        self.assertBetween(2**24 + 280, *known[graph.output])

    def test_numbers_that_are_flushed_to_zero_are_covered(self):
        """X, as x 1e-400 1e400; the steps at numbers that XLA takes for zero."""

        def fn(x):
            for factor in (1e-200, 1e-200, 1e200, 1e200):
                x = x * factor
            return x

        with jax.enable_x64(True):
            one, small = jnp.ones(1), 1e-310 * jnp.ones(1)
            for of, box, low, high in (
                (fn, (one, one), 1, 1),
                (jnp.floor, (-small, small), -1, 0),
                (jnp.sign, (-small, small), -1, 1),
                (jnp.ceil, (-small, small), 0, 1),
            ):
                for method in ("ibp", "crown") if of is fn else ("ibp",):
                    own = jax.device_get(
                        bounds.linear_bounds(of, *box, method=method, rounding="cover")
                    )
                    self.assertLessEqual(own.lower[0], low)
                    self.assertGreaterEqual(own.upper[0], high)


class ConstantTest(absltest.TestCase):
    def test_narrow_constants_and_truth_values_are_wide_where_casts_are_ignored(self):
        """The float64 function, of which bfloat16 would round .1 + 256 to 256."""

        def fn(x):
            factor = jnp.bfloat16(0.1) + jnp.bfloat16(256)
            z = x.astype(jnp.bfloat16)
            return z * factor + (z > 0).astype(jnp.bfloat16) * factor

        expected = 2 * (fractions.Fraction(float(jnp.bfloat16(0.1))) + 256)
        with jax.enable_x64(True):
            own = jax.device_get(bounds.linear_bounds(
                fn, jnp.ones(1), jnp.ones(1),
                method="ibp", casts="ignore", rounding="cover",
            ))  # fmt: skip
        self.assertLessEqual(fractions.Fraction(float(own.lower[0])), expected)
        self.assertGreaterEqual(fractions.Fraction(float(own.upper[0])), expected)
        self.assertLess(own.upper[0] - own.lower[0], 1e-10)

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
