"""Maps of decisions on a plane against closed forms, and areas and transitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, special, stats

from robustjax import smoothing
from robustjax.hidden_cost.regions import slices
from robustjax.smoothing.sampling import streams

_KEY = jax.random.key(5)
_CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0]])


def _disc(x):
    score = 1 - jnp.sum(x**2, axis=-1)
    return jnp.stack([score, -score], axis=-1)


def _left(x):
    return jnp.stack([0.3 - x[:, 0], x[:, 0] - 0.3], axis=-1)


def _map(apply_fn=_disc, points=_CORNERS, *, key=_KEY, **options):
    defaults = dict(
        sigma=0.5, num_classes=2, resolution=32, num_samples=500, chunk_size=2048
    )
    return slices.slice_map(key, apply_fn, points, **(defaults | options))


@functools.cache
def _disc_map():
    """The map with all defaults, at which several tests look."""
    return _map()


def _ball(x):
    return _disc(x.reshape(len(x), -1))


def _nan_on_the_right(x):
    return jnp.where(x[:, :1] > 0, jnp.nan, x)


def _first_two(x):
    return x.reshape(len(x), -1)[:, :2]


def _pixels(found, origin):
    """The points of R^d that the pixels stand for, one by one."""
    rows = [
        [origin + y * found.basis[1] + x * found.basis[0] for x in found.x]
        for y in found.y
    ]
    return np.array(rows)


class AreaTest(parameterized.TestCase):
    @parameterized.parameters((0.6, False), (0.3, True))
    def test_disc_shrinks_as_the_closed_form_says(self, sigma, common_noise):
        square = optimize.brentq(
            lambda r2: stats.ncx2.cdf(sigma**-2, 2, r2 / sigma**2) - 0.5, 1e-6, 1
        )
        options = dict(num_samples=1024, common_noise=common_noise)
        found = _map(sigma=sigma, **options)
        areas = slices.area_fractions(found)
        side = 2 * 1.5
        self.assertAlmostEqual(areas.base[0], np.pi / side**2, delta=0.005)
        # Over 20 keys the error was at most .022 with common noise, .016 without.
        delta = 0.05 if common_noise else 0.02
        self.assertAlmostEqual(areas.ratio[0], square, delta=delta)
        np.testing.assert_allclose([areas.base.sum(), areas.smoothed.sum()], 1)
        self.assertGreater(areas.ratio[1], 1)
        self.assertTrue(np.isnan(areas.ratio[2]))  # no invalid pixels at all

    def test_half_space_does_not_move(self):
        found = _map(_left)
        areas = slices.area_fractions(found)
        column = 1 / 32
        self.assertAlmostEqual(areas.smoothed[0], areas.base[0], delta=1.5 * column)
        p = special.ndtr((0.3 - (found.x - 1)) / 0.5)
        share = found.counts[..., 0].mean(axis=0) / 500
        np.testing.assert_allclose(share, p, atol=0.079)

    def test_noise_is_that_of_the_whole_space(self):
        """A disc of the plane is a cylinder in R^4 or a ball: these differ."""
        corners = np.zeros((3, 2, 2))
        corners[:, 0] = _CORNERS
        found = _map(_ball, corners, resolution=16)
        share = slices.area_fractions(found).ratio[0]
        square = optimize.brentq(lambda r2: stats.ncx2.cdf(4, 4, 4 * r2) - 0.5, 1e-9, 1)
        self.assertAlmostEqual(share, square, delta=0.15)
        cylinder = slices.area_fractions(_disc_map()).ratio[0]
        self.assertGreater(cylinder, share + 0.15)

    def test_invalid_pixels_are_a_class(self):
        found = _map(_nan_on_the_right, sigma=0.01, resolution=16)
        np.testing.assert_allclose(slices.area_fractions(found).base[2], 0.5)
        np.testing.assert_array_equal(found.smoothed == 2, found.counts[..., 2] > 250)


class MapTest(parameterized.TestCase):
    def test_pixels_match_class_counts(self):
        """Points within [0, 1], where `class_counts` can be asked."""
        shape = (2, 3)
        points = 0.4 + 0.2 * np.random.default_rng(0).uniform(size=(3, *shape))
        weight = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)

        def apply_fn(x):
            return jnp.sin(9 * x.reshape(len(x), 6)) @ weight

        options = dict(sigma=0.2, num_classes=3, num_samples=300)
        stream = jax.random.fold_in(_KEY, streams.SLICES)
        for common_noise in (True, False):
            found = _map(
                apply_fn, points, resolution=6, common_noise=common_noise, **options
            )
            pixels = _pixels(found, points[0]).reshape(36, *shape).astype(np.float32)
            counts = smoothing.class_counts(
                stream,
                apply_fn,
                pixels,
                example_ids=np.zeros(36, int) if common_noise else None,
                **options,
            )
            difference = np.abs(found.counts.reshape(36, 4) - counts).max()
            self.assertLessEqual(difference, 2)  # pixels differ by rounding
            base = np.argmax(jax.jit(apply_fn)(pixels), axis=1).reshape(6, 6)
            np.testing.assert_array_equal(found.base, base)
            winners = np.argmax(found.counts, axis=-1)
            np.testing.assert_array_equal(found.smoothed, winners)

    def test_plane_goes_through_the_points(self):
        points = np.random.default_rng(2).normal(size=(3, 5, 4))
        for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
            given = points[order]
            found = _map(_first_two, given, num_samples=1, resolution=8, margin=0.1)
            basis = found.basis.reshape(2, -1)
            np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-12)
            rebuilt = given[0] + np.tensordot(found.coordinates, found.basis, 1)
            np.testing.assert_allclose(rebuilt, given, atol=1e-12)
            np.testing.assert_array_equal(found.coordinates[0], 0)
            self.assertAlmostEqual(found.coordinates[1, 1], 0)
            self.assertGreater(found.coordinates[2, 1], 0)

    def test_window_is_a_square_around_the_points(self):
        found = _map(margin=0.5, num_samples=1)
        np.testing.assert_allclose(found.coordinates, [[0, 0], [2, 0], [2, 2]])
        np.testing.assert_allclose(found.x, 1 + 4 * (np.arange(32) - 15.5) / 32)
        np.testing.assert_allclose(found.y, found.x)
        bare = _map(margin=0.0, num_samples=1)
        np.testing.assert_allclose([bare.x[0], bare.x[-1]], [1 / 32, 2 - 1 / 32])

    def test_swapped_points_swap_the_axes(self):
        found, swapped = _disc_map(), _map(points=_CORNERS[::-1])
        np.testing.assert_array_equal(swapped.base, found.base.T)

    def test_result_does_not_depend_on_the_batch(self):
        options = dict(common_noise=False, num_samples=200)
        found = _map(**options)
        mesh = jax.make_mesh(
            (4,), ("samples",), axis_types=(jax.sharding.AxisType.Auto,)
        )
        other = _map(jax.jit(_disc), chunk_size=1024, mesh=mesh, **options)
        jax.tree.map(np.testing.assert_array_equal, other, found)

    def test_common_noise_leaves_no_specks(self):
        """Each sample sees the border once, so votes only fall along a row."""

        def changes(common_noise):
            found = _map(_left, num_samples=100, common_noise=common_noise)
            return np.abs(np.diff(found.smoothed, axis=1)).sum(axis=1).max()

        self.assertEqual(changes(True), 1)
        self.assertGreater(changes(False), 1)

    def test_other_weights_do_not_compile_again(self):
        num_traces = 0

        def apply_fn(radius, x):
            nonlocal num_traces
            num_traces += 1
            return _disc(x / radius)

        for radius in (1.0, 2.0):
            partial = jax.tree_util.Partial(apply_fn, jnp.float32(radius))
            _map(partial, sigma=0.1 * radius, num_samples=int(99 * radius), margin=0.0)
            self.assertLessEqual(num_traces, 4)


class TransitionTest(parameterized.TestCase):
    def test_rows_are_shares(self):
        base = np.array([[0, 0, 0], [2, 2, 0]])
        smoothed = np.array([[0, 1, 1], [2, 2, 2]])
        matrix = slices.transition_matrix(base, smoothed, num_classes=4)
        expected = np.full((4, 4), np.nan)
        expected[0] = [0.25, 0.5, 0.25, 0]
        expected[2] = [0, 0, 1, 0]
        np.testing.assert_array_equal(matrix, expected)

    @pytest.mark.newest
    def test_of_a_map(self):
        found = _disc_map()
        matrix = slices.transition_matrix(found.base, found.smoothed, num_classes=2)
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        areas = slices.area_fractions(found)
        np.testing.assert_allclose(areas.base[:2] @ matrix, areas.smoothed[:2])
        np.testing.assert_array_equal(matrix[1], [0, 1])  # convex: none is won

    @parameterized.parameters(
        ([0, 1], [0], 2, r"\(2,\) and \(1,\)"),
        ([0, 2], [0, 0], 2, r"labels in \[0, 2\), got 2"),
        ([0, 0], [0, -1], 2, "-1"),
        ([0.0], [0.0], 2, "float64"),
        ([0], [0], 0, "num_classes.* 0"),
    )
    def test_refuses(self, base, smoothed, num_classes, text):
        with self.assertRaisesRegex(ValueError, text):
            slices.transition_matrix(base, smoothed, num_classes=num_classes)


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(sigma=-1.0), "sigma.* -1.0"),
        (dict(num_samples=0), "num_samples.* 0"),
        (dict(resolution=0), "resolution.* 0"),
        (dict(margin=-0.1), "margin.* -0.1"),
        (dict(margin=np.nan), "margin.* nan"),
        (dict(num_classes=3), "apply_fn"),
        (dict(chunk_size=7), "chunk_size.* 7"),
        (dict(points=_CORNERS[:2]), r"three points.*\(2, 2\)"),
        (dict(points=np.zeros(3)), r"points as a batch"),
        (dict(points=np.zeros((3, 2), np.uint8)), "divide images by 255"),
        (dict(points=_CORNERS * np.inf), "finite points, got"),
        (dict(points=[[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]]), "three on a line"),
        (dict(points=[[0.0, 0.0], [0.0, 0.0], [3.0, 1.0]]), "three on a line"),
        (dict(points=[[0.1, 0.2], [0.3, 0.4], [0.1, 0.2]]), "three on a line"),
        (dict(points=[[0.1, 0.2], [0.3, 0.4], [0.3, 0.4]]), "three on a line"),
    )
    def test_refuses(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            _map(**arguments)


if __name__ == "__main__":
    absltest.main()
