"""Cones under noise: tables, Owen's T, the noncentral t, quadrature and sampling."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import integrate, special, stats

from robustjax import hidden_cost


def _each(function):
    """Element by element, since every new shape would be compiled."""
    return np.vectorize(function, otypes=[np.float64])


_PROBABILITY = _each(hidden_cost.cone_class_probability)
_SHIFT = _each(hidden_cost.cone_apex_shift)

# sigma = 1, threshold 1/2. {degrees: {dim: shift}}.
_APEX_SHIFT = {
    1: {784: 1602.413167559},
    5: {2: 7.738901981, 3072: 633.346188132},
    15: {10: 10.793628971},
    30: {100: 17.181476251, 3072: 95.974997265},
    45: {2: 0.770678701, 3: 1.231958433},
    60: {10: 1.682335059, 3072: 31.992062717},
    80: {2: 0.140491576, 784: 4.932422617},
}

# sigma = 1. {(degrees, dim, depth, offset): probability}; those on the axis are wedges.
_CLASS_PROBABILITY = {
    (30, 2, 2.0, 0.5): 0.6420759269134,
    (30, 3, 3.0, 1.0): 0.5921595361785,
    (60, 100, 8.0, 5.0): 0.9261252395994,
    (10, 2, 0.0, 0.0): 0.0555555555556,
    (30, 2, 1.0, 0.0): 0.4192231090366,
    (45, 2, 0.5, 0.0): 0.4072522635600,
    (45, 2, 1.0, 0.0): 0.5779799696074,
    (45, 2, 3.0, 0.0): 0.9663923617492,
    (60, 2, 0.5, 0.0): 0.5171928383282,
    (80, 2, 1.0, 0.0): 0.8036024637343,
}


def _columns(table):
    return np.array([(*at, value) for at, value in table.items()]).T


def _shift_table():
    degrees, dim, expected = _columns(
        {(deg, d): v for deg, row in _APEX_SHIFT.items() for d, v in row.items()}
    )
    return np.radians(degrees), dim, expected


def _shift_of(v, dim):
    return hidden_cost.cone_apex_shift(v[0], sigma=v[1], threshold=v[2], dim=dim)


def _probability_of(v, dim):
    return hidden_cost.cone_class_probability(
        v[0], offset=v[1], half_angle=v[2], sigma=v[3], dim=dim
    )


def _with_value(v, dim):
    shift = _shift_of(v, dim)
    return shift, shift


_mapped_slopes = jax.jit(jax.vmap(jax.jacfwd(_with_value, has_aux=True)))


class TableTest(parameterized.TestCase):
    def test_apex_shift(self):
        angle, dim, expected = _shift_table()
        actual = _SHIFT(angle, sigma=1.0, dim=dim)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1.5e-9)

    @pytest.mark.slow
    def test_apex_shift_in_float32(self):
        """In one call: a bad value does not stop the others before they converge.

        Derivatives come with it; the long tests hold those of float64 to 1e-6.
        """
        angle, dim = (v[::2].astype(np.float32) for v in _shift_table()[:2])
        expected = _SHIFT(angle.astype(np.float64), sigma=1.0, dim=dim)
        expected[0] = angle[0] = np.nan
        ones = np.ones_like(angle)
        points = np.stack([angle, ones, 0.5 * ones], axis=1)
        slopes, shifts = _mapped_slopes(points, dim)
        self.assertEqual({shifts.dtype, slopes.dtype}, {np.dtype(np.float32)})
        np.testing.assert_allclose(shifts, expected, rtol=1e-5)
        for row in (2, -1):
            at = points[row].astype(np.float64)
            for k, unit in enumerate(1e-5 * at * np.eye(3)):
                change = _shift_of(at + unit, dim[row]) - _shift_of(at - unit, dim[row])
                difference = change / (2e-5 * at[k])
                np.testing.assert_allclose(slopes[row, k], difference, rtol=1e-3)

    def test_class_probability(self):
        degrees, dim, depth, offset, expected = _columns(_CLASS_PROBABILITY)
        at = functools.partial(
            _PROBABILITY, offset=offset, half_angle=np.radians(degrees), sigma=1.0
        )
        np.testing.assert_allclose(at(depth, dim=dim), expected, rtol=0, atol=1e-12)
        single = at([jnp.asarray(v, jnp.float32) for v in depth], dim=dim)
        np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5)


class OracleTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_wedges_by_owens_t(self):
        angle, depth = np.meshgrid(np.radians([1, 44, 46, 89]), [-2, 0, 0.7, 30])
        h = depth * np.sin(angle)
        expected = stats.norm.cdf(h) - 2 * special.owens_t(h, 1 / np.tan(angle))
        actual = _PROBABILITY(depth, half_angle=angle, sigma=1.0, dim=2)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(actual[1], angle[1] / np.pi, rtol=1e-12)

    def test_the_axis_by_the_noncentral_t(self):
        dim, degrees = np.meshgrid([2, 3, 100], [10, 30, 44, 46, 60, 85])
        angle = np.radians(degrees)
        cotangent, deviation = 1 / np.tan(angle), np.c_[[-1.5, -0.5, 0, 0.4, 1, 2]]
        depth = cotangent * np.sqrt(dim - 1) + deviation * np.hypot(1, 0.7 * cotangent)
        expected = stats.nct.sf(np.sqrt(dim - 1) * cotangent, dim - 1, depth)
        actual = _PROBABILITY(depth, half_angle=angle, sigma=1.0, dim=dim)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)

    def test_off_the_axis_in_the_plane(self):
        """Along the axis every slice of the plane's wedge is an interval."""
        rng = np.random.default_rng(0)
        for degrees in (3, 30, 44.9, 45.1, 70):
            tangent = np.tan(np.radians(degrees))
            offset, sigma = rng.uniform(0, 3), rng.uniform(0.5, 2)
            depth = offset / tangent + sigma * rng.normal()

            def slice_mass(u, args=(tangent, offset, sigma, depth)):
                tangent, offset, sigma, depth = args
                half = tangent * (depth + sigma * u)
                ends = (half - offset) / sigma, (-half - offset) / sigma
                density = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
                return density * (special.ndtr(ends[0]) - special.ndtr(ends[1]))

            expected = integrate.quad(
                slice_mass,
                -depth / sigma,
                max(12.0, 4 - depth / sigma),
                epsabs=1e-13,
                limit=200,
            )[0]
            actual = hidden_cost.cone_class_probability(
                depth, offset=offset, half_angle=np.radians(degrees), sigma=sigma, dim=2
            )
            self.assertAlmostEqual(actual, expected, delta=1e-11)

    @parameterized.product(dim=(3, 10, 3072), degrees=(2, 44.9, 45.1, 85))
    def test_off_the_axis_by_another_rule(self, dim, degrees):
        """A trapezoid rule of 40,001 nodes over the noise along the axis."""
        tangent, offset = np.tan(np.radians(degrees)), 0.4 * np.sqrt(dim)
        depth = np.sqrt(dim - 1 + offset**2) / tangent + 0.3
        u = np.linspace(max(-9.0, -depth), 9.0, 40_001)
        reach = (tangent * (depth + u)) ** 2
        inside = stats.norm.pdf(u) * stats.ncx2.cdf(reach, dim - 1, offset**2)
        expected = np.trapezoid(inside, u)
        actual = hidden_cost.cone_class_probability(
            depth, offset=offset, half_angle=np.radians(degrees), sigma=1.0, dim=dim
        )
        self.assertBetween(expected, 0.3, 0.7)
        self.assertAlmostEqual(actual, expected, delta=1e-9)

    def test_off_the_axis_by_sampling(self):
        noise = 0.8 * np.random.default_rng(0).standard_normal((200_000, 5))
        noise += [3.0, 0.6, -0.8, 0.0, 0.0]  # an offset of 1
        inside = noise[:, 0] >= np.cos(0.6) * np.linalg.norm(noise, axis=1)
        p = hidden_cost.cone_class_probability(
            3.0, offset=1.0, half_angle=0.6, sigma=0.8, dim=5
        )
        self.assertLess(abs(inside.mean() - p), 4 * np.sqrt(p * (1 - p) / len(noise)))

    def test_both_rules_meet_at_45_degrees(self):
        for dim in (2, 3, 784):
            at = functools.partial(
                hidden_cost.cone_class_probability,
                np.sqrt(dim),
                offset=0.5,
                sigma=1.0,
                dim=dim,
            )
            below = at(half_angle=np.pi / 4 - 1e-15)
            self.assertAlmostEqual(below, at(half_angle=np.pi / 4), delta=1e-12)


