"""Bounds that cover their rounding, against exact arithmetic."""

import fractions
import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds
from robustjax.bounds import ibp, tracing
from robustjax.bounds.linear import backward

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
        single = jax.jit(functools.partial(
            bounds.interval_bounds, lambda x: jnp.exp(20 * x) - 5
        ))(-np.ones(1), np.ones(1))  # fmt: skip
        np.testing.assert_allclose(single.lower, -5, atol=1e-6)

    def test_the_input_and_differences_are_covered(self):
        rng = np.random.default_rng(0)
        low = rng.uniform(-1, 1, 100).astype(np.float32)
        high = low + rng.uniform(0, 1, 100).astype(np.float32)
        least, most = _exactly([low, high])
        cases = (
            (lambda x: x, (least, most)),
            (lambda x: x - x[::-1], (least - most[::-1], most - least[::-1])),
            (
                lambda x: jnp.maximum(x, 0.0) - x,
                (np.maximum(-most, 0), np.maximum(-least, 0)),
            ),
        )

        @jax.jit
        def every(low, high):
            return [
                [
                    bounds.linear_bounds(fn, low, high, method=method, rounding="cover")
                    for method in ("ibp", "crown")
                ]
                for fn, _ in cases
            ]

        found = jax.device_get(every(low, high))
        for (_, exact), methods in zip(cases, found, strict=True):
            for own in methods:
                self.assertTrue(np.all(_exactly(own.lower) <= exact[0]))
                self.assertTrue(np.all(_exactly(own.upper) >= exact[1]))


