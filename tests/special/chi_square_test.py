"""The noncentral chi-square distribution against SciPy and mpmath."""

import time

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import special

_NONCENTRALITIES = (0.0, 1e-6, 0.01, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)
_DIMENSIONS = (1, 2, 3, 5, 9, 10, 100, 784, 3072, 12288, 150528)


def _grid(df):
    """x within six standard deviations of the mean, and nc.

    The mean stands for x below zero: every new shape would be compiled.
    """
    nc = np.repeat(_NONCENTRALITIES, 49)
    deviations = np.tile(np.linspace(-6, 6, 49), len(_NONCENTRALITIES))
    x = df + nc + deviations * np.sqrt(2 * (df + 2 * nc))
    return np.where(x > 0, x, df + nc), nc


def _scipy(name, x, df, nc):
    central = getattr(stats.chi2, name)(x, df)
    return np.where(nc > 0, getattr(stats.ncx2, name)(x, df, nc), central)


def _mpmath_cdf(x, df, nc):
    """The Poisson mixture of central distributions, with 60 digits.

    P(a + 1, y) = P(a, y) - y^a exp(-y) / Gamma(a + 1) of the regularized incomplete
    gamma function takes one central distribution to the next. It loses an absolute
    1e-60, while the mixture is above exp(-nc / 2) P(df / 2, x / 2).
    """
    with mpmath.workdps(60):
        x, df, nc = (mpmath.mpf(float(v)) for v in (x, df, nc))
        weight, total, a, y = mpmath.exp(-nc / 2), mpmath.mpf(0), df / 2, x / 2
        central = mpmath.gammainc(a, 0, y, regularized=True)
        step = mpmath.exp(a * mpmath.log(y) - y - mpmath.loggamma(a + 1))
        for k in range(300):
            total += weight * central
            central -= step
            step *= y / (a + k + 1)
            weight *= nc / 2 / (k + 1)
        return total


# Element by element, since every new shape would be compiled.
_cdf = np.vectorize(special.ncx2_cdf, otypes=[np.float64])


_mapped_cdf = jax.jit(jax.vmap(special.ncx2_cdf))


@jax.jit
@jax.vmap
def _slopes(x, df, nc):
    """Derivatives of the lower tail in x and nc, and of the upper one in x."""
    lower = jax.grad(special.ncx2_cdf, argnums=(0, 2))(x, df, nc)
    return *lower, jax.grad(special.ncx2_sf)(x, df, nc)


class AccuracyTest(parameterized.TestCase):
    @parameterized.parameters(*_DIMENSIONS)
    def test_float64(self, df):
        x, nc = _grid(df)
        for function, name in ((special.ncx2_cdf, "cdf"), (special.ncx2_sf, "sf")):
            expected = _scipy(name, x, df, nc)
            tolerance = 1e-11 if df >= 10 else 1e-10
            np.testing.assert_allclose(
                function(x, df, nc), expected, rtol=0, atol=tolerance
            )
        density = special.ncx2_pdf(x, df, nc)
        np.testing.assert_allclose(density, _scipy("pdf", x, df, nc), rtol=1e-9)
        np.testing.assert_allclose(np.exp(special.ncx2_logpdf(x, df, nc)), density)

    @parameterized.parameters(1, 2, 3, 10, 784, 3072)
    def test_against_mpmath(self, df):
        for nc in (0.0, 0.01, 3.0, 100.0):
            spread = np.sqrt(2 * (df + 2 * nc))
            for x in (0.2 * df, df + nc - 3 * spread, df + nc, df + nc + 4 * spread):
                if x <= 0:
                    continue
                exact = _mpmath_cdf(x, df, nc)
                own = special.ncx2_cdf(x, df, nc), special.ncx2_sf(x, df, nc)
                self.assertLess(abs(own[0] - float(exact)), 1e-12)
                self.assertLess(abs(own[1] - float(1 - exact)), 1e-12)
                smaller = min(exact, 1 - exact)
                if smaller > 0:  # relative, and in the log, deep in the tail
                    log_own = min(
                        special.ncx2_logcdf(x, df, nc), special.ncx2_logsf(x, df, nc)
                    )
                    self.assertLess(abs(log_own - float(mpmath.log(smaller))), 1e-10)

    @parameterized.parameters(*_DIMENSIONS)
    def test_float32(self, df):
        x, nc = (jnp.asarray(v, jnp.float32) for v in _grid(df))
        own = _mapped_cdf(x, jnp.full_like(x, df), nc)
        self.assertEqual(own.dtype, jnp.float32)
        expected = _scipy("cdf", *(np.asarray(v, np.float64) for v in (x, df, nc)))
        tolerance = 5e-6 if df > 784 else 6e-7
        np.testing.assert_allclose(own, expected, rtol=0, atol=tolerance)

    def test_between_integers(self):
        df, nc, x = 1 + np.linspace(0, 3, 31), 2.0, 1.7
        expected = stats.ncx2.cdf(x, df, nc)
        np.testing.assert_allclose(_cdf(x, df, nc), expected, atol=1e-12)

    @pytest.mark.newest
    def test_known_excess(self):
        """With x and nc near 1e12 only the given difference tells where x is."""
        df, nc = 100.0, 1e12
        excess = 2e6  # a standard deviation
        own = special.ncx2_cdf(nc + df + excess, df, nc, excess=excess + 0.25)
        moved = special.ncx2_cdf(nc + df + excess, df, nc, excess=excess - 0.25)
        density = stats.norm.pdf(1.0) / 2e6
        self.assertAlmostEqual((own - moved) / (0.5 * density), 1.0, delta=1e-3)


class DerivativeTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(1.0, 2.0, 3.0, 10.0, 784.0, 150528.0)
    def test_gradients(self, df):
        x, nc = _grid(df)
        keep = (nc > 0.005) & (nc < 1e5)
        x, nc = x[keep], nc[keep]
        by_x, by_nc, upper_by_x = _slopes(x, np.full_like(x, df), nc)
        density = stats.ncx2.pdf(x, df, nc)
        np.testing.assert_allclose(by_x, density, atol=1e-10)
        np.testing.assert_allclose(by_nc, -stats.ncx2.pdf(x, df + 2, nc), atol=1e-10)
        np.testing.assert_allclose(upper_by_x, -density, atol=1e-10)

    @parameterized.parameters(1.0, 300.0)
    def test_second_derivatives_and_those_of_the_log(self, df):
        x, nc, step = df + 3.3, 2.5, 1e-4

        def log_tail(x, nc):
            return special.ncx2_logsf(x, jnp.asarray(df), nc)

        def log_density(x, nc):
            return special.ncx2_logpdf(x, jnp.asarray(df), nc)

        for function in (log_tail, log_density):
            for argnum in (0, 1):
                first = jax.grad(function, argnums=argnum)
                up = np.array([x, nc]) + step * np.eye(2)[argnum]
                down = np.array([x, nc]) - step * np.eye(2)[argnum]
                difference = (function(*up) - function(*down)) / (2 * step)
                actual = first(jnp.asarray(x), jnp.asarray(nc))
                np.testing.assert_allclose(actual, difference, rtol=1e-6)
                second = jax.grad(first, argnums=argnum)(
                    jnp.asarray(x), jnp.asarray(nc)
                )
                difference = (first(*jnp.asarray(up)) - first(*jnp.asarray(down))) / (
                    2 * step
                )
                np.testing.assert_allclose(second, difference, rtol=1e-5, atol=1e-9)

    def test_quantile(self):
        p, df, nc = jnp.asarray(0.3), jnp.asarray(5.0), jnp.asarray(2.0)
        x = special.ncx2_ppf(p, df, nc)
        by_p, by_nc = jax.grad(special.ncx2_ppf, argnums=(0, 2))(p, df, nc)
        density = stats.ncx2.pdf(x, 5, 2.0)
        self.assertAlmostEqual(by_p, 1 / density, delta=1e-9)
        self.assertAlmostEqual(by_nc, stats.ncx2.pdf(x, 7, 2.0) / density, delta=1e-9)


