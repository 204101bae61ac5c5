"""Exits along rays against closed forms, and the coverage of their intervals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, special, stats

from robustjax import smoothing
from robustjax.hidden_cost.regions import exits, rays
from robustjax.smoothing.sampling import streams

_KEY = jax.random.key(3)
_REPEATS = 200
_ENOUGH = 181  # of 200, if 95% are covered: 3 standard deviations below 190


def _inside(score):
    """Logits of a classifier whose class 0 is where the score is positive."""
    return jnp.stack([score, -score], axis=-1)


def _ball(x):
    return _inside(1 - jnp.sum(x**2, axis=-1))


def _cone(slope, x):
    """Class 0 is x_1 >= slope * (length of the rest), slope the cotangent."""
    return _inside(x[:, 0] - slope * jnp.sqrt(jnp.sum(x[:, 1:] ** 2, axis=-1)))


def _two_slabs(x):
    """Class 0 is |x_1| < 1 or x_1 > 1.8."""
    return _inside(jnp.maximum(1 - jnp.abs(x[:, 0]), x[:, 0] - 1.8))


def _left(x):
    return _inside(0.7 - x[:, 0])


def _shrinkage(apply_fn=_ball, x=None, *, key=_KEY, dim=2, num=1, **options):
    """Rays along the first axis from the origin, unless told otherwise."""
    x = np.zeros((num, dim)) if x is None else x
    defaults = dict(
        directions=np.broadcast_to(np.eye(x.shape[1])[0], x.shape),
        sigma=0.5,
        num_classes=2,
        max_distance=2.0,
        num_samples=256,
        num_grid=16,
        num_bisections=8,
        chunk_size=2048,
    )
    return rays.ray_shrinkage(key, apply_fn, x, **(defaults | options))


def _ball_radius(sigma, dim):
    def excess(r):
        return stats.ncx2.cdf(sigma**-2, dim, (r / sigma) ** 2) - 0.5

    return optimize.brentq(excess, 1e-6, 1.0)


def _cone_shift(slope, sigma, dim):
    """Where on the axis E Phi(t / sigma - slope chi_{d-1}) is 1/2."""

    def excess(t):
        return density @ special.ndtr(t / sigma - slope * r) - 0.5

    r = np.linspace(0, np.sqrt(dim) + 9, 100_001)
    density = stats.chi.pdf(r, dim - 1) * (r[1] - r[0])  # vanishes at the right end
    density[0] /= 2

    return optimize.brentq(excess, 0.0, 2 * slope * sigma * np.sqrt(dim))


class RecoveryTest(parameterized.TestCase):
    def _assert_covers(self, found, truth):
        self.assertFalse(found.is_empty.any() | found.is_censored.any())
        covered = (found.lower <= truth) & (truth <= found.upper)
        self.assertGreaterEqual(covered.sum(), _ENOUGH)
        middle, width = (found.lower + found.upper) / 2, found.upper - found.lower
        half = np.abs(middle - truth) <= width / 4
        self.assertLess(half.sum(), _ENOUGH)
        error = np.abs(np.median(found.smoothed_exit) - truth)
        self.assertLess(error, 0.25 * np.median(width))

    def test_ball(self):
        self._check_ball(5)

    @parameterized.parameters(2, 100)
    @pytest.mark.slow
    def test_ball_in_other_dimensions(self, dim):
        self._check_ball(dim)

    def _check_ball(self, dim):
        sigma = float(np.float32(0.6 / np.sqrt(stats.chi2.ppf(0.5, dim))))
        directions = np.random.default_rng(dim).normal(size=(_REPEATS, dim))
        found = _shrinkage(
            num=_REPEATS,
            dim=dim,
            directions=directions,
            sigma=sigma,
            max_distance=1.2,
            num_samples=128,
            num_grid=8,
        )
        np.testing.assert_allclose(found.base_exit, 1, atol=1e-4)
        self._assert_covers(found, _ball_radius(sigma, dim))

    def test_cone(self):
        self._check_cone(2, 30)

    @parameterized.parameters((10, 45), (100, 60))
    @pytest.mark.slow
    def test_cone_in_other_dimensions(self, dim, degrees):
        self._check_cone(dim, degrees)

    def _check_cone(self, dim, degrees):
        slope = 1 / np.tan(np.radians(degrees))
        sigma, shift = 0.25, _cone_shift(slope, 0.25, dim)
        start = 2 * shift
        found = _shrinkage(
            jax.tree_util.Partial(_cone, jnp.float32(slope)),
            start * np.broadcast_to(np.eye(dim)[0], (_REPEATS, dim)),
            directions=np.broadcast_to(-np.eye(dim)[0], (_REPEATS, dim)),
            sigma=sigma,
            max_distance=1.2 * start,
            num_samples=128,
            num_grid=8,
        )
        np.testing.assert_allclose(found.base_exit, start, rtol=1e-3)
        self._assert_covers(found, start - shift)

    def test_half_spaces_do_not_move(self):
        rng = np.random.default_rng(0)
        x = rng.uniform(size=(_REPEATS, 3)) * 0.5
        directions = rng.normal(size=x.shape)
        directions[:, 0] = np.abs(directions[:, 0]) + 0.5
        found = _shrinkage(
            _left, x, directions=directions, max_distance=4.0, num_samples=128
        )
        unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        np.testing.assert_allclose(
            found.base_exit, (0.7 - x[:, 0]) / unit[:, 0], atol=6e-4
        )
        around_zero = (found.lower <= found.base_exit) & (
            found.base_exit <= found.upper
        )
        self.assertGreaterEqual(around_zero.sum(), _ENOUGH)
        np.testing.assert_allclose(
            found.difference, found.smoothed_exit - found.base_exit
        )
        np.testing.assert_allclose(found.ratio, found.smoothed_exit / found.base_exit)

    def test_first_exit_of_a_region_that_is_entered_again(self):
        sigma, threshold = 0.25, 0.3

        def p(t):
            edges = special.ndtr((np.array([-1, 1, 1.8]) - t) / sigma)
            return edges[1] - edges[0] + 1 - edges[2]

        truth = optimize.brentq(lambda t: p(t) - threshold, 0.5, 1.3)
        found = _shrinkage(
            _two_slabs,
            num=_REPEATS,
            dim=1,
            sigma=sigma,
            threshold=threshold,
            max_distance=3.0,
            num_grid=12,
            num_bisections=7,
        )
        np.testing.assert_allclose(found.base_exit, 1, atol=1e-3)
        np.testing.assert_array_equal(found.base_crossings, 2)
        np.testing.assert_array_equal(found.smoothed_crossings, 2)
        missed = (truth < found.lower) | (found.upper < truth)
        self.assertLess(missed.mean(), 0.05 + 3 * np.sqrt(0.05 * 0.95 / _REPEATS))
        self.assertLess(found.upper.max(), 1.8)  # not widened by the second part

    def test_misses_are_rare_near_vanishing(self):
        sigma, num = 1.346, 500
        truth = _ball_radius(sigma, 1)
        found = _shrinkage(
            num=num,
            dim=1,
            sigma=sigma,
            max_distance=1.5,
            num_samples=128,
            num_grid=6,
            num_bisections=5,
        )
        self.assertGreater(found.is_empty.sum(), 0)  # p(x) = .542, so some look empty
        missed = (truth < found.lower) | (found.upper < truth)
        self.assertLess(missed.mean(), 0.05 + 3 * np.sqrt(0.05 * 0.95 / num))


class OracleTest(parameterized.TestCase):
    @parameterized.parameters((2, 45, 0.770678701), (10, 60, 1.682335059))
    def test_cone_shift(self, dim, degrees, expected):
        shift = _cone_shift(1 / np.tan(np.radians(degrees)), 1.0, dim)
        self.assertAlmostEqual(shift, expected, delta=1e-7)


class SearchTest(parameterized.TestCase):
    def test_exits_separate_the_votes_of_class_counts(self):
        x = np.full((3, 2), 0.5)
        u = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
        disc = jax.jit(lambda x: _ball(4 * (x - 0.5)))
        options = dict(sigma=0.1, num_classes=2, num_samples=1000)
        found = _shrinkage(
            disc, x, directions=u, max_distance=0.5, num_bisections=8, **options
        )
        levels = exits.vote_levels(1000, 0.5, alpha=0.05, num_points=17)
        half_cell = 0.5 / 16 / 2**8 / 2

        def votes(t):
            stream = jax.random.fold_in(_KEY, streams.RAYS)
            points = np.asarray(x + t[:, None] * u, np.float32)
            counts = smoothing.class_counts(stream, disc, points, **options)
            return np.asarray(counts)[:, 0]

        exit_ = found.smoothed_exit
        self.assertTrue((votes(exit_ - half_cell) >= levels.inside).all())
        self.assertTrue((votes(exit_ + half_cell) < levels.inside).all())
        self.assertTrue((votes(found.lower) > levels.high).all())
        self.assertTrue((votes(found.lower + 2 * half_cell) <= levels.high).all())
        self.assertTrue((votes(found.upper) < levels.low).all())
        self.assertTrue((votes(found.upper - 2 * half_cell) >= levels.low).all())
        np.testing.assert_array_equal(found.start_votes, votes(np.zeros(3)))

    def test_result_depends_on_key_and_ids_alone(self):
        directions = np.random.default_rng(1).normal(size=(5, 2))
        directions[3:] = directions[0]
        ids = np.array([4, 9, 0, 7, 4])
        options = dict(directions=directions, example_ids=ids, num_grid=4)
        found = _shrinkage(num=5, **options)
        self.assertEqual(found.smoothed_exit[0], found.smoothed_exit[4])
        self.assertNotEqual(found.smoothed_exit[0], found.smoothed_exit[3])
        mesh = jax.make_mesh(
            (4,), ("samples",), axis_types=(jax.sharding.AxisType.Auto,)
        )
        other = _shrinkage(num=5, mesh=mesh, **(options | dict(chunk_size=1024)))
        jax.tree.map(np.testing.assert_array_equal, other, found)
        alone = _shrinkage(
            directions=3 * directions[1:2], example_ids=ids[1:2], num_grid=4
        )
        np.testing.assert_allclose(alone.smoothed_exit, found.smoothed_exit[1:2])
        fresh = _shrinkage(num=5, key=jax.random.key(4), **options)
        self.assertFalse(np.any(fresh.smoothed_exit == found.smoothed_exit))

    def test_other_weights_sigmas_and_sample_numbers_do_not_compile_again(self):
        num_traces = 0

        def apply_fn(slope, x):
            nonlocal num_traces
            num_traces += 1
            return _cone(slope, x)

        start = np.array([[3.0, 0.0]])
        for trial in range(3):
            _shrinkage(
                jax.tree_util.Partial(apply_fn, jnp.float32(1 + trial)),
                start,
                directions=-start,
                sigma=0.1 + trial,
                num_samples=100 * (1 + trial),
                max_distance=4.0 + trial,
                threshold=0.4 + 0.1 * trial,
            )
            self.assertLessEqual(num_traces, 4)  # two programs; loops may trace twice

    def test_streams_are_distinct(self):
        ours = {streams.RAYS, streams.SLICES, streams.SURVIVAL}
        others = {streams.SELECT, streams.ESTIMATE, streams.PILOT, streams.PREDICT}
        self.assertLen(ours | others, 7)


class EdgeTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_censored(self):
        found = _shrinkage(_left, directions=[[-1, 0]])
        self.assertTrue(found.is_base_censored[0] and found.is_censored[0])
        np.testing.assert_array_equal(
            [found.base_exit, found.smoothed_exit, found.upper], np.inf
        )
        np.testing.assert_array_equal(found.lower, 2.0)
        np.testing.assert_array_equal([found.ratio, found.difference], np.nan)
        self.assertFalse(found.is_empty[0] or found.is_outside[0])

    def test_exit_that_may_lie_beyond_the_end(self):
        found = _shrinkage(_left, max_distance=0.69, num_samples=1000)
        self.assertTrue(found.is_base_censored[0])
        self.assertLess(found.lower[0], 0.69)
        self.assertEqual(found.upper[0], np.inf)

    def test_vanished(self):
        found = _shrinkage(sigma=1.5)
        np.testing.assert_allclose(found.base_exit, 1, atol=1e-3)
        self.assertTrue(found.is_empty[0])
        self.assertFalse(found.is_censored[0])
        self.assertLess(found.start_votes[0], 100)
        nans = [found.smoothed_exit, found.lower, found.upper, found.ratio]
        np.testing.assert_array_equal(nans, np.nan)

    def test_labels_other_than_the_prediction(self):
        found = _shrinkage(labels=[1])
        self.assertTrue(found.is_outside[0] and found.is_empty[0])
        np.testing.assert_array_equal(found.base_exit, np.nan)
        np.testing.assert_array_equal(found.label, 1)

    def test_non_finite_logits_are_a_class(self):
        found = _shrinkage(
            lambda x: jnp.where(x[:, :1] < 1, jnp.nan, x), sigma=0.01, labels=None
        )
        np.testing.assert_array_equal(found.label, 2)
        np.testing.assert_allclose(found.base_exit, 1, atol=1e-3)

    def test_no_rays(self):
        found = _shrinkage(num=0)
        self.assertEqual(found.lower.shape, (0,))

    @parameterized.parameters(
        (dict(sigma=0.0), "sigma.* 0.0"),
        (dict(num_samples=0), "num_samples.* 0"),
        (dict(max_distance=-1.0), "max_distance.* -1.0"),
        (dict(max_distance=np.nan), "max_distance.* nan"),
        (dict(threshold=1.0), r"threshold in \(0, 1\), got 1.0"),
        (dict(alpha=0.0), "alpha.* 0.0"),
        (dict(num_grid=0), "num_grid.* 0"),
        (dict(num_bisections=-1), "num_bisections.* -1"),
        (dict(chunk_size=100), "chunk_size.* 100"),
        (dict(num_classes=3), "apply_fn"),
        (dict(directions=np.ones((1, 3))), r"directions.*\(1, 3\)"),
        (dict(directions=np.zeros((1, 2))), "directions.*row 0"),
        (dict(directions=[[np.inf, 1.0]]), "directions.*inf"),
        (dict(x=np.array([[np.nan, 0.0]])), "x, got nan"),
        (dict(x=np.zeros((1, 2), np.uint8)), "divide images by 255"),
        (dict(labels=[2]), r"labels in \[0, 2\), got 2"),
        (dict(labels=[-1]), "labels.* -1"),
        (dict(labels=[0, 1]), r"labels \[1\], got shape"),
        (dict(labels=[0.0]), "labels.*float64"),
    )
    def test_refuses(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            _shrinkage(**arguments)

    def test_refuses_x_without_a_batch(self):
        with self.assertRaisesRegex(ValueError, r"x as a batch"):
            rays.ray_shrinkage(
                _KEY,
                _ball,
                np.zeros(2),
                directions=np.ones(2),
                sigma=1.0,
                num_classes=2,
                max_distance=1.0,
            )


if __name__ == "__main__":
    absltest.main()