class LawTest(parameterized.TestCase):
    def test_bounds_of_the_apex_shift(self):
        dim, degrees = np.meshgrid([2, 3072], [0.1, 5, 45, 60, 89.9])
        cotangent = 1 / np.tan(np.radians(degrees))
        shift = _SHIFT(np.radians(degrees), sigma=1.0, dim=dim)
        median = np.sqrt(stats.chi2.ppf(0.5, dim - 1))
        slack = 1e-12 * cotangent * np.sqrt(dim)
        self.assertTrue((cotangent * median <= shift + slack).all())
        self.assertTrue((shift <= cotangent * np.sqrt(dim - 1) + slack).all())
        self.assertTrue((np.diff(shift, axis=0) < 0).all())  # wider cones recede less
        self.assertTrue((np.diff(shift, axis=1) > 0).all())

    def test_other_thresholds(self):
        """From cones as thin as a hair to nearly a half-space, at every threshold."""
        grid = np.meshgrid([1e-12, 1e-4, 0.1, 0.9, 1 - 7e-5], [0.01, 1, 30, 45.1, 89.9])
        threshold, degrees = (v.ravel()[::3] for v in grid)  # in every row and column
        dim = np.resize([10, 2, 784], threshold.shape)
        angle = np.radians(degrees)
        shift = _SHIFT(angle, sigma=1.0, dim=dim, threshold=threshold)
        p = _PROBABILITY(shift, half_angle=angle, sigma=1.0, dim=dim)
        error = np.abs(p - threshold) / np.minimum(threshold, 1 - threshold)
        self.assertLess(error.max(), 1e-8)
        self.assertTrue((shift >= stats.norm.ppf(threshold) - 1e-9).all())

    def test_scaling(self):
        dim, angle = np.array([2, 10, 784, 10]), np.array([0.1, 0.7, 1.4, 1.2])
        shift, k = _SHIFT(angle, sigma=1.0, dim=dim), np.array([0.05, 40, 0.05, 40])
        np.testing.assert_allclose(
            _SHIFT(angle, sigma=k, dim=dim), k * shift, rtol=1e-14
        )
        p = _PROBABILITY(shift, offset=0.5, half_angle=angle, sigma=0.7, dim=dim)
        scaled = _PROBABILITY(
            k * shift, offset=k * 0.5, half_angle=angle, sigma=k * 0.7, dim=dim
        )
        np.testing.assert_allclose(scaled, p, rtol=1e-12)

    def test_never_vanishes(self):
        for sigma in (0.01, 1.0, 1e4):
            depth = 10 * hidden_cost.cone_apex_shift(0.2, sigma=sigma, dim=10)
            p = hidden_cost.cone_class_probability(
                depth, half_angle=0.2, sigma=sigma, dim=10
            )
            self.assertGreater(p, 0.999)

    @parameterized.parameters(0.2, 0.8)
    def test_the_most_likely_point_at_a_depth_is_on_the_axis(self, threshold):
        offset, angle = np.meshgrid([0, 0.03, 0.5, 2, 5], [0.2, 0.7, 1.4])
        shift = _SHIFT(angle[:, :1], sigma=1.0, dim=4, threshold=threshold)
        p = _PROBABILITY(shift, offset=offset, half_angle=angle, sigma=1.0, dim=4)
        self.assertTrue((np.diff(p, axis=1) < 0).all())
        np.testing.assert_allclose(p[:, 0], threshold, rtol=1e-12)

    def test_regions_shrink_and_are_convex(self):
        """At threshold 1/2; the score is concave and 1-Lipschitz."""
        rng = np.random.default_rng(0)
        for angle in (0.4, 1.1):
            points = rng.uniform([0, -2], [6, 4], size=(2, 9, 2))
            points = np.concatenate([points, points.mean(axis=0, keepdims=True)])
            p = _PROBABILITY(
                points[..., 0],
                offset=np.abs(points[..., 1]),
                half_angle=angle,
                sigma=1.0,
                dim=3,
            )
            is_outside = np.abs(points[..., 1]) >= np.tan(angle) * points[..., 0]
            self.assertTrue(is_outside.any())
            self.assertLess(p[is_outside].max(), 0.5)
            score = stats.norm.ppf(p[:, (p > 1e-9).all(axis=0)])
            gap = score[2] - 0.5 * (score[0] + score[1])
            self.assertGreater(len(gap), 6)
            self.assertGreater(gap.min(), -1e-5)
            distance = np.linalg.norm(points[0] - points[1], axis=-1)
            change = np.abs(score[0] - score[1])
            known = distance[(p > 1e-9).all(axis=0)]
            self.assertLessEqual((change / known).max(), 1 + 1e-5)

    def test_nearly_a_half_space(self):
        depth = np.array([-1.0, 0.0, 2.0])
        p = _PROBABILITY(depth, half_angle=np.pi / 2 - 1e-9, sigma=1.5, dim=20)
        np.testing.assert_allclose(p, stats.norm.cdf(depth / 1.5), atol=1e-8)
        shift = hidden_cost.cone_apex_shift(np.pi / 2 - 1e-9, sigma=1.5, dim=20)
        self.assertBetween(shift, 0.0, 1e-8)