class QuantileTest(parameterized.TestCase):
    @parameterized.parameters(*_DIMENSIONS)
    def test_against_scipy(self, df):
        p = np.array([1e-12, 1e-4, 0.1, 0.5, 0.9, 0.9999, 1 - 1e-9])
        for nc in (0.0, 0.5, 50.0, 5e4):
            known = stats.chi2(df) if nc == 0 else stats.ncx2(df, nc)
            expected = np.where(p < 0.5, known.ppf(p), known.isf(1 - p))
            np.testing.assert_allclose(special.ncx2_ppf(p, df, nc), expected, 1e-11)
        np.testing.assert_allclose(
            special.chi2_ppf(p, df), stats.chi2.ppf(p, df), 1e-11
        )

    def test_float32(self):
        p, df = np.meshgrid([0.01, 0.5, 0.99], [1.0, 10.0, 3072.0], indexing="ij")
        nc = np.full_like(p, 10.0)
        nc[:, 0] = 0.0
        nc[0, 1] = np.nan  # a bad value does not stop the others
        own = jax.jit(special.ncx2_ppf)(
            *(jnp.asarray(v, jnp.float32) for v in (p, df, nc))
        )
        self.assertEqual(own.dtype, jnp.float32)
        expected = _scipy("ppf", p, df, nc)
        expected[0, 1] = np.nan
        np.testing.assert_allclose(own, expected, rtol=1e-5)

    def test_one_bad_quantile_does_not_stop_the_others(self):
        p = [np.nan, 0.5, 1e-12, -1.0, 0.9, 2.0, 0.1]
        own = special.ncx2_ppf(p, 3, 0.0)
        np.testing.assert_allclose(own, stats.chi2.ppf(p, 3), rtol=1e-10)


class NoncentralityTest(parameterized.TestCase):
    def test_against_scipy(self):
        p, x, df = (
            v.ravel()
            for v in np.meshgrid(
                [1e-6, 0.1, 0.5, 0.9, 1 - 1e-6], [0.5, 5.0, 60.0, 1e3], [1, 2, 7.5, 40]
            )
        )
        own = np.vectorize(special.ncx2_noncentrality, otypes=[float])(p, x, df)
        is_reached = stats.chi2.cdf(x, df) > p
        np.testing.assert_array_equal(np.isnan(own), ~is_reached)
        self.assertBetween(is_reached.mean(), 0.3, 0.9)
        expected = scipy.special.chndtrinc(x, df, p)[is_reached]
        np.testing.assert_allclose(own[is_reached], expected, rtol=1e-9, atol=1e-9)

    @parameterized.parameters(784.0, 3072.0, 150528.0)
    def test_high_dimensions_by_inversion(self, df):
        for p in (1e-6, 0.5, 1 - 1e-6):
            for nc in (0.01, 30.0, 1e4):
                x = special.ncx2_ppf(p, df, nc)
                own = special.ncx2_noncentrality(p, x, df)
                self.assertAlmostEqual(own, nc, delta=1e-8 * (df + nc) ** 0.5)

    def test_unreachable(self):
        most = stats.chi2.cdf(10.0, 3)
        for p in (most + 1e-9, 0.9999, 0.0, -0.1, 1.1, np.nan):
            self.assertTrue(np.isnan(special.ncx2_noncentrality(p, 10.0, 3)))
        self.assertTrue(np.isnan(special.ncx2_noncentrality(0.5, -1.0, 3)))
        self.assertBetween(special.ncx2_noncentrality(most - 1e-9, 10.0, 3), 0, 1e-6)
        with self.assertRaisesRegex(ValueError, "Expected df "):
            special.ncx2_noncentrality(0.5, 10.0, 0.5)

    @parameterized.parameters((1.0, 0.1), (2.0, 0.5), (10.0, 0.1), (784.0, 0.5))
    def test_gradients(self, df, p):
        x = df + 4 * np.sqrt(2 * df)
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            slopes = jax.grad(special.ncx2_noncentrality, argnums=(0, 1))(p, x, df)
            by_p, by_x = (float(slope) for slope in slopes)
        nc = scipy.special.chndtrinc(x, df, p)
        raised = stats.ncx2.pdf(x, df + 2, nc)
        self.assertAlmostEqual(by_p * raised, -1.0, delta=1e-9)
        self.assertAlmostEqual(by_x * raised / stats.ncx2.pdf(x, df, nc), 1, delta=1e-9)

    def test_float32_under_jit_and_vmap(self):
        x = np.array([2.0, 12.0, 80.0, np.nan, 500.0])
        df = np.array([1.0, 9.0, 100.0, 3.0, 300.0])
        function = jax.jit(
            jax.vmap(lambda x, df: special.ncx2_noncentrality(0.4, x, df))
        )
        own = function(jnp.asarray(x, jnp.float32), jnp.asarray(df, jnp.float32))
        self.assertEqual(own.dtype, jnp.float32)
        expected = scipy.special.chndtrinc(x, df, 0.4)
        expected[[2, 3]] = np.nan  # P(X <= 80) is .07 at most
        np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-5)


