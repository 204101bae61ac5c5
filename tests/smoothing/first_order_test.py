"""First-order radii: the noted table, closed forms, bounds from above, both worlds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, stats

from robustjax import smoothing
from robustjax.smoothing import first_order
from robustjax.smoothing.dual import HOST, Constraints, Multipliers, dual_value
from tests.smoothing import worst_cases

_TABLE = worst_cases.radius_table()


def _random(count, seed=0, least=1e-5):
    """p, parallel and perpendicular components over the range that occurs."""
    rng = np.random.default_rng(seed)
    p = 1 - 10 ** rng.uniform(np.log10(least), np.log10(0.49), count)
    rho = np.sqrt(rng.uniform(0, 1, count))
    rho[: count // 10] = 1 - 10 ** rng.uniform(-6, -1, count // 10)
    theta = rng.uniform(0, np.pi / 2, count)
    theta[: count // 20] = 10 ** rng.uniform(-4, 0, count // 20)
    return p, *worst_cases.components(p, rho, theta)


def _line_radius(p, length):
    """The l2 radius by the interval of the Gaussian line, with SciPy's root finder."""
    norm = stats.norm

    def gap(a):
        return norm.pdf(norm.ppf(a)) - norm.pdf(norm.ppf(a + p)) + length

    a = optimize.brentq(gap, 1e-300, (1 - p) / 2, xtol=1e-300, rtol=1e-15)
    low, high = norm.ppf(a), -norm.ppf(1 - p - a)

    def majority(r):
        return norm.cdf(high - r) - norm.cdf(low - r) - 0.5

    return optimize.brentq(majority, max(0, (low + high) / 2), high + 1, xtol=1e-14)