class NetworkTest(parameterized.TestCase):
    def test_no_wrong_unsat_of_networks_of_one_input(self):
        self._check(12)

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
                own = bounds.verify_property(
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
        graph = tracing.trace(fn, x, covers_rounding=True)
        known = {0: (x, x)}
        for at, node in enumerate(graph.nodes):
            known[at + 1] = ibp.through(node, known)
        rows = jnp.array([[1.0], [-1.0]], jnp.float32)
        form = backward.lower_form(graph, rows, value=graph.output, known=known)
        least, minus_most = backward.least(form, known[0])[:, 0]
        self.assertBetween(2**24 + 280, least, -minus_most)
        self.assertBetween(2**24 + 280, *known[graph.output])

    def test_numbers_that_are_flushed_to_zero_are_covered(self):
        """What XLA takes for zero below 2.2e-308: factors, products, boxes, steps."""

        def there_and_back(x):
            for factor in (1e-200, 1e-200, 1e200, 1e200):
                x = x * factor
            return x

        cases = (  # function, box, exact range
            (there_and_back, 1.0, 1.0, 1, 1),
            (lambda x: 1e308 * jax.nn.relu(x), -3e-308, 3e-308, 0, 3),
            (lambda x: 1e308 * x, 1e-310, 1e-309, 0.01, 0.1),
            (lambda x: 1e308 * (x * x[::-1]), 1e-155, 3e-155, 0.01, 0.09),
            (lambda x: x * x[::-1], 1e-155, 3e-155, 1e-310, 9e-310),
        )
        steps = (
            (jnp.floor, -1e-310, 1e-310, -1, 0),
            (jnp.sign, -1e-310, 1e-310, -1, 1),
            (jnp.ceil, -1e-310, 1e-310, 0, 1),
        )
        functions, lows, highs, least, most = zip(*cases, *steps, strict=True)

        @jax.jit
        def every(*boxes):
            return [
                bounds.linear_bounds(
                    fn, *box, rounding="cover",
                    method="ibp" if fn in (jnp.floor, jnp.ceil) else "crown",
                )
                for fn, *box in zip(functions, *boxes, strict=True)
            ]  # fmt: skip

        with jax.enable_x64(True):
            boxes = (np.repeat(ends, 2).reshape(-1, 2) for ends in (lows, highs))
            found = jax.device_get(every(*map(list, boxes)))
        for own, low, high in zip(found, least, most, strict=True):
            self.assertLessEqual(own.lower[0], low)
            self.assertGreaterEqual(own.upper[0], high)

    def test_powers_of_two_are_as_exact_as_their_product(self):
        """XLA computes exp(x ln 2): at x = 994 it is off by 357 units of roundoff."""
        x = np.random.default_rng(0).uniform(-900, 1020, 300)

        @jax.jit
        @jax.vmap
        def at(x):
            return bounds.linear_bounds(
                jnp.exp2, x[None], x[None], method="ibp", rounding="cover"
            )

        with jax.enable_x64(True):
            own = jax.device_get(at(jnp.asarray(x)))
        for point, low, high in zip(x, own.lower[:, 0], own.upper[:, 0], strict=True):
            exact = mpmath.power(2, mpmath.mpf(point))
            self.assertBetween(exact, mpmath.mpf(low), mpmath.mpf(high))
            self.assertLess(high / low, 1 + 1e-10)


class CurvesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_running_log_sums_near_zero_are_covered(self):
        """Of x = [-a, log(1 - exp(-a))], whose log-sum-exp is zero but for rounding."""

        @jax.jit
        def at_a_point(x):
            return bounds.linear_bounds(
                lax.cumlogsumexp, x, x, method="ibp", rounding="cover"
            )

        with mpmath.workdps(60):
            for first in np.random.default_rng(0).uniform(0.1, 3.0, 30):
                x = np.array([-first, np.log(-np.expm1(-first))])
                own = jax.device_get(at_a_point(x))
                exact = mpmath.log(sum(mpmath.exp(mpmath.mpf(float(v))) for v in x))
                low, high = float(own.lower[1]), float(own.upper[1])
                self.assertBetween(exact, mpmath.mpf(low), mpmath.mpf(high))

    def test_ties_of_argmax_are_not_decided_by_rounding(self):
        """One number computed in several ways: whichever is largest is possible."""

        def fn(x):
            ways = jnp.stack([x * 3 / 3, x, (x + 0.1) - 0.1, (x + 0.7) - 0.7])
            return jnp.argmax(ways[:, 0]).astype(x.dtype)

        bound, value_at = (
            jax.jit(lambda x: bounds.interval_bounds(fn, x, x)),
            (jax.jit(fn)),
        )
        for point in np.random.default_rng(0).uniform(-1, 1, (50, 1)):
            own = bound(point)
            self.assertBetween(value_at(point), own.lower, own.upper)


class AsRunTest(absltest.TestCase):
    """What is decided in float64 is about the function that its user calls."""

    def _excludes(self, fn, most):
        own = bounds.verify_property(fn, [1.0], [1.0], rows=[[1.0]], offsets=[-most])
        return own.status == "unsat"

    @pytest.mark.newest
    def test_weights_of_a_closure_are_float32_and_those_of_a_partial_what_they_are(
        self,
    ):
        """1 / 3 of float32 is 1e-8 too large."""
        with jax.enable_x64(False):
            weight = np.full(1, 1 / 3)
            self.assertTrue(self._excludes(lambda x: x * weight, 1 / 3 + 1e-9))
            partial = jax.tree_util.Partial(jnp.multiply, weight)
            partial(jnp.ones(1))  # JAX has made it float32 by now
            self.assertFalse(self._excludes(partial, 1 / 3 + 1e-9))
            self.assertTrue(self._excludes(partial, 1 / 3 - 1e-9))
            of_lax = jax.tree_util.Partial(lax.mul, weight.copy())
            self.assertFalse(self._excludes(of_lax, 1 / 3 + 1e-9))
            self.assertTrue(self._excludes(of_lax, 1 / 3 - 1e-9))
            start = jax.tree_util.Partial(
                lambda i, x: lax.dynamic_slice(jnp.arange(3.0), i, (1,)) * x,
                np.array([2]),
            )
            self.assertTrue(self._excludes(start, 2 - 1e-9))

    def test_random_numbers_are_those_of_the_user(self):
        key = jax.random.key(0)

        def fn(x):
            return jax.random.uniform(key, (1,)) - 10 * jnp.abs(x - 1)

        with jax.enable_x64(False):
            value = float(jax.jit(fn)(np.ones(1, np.float32))[0])
            self.assertFalse(self._excludes(fn, value + 1e-6))
            self.assertTrue(self._excludes(fn, value - 1e-6))


class ConstantTest(absltest.TestCase):
    def test_float64_weights_are_followed_in_float32(self):
        weight = np.ones((3, 2))

        def fn(x):
            return jnp.dot(x, weight) * weight[0] + weight[1]

        bound = jax.jit(functools.partial(bounds.interval_bounds, fn))
        own = bound(np.zeros(3, np.float32), np.ones(3, np.float32))
        self.assertEqual((own.lower.tolist(), own.upper.tolist()), ([1, 1], [4, 4]))

    def test_narrow_constants_and_truth_values_are_wide_where_casts_are_ignored(self):
        """The float64 function: bfloat16 would round .1 + 256 and 257 to 256."""

        def fn(x):
            factor = jnp.bfloat16(0.1) + jnp.bfloat16(256)
            z = x.astype(jnp.bfloat16)
            count = jnp.sum(jnp.broadcast_to(z > 0, (257,)).astype(jnp.int32))
            return z * factor + count.astype(jnp.bfloat16)

        expected = fractions.Fraction(float(jnp.bfloat16(0.1))) + 256 + 257
        bound = functools.partial(
            bounds.linear_bounds, fn, method="ibp", casts="ignore", rounding="cover"
        )
        with jax.enable_x64(True):
            own = jax.device_get(jax.jit(bound)(np.ones(1), np.ones(1)))
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
