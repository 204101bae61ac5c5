"""The l2 certificate against the closed form of Levine et al. in many digits."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import special

from robustjax.smoothing.radii.dual import DEVICE, HOST
from robustjax.smoothing.radii.l2 import worst_interval

_P = (0.500001, 0.55, 0.7, 0.9, 0.99, 0.9999, 1 - 1e-9)


def _quantile(p):
    return mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)


def _density(x):
    return mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)


def _halve(is_low, low, high, steps=150):
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if is_low(middle) else (low, middle)
    return low


def _closed_form(p: float, length: float) -> mpmath.mpf:
    """R with Phi(ndtri(p + a) - R) - Phi(ndtri(a) - R) = 1/2, where a is solved from
    phi(ndtri(a)) - phi(ndtri(a + p)) = -length."""
    p, length = mpmath.mpf(p), mpmath.mpf(length)

    def moment(a):
        return _density(_quantile(a)) - _density(_quantile(a + p))

    a = _halve(lambda a: moment(a) < -length, mpmath.mpf(10) ** -60, (1 - p) / 2)
    low, high = _quantile(a), _quantile(a + p)
    return _halve(
        lambda r: mpmath.ncdf(high - r) - mpmath.ncdf(low - r) > 0.5,
        (low + high) / 2,
        high,
    )


def _longest(p):
    return np.exp(-0.5 * special.ndtri(p) ** 2) / np.sqrt(2 * np.pi)


def _intervals(p, share):
    p = np.asarray(p, np.float64)
    q = 1 - p
    return worst_interval(q, -share * _longest(p), HOST)


class CollinearTest(parameterized.TestCase):
    @pytest.mark.newest
    @pytest.mark.slow
    def test_radius_matches_the_closed_form(self):
        shares = np.array([0.001, 0.1, 0.5, 0.9, 0.98, 0.999999])
        for first in range(2):  # each share at two p, each p at about two shares
            p = np.array(_P)[(np.arange(6) + 4 * first) % len(_P)]
            radii = _intervals(p, shares).radius
            for row in zip(p, shares, radii, strict=True):
                with self.subTest(row), mpmath.workdps(40):
                    exact = _closed_form(row[0], row[1] * _longest(row[0]))
                    self.assertLess(abs(row[2] - exact), 1e-10)

    @parameterized.parameters(
        (0.6, 0.1, 0.5025196580),
        (0.8, 0.2, 0.9289076639),
        (0.9, 0.1, 1.4048700258),
        (0.99, 0.02, 2.3727893324),
        (0.6, 0.0, 0.6805435251),
        (0.9, 0.0, 1.6435910054),
        (0.99, 0.0, 2.5758289800),
    )
    def test_noted_radii(self, p, length, expected):
        actual = worst_interval(np.array([1 - p]), np.array([-length]), HOST).radius
        np.testing.assert_allclose(actual, expected, atol=1e-10)

    def test_half_space_and_no_gradient(self):
        p = np.array(_P)
        half_space = _intervals(p, 1.0).radius
        np.testing.assert_allclose(half_space, special.ndtri(p), rtol=0, atol=1e-12)
        flat = _intervals(p, 0.0)
        np.testing.assert_allclose(flat.high, -special.ndtri((1 - p) / 2), atol=1e-12)
        np.testing.assert_allclose(flat.low, -flat.high, atol=1e-12)

    def test_interval_has_the_moments(self):
        rng = np.random.default_rng(0)
        p, share = rng.uniform(0.51, 0.9999, 2000), rng.uniform(0, 1, 2000)
        low, high, radius = _intervals(p, share)
        np.testing.assert_allclose(
            special.ndtr(high) - special.ndtr(low), p, atol=1e-14
        )
        bell = [np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) for z in (low, high)]
        np.testing.assert_allclose(bell[0] - bell[1], -share * _longest(p), atol=1e-14)
        kept = special.ndtr(high - radius) - special.ndtr(low - radius)
        np.testing.assert_allclose(kept, 0.5, atol=1e-14)
        self.assertTrue(np.all(kept >= 0.5 - 1e-15))

    def test_device_agrees_with_host(self):
        p, share = np.repeat(_P, 5), np.tile([0.0, 0.2, 0.7, 0.99, 1.0], len(_P))
        q, parallel = 1 - p, -share * _longest(p)
        host = worst_interval(q, parallel, HOST)
        with jax.enable_x64(True):
            device = jax.jit(lambda q, m: worst_interval(q, m, DEVICE))(
                jnp.asarray(q), jnp.asarray(parallel)
            )
            device = np.asarray(device.radius)
        np.testing.assert_allclose(device, host.radius, rtol=0, atol=1e-8)


if __name__ == "__main__":
    absltest.main()
