"""Balls under noise: tables, SciPy, bounds, scaling, curvature and derivatives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import integrate, optimize, special, stats

from robustjax import hidden_cost

_DIMENSIONS = (1, 2, 3, 10, 100, 784, 3072, 150528)
_MANY = 100_000

# Radius 1. {dim: {threshold: sigma}}.
_VANISHING_SIGMA = {
    1: {
        1 / 2: 1.4826022185,
        1 / 3: 2.3216545634,
        1 / 10: 7.9578965611,
        1 / 1000: 797.884351917,
    },
    2: {
        1 / 2: 0.8493218003,
        1 / 3: 1.1104736517,
        1 / 100: 7.0533383044,
        1 / 1000: 22.3550879737,
    },
    3: {
        1 / 2: 0.6501222455,
        1 / 10: 1.3081405808,
        1 / 100: 2.9509979660,
        1 / 1000: 6.4153216773,
    },
    10: {
        1 / 2: 0.3271781591,
        1 / 10: 0.4533675708,
        1 / 100: 0.6252183566,
        1 / 1000: 0.8223441002,
    },
    100: {
        1 / 2: 0.1003346074,
        1 / 3: 0.1034787445,
        1 / 10: 0.1101911578,
        1 / 100: 0.1194674964,
        1 / 1000: 0.1270842567,
    },
    784: {
        1 / 2: 0.0357294777,
        1 / 3: 0.0361218167,
        1 / 10: 0.0369182028,
        1 / 1000: 0.0387112026,
    },
    3072: {1 / 2: 0.0180441539, 1 / 10: 0.0183432664, 1 / 1000: 0.0187796681},
    150528: {1 / 2: 0.0025774623, 1 / 3: 0.0025794869, 1 / 1000: 0.0025920471},
}

# Radius 1, threshold 1/2. {dim: {sigma: smoothed radius}}.
_SMOOTHED_RADIUS = {
    1: {
        0.3706505546: 0.9999999683,
        0.7413011093: 0.9933410291,
        1.3343419967: 0.6181724167,
        1.4677761963: 0.2082574243,
        0.5: 0.9999602926624,
        1.0: 0.9332705996445,
        1.48: 0.0877374397,
        1.5: np.nan,
    },
    2: {
        0.0849321800: 0.9963823477,
        0.2123304501: 0.9770153715,
        0.4246609001: 0.9015197542,
        0.6369913502: 0.7328206528,
        0.7643896203: 0.5066422100,
    },
    3: {
        0.0650122245: 0.9957614303,
        0.3250611227: 0.8855275057,
        0.5851100209: 0.4784269698,
    },
    10: {
        0.0327178159: 0.9951704238,
        0.0817945398: 0.9693902017,
        0.1635890795: 0.8705759413,
        0.2944603432: 0.4466342506,
        0.3239063775: 0.1457927724,
    },
    100: {
        0.0100334607: 0.9950042557,
        0.0250836518: 0.9683509107,
        0.0501673037: 0.8664417607,
        0.0752509555: 0.6623090802,
        0.0903011466: 0.4368872494,
    },
    784: {0.0035729478: 0.9949895653, 0.02: 0.8287190330741256, 0.04: np.nan},
    3072: {
        0.0018044154: 0.9949879797,
        0.0045110385: 0.9682492261,
        0.0090220769: 0.8660388331,
        0.0162397385: 0.4359220939,
        0.0178637123: 0.1410820793,
    },
    150528: {
        0.0002577462: 0.9949874492,
        0.0012887311: 0.8660256852,
        0.0019330967: 0.6614384009,
        0.0025516876: 0.1410677793,
    },
}

_LARGEST_QUANTILE = {
    (100, 0.05): 1.8879988919,
    (1000, 0.001): 2.4632626148,
    (10_000, 0.001): 3.1985775147,
    (100_000, 0.05): 4.0131502572,
    (100_000, 0.001): 3.8114565634,
    (1_000_000, 0.001): 4.3467736987,
}

# Radius 1, 100,000 samples, alpha .001. {dim: (sigma, certified radius)}.
_BEST_CENTER = {
    2: (0.2284520721, 0.8707351498),
    100: (0.0782989251, 0.2984329519),
    784: (0.0325468792, 0.1240510164),
    3072: (0.0172009971, 0.0655608535),
}


def _each(function):
    """Element by element, since every new shape would be compiled."""
    return np.vectorize(function, otypes=[np.float64])


_PROBABILITY = _each(hidden_cost.ball_class_probability)
_RADIUS = _each(hidden_cost.smoothed_ball_radius)
_VANISHING = _each(hidden_cost.ball_vanishing_sigma)
_QUANTILE = _each(hidden_cost.max_certified_quantile)
_NEEDED = _each(hidden_cost.min_sigma_for_radius)
_BOUNDS = np.vectorize(hidden_cost.ball_radius_bounds, otypes=[np.float64] * 2)


@jax.jit
@jax.vmap
def _mapped_radius(sigma, dim):
    return hidden_cost.smoothed_ball_radius(1.0, sigma=sigma, dim=dim)


def _flat(table):
    """Columns: the dimension, the key inside of it and the value."""
    rows = [(dim, key, v) for dim, row in table.items() for key, v in row.items()]
    return np.array(rows, dtype=np.float64).T


def _single(value):
    """A float32 array; its float64 value goes to the oracle."""
    return jnp.asarray(value, jnp.float32)


class TableTest(parameterized.TestCase):
    def test_vanishing_sigma(self):
        dim, threshold, expected = _flat(_VANISHING_SIGMA)
        actual = _VANISHING(1.0, dim=dim, threshold=threshold)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-10)

    @pytest.mark.slow
    def test_vanishing_sigma_in_float32(self):
        dim, threshold, _ = _flat(_VANISHING_SIGMA)
        level = threshold.astype(np.float32)
        double = _VANISHING(1.0, dim=dim, threshold=level.astype(np.float64))
        single = _VANISHING(1.0, dim=dim, threshold=[_single(v) for v in level])
        np.testing.assert_allclose(single, double, rtol=1e-5)

    def test_smoothed_radius(self):
        dim, sigma, expected = _flat(_SMOOTHED_RADIUS)
        actual = _RADIUS(1.0, sigma=sigma, dim=dim)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)

    def test_smoothed_radius_in_float32_under_jit_and_vmap(self):
        """NaN where nothing is left, whatever the others do."""
        dim, sigma, _ = _flat(_SMOOTHED_RADIUS)
        noise = sigma.astype(np.float32)
        double = _RADIUS(1.0, sigma=noise.astype(np.float64), dim=dim)
        single = _mapped_radius(_single(noise), _single(dim))
        np.testing.assert_allclose(single, double, rtol=0, atol=1e-5)

    def test_the_largest_certificate_of_the_samples(self):
        num_samples, alpha = np.array(list(_LARGEST_QUANTILE)).T
        expected = list(_LARGEST_QUANTILE.values())
        largest = functools.partial(_QUANTILE, num_samples=num_samples)
        np.testing.assert_allclose(largest(alpha=alpha), expected, rtol=0, atol=1e-9)
        by_scipy = stats.norm.isf(-np.expm1(np.log(alpha) / num_samples))
        np.testing.assert_allclose(largest(alpha=alpha), by_scipy, rtol=1e-13)
        least = _NEEDED(0.7, num_samples=num_samples, alpha=alpha)
        np.testing.assert_allclose(least, 0.7 / np.array(expected), rtol=1e-9)

    def test_few_samples_certify_nothing(self):
        """One sample bounds a probability by alpha, which is less than 1/2."""
        for num_samples in (1, 9):
            few = dict(num_samples=num_samples, alpha=0.001)
            self.assertEqual(hidden_cost.max_certified_quantile(**few), 0.0)
            self.assertEqual(hidden_cost.min_sigma_for_radius(1.0, **few), np.inf)
            best = hidden_cost.best_center_certificate(1.0, dim=3, **few)
            self.assertEqual(best.radius, 0.0)
        enough = hidden_cost.max_certified_quantile(num_samples=10, alpha=0.001)
        self.assertGreater(enough, 0.0)

    @pytest.mark.slow
    def test_certificates_in_float32(self):
        num_samples, alpha = np.array(list(_LARGEST_QUANTILE)).T
        single = _QUANTILE(num_samples=num_samples, alpha=[_single(v) for v in alpha])
        np.testing.assert_allclose(single, list(_LARGEST_QUANTILE.values()), rtol=1e-5)
        samples = dict(num_samples=_MANY, alpha=1e-3)
        for dim, expected in _BEST_CENTER.items():
            own = hidden_cost.best_center_certificate(_single(1.0), dim=dim, **samples)
            np.testing.assert_allclose(own, expected, rtol=1e-5)

    @parameterized.parameters(*_BEST_CENTER.items())
    def test_best_center_certificate(self, dim, expected):
        samples = dict(dim=dim, num_samples=_MANY, alpha=1e-3)
        best = hidden_cost.best_center_certificate(1.0, **samples)
        np.testing.assert_allclose(best, expected, rtol=0, atol=1e-9)
        # What n samples that all agree certify, over a fine grid of noise.
        sigma = best.sigma * np.exp(np.linspace(-1, 1, 4001))
        inside = stats.chi2.cdf(sigma**-2.0, dim)
        agreed = 1e-3 ** (1 / _MANY)  # the lower bound where all samples agree
        certified = sigma * stats.norm.ppf(np.minimum(inside, agreed))
        self.assertAlmostEqual(certified.max() / best.radius, 1.0, delta=1e-6)
        self.assertAlmostEqual(sigma[certified.argmax()], best.sigma, delta=1e-6)


class OracleTest(parameterized.TestCase):
    @parameterized.parameters(*_DIMENSIONS)
    def test_probability(self, dim):
        rng = np.random.default_rng(dim)
        radius = rng.uniform(0.5, 2.0, 25)
        distance = radius * rng.uniform(0, 1.3, 25)
        sigma = radius * rng.uniform(0.1, 1.5, 25) / np.sqrt(dim)
        actual = _PROBABILITY(distance, radius=radius, sigma=sigma, dim=dim)
        scaled = (radius / sigma) ** 2, (distance / sigma) ** 2
        expected = stats.ncx2.cdf(scaled[0], dim, scaled[1])
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-11)

    def test_probability_by_sampling(self):
        rng = np.random.default_rng(0)
        noise = 0.4 * rng.standard_normal((200_000, 5))
        noise[:, 0] += 0.6
        inside = np.linalg.norm(noise, axis=1) < 1
        p = hidden_cost.ball_class_probability(0.6, radius=1.0, sigma=0.4, dim=5)
        spread = np.sqrt(p * (1 - p) / len(noise))
        self.assertLess(abs(inside.mean() - p), 4 * spread)

    def test_center_and_far_away(self):
        at = functools.partial(
            hidden_cost.ball_class_probability, radius=1.0, sigma=0.1, dim=7
        )
        self.assertAlmostEqual(at(0.0), stats.chi2.cdf(100.0, 7), delta=1e-14)
        self.assertLess(at(3.0), 1e-80)

    @parameterized.product(dim=(1, 2, 3, 10, 784), threshold=(0.1, 1 / 3, 0.5, 0.9))
    def test_smoothed_radius(self, dim, threshold):
        vanishing = hidden_cost.ball_vanishing_sigma(2.0, dim=dim, threshold=threshold)
        self.assertAlmostEqual(
            vanishing, 2 / np.sqrt(stats.chi2.ppf(threshold, dim)), delta=1e-10
        )
        for share in (0.1, 0.6, 0.95):
            sigma = share * vanishing
            actual = hidden_cost.smoothed_ball_radius(
                2.0, sigma=sigma, dim=dim, threshold=threshold
            )

            def excess(r, sigma=sigma):
                p = stats.ncx2.cdf((2 / sigma) ** 2, dim, (r / sigma) ** 2)
                return p - threshold

            expected = optimize.brentq(excess, 1e-9, 8.0 + 8 * sigma, xtol=1e-13)
            self.assertAlmostEqual(actual, expected, delta=1e-9)

    def test_extreme_thresholds(self):
        """Residuals where the radius has to be found in a tail, at all noise levels."""
        for threshold in (1e-9, 1e-4, 1 - 1e-4, 1 - 1e-9):
            dim = np.repeat([1.0, 2.0, 10.0, 784.0], 5)
            share = np.tile([0.01, 0.2, 0.5, 0.9, 0.999], 4)
            sigma = share * _VANISHING(1.0, dim=dim, threshold=threshold)
            r = _RADIUS(1.0, sigma=sigma, dim=dim, threshold=threshold)
            p = _PROBABILITY(r, radius=1.0, sigma=sigma, dim=dim)
            error = np.abs(p - threshold) / min(threshold, 1 - threshold)
            self.assertLess(error.max(), 1e-6)

    def test_a_tie_with_equal_sectors(self):
        """Class 0 is the disc, classes 1 and 2 are the halves of its outside."""
        draws = np.random.default_rng(0).standard_normal((400_000, 2))
        vanishing = hidden_cost.ball_vanishing_sigma(1.0, dim=2, threshold=1 / 3)
        shares = {}
        for factor in (0.95, 1.0, 1.05):
            noise = factor * vanishing * draws
            label = np.where(noise[:, 1] > 0, 1, 2)
            label[np.linalg.norm(noise, axis=1) < 1] = 0
            shares[factor] = np.bincount(label) / len(label)
        spread = np.sqrt(2 / 9 / len(draws))
        np.testing.assert_allclose(shares[1.0], 1 / 3, rtol=0, atol=4 * spread)
        self.assertEqual(shares[0.95].argmax(), 0)
        self.assertEqual(shares[1.05].argmin(), 0)
        self.assertAlmostEqual(shares[1.05][0], 0.3084, delta=4 * spread + 5e-4)


class LawTest(parameterized.TestCase):
    def test_bounds_of_the_radius(self):
        dim, share = np.meshgrid(
            [1, 1.5, 2, 7, 100, 150528],
            np.concatenate([np.linspace(0.01, 0.99, 6), 1 - 0.1 ** np.arange(3, 9)]),
        )
        sigma = share * _VANISHING(1.0, dim=dim)
        r = _RADIUS(1.0, sigma=sigma, dim=dim)
        lower, upper = _BOUNDS(1.0, sigma=sigma, dim=dim)
        np.testing.assert_array_less(lower, r + 1e-15)
        np.testing.assert_array_less(r, upper + 1e-15)
        self.assertTrue((np.diff(r, axis=0) < 1e-15).all())  # noise shrinks it
        large = dim >= 100
        rule = np.sqrt(1 - share**2)
        np.testing.assert_allclose(r[large], rule[large], atol=0.004)

    @pytest.mark.newest
    def test_bounds_by_hand(self):
        bounds = hidden_cost.ball_radius_bounds(13.0, sigma=3.0, dim=17)
        np.testing.assert_allclose(bounds, (4.0, 5.0), rtol=1e-15)

    def test_bounds_beyond_the_vanishing_point_are_zero(self):
        bounds = _BOUNDS(1.0, sigma=[0.4, 2.0], dim=10)
        np.testing.assert_array_equal(bounds[0], 0.0)
        np.testing.assert_array_equal(bounds[1], 0.0)

    def test_bounds_of_the_vanishing_sigma(self):
        dim = np.concatenate([np.arange(1.0, 100), [784, 3072, 150528]])
        sigma = _VANISHING(1.0, dim=dim)
        left, right = dim**-0.5, (dim - 2 / 3) ** -0.5
        np.testing.assert_array_less(left, sigma)
        np.testing.assert_array_less(sigma, right)
        to_right = (right - sigma) / (right - left)
        self.assertTrue((np.diff(to_right) < 0).all())
        self.assertLess(to_right[-1], 1e-5)
        falling = _VANISHING(1.0, dim=10, threshold=[0.1, 0.5, 0.9])
        self.assertTrue((np.diff(falling) < 0).all())

    @parameterized.parameters(0.01, 1000.0)
    def test_scaling(self, k):
        dim = np.array([1, 2, 10, 784])
        sigma = 0.6 * _VANISHING(1.0, dim=dim)
        same = functools.partial(np.testing.assert_allclose, rtol=1e-12)
        for level in (0.5, 0.2):
            same(
                _RADIUS(k, sigma=k * sigma, dim=dim, threshold=level),
                k * _RADIUS(1.0, sigma=sigma, dim=dim, threshold=level),
            )
            same(
                _VANISHING(k, dim=dim, threshold=level),
                k * _VANISHING(1.0, dim=dim, threshold=level),
            )
        same(
            _PROBABILITY(0.7 * k, radius=k, sigma=k * sigma, dim=dim),
            _PROBABILITY(0.7, radius=1.0, sigma=sigma, dim=dim),
        )
        best = functools.partial(
            hidden_cost.best_center_certificate, dim=10, num_samples=_MANY, alpha=0.01
        )
        same(best(k), k * np.array(best(1.0)))
        bounds = functools.partial(_BOUNDS, dim=dim)
        same(bounds(k, sigma=k * sigma), k * np.array(bounds(1.0, sigma=sigma)))
        shift = hidden_cost.curvature_shift
        same(shift([1 / k, 2 / k], sigma=k * 0.1), k * shift([1.0, 2.0], sigma=0.1))

    @parameterized.parameters(1, 2, 10, 784)
    def test_scores_are_1_lipschitz(self, dim):
        sigma = 0.8 * hidden_cost.ball_vanishing_sigma(1.0, dim=dim)
        distance = np.linspace(0, 1.5, 51)
        p = _PROBABILITY(distance, radius=1.0, sigma=sigma, dim=dim)
        is_resolved = (p > 1e-300) & (p < 1 - 1e-8)
        slope = np.diff(sigma * stats.norm.ppf(p[is_resolved])) / 0.03
        self.assertGreater(len(slope), 15)
        self.assertBetween(np.abs(slope).max(), 0.3, 1 + 1e-6)


def _inside_ellipse(x, y, sigma, *, semi_axes):
    """P(noise at (x, y) ends in the ellipse), by quadrature over its angle."""
    a, b = semi_axes

    def strip(angle):
        half = b * np.cos(angle)
        mass = special.ndtr((half - y) / sigma) - special.ndtr((-half - y) / sigma)
        z = (a * np.sin(angle) - x) / sigma
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / sigma
        return mass * density * a * np.cos(angle)

    near = np.arcsin(np.clip(x / a, -1, 1))
    ends = np.unique(
        np.clip(
            [-np.pi / 2, near - 0.5, near, near + 0.5, np.pi / 2], -np.pi / 2, np.pi / 2
        )
    )
    parts = itertools.pairwise(ends)
    options = dict(epsabs=1e-12, epsrel=1e-12, limit=200)
    return sum(integrate.quad(strip, *part, **options)[0] for part in parts)


class CurvatureTest(parameterized.TestCase):
    def test_ball(self):
        shift = 1 - hidden_cost.smoothed_ball_radius(1.0, sigma=0.1, dim=3)
        self.assertAlmostEqual(shift, 0.0100676, delta=5e-8)
        for dim in (2, 3, 10):
            for sigma in (0.02, 0.01):
                exact = 1 - hidden_cost.smoothed_ball_radius(1.0, sigma=sigma, dim=dim)
                law = hidden_cost.curvature_shift(np.ones(dim - 1), sigma=sigma)
                self.assertLess(abs(exact - law), dim**2 * sigma**4)

    def test_ellipse(self):
        def excess_on_long_axis(depth):
            return _inside_ellipse(2 - depth, 0.0, 0.1, semi_axes=(2, 1)) - 0.5

        def excess_on_short_axis(depth):
            return _inside_ellipse(0.0, 1 - depth, 0.1, semi_axes=(2, 1)) - 0.5

        long = optimize.brentq(excess_on_long_axis, 0, 0.1, xtol=1e-8)
        short = optimize.brentq(excess_on_short_axis, 0, 0.1, xtol=1e-8)
        self.assertAlmostEqual(long, 0.009946, delta=1e-6)
        self.assertAlmostEqual(short, 0.001252, delta=1e-6)
        law = hidden_cost.curvature_shift([[2.0], [0.25]], sigma=0.1)
        np.testing.assert_allclose(law, [0.01, 0.00125], rtol=1e-14)
        np.testing.assert_allclose([long, short], law, atol=1e-4)

    def test_saddle_and_batch(self):
        saddle = hidden_cost.curvature_shift([1.0, -3.0], sigma=0.1)
        self.assertAlmostEqual(saddle, -0.01)
        batch = hidden_cost.curvature_shift(
            np.ones((4, 3, 2)), sigma=np.full((4, 3), 0.2)
        )
        np.testing.assert_allclose(batch, np.full((4, 3), 0.04))


if __name__ == "__main__":
    absltest.main()
