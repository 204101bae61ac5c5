"""The general framework: it contains zeroth and first order, and goes beyond them."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import smoothing
from robustjax.smoothing.radii import general_moments


def _zeroth(z):
    return jnp.ones_like(z[..., :1])


def _first(z):
    return jnp.stack([jnp.ones_like(z[..., 0]), z[..., 0], z[..., 1]], axis=-1)


def _second(z):
    """Value, slope and curvature along the perturbation."""
    along = z[..., 0]
    return jnp.stack([jnp.ones_like(along), along, along**2 - 1], axis=-1)


def _value_and_slope(z):
    return _second(z)[..., :2]


def _band(low, high):
    """Moments of f = 1/2 on low < z1 < high, else 1; its probability at a distance."""
    pdf, cdf = stats.norm.pdf, stats.norm.cdf
    moments = (
        1 - (cdf(high) - cdf(low)) / 2,
        (pdf(high) - pdf(low)) / 2,
        (high * pdf(high) - low * pdf(low)) / 2,
    )
    return moments, lambda r: 1 - (cdf(high - r) - cdf(low - r)) / 2


class RadiusTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @pytest.mark.newest
    def test_zeroth_order(self):
        radius = general_moments.worst_case_radius(
            _zeroth, jnp.array([0.9]), num_nodes=64
        )
        exact = stats.norm.ppf(0.9)
        self.assertBetween(float(radius), exact - 1e-4, exact)

    @parameterized.parameters("unproven", "box")
    @pytest.mark.slow
    def test_first_order(self, form):
        length = 0.5 * stats.norm.pdf(stats.norm.ppf(0.9))
        known = (0.9, -length * np.cos(0.6), length * np.sin(0.6))
        radius = general_moments.worst_case_radius(
            _first, jnp.array(known), lower=[form == "box"] * 3
        )
        expected = smoothing.first_order_radius(*known, form=form)
        self.assertBetween(float(radius), expected - 1e-4, expected + 1e-9)

    @pytest.mark.slow
    def test_second_order_beats_the_first(self):
        """What misses lies in a thin band: the curvature tells that it ends."""
        (p, slope, curvature), _ = _band(0.8, 2.0)
        first = smoothing.first_order_radius(p, slope, 0.0, form="unproven")
        second = general_moments.worst_case_radius(
            _second, jnp.array([p, slope, curvature]), num_nodes=128
        )
        self.assertGreater(float(second), 1.3 * first)

    def test_second_order_is_below_the_truth(self):
        """Of bands of any width, also where few nodes cannot resolve them."""
        self._check_bands(10, num_nodes=32)

    def test_moments_that_the_solver_cannot_resolve_claim_nothing_wrong(self):
        """Waves of 12 radians, of which 64 nodes see little."""

        def waves(z):
            turns = 12 * z[..., 0]
            return jnp.stack([jnp.ones_like(turns), jnp.cos(turns), jnp.sin(turns)], -1)

        # f = 1 where 505.6 + 828.7 cos + 252.3 sin > 0: moments by quadrature.
        known = jnp.array([0.69792194, 0.24752084, 0.0753442])
        worst = general_moments.worst_case_probability(
            waves, known, 0.01672677, num_nodes=64
        )
        self.assertBetween(float(worst.probability), 0.6, 0.6979)

    def test_mass_beyond_the_grid_is_not_forgotten(self):
        """The probability at another point far behind x: a density that lies there."""

        def there(z):
            return jnp.exp(-3.5 * z[..., :1] - 6.125)

        worst = jax.jit(general_moments.worst_case_probability, static_argnums=0)(
            there, jnp.array([0.9999]), 0.1
        )
        truth = stats.norm.cdf(stats.norm.ppf(0.9999) - 3.6)  # of a half-space
        self.assertLessEqual(float(worst.probability), truth)
        self.assertGreater(float(worst.margin), 0.03)

    @parameterized.parameters(np.float64, np.float32)
    def test_unlikely_classes_have_no_probability(self, dtype):
        """Multipliers of 1e14 for what lies at the end of the grid, or beyond it."""
        for cut in (7.3, 7.5, 7.6):
            known = [stats.norm.cdf(-cut), -stats.norm.pdf(cut), 0.0]
            worst = general_moments.worst_case_probability(
                _first, jnp.array(known, dtype), 0.1, num_nodes=64
            )
            self.assertLess(float(worst.probability), 1e-12)

    def test_functions_without_end_give_nothing(self):
        """Infinite at 16 standard deviations; the first moment alone still counts."""

        def growing(z):
            square = jnp.sum(z**2, axis=-1)
            return jnp.stack([jnp.ones_like(square), jnp.exp(2 * square)], axis=-1)

        worst = general_moments.worst_case_probability(
            growing, jnp.array([0.9, 1.0]), 0.5, num_nodes=64
        )
        zeroth = stats.norm.cdf(stats.norm.ppf(0.9) - 0.5)
        self.assertBetween(float(worst.probability), zeroth - 1e-3, zeroth)

    def test_a_bound_above_one_is_none(self):
        def failed(*_):
            return jnp.array(1.5), jnp.array(0.0)

        with mock.patch.object(general_moments, "_bound", failed):
            worst = general_moments.worst_case_probability(
                _zeroth, jnp.array([0.9]), 1.0, num_nodes=33
            )
        self.assertEqual(worst.probability, 0)

    @parameterized.parameters((48, 100), (96, 30), (256, 5))
    @pytest.mark.slow
    def test_second_order_of_many_bands_is_below_the_truth(self, num_nodes, num_draws):
        self._check_bands(num_draws, num_nodes=num_nodes)

    def _check_bands(self, num_draws, *, num_nodes):
        rng = np.random.default_rng(0)
        low = rng.uniform(-0.5, 2.5, num_draws)
        moments, truth = _band(low, low + 10 ** rng.uniform(-3, 0.5, num_draws))
        r = 10 ** rng.uniform(-1, 0.6, num_draws)

        @jax.jit
        def smallest(moments, r):
            return jax.lax.map(
                lambda given: general_moments.worst_case_probability(
                    _second, *given, num_nodes=num_nodes
                ),
                (moments, r),
            ).probability

        found = np.asarray(smallest(np.stack(moments, axis=1), r))
        np.testing.assert_array_less(found, truth(r))
        zeroth = stats.norm.cdf(stats.norm.ppf(moments[0]) - r)
        np.testing.assert_array_less(zeroth - 2e-3, found)

    @parameterized.parameters(
        ((0.8, 2.0), 0.05),
        ((0.8, 2.0), 0.8),
        ((1.8, 2.1), 0.05),
        ((1.8, 2.1), 2),
        ((0.4, 3.0), 0.8),
    )
    @pytest.mark.slow
    def test_second_order_is_never_below_fewer_moments(self, band, r):
        """Also where the moments nearly determine f: the maximum is hard to find."""
        moments, _ = _band(*band)

        def smallest(functions, count):
            known = jnp.array(moments[:count])
            worst = general_moments.worst_case_probability(functions, known, r)
            return float(worst.probability)

        second = smallest(_second, 3)
        self.assertGreaterEqual(second, smallest(_zeroth, 1) - 1e-6)
        self.assertGreaterEqual(second, smallest(_value_and_slope, 2))
        exact = stats.norm.cdf(stats.norm.ppf(moments[0]) - r)
        self.assertGreater(second, exact - 1e-4)

    @pytest.mark.slow
    def test_half_space(self):
        quantile = stats.norm.ppf(0.9)
        bell = stats.norm.pdf(quantile)
        radius = general_moments.worst_case_radius(
            _second, jnp.array([0.9, -bell, -quantile * bell])
        )
        self.assertBetween(float(radius), quantile - 1e-4, quantile + 1e-9)

    @parameterized.parameters(
        (dict(values=[0.9, 0.1]), "moment_functions"),
        (dict(values=[[0.9]]), "shape"),
        (dict(values=[0.9], lower=[True, True]), "lower"),
        (dict(values=[0.9], num_nodes=8), "num_nodes"),
    )
    def test_refuses(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            general_moments.worst_case_radius(_zeroth, **arguments)


if __name__ == "__main__":
    absltest.main()
