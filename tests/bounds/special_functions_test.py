"""Bounds of special functions, and of some functions of two numbers, against SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from absl.testing import absltest, parameterized
from jax import lax
from jax.scipy import special

from robustjax import bounds

_NUM_BOXES, _NUM_POINTS = 500, 21
_KNOTS = np.array([-1.0, 0.0, 0.5, 2.0, 3.0])
_HEIGHTS = np.array([0.0, 2.0, -1.0, 3.0, 3.0])
_REALS, _POSITIVE, _SHARES = (-6.0, 6.0), (0.05, 9.0), (0.0, 1.0)


def _gamma(a, x):
    return np.where((a > 0) & (x >= 0), scipy.special.gammainc(a, x), np.nan)


# Name: function of the arguments, oracle, range of each argument.
_CASES = {
    "bessel_i0e": (lax.bessel_i0e, scipy.special.i0e, _REALS),
    "bessel_i1e": (lax.bessel_i1e, scipy.special.i1e, _REALS),
    "i0": (jnp.i0, scipy.special.i0, _REALS),
    "trigamma": (lambda x: special.polygamma(1, x),
                 lambda x: scipy.special.polygamma(1, x), _POSITIVE),
    "tetragamma": (lambda x: special.polygamma(2, x),
                   lambda x: scipy.special.polygamma(2, x), _POSITIVE),
    "zeta": (special.zeta, scipy.special.zeta, (1.2, 6.0), _POSITIVE),
    "gammainc": (special.gammainc, _gamma, _POSITIVE, _POSITIVE),
    "gammaincc": (special.gammaincc, scipy.special.gammaincc, _POSITIVE, _POSITIVE),
    "betainc": (special.betainc, scipy.special.betainc, _POSITIVE, _POSITIVE, _SHARES),
    "expi above": (special.expi, scipy.special.expi, _POSITIVE),
    "expi below": (special.expi, scipy.special.expi, (-9.0, -0.05)),
    "exp1": (special.exp1, scipy.special.exp1, _POSITIVE),
    "expn": (lambda x: special.expn(3, x), lambda x: scipy.special.expn(3, x),
             _POSITIVE),
    "gamma": (special.gamma, scipy.special.gamma, _POSITIVE),
    "hypot": (jnp.hypot, np.hypot, _REALS, _REALS),
    "logaddexp": (jnp.logaddexp, np.logaddexp, _REALS, _REALS),
    "interp": (lambda x: jnp.interp(x, _KNOTS, _HEIGHTS),
               lambda x: np.interp(x, _KNOTS, _HEIGHTS), _REALS),
    "searchsorted": (lambda x: jnp.searchsorted(jnp.asarray(_KNOTS), x).astype(x.dtype),
                     lambda x: 1.0 * np.searchsorted(_KNOTS, x), _REALS),
    "copysign": (lambda x: jnp.copysign(2.0, x), lambda x: np.copysign(2.0, x), _REALS),
    "fmod": (jnp.fmod, np.fmod, _REALS, _POSITIVE),
    "mod": (jnp.mod, np.mod, _REALS, (-9.0, -0.05)),
}  # fmt: skip
if hasattr(special, "erfcinv"):  # JAX 0.12
    _CASES |= {
        "erfcx": (special.erfcx, scipy.special.erfcx, _REALS),
        "ndtri": (special.ndtri, scipy.special.ndtri, (1e-3, 1 - 1e-3)),
        "erfcinv": (special.erfcinv, scipy.special.erfcinv, (1e-3, 2 - 1e-3)),
    }
_QUICK = ("bessel_i1e", "trigamma", "hypot", "interp", "fmod")
_LOOSE = {"betainc", "fmod", "gamma", "mod", "zeta"}  # parts are bounded apart


@functools.partial(jax.jit, static_argnums=(0, 1))
def _bounds_of(name, method, lower, upper):
    fn = _CASES[name][0]
    return bounds.linear_bounds(lambda x: fn(*x), lower, upper, method=method)


def _boxes(ranges):
    """`[arguments, boxes]`, with some of width zero and some wide."""
    rng = np.random.default_rng(0)
    ends = []
    for least, most in ranges:
        width = (most - least) * 10.0 ** rng.uniform(-4, -0.1, _NUM_BOXES)
        width[::25] = 0.0
        lower = least + rng.uniform(size=_NUM_BOXES) * (most - least - width)
        ends.append((lower, lower + width))
    lower, upper = np.stack(ends, axis=1)
    return lower, upper


class SpecialFunctionsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(*_QUICK)
    def test_bounds_hold(self, name):
        self._check(name, method="ibp")

    @parameterized.product(name=list(_CASES), method=("ibp", "crown"))
    @pytest.mark.slow
    def test_bounds_of_all_hold(self, name, method):
        self._check(name, method=method)

    def _check(self, name, *, method):
        _, oracle, *ranges = _CASES[name]
        lower, upper = _boxes(ranges)
        if method == "crown":  # a pass for each row
            lower, upper = lower[:, ::10], upper[:, ::10]
        found = jax.device_get(_bounds_of(name, method, lower, upper))
        rng = np.random.default_rng(1)
        share = rng.uniform(size=(_NUM_POINTS, *lower.shape))
        share[::2] = np.round(share[::2])
        x = np.clip(lower + share * (upper - lower), lower, upper)
        value = np.asarray(oracle(*np.moveaxis(x, 1, 0)))
        slack = 1e-11 * (1 + np.abs(value).max(axis=0))
        self.assertFalse(np.any(np.isnan(value)))
        self.assertEmpty(np.argwhere(found.lower > value.min(axis=0) + slack))
        self.assertEmpty(np.argwhere(found.upper < value.max(axis=0) - slack))
        self.assertTrue(np.all(np.isfinite(found)))
        if name not in _LOOSE and len(ranges) == 1:
            reach = np.ptp(value, axis=0)
            self.assertLess(np.median((found.upper - found.lower) - reach), 0.1)

    @pytest.mark.newest
    def test_nothing_is_known_outside_of_the_domain(self):
        """Also where an interval touches a pole, and for what is no number at all."""

        def fn(x):
            return jnp.stack(
                [
                    special.gammainc(x, 2.0), special.gammainc(2.0, x),
                    special.betainc(2.0, 2.0, x), special.zeta(x, 2.0),
                    special.zeta(2.0, x), special.polygamma(1, x),
                    special.exp1(x), jnp.fmod(2.0, x), jnp.i0(jnp.log(x)),
                    jnp.hypot(jnp.log(x), 1.0),
                    jnp.interp(jnp.log(x), _KNOTS, _HEIGHTS),
                ]
            )  # fmt: skip

        found = jax.jit(functools.partial(bounds.interval_bounds, fn))(
            jnp.array([-0.5]), jnp.array([0.5])
        )
        np.testing.assert_array_equal(found.lower, np.full((11, 1), -np.inf))
        np.testing.assert_array_equal(found.upper, np.full((11, 1), np.inf))

    def test_poles_are_infinite_on_one_side(self):
        """Ei falls to -inf at zero and rises from there; E_1(0) is inf."""

        @jax.jit
        def every(lower, upper):
            return [
                bounds.interval_bounds(special.expi, lower, upper),
                bounds.interval_bounds(special.exp1, jnp.zeros(1), upper),
            ]

        (low, high), (least, most) = every(jnp.array([-0.2]), jnp.array([0.5]))
        self.assertEqual((low[0], most[0]), (-np.inf, np.inf))
        np.testing.assert_allclose(high, [scipy.special.expi(0.5)], rtol=1e-12)
        np.testing.assert_allclose(least, [scipy.special.exp1(0.5)], rtol=1e-12)

    def test_numbers_out_of_order_may_be_found_anywhere(self):
        def fn(x):
            return jnp.searchsorted(jnp.array([2.0, 0.0, 1.0]), x).astype(x.dtype)

        found = bounds.interval_bounds(fn, jnp.array([0.4]), jnp.array([0.5]))
        np.testing.assert_array_equal(found, [[0.0], [3.0]])

    def test_lines_between_knots_are_exact_on_a_segment(self):
        def fn(x):
            return jnp.interp(x, _KNOTS, _HEIGHTS)

        found = jax.jit(functools.partial(bounds.affine_bounds, fn))(
            jnp.array([0.6]), jnp.array([1.9])
        )
        slope = 4 / 1.5
        for weight, bias in (found[:2], found[2:]):
            np.testing.assert_allclose(weight, [[slope]], rtol=1e-12)
            np.testing.assert_allclose(bias, [-1 - slope / 2], rtol=1e-12)


if __name__ == "__main__":
    absltest.main()
