"""Quantiles and noncentralities at every probability a float64 holds."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import special

_LOW = np.array([2.3e-308, 1e-250, 1e-150, 1e-112, 1e-60, 1e-9, 0.3])
_P = np.concatenate([_LOW, [0.5, 0.7, 1 - 1e-9, 1 - 1.2e-16]])


def _tails(x, df, nc):
    """Both tails and x times the density, for df = 1 and 3 or nc = 0."""
    x, nc = mpmath.mpf(float(x)), mpmath.mpf(float(nc))
    if nc == 0:
        a, y = mpmath.mpf(df) / 2, x / 2
        slope = y**a * mpmath.exp(-y) / mpmath.gamma(a)
        if df in (1, 3):
            lower, upper = mpmath.erf(mpmath.sqrt(y)), mpmath.erfc(mpmath.sqrt(y))
            step = 0 if df == 1 else 2 * slope / x  # F(1) = F(3) + 2 f(3)
            return lower - step, upper + step, slope
        lower = mpmath.gammainc(a, 0, y, regularized=True)
        return lower, 1 - lower, slope
    root, shift = mpmath.sqrt(x), mpmath.sqrt(nc)
    near, far = root - shift, root + shift  # |z + shift| <= root
    lower = mpmath.ncdf(near) - mpmath.ncdf(-far)
    upper = mpmath.ncdf(-near) + mpmath.ncdf(-far)
    bells = mpmath.npdf(near), mpmath.npdf(far)
    if df == 1:
        return lower, upper, root * (bells[0] + bells[1]) / 2
    step = (bells[0] - bells[1]) / shift  # 2 f(x; 3, nc)
    return lower - step, upper + step, x * step / 2


def _digits(p):
    """So many that 32 of a tail as small as p are left by its subtractions."""
    return mpmath.workdps(32 - int(np.log10(min(p, 1 - p))))


def _relative_error(x, p, df, nc):
    """Of a quantile: the error of its tail over the slope in log x."""
    with _digits(p):
        lower, upper, slope = _tails(x, df, nc)
        p = mpmath.mpf(float(p))
        return float((lower - p if p < 0.5 else 1 - p - upper) / slope)


class QuantileTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 3, 10, 784, 3072)
    def test_central(self, df):
        for p, x in zip(_P, special.chi2_ppf(_P, df), strict=True):
            if df > 1 or p > 1e-153:
                self.assertLess(abs(_relative_error(x, p, df, 0.0)), 1e-11)
            else:
                self.assertEqual(x, 0)  # the quantile underflows: 1.6 p^2

    @parameterized.parameters(1, 3)
    def test_noncentral(self, df):
        """From nearly central to a noncentrality that hides the other dimensions."""
        for nc in (1e-8, 1.0, 1e8, 1e16):
            own = special.ncx2_ppf(_P, df, nc)
            for p, x in zip(_P, own, strict=True):
                if x > 0:
                    self.assertLess(abs(_relative_error(x, p, df, nc)), 1e-11)
            np.testing.assert_array_equal(
                own == 0, (df == 1) & (_P < 1e-153) & (nc < 9)
            )
            self.assertTrue(np.all(np.diff(own) >= 0))

    def test_below_normal_numbers_and_bad_neighbours(self):
        p = np.resize([1e-200, 5e-324, np.nan, -1e-300, 1.0, 0.5], _P.size)
        own = special.chi2_ppf(p, 4)
        expected = stats.chi2.ppf(p, 4)
        expected[p == 5e-324] = 0  # subnormal numbers are 0 for XLA
        np.testing.assert_allclose(own, expected, rtol=1e-12)

    @pytest.mark.newest
    def test_float32(self):
        p = np.array([1.2e-38, 1e-30, 1e-9, 0.4, 0.5, 0.999999], np.float32)
        found = jax.jit(jax.vmap(lambda p: special.chi2_ppf(p, 3.0)))(p)
        self.assertEqual(found.dtype, jnp.float32)
        np.testing.assert_allclose(found, stats.chi2.ppf(p.astype(float), 3), rtol=2e-5)

    def test_derivative_far_out(self):
        with jax.enable_x64(True):
            slope = float(jax.grad(special.chi2_ppf)(1e-200, 3.0))
        x = stats.chi2.ppf(1e-200, 3)  # F is a multiple of x^(3/2) there
        np.testing.assert_allclose(slope, x / (1.5 * 1e-200), rtol=1e-10)


class NoncentralityTest(parameterized.TestCase):
    @parameterized.parameters(1, 3)
    def test_against_mpmath(self, df):
        p, x = (v.ravel() for v in np.meshgrid(_P[::2], [1e-3, 1.0, 50.0, 1e5]))
        own = special.ncx2_noncentrality(p, x, df)
        reached = stats.chi2.cdf(x, df) >= p
        np.testing.assert_array_equal(~np.isnan(own), reached)
        self.assertBetween(np.mean(reached), 0.4, 0.8)
        for q, v, nc in zip(p, x, own, strict=True):
            if nc > 0:
                with _digits(q):
                    lower, upper, _ = _tails(v, df, nc)
                    wanted = mpmath.mpf(float(q))
                    tails = (lower, wanted) if q < 0.5 else (upper, 1 - wanted)
                    error = float(mpmath.log(tails[0] / tails[1]))
                    self.assertLess(abs(error), 1e-10 * max(1, -np.log(q)))


if __name__ == "__main__":
    absltest.main()