@pytest.mark.slow
class DerivativeTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))
        self.enterContext(jax.default_device(jax.devices("cpu")[0]))

    def _check(self, function, cases, slopes):
        for point, dim in cases:
            at = np.array(point)
            own = np.asarray(slopes(jnp.asarray(at), dim))
            for k, unit in enumerate(np.eye(len(at))):
                step = 1e-5 * at[k] * unit
                difference = function(at + step, dim) - function(at - step, dim)
                expected = difference / (2e-5 * at[k])
                np.testing.assert_allclose(own[k], expected, rtol=1e-6, atol=1e-9)

    def test_apex_shift(self):
        cases = [
            ((angle, 0.7, threshold), dim)
            for angle in (0.3, 1.2)
            for threshold, dim in ((0.5, 2.0), (0.2, 10.0), (0.5, 784.0))
        ]
        for transform in (jax.jacfwd, jax.grad):
            self._check(_shift_of, cases, jax.jit(transform(_shift_of)))

    def test_class_probability(self):
        cases = list(itertools.product((0.3, 1.2), (2.0, 10.0)))
        points = [((3.0, 0.6, angle, 0.8), dim) for angle, dim in cases]
        slopes = jax.jit(jax.grad(_probability_of))
        self._check(_probability_of, points, slopes)
        for angle, dim in cases:
            for depth in (-8.5, -9.0, -50.0):  # no NaN far outside
                far = slopes(jnp.array([depth, 0.0, angle, 1.0]), dim)
                np.testing.assert_allclose(far, 0.0, rtol=0, atol=1e-14)