class HostTest(parameterized.TestCase):
    def test_noted_table(self):
        p, rho, theta, exact, box = _TABLE.T
        known = (p, *worst_cases.components(p, rho, theta))
        actual = smoothing.first_order_radius(*known, form="exact")
        np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-6)
        has_box = np.isfinite(box)
        actual = smoothing.first_order_radius(*(v[has_box] for v in known))
        np.testing.assert_allclose(actual, box[has_box], rtol=0, atol=1.1e-6)

    @parameterized.product(p=(0.6, 0.9, 0.99, 0.9999), rho=(0.05, 0.5, 0.95))
    def test_l2_is_the_interval_of_the_line(self, p, rho):
        length = rho * stats.norm.pdf(stats.norm.ppf(p))
        radius = smoothing.first_order_radius(p, -length, 0.0)
        self.assertAlmostEqual(radius, _line_radius(p, length), delta=1e-10)

    @parameterized.parameters(0.6, 0.9, 0.99, 0.9999)
    def test_half_space(self, p):
        longest, quantile = stats.norm.pdf(stats.norm.ppf(p)), stats.norm.ppf(p)
        along = smoothing.first_order_radius(p, -longest, 0.0)
        self.assertAlmostEqual(along, quantile, delta=1e-12)
        theta = np.array([0.3, 0.8, 1.4])
        known = (p, -longest * np.cos(theta), longest * np.sin(theta))
        exact = smoothing.first_order_radius(*known, form="exact")
        np.testing.assert_allclose(exact, quantile / np.cos(theta), rtol=1e-9)
        self.assertTrue(np.all(smoothing.first_order_radius(*known) < exact - 1e-5))
        shorter = smoothing.first_order_radius(p, -0.999 * longest, 0.0)
        self.assertGreater(shorter, quantile + 1e-6)

    def test_box_is_not_fooled_by_the_length_of_a_half_space(self):
        longest = stats.norm.pdf(stats.norm.ppf(0.99))
        known = (0.99, -longest * np.sqrt(1 - 0.81), 0.9 * longest)
        self.assertLessEqual(smoothing.first_order_radius(*known), 3.0054)
        self.assertGreater(smoothing.first_order_radius(*known), 3.0)

    @pytest.mark.slow
    def test_monotone(self):
        """In p, in the length of the gradient and in its angle."""
        p = np.array([0.55, 0.7, 0.9, 0.99, 0.9999])
        rho, theta = np.linspace(0.02, 0.99, 12), np.linspace(0.02, np.pi / 2, 12)
        grid = np.meshgrid(p, rho, theta, indexing="ij")
        parallel, perpendicular = worst_cases.components(*grid)
        radius = smoothing.first_order_radius(grid[0], parallel, perpendicular)
        self.assertGreater(np.diff(radius, axis=2).min(), -1e-7)
        ball = radius * np.cos(grid[2])  # what the angle leaves along the gradient
        self.assertLess(np.diff(ball, axis=2).max(), 1e-7)
        in_l2 = smoothing.first_order_radius(grid[0], -np.hypot(*_at(grid)), 0.0)
        self.assertLess(np.diff(in_l2, axis=1).max(), 1e-9)
        fixed = smoothing.first_order_radius(p, -0.0003, 0.0002)
        self.assertGreater(np.diff(fixed).min(), 0)

    def test_random_multipliers_prove_no_more(self):
        p, parallel, perpendicular = _random(60, seed=3, least=1e-3)
        radius = smoothing.first_order_radius(p, parallel, perpendicular)
        rng = np.random.default_rng(4)
        shape = (300, len(p))
        multipliers = Multipliers(
            rng.choice([0.0, 1.0], shape) * 10 ** rng.uniform(-2, 2, shape),
            10 ** rng.uniform(-3, 2, shape),
            10 ** rng.uniform(-0.5, 2.5, shape),
        )
        known = Constraints(
            *(np.broadcast_to(v, shape) for v in (1 - p, parallel, perpendicular))
        )
        longer = np.broadcast_to(radius + 1e-6, shape)
        value = dual_value(multipliers, longer, known, num_nodes=64, world=HOST)
        self.assertLess(value.max(), 0.5)

    def _never_below(self, count):
        rng = np.random.default_rng(5)
        n = 10 ** rng.integers(2, 7, count)
        k = rng.binomial(n, 1 - 10 ** rng.uniform(-5, -0.3, count))
        p_lower = smoothing.clopper_pearson_lower(k, n, alpha=0.0005)
        longest = stats.norm.pdf(stats.norm.ppf(np.maximum(p_lower, 0.5)))
        length = longest * rng.uniform(0, 1.2, count)
        exposed = length * np.cos(rng.uniform(0, np.pi / 2, count))
        zeroth = smoothing.zeroth_order_radius(p_lower, sigma=1.0)
        self.assertGreater(np.mean(zeroth > 0), 0.5)
        part = count // 4
        for i, norm in enumerate(("l2", "l1", "linf", "subspace:a")):
            of = slice(i * part, (i + 1) * part)
            scale = 28.0 if norm == "linf" else 1.0
            radius = smoothing.norm_radius(
                p_lower[of], scale * exposed[of], length[of], norm=norm, dim=784
            )
            self.assertTrue(np.all(radius >= zeroth[of] / scale), norm)
            self.assertTrue(np.all(np.isfinite(radius)))

    @pytest.mark.slow
    def test_never_below_zeroth_order(self):
        self._never_below(1000)

    @pytest.mark.slow
    def test_never_below_zeroth_order_in_100_000_cases(self):
        self._never_below(100_000)

    @parameterized.parameters("box", "exact")
    def test_edges(self, form):
        nan = np.nan
        p = [0.5, 0.3, nan, 0.9, 0.9, 1.0, 0.9]
        parallel = [-0.1, -0.1, -0.1, nan, -0.1, -0.1, -np.inf]
        perpendicular = [0.1, 0.1, 0.1, 0.1, nan, 0.1, np.inf]
        for convert in (np.asarray, jnp.asarray):
            radius = np.asarray(
                smoothing.first_order_radius(
                    convert(p), convert(parallel), convert(perpendicular), form=form
                )
            )
            np.testing.assert_array_equal(radius[:5], 0.0)
            self.assertTrue(np.all(radius[5:] > 1.0))
            self.assertFalse(np.isnan(radius).any())

    def test_positive_parallel_and_negative_perpendicular_read_as_zero(self):
        actual = smoothing.first_order_radius([0.9, 0.9], [0.1, -0.05], [0.1, -0.3])
        expected = smoothing.first_order_radius([0.9, 0.9], [0.0, -0.05], [0.1, 0.0])
        np.testing.assert_array_equal(actual, expected)

    def test_shapes_units_and_the_x64_flag(self):
        known = np.array([[0.7], [0.9]]), np.array([[-0.1, -0.05, 0.0]]), 0.1
        radius = smoothing.first_order_radius(*known)
        self.assertEqual((radius.shape, radius.dtype), ((2, 3), np.float64))
        doubled = smoothing.first_order_radius(*known, sigma=2.0)
        np.testing.assert_array_equal(doubled, 2 * radius)
        with jax.enable_x64(not jax.config.jax_enable_x64):
            again = smoothing.first_order_radius(*known)
        np.testing.assert_array_equal(again, radius)
        self.assertEqual(smoothing.first_order_radius([], [], []).shape, (0,))

    @parameterized.parameters(
        (dict(form="ball"), "form"),
        (dict(sigma=0.0), "sigma"),
        (dict(p_lower=1.5), "p_lower"),
    )
    def test_refuses(self, changes, text):
        arguments = dict(p_lower=0.9, parallel=-0.1, perpendicular=0.1) | changes
        with self.assertRaisesRegex(ValueError, text):
            smoothing.first_order_radius(**arguments)


def _at(grid):
    return worst_cases.components(*grid)


class DeviceTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_float32_is_never_above_float64(self):
        known = [np.float32(v) for v in _random(20_000, seed=6, least=1e-6)]
        device = smoothing.first_order_radius(*(jnp.asarray(v) for v in known))
        self.assertEqual(device.dtype, jnp.float32)
        host = smoothing.first_order_radius(*(v.astype(np.float64) for v in known))
        loss = host - np.asarray(device, np.float64)
        self.assertGreater(loss.min(), 0.0)
        self.assertLess(np.median(loss), 1e-3)

    @pytest.mark.slow
    def test_jit_and_vmap(self):
        known = [jnp.asarray(v, jnp.float32) for v in _random(6)]
        expected = smoothing.first_order_radius(*known)
        together = jax.jit(jax.vmap(smoothing.first_order_radius))(*known)
        np.testing.assert_allclose(together, expected, rtol=1e-5)

    def test_compiles_once_for_a_size(self):
        sizes = first_order._propose._cache_size
        smoothing.first_order_radius(*_random(30))
        before = sizes()
        smoothing.first_order_radius(*_random(50, seed=9))
        self.assertEqual(sizes(), before)


if __name__ == "__main__":
    absltest.main()
