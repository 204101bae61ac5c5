"""Zeroth-order radii against mpmath and the geometry of the norms."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.test_util import check_grads

from robustjax import norms, smoothing

_RADIUS = smoothing.zeroth_order_radius


def _quantile(p: float) -> float:
    with mpmath.workdps(40):
        return mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)


class RadiusTest(parameterized.TestCase):
    @parameterized.parameters(0.5000001, 0.6, 0.9, 0.99, 0.9999309248330094, 1 - 1e-12)
    def test_l2_matches_mpmath(self, p):
        np.testing.assert_allclose(
            _RADIUS(p, sigma=0.25), float(_quantile(p) / 4), rtol=1e-13
        )

    @parameterized.parameters(
        (0.9889893403774748, 2.289999955213766),
        (0.9999309248330094, 3.8114565633899145),
        (0.933254300796991, 1.5004750241206364),
        (0.9341538120021029, 1.5074616137908723),
        (0.9988404725183879, 3.0460030323460634),
        (0.9999944738110462, 4.3954887683125925),
    )
    def test_published_values(self, p, expected):
        np.testing.assert_allclose(_RADIUS(p, sigma=1.0), expected, rtol=1e-12)

    def test_two_sided_form_and_its_limit(self):
        radius = _RADIUS(0.45, p_upper=0.3, sigma=2.0)
        oracle = float(_quantile(0.45) - _quantile(0.3))
        np.testing.assert_allclose(radius, oracle, rtol=1e-13)
        p = np.linspace(0.51, 0.999, 50)
        np.testing.assert_allclose(
            _RADIUS(p, p_upper=1 - p, sigma=0.5), _RADIUS(p, sigma=0.5), rtol=1e-12
        )

    def test_edges(self):
        p = np.array([0.0, 0.3, 0.5, np.nan])
        np.testing.assert_array_equal(_RADIUS(p, sigma=1.0), 0.0)
        self.assertEqual(_RADIUS(0.4, p_upper=0.4, sigma=1.0), 0.0)
        for one in (1.0, jnp.float32(1.0)):  # never infinite
            self.assertBetween(float(_RADIUS(one, sigma=1.0)), 5.0, 9.0)
        below = np.nextafter(0.5, 1)
        self.assertBetween(_RADIUS(below, sigma=1.0), 0, 1e-15)

    def test_host_numbers_are_float64_and_jax_arrays_keep_their_dtype(self):
        self.assertEqual(_RADIUS(0.9, sigma=1.0).dtype, np.float64)
        self.assertEqual(_RADIUS(jnp.float32(0.9), sigma=1.0).dtype, jnp.float32)
        with jax.enable_x64(True):
            device = _RADIUS(jnp.float64(0.999999), sigma=0.5)
            self.assertEqual(device.dtype, jnp.float64)
        np.testing.assert_allclose(device, _RADIUS(0.999999, sigma=0.5), rtol=1e-13)
        p = 1 - 1e-9  # a JAX sigma does not take p to float32
        self.assertEqual(_RADIUS(p, sigma=jnp.float32(0.5)), _RADIUS(p, sigma=0.5))
        self.assertEqual(_RADIUS(jnp.bfloat16(0.9), sigma=0.5).dtype, jnp.float32)
        np.testing.assert_array_equal(
            _RADIUS([0.9, 0.8], sigma=np.array([1.0, 2.0])),
            [_RADIUS(0.9, sigma=1.0), _RADIUS(0.8, sigma=2.0)],
        )

    @pytest.mark.newest
    def test_transforms(self):
        p = np.linspace(0.51, 0.99, 9).astype(np.float32)
        eager = _RADIUS(jnp.asarray(p), sigma=0.5)
        together = jax.jit(lambda p: _RADIUS(p, sigma=0.5))
        for transformed in (together, jax.jit(jax.vmap(together))):
            np.testing.assert_allclose(transformed(p), eager, rtol=1e-6)
        traced = jax.jit(lambda s: _RADIUS(0.9, sigma=s))(0.5)
        np.testing.assert_allclose(traced, _RADIUS(0.9, sigma=0.5), rtol=1e-6)
        check_grads(together, (p,), order=1, rtol=1e-2, eps=1e-3)

    @parameterized.parameters(
        ("l1", 1.0),
        ("l1.5", 1.0),
        ("l2", 1.0),
        ("subspace", 1.0),
        ("l3", 48 ** (1 / 2 - 1 / 3)),
        ("linf", 48**0.5),
        ("l4", 48**0.25),
    )
    def test_norms_divide_by_the_circumradius(self, norm, divisor):
        l2 = _RADIUS(0.9, sigma=1.0)
        actual = _RADIUS(0.9, sigma=1.0, norm=norm, dim=48)
        np.testing.assert_allclose(actual, l2 / divisor, rtol=1e-15)

    @parameterized.parameters(1.0, 1.3, 2.0, 2.5, 7.0, np.inf)
    def test_circumradius_contains_the_ball_and_is_attained(self, p):
        dim = 3
        k = norms.l2_circumradius(f"l{p}", dim)
        points = np.array(list(itertools.product(np.linspace(-1, 1, 21), repeat=dim)))
        points = points[np.any(points != 0, axis=1)]
        points /= np.linalg.norm(points, ord=p, axis=1, keepdims=True)
        lengths = np.linalg.norm(points, axis=1)
        self.assertLessEqual(lengths.max(), k * (1 + 1e-12))
        np.testing.assert_allclose(lengths.max(), k, rtol=1e-12)

    def test_dual_exponents(self):
        for p in (1.0, 1.5, 2.0, 3.0, np.inf):
            q = norms.dual_exponent(p)
            np.testing.assert_allclose(1 / p + 1 / q, 1.0, rtol=1e-15)

    @parameterized.parameters(
        (dict(sigma=0.0), "sigma"),
        (dict(sigma=float("nan")), "sigma"),
        (dict(sigma=1.0, norm="l0.5"), "l0.5"),
        (dict(sigma=1.0, norm="max"), "max"),
        (dict(sigma=1.0, norm="linf"), "dim"),
        (dict(sigma=1.0, norm="lx"), "lx"),
        (dict(sigma=1.0, p_upper=1.5), "p_upper"),
    )
    def test_refuses(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            _RADIUS(0.9, **arguments)
        with self.assertRaisesRegex(ValueError, "p_lower"):
            _RADIUS(1.1, sigma=1.0)


if __name__ == "__main__":
    absltest.main()