def _by_depth(v):
    return hidden_cost.cone_class_probability(v, half_angle=0.5, sigma=1.0, dim=3)


def _by_angle(v):
    return hidden_cost.cone_class_probability(
        1.0, offset=0.2, half_angle=v, sigma=1.0, dim=3
    )


def _shift_by_angle(v):
    return hidden_cost.cone_apex_shift(v, sigma=0.3, dim=3)


def _shift_by_threshold(v):
    return hidden_cost.cone_apex_shift(0.5, sigma=1.0, dim=3, threshold=v)


class ContractTest(parameterized.TestCase):
    @parameterized.parameters(
        _by_depth, _by_angle, _shift_by_angle, _shift_by_threshold
    )
    def test_numbers_are_float64_and_arrays_keep_their_dtype(self, function):
        for x64 in (False, True):
            with jax.enable_x64(x64):
                self.assertIsInstance(function(0.5), np.float64)
        with jax.enable_x64(True):
            kept = jax.eval_shape(function, jnp.asarray(0.5, jnp.float64))
            self.assertEqual(kept.dtype, jnp.float64)

    @parameterized.parameters(_by_angle, _shift_by_threshold)
    def test_shapes_under_jit_and_vmap(self, function):
        out = jax.eval_shape(jax.jit(jax.vmap(function)), jnp.ones((2, 3), jnp.float32))
        self.assertEqual((out.shape, out.dtype), ((2, 3), jnp.float32))

    @parameterized.parameters(
        (dict(half_angle=0.0), "half_angle"),
        (dict(half_angle=np.pi / 2), "half_angle"),
        (dict(half_angle=-0.3), "half_angle"),
        (dict(half_angle=45.0), "half_angle"),  # degrees
        (dict(half_angle=np.nan), "half_angle"),
        (dict(sigma=0.0), "sigma"),
        (dict(dim=1), "dim"),
    )
    def test_refuses(self, bad, name):
        arguments = dict(half_angle=0.5, sigma=1.0, dim=3) | bad
        with self.assertRaisesRegex(ValueError, f"Expected {name} "):
            hidden_cost.cone_class_probability(1.0, **arguments)
        angle = arguments.pop("half_angle")
        with self.assertRaisesRegex(ValueError, f"Expected {name} "):
            hidden_cost.cone_apex_shift(angle, **arguments)

    def test_refuses_what_one_of_them_has(self):
        with self.assertRaisesRegex(ValueError, "Expected offset "):
            hidden_cost.cone_class_probability(
                1.0, offset=-0.1, half_angle=0.5, sigma=1.0, dim=3
            )
        for threshold in (0.0, 1.0):
            with self.assertRaisesRegex(ValueError, "Expected threshold "):
                hidden_cost.cone_apex_shift(0.5, sigma=1.0, dim=3, threshold=threshold)


if __name__ == "__main__":
    absltest.main()
