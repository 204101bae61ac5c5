"""Bounds on trees of inputs, some of them exact: perturbed weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds


def _network(inputs):
    params, x = inputs
    hidden = jnp.tanh(x @ params["first"] + params["bias"])
    return hidden @ params["last"]


def _inputs(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "first": rng.normal(size=(4, 5)) / 2,
        "bias": rng.normal(size=5),
        "last": rng.normal(size=(5, 3)) / 2,
    }
    return params, rng.uniform(size=4)


def _box(names, epsilon=0.03):
    """The corners around the inputs; weights that are not named are exact."""
    params, x = _inputs()
    low, high = (
        {k: v + sign * epsilon if k in names else v for k, v in params.items()}
        for sign in (-1, 1)
    )
    return (low, x - epsilon), (high, x + epsilon)


def _samples(low, high, num=20_000):
    """Corners and points between, a leading axis for each leaf."""
    rng = np.random.default_rng(1)

    def between(low, high):
        share = rng.uniform(size=(num, *low.shape))
        share[::2] = np.round(share[::2])
        return low + share * (high - low)

    return jax.tree.map(between, low, high)


class TreeTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @pytest.mark.newest
    def test_bounds_hold_for_perturbed_weights(self):
        low, high = _box(("first", "last"))

        @jax.jit
        def every(low, high, x):
            exact = _inputs()[0]["bias"]
            low[0]["bias"] = high[0]["bias"] = exact
            return (
                bounds.interval_bounds(_network, low, high),
                [
                    bounds.linear_bounds(_network, low, high, method=method)
                    for method in ("crown-ibp", "crown")
                ],
                bounds.affine_bounds(_network, low, high),
                jax.vmap(_network)(x),
            )

        x = _samples(low, high)
        intervals, linear, planes, values = jax.device_get(every(low, high, x))
        for own in (intervals, *linear):
            self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-12))
            self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-12))
        self.assertTrue(np.all(linear[1].lower > intervals.lower))
        structure = jax.tree.structure(low)
        for weight, bias, sign in (
            (planes.lower_weight, planes.lower_bias, 1),
            (planes.upper_weight, planes.upper_bias, -1),
        ):
            self.assertEqual(jax.tree.structure(weight), structure)
            self.assertFalse(np.any(weight[0]["bias"]))
            self.assertEqual(weight[0]["last"].shape, (3, 5, 3))
            plane = bias
            for own, leaf in zip(*map(jax.tree.leaves, (weight, x)), strict=True):
                plane = plane + leaf.reshape(len(leaf), -1) @ own.reshape(3, -1).T
            self.assertGreaterEqual((sign * (values - plane)).min(), -1e-12)

    def test_exact_weights_cost_nothing(self):
        """Known and equal ones, and the same object: as a function of x alone."""
        params, _ = _inputs()
        low, high = _box(())
        of_x = functools.partial(lambda params, x: _network((params, x)), params)
        copies = jax.tree.map(np.copy, params)

        @jax.jit
        def every(low, high):
            bound = functools.partial(bounds.linear_bounds, _network)
            return (
                bounds.linear_bounds(of_x, low, high),
                bound((params, low), (params, high)),
                bound((params, low), (copies, high)),
            )

        alone, *others = jax.device_get(every(low[1], high[1]))
        for own in others:
            np.testing.assert_array_equal(own, alone)

    def test_balls_of_weights(self):
        """|W - W0| <= 0.3 in l2 with x exact, of a linear function: W0 x +- 0.3 |x|."""
        params, x = _inputs()
        first, last = params["first"], params["last"]
        low, high = (
            {"first": first + sign, "last": last + sign, "x": x} for sign in (-1, 1)
        )
        centre = {"first": first, "last": last, "x": x}

        def fn(inputs):
            total = jnp.sum(inputs["last"] * 2)
            return jnp.stack([total, jnp.dot(inputs["x"], inputs["first"])[0] - total])

        @jax.jit
        def bound(radius):
            ball = bounds.L2Ball(centre, radius)
            return bounds.linear_bounds(fn, low, high, input_set=ball)

        middle = np.array(fn(centre))
        of_last, of_first = np.sqrt(15) * 2, np.linalg.norm(x)
        reach = 0.3 * np.array([of_last, np.hypot(of_last, of_first)])
        own = jax.device_get(bound(0.3))
        np.testing.assert_allclose(own.lower, middle - reach, rtol=1e-9)
        np.testing.assert_allclose(own.upper, middle + reach, rtol=1e-9)
        radii = {"first": 0.2, "last": jnp.zeros((5, 1)), "x": 1.0}
        own = jax.device_get(bound(radii))
        np.testing.assert_allclose(own.upper - middle, [0, 0.2 * of_first], atol=1e-9)

    def test_worst_case_logits_of_weights(self):
        low, high = _box(("last",), epsilon=0.01)
        worst = jax.jit(functools.partial(bounds.worst_case_logits, _network, label=1))(
            low, high
        )
        values = jax.vmap(_network)(_samples(low, high, num=2000))
        most = np.max(values - values[:, 1:2], axis=0)
        self.assertTrue(np.all(worst >= most - 1e-12))
        self.assertLess(np.max(worst - most), 0.5)

    def test_errors_name_the_argument(self):
        ones = np.ones(2)
        box = {"a": 0 * ones, "b": ones}, {"a": ones, "b": 3 * ones}
        mixed = {"a": np.float32(ones), "b": 2 * ones}
        counts = {"a": np.array([0, 1]), "b": 0 * ones}
        many = {"a": np.array([0, 2]), "b": ones}
        planes = bounds.UnionOfBoxes(ones[None, None], ones[None, None])
        for low, high, options, message in (
            (box[0], {"a": ones}, {}, "of one structure"),
            ({"a": 0 * np.float32(ones), "b": ones}, mixed, {}, "one float dtype"),
            (counts, many, {}, "box of floats"),
            (box[1], box[0], {}, "lower <= upper"),
            (*box, {"input_set": planes}, "UnionOfBoxes"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                bounds.linear_bounds(lambda t: t["a"] + t["b"], low, high, **options)


if __name__ == "__main__":
    absltest.main()
