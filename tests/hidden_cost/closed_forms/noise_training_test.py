"""The two worlds of noise augmentation: tables, thresholds and simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, stats

from robustjax import hidden_cost

# Variances .25 and 1. {(dim, train_sigma, test_sigma): (R, r*, inner, outer)}.
_GAUSSIANS = {
    (2, 0.0, 0.0): (0.9613512577, 0.9613512577, 0.8425098688, 0.6299605249),
    (2, 0.5, 0.5): (1.2357796000, 1.1263573475, 0.9209252561, 0.5302851294),
    (2, 0.5, 1.0): (1.2357796000, 0.4438636588, 0.3256661034, 0.9061889199),
    (10, 0.5, 0.5): (2.7632871908, 2.3175417013, 0.9820396961, 0.8650581680),
    (10, 1.0, 1.0): (3.9581293109, 2.5542849882, 0.9963887400, 0.7694539086),
    (100, 0.0, 0.5): (6.7977799345, 4.6291676046, 0.1551086040, 1.0),
    (100, 0.5, 0.5): (8.7382813522, 7.1827156480, 0.9999999978, 0.9999845252),
    (100, 0.5, 1.0): (8.7382813522, np.nan, 0.0, 1.0),
    (100, 1.0, 0.5): (12.5167038958, 11.4852393053, 1.0, 0.0179032793),
}

# Distance 1. {(sigma, prior): (w, p(0), p(1))}.
_POINTS = {
    (0.25, 0.5): (0.5433216970, 0.9702412608, 0.0338714501),
    (0.5, 0.5): (0.6721341243, 0.8211383409, 0.2555858682),
    (1.0, 0.5): (1.0850385019, 0.7220953970, 0.5153517064),
    (4.0, 0.5): (4.0208655215, 0.6852073307, 0.6702403087),
    (0.5, 0.4): (0.5693041413, 0.7451334277, 0.1936624071),
    (1.0, 0.4): (0.4417038060, 0.3412964448, 0.2136280970),
    (4.0, 0.4): (0.0, 0.0, 0.0),
}


def _point_world_of(v):
    """The world from its distance, sigma and prior, as one array."""
    return jnp.stack(hidden_cost.point_world(v[0], sigma=v[1], prior=v[2]))


_compiled_world = jax.jit(_point_world_of)
_slopes = jax.jit(jax.jacobian(_point_world_of))


def _gaussians(train_sigma, test_sigma, dim, variances=(0.25, 1.0)):
    return hidden_cost.gaussian_world(
        *variances, train_sigma=train_sigma, test_sigma=test_sigma, dim=dim
    )


class GaussianWorldTest(parameterized.TestCase):
    @parameterized.parameters(*_GAUSSIANS.items())
    def test_table(self, at, expected):
        dim, train, test = at
        world = _gaussians(train, test, dim)
        np.testing.assert_allclose(world, expected, rtol=0, atol=1e-10)

    @pytest.mark.slow
    def test_float32(self):
        for (dim, train, test), expected in _GAUSSIANS.items():
            single = _gaussians(jnp.float32(train), test, dim)
            self.assertEqual({leaf.dtype for leaf in single}, {np.dtype(np.float32)})
            np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)
        single = _gaussians(jnp.float32(30.0), 0.5, 2)
        exact = _gaussians(30.0, 0.5, 2)
        self.assertAlmostEqual(single.radius / exact.radius, 1.0, delta=1e-6)

    @parameterized.parameters((2, (0.0, 0.5)), (10, (0.5, 0.5)), (2, (1.0, 0.3)))
    def test_the_learned_rule_by_simulation(self, dim, noise):
        """The likelihood ratio of the noised data votes over noise on clean points."""
        rng = np.random.default_rng(dim)
        num_points, num_votes = 3000, 600
        train, test = noise
        noised = [np.sqrt(v + train**2) for v in (0.25, 1.0)]

        def log_density(squares, scale):
            return -0.5 * squares / scale**2 - dim * np.log(scale)

        accuracy = []
        for variance, is_inner in ((0.25, True), (1.0, False)):
            points = np.sqrt(variance) * rng.standard_normal((num_points, dim))
            votes = np.zeros(num_points)
            for _ in range(num_votes):
                draws = rng.standard_normal(points.shape, dtype=np.float32)
                moved = points + test * draws
                squares = np.einsum("nd,nd->n", moved, moved)
                votes += log_density(squares, noised[0]) > log_density(
                    squares, noised[1]
                )
            accuracy.append(np.mean((votes > num_votes / 2) == is_inner))
        world = _gaussians(train, test, dim)
        own = np.array([world.inner_accuracy, world.outer_accuracy])
        spread = np.sqrt(own * (1 - own) / num_points)
        np.testing.assert_array_less(np.abs(own - accuracy), 4 * spread + 0.004)

    def test_thresholds_of_high_dimensions(self):
        """Without noise in training the inner class is lost, then its whole region."""
        dim = 150_528

        def lead(test_sigma):
            return _gaussians(0.0, test_sigma, dim).smoothed_radius ** 2 / dim - 0.25

        lost = optimize.brentq(lead, 0.3, 0.6, xtol=1e-12)
        limit = np.log(4) / 3
        self.assertAlmostEqual(lost, np.sqrt(limit - 0.25), delta=1e-5)
        self.assertAlmostEqual(lost, 0.46054, delta=1.5e-5)
        self.assertGreater(_gaussians(0.0, 0.45, dim).inner_accuracy, 0.99)
        self.assertLess(_gaussians(0.0, 0.47, dim).inner_accuracy, 0.01)
        self.assertAlmostEqual(np.sqrt(limit), 0.67978, delta=5e-6)
        self.assertFalse(np.isnan(_gaussians(0.0, 0.67976, dim).smoothed_radius))
        self.assertTrue(np.isnan(_gaussians(0.0, 0.67980, dim).smoothed_radius))

    def test_equal_noise_cures_in_high_dimensions(self):
        for variances in ((0.25, 1.0), (0.01, 3.0), (1.0, 1.2)):
            for sigma in (0.1, 0.5, 2.0):
                world = _gaussians(sigma, sigma, 150_528, variances)
                share = world.smoothed_radius**2 / 150_528
                self.assertBetween(share, *variances)
        world = _gaussians(2.0, 0.1, 3072)
        self.assertLess(world.outer_accuracy, 1e-6)  # too much noise in training

    def test_close_variances(self):
        """R^2 / d tends to the variance of the two; its logarithm must not cancel."""
        for gap in (1e-3, 1e-6, 1e-9):
            world = _gaussians(0.0, 0.0, 4, (1.0, 1.0 + gap))
            expected = np.sqrt(4 * (1 + gap / 2))
            self.assertAlmostEqual(world.radius, expected, delta=gap**2 + 1e-14)

    @pytest.mark.newest
    def test_no_smoothing_is_the_bayes_rule(self):
        world = _gaussians(0.3, 0.0, 7)
        self.assertEqual(world.smoothed_radius, world.radius)
        squares = world.radius**2
        self.assertAlmostEqual(
            world.inner_accuracy, stats.chi2.cdf(squares / 0.25, 7), delta=1e-13
        )
        self.assertAlmostEqual(
            world.outer_accuracy, stats.chi2.sf(squares, 7), delta=1e-13
        )
        # No other ball is right more often on the noised data.
        noised = np.array([0.25, 1.0]) + 0.3**2
        other = np.linspace(0.5, 1.5, 501) * world.radius
        right = stats.chi2.cdf(other**2 / noised[0], 7)
        right += stats.chi2.sf(other**2 / noised[1], 7)
        self.assertAlmostEqual(
            other[right.argmax()], world.radius, delta=2e-3 * squares
        )

    @parameterized.parameters(0.01, 30.0)
    def test_scaling(self, k):
        world = _gaussians(0.2, 0.4, 10)
        scaled = _gaussians(0.2 * k, 0.4 * k, 10, (0.25 * k**2, k**2))
        self.assertAlmostEqual(scaled.radius / k, world.radius, delta=1e-12)
        np.testing.assert_allclose(scaled[2:], world[2:], rtol=1e-11)

    def test_traced_on_a_grid(self):
        """Arrays keep float32 where float64 is enabled."""
        train, test = jnp.ones((3, 1), jnp.float32), np.array([0.0, 0.5])
        with jax.enable_x64(True):
            out = jax.eval_shape(jax.jit(lambda v: _gaussians(v, test, 100)), train)
        found = {(leaf.shape, leaf.dtype) for leaf in out}
        self.assertEqual(found, {((3, 2), np.dtype(np.float32))})

    def test_mapped(self):
        out = jax.eval_shape(
            jax.jit(jax.vmap(lambda v: _gaussians(v, 0.5, 10))), jnp.ones((4, 2))
        )
        self.assertEqual({leaf.shape for leaf in out}, {(4, 2)})

    @parameterized.parameters(False, True)
    def test_numbers_are_float64(self, x64):
        with jax.enable_x64(x64):
            leaves = *_gaussians(0.5, 0.5, 10), *hidden_cost.point_world(1.0, sigma=0.5)
        self.assertEqual({type(leaf) for leaf in leaves}, {np.float64})

    @parameterized.parameters(
        (dict(inner_variance=0.0), "inner_variance"),
        (dict(inner_variance=-1.0), "inner_variance"),
        (dict(inner_variance=1.0), "inner_variance below outer_variance"),
        (dict(inner_variance=2.0), "inner_variance below outer_variance"),
        (dict(outer_variance=np.inf), "outer_variance"),
        (dict(outer_variance=np.nan), "outer_variance"),
        (dict(train_sigma=-0.1), "train_sigma"),
        (dict(test_sigma=-0.1), "test_sigma"),
        (dict(test_sigma=np.nan), "test_sigma"),
        (dict(dim=0), "dim"),
    )
    def test_refuses(self, bad, text):
        good = dict(
            inner_variance=0.25,
            outer_variance=1.0,
            train_sigma=0.5,
            test_sigma=0.5,
            dim=2,
        )
        with self.assertRaisesRegex(ValueError, f"Expected {text}"):
            hidden_cost.gaussian_world(**(good | bad))


class PointWorldTest(parameterized.TestCase):
    @parameterized.parameters(*_POINTS.items())
    def test_table(self, at, expected):
        sigma, prior = at
        world = hidden_cost.point_world(1.0, sigma=sigma, prior=prior)
        np.testing.assert_allclose(world, expected, rtol=0, atol=1e-10)
        single = hidden_cost.point_world(1.0, sigma=jnp.float32(sigma), prior=prior)
        np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)

    @parameterized.parameters((0.5, 0.5), (1.0, 0.5), (1.0, 0.4), (0.7, 0.8))
    def test_the_learned_rule_by_simulation(self, sigma, prior):
        rng = np.random.default_rng(0)
        noise = sigma * rng.standard_normal(200_000)

        def learned(x):
            sides = stats.norm.pdf(x, -2, sigma) + stats.norm.pdf(x, 2, sigma)
            return prior * stats.norm.pdf(x, 0, sigma) > 0.5 * (1 - prior) * sides

        world = hidden_cost.point_world(2.0, sigma=sigma, prior=prior)
        for point, own in ((0, world[1]), (2, world[2]), (-2, world[2])):
            share = np.mean(learned(point + noise))
            self.assertLess(abs(share - own), 4 * 0.5 / np.sqrt(len(noise)))
        ends = np.array([1 - 1e-6, 1 + 1e-6]) * world.half_width
        np.testing.assert_array_equal(learned(ends), [True, False])

    def test_thresholds(self):
        def outer(sigma):
            return hidden_cost.point_world(1.0, sigma=sigma).outer_probability - 0.5

        def middle(sigma):
            world = hidden_cost.point_world(1.0, sigma=sigma, prior=0.4)
            return world.middle_probability - 0.5

        lost = optimize.brentq(outer, 0.5, 2.0, xtol=1e-13)
        self.assertAlmostEqual(lost, 0.9475673559, delta=1e-10)
        lost = optimize.brentq(middle, 0.5, 1.1, xtol=1e-13)
        self.assertAlmostEqual(lost, 0.8501144612, delta=1e-10)
        empty = 1.1104736517
        self.assertAlmostEqual(empty, np.sqrt(0.5 / np.log(1.5)), delta=1e-10)
        at = functools.partial(hidden_cost.point_world, 1.0, prior=0.4)
        self.assertGreater(at(sigma=empty - 1e-9).half_width, 0)
        self.assertEqual(at(sigma=empty + 1e-9), (0.0, 0.0, 0.0))
        # With equal priors the middle class is never lost.
        much = hidden_cost.point_world(1.0, sigma=1e4)
        limit = stats.norm.cdf(1) - stats.norm.cdf(-1)
        self.assertAlmostEqual(much.middle_probability, limit, delta=1e-7)

    def test_tiny_noise_does_not_overflow(self):
        """arccosh(exp(b^2 / (2 s^2))): e^800 is beyond float64, e^90 beyond float32."""
        for sigma in (0.025, 1e-3, 1e-8, 1e-100):
            world = hidden_cost.point_world(1.0, sigma=sigma)
            expected = (0.5 + sigma**2 * np.log(2), 1.0, 0.0)
            np.testing.assert_allclose(world, expected, rtol=1e-13, atol=1e-15)
        for sigma in (0.07, 1e-3, 1e-8):
            world = hidden_cost.point_world(1.0, sigma=jnp.float32(sigma))
            expected = (0.5 + sigma**2 * np.log(2), 1.0, 0.0)
            np.testing.assert_allclose(world, expected, rtol=1e-6, atol=1e-6)

    @parameterized.parameters(0.01, 30.0)
    def test_scaling(self, k):
        world = hidden_cost.point_world(1.0, sigma=0.6, prior=0.3)
        scaled = hidden_cost.point_world(k, sigma=0.6 * k, prior=0.3)
        self.assertAlmostEqual(scaled.half_width / k, world.half_width, delta=1e-14)
        np.testing.assert_allclose(scaled[1:], world[1:], rtol=1e-12)

    @parameterized.parameters((0.5, 0.5), (1.0, 0.4), (1.2, 0.8))
    def test_gradients(self, sigma, prior):
        at, step = np.array([1.1, sigma, prior]), 1e-6
        with jax.enable_x64(True):
            own = np.asarray(_slopes(at))
            difference = [
                np.subtract(
                    _compiled_world(at + step * e), _compiled_world(at - step * e)
                )
                / (2 * step)
                for e in np.eye(3)
            ]
            gone = np.asarray(_slopes(np.array([1.0, 4.0, 0.4])))
        np.testing.assert_allclose(own, np.transpose(difference), rtol=1e-7, atol=1e-8)
        self.assertEqual(gone[1, 1], 0.0)

    def test_grid_under_jit(self):
        """A distance for each row and a noise level for each column."""
        distance = np.array([[1.0], [2.0]], np.float32)
        sigma = np.array([0.5, 1.0, 2.0], np.float32)
        world = jax.jit(lambda b, s: hidden_cost.point_world(b, sigma=s))(
            distance, sigma
        )
        for i, j in np.ndindex(2, 3):
            alone = hidden_cost.point_world(
                float(distance[i, 0]), sigma=float(sigma[j])
            )
            own = [np.asarray(leaf)[i, j] for leaf in world]
            np.testing.assert_allclose(own, alone, rtol=1e-5)
        self.assertEqual({leaf.dtype for leaf in world}, {np.dtype(np.float32)})

    def test_mapped(self):
        with jax.enable_x64(True):
            out = jax.eval_shape(
                jax.jit(jax.vmap(lambda v: hidden_cost.point_world(1.0, sigma=v))),
                jnp.ones((4, 2), jnp.float32),
            )
        found = {(leaf.shape, leaf.dtype) for leaf in out}
        self.assertEqual(found, {((4, 2), np.dtype(np.float32))})

    @parameterized.parameters(
        (dict(distance=0.0), "distance"),
        (dict(sigma=-1.0), "sigma"),
        (dict(prior=0.0), "prior"),
        (dict(prior=1.0), "prior"),
    )
    def test_refuses(self, bad, text):
        with self.assertRaisesRegex(ValueError, f"Expected {text} "):
            hidden_cost.point_world(**(dict(distance=1.0, sigma=1.0) | bad))


if __name__ == "__main__":
    absltest.main()