class ShapeTest(parameterized.TestCase):
    def test_edges(self):
        x = np.array([-1.0, 0.0, np.inf, np.nan])
        lower = [special.ncx2_cdf(v, 3, 1.0) for v in x]
        np.testing.assert_array_equal(lower, [0, 0, 1, np.nan])
        upper = [special.ncx2_sf(v, 3, 1.0) for v in x]
        np.testing.assert_array_equal(upper, [1, 1, 0, np.nan])
        p = np.array([0.0, 1.0, -0.1, 1.1, np.nan])
        expected = [0, np.inf, np.nan, np.nan, np.nan]
        own = [special.ncx2_ppf(v, 3, 1.0) for v in p]
        np.testing.assert_array_equal(own, expected)
        at_zero = [special.ncx2_pdf(0.0, df, 1.0) for df in (1, 2, 3)]
        np.testing.assert_allclose(at_zero, [np.inf, 0.5 * np.exp(-0.5), 0.0])

    @parameterized.parameters(0.0, -1.0)
    def test_derivatives_at_and_below_zero_are_taken_as_zero(self, x):
        with jax.enable_x64(True):
            for function in (special.ncx2_cdf, special.ncx2_sf):
                for df in (1.0, 2.0, 3.0):
                    slopes = jax.grad(function, argnums=(0, 2))(x, df, 1.0)
                    self.assertEqual(slopes, (0.0, 0.0))

    def test_numbers_are_float64_and_arrays_keep_their_dtype(self):
        self.assertIsInstance(special.ncx2_cdf(3.0, 3, 1.0), np.float64)
        several = special.ncx2_cdf(np.float32(3), 3, _grid(3)[1].tolist())
        self.assertEqual((several.shape, several.dtype), ((490,), np.float64))
        with jax.enable_x64(True):
            array = special.ncx2_cdf(jnp.asarray(3.0), 3, 1.0)
            self.assertIsInstance(array, jax.Array)
            single = jax.eval_shape(
                lambda x: special.ncx2_cdf(x, 3, 1.0), jnp.asarray(3, jnp.float32)
            )
            self.assertEqual(single.dtype, jnp.float32)

    def test_numbers_inside_of_jit(self):
        inside = jax.jit(lambda x: x * special.chi2_ppf(0.5, 3))(jnp.float32(2))
        np.testing.assert_allclose(inside, 2 * stats.chi2.ppf(0.5, 3), rtol=1e-6)

    @parameterized.parameters((dict(df=0.5, nc=1.0), "df"), (dict(df=3, nc=-1.0), "nc"))
    def test_refuses(self, arguments, text):
        for function in (special.ncx2_cdf, special.ncx2_ppf, special.ncx2_logpdf):
            with self.assertRaisesRegex(ValueError, f"Expected {text}"):
                function(0.5, **arguments)


@pytest.mark.slow
class SpeedTest(parameterized.TestCase):
    @parameterized.parameters((10.0, 1.0), (1.0, 3.0))
    def test_ten_thousand(self, least, most_seconds):
        rng = np.random.default_rng(0)
        df = rng.uniform(least, 3 * least, 10_000)
        nc = 10 ** rng.uniform(-2, 4, df.size)
        special.ncx2_cdf(df + nc, df, nc)
        started = time.perf_counter()
        special.ncx2_cdf(df + nc, df, nc)
        self.assertLess(time.perf_counter() - started, most_seconds)


if __name__ == "__main__":
    absltest.main()
