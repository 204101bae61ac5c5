"""Certified ranges: sound by sampling, near attacks, resumable."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from fixed_images import class_of, fixed_image, margins_at, tiny_net
from jax.tree_util import Partial

from robustjax import _callables, bounds, semantic
from robustjax.semantic import certificates, parameter_ranges
from robustjax.semantic.search import cell_bounds, cell_grids, uniform_splitting

_NETS = {3: (tiny_net(), fixed_image()), 1: (tiny_net(30), fixed_image(6, 5, 1))}


@functools.cache
def _label(channels):
    return class_of(*_NETS[channels])


@functools.cache
def _certify(attribute, channels=1, **options):
    fn, image = _NETS[channels]
    return semantic.certify(fn, image, _label(channels), attribute=attribute, **options)


def _margins(attribute, channels, moves):
    fn, image = _NETS[channels]
    moving = semantic.attribute(attribute)
    return margins_at(fn, moving, image, _label(channels), moves)


_PIXEL = np.full((1, 1, 1), 0.5)


def _pixel_net(x):
    """Of one pixel: class 1 ties with class 0 at b = -0.2, class 2 at b = 0.4."""
    b = x[:, 0, 0, 0] - 0.5
    return jnp.stack([b * 0 + 1, 0.8 - b, 0.6 + b], axis=1)


class OneParameterTest(absltest.TestCase):
    def test_range_holds_at_samples_and_meets_the_attack(self):
        found = _certify("rotation")
        ((left, right),) = parameter_ranges.resolve(
            semantic.attribute("rotation"), None
        )
        moves = np.linspace(-found.left, found.right, 8_001)[1:-1, None]
        self.assertGreater(_margins("rotation", 1, moves).min(), 0)
        self.assertGreater(found.left, 0.99 * min(found.attack_left, left))
        self.assertGreater(found.right, 0.99 * min(found.attack_right, right))

    def test_proven_cells_touch_without_gaps(self):
        found = _certify("rotation")
        cells = found.cells[found.states == certificates.PROVEN]
        inside = cells[(cells[:, 0, 0] >= 0) & (cells[:, 1, 0] <= found.right)]
        ends = inside[np.argsort(inside[:, 0, 0])][:, :, 0]
        np.testing.assert_array_equal(ends[1:, 0], ends[:-1, 1])
        self.assertEqual(ends[0, 0], 0.0)
        self.assertEqual(ends[-1, 1], found.right)

    def test_top2_is_the_runner_up_alone(self):
        fn = _callables.as_partial(bounds.single(_pixel_net))
        for targets, rows in (
            ("all", [[1, -1, 0], [1, 0, -1]]),
            ("top2", [[1, -1, 0]]),
        ):
            found = cell_bounds.margin_spec(fn, _PIXEL, 0, targets=targets)
            np.testing.assert_array_equal(found, rows)
        with self.assertRaisesRegex(ValueError, "targets"):
            _certify("rotation", targets="top1")


_PAIR = np.array([[[0.25], [0.75]]])
_SIDES = np.array([[1.0, 0, -1, 0], [0, 1, 0, -1]])  # above the pair, and below it


def _pair_net(x):
    """Of two pixels: class 0 wins where 2 |x - 0.25| + |y - 0.75| < 0.4."""
    away = jax.nn.relu(x.reshape(-1, 2) @ _SIDES - _PAIR.reshape(1, 2) @ _SIDES)
    lost = away @ np.array([2.0, 1, 2, 1])
    return jnp.stack([0.4 - lost, 0 * lost], axis=1)


@functools.cache
def _certified_pair():
    return semantic.certify(
        _pair_net,
        _PAIR,
        0,
        attribute="brightness_contrast",
        limit=((0.3, 0.3), (1.0, 1.0)),
        max_cells=400,
    )


class SeveralParametersTest(absltest.TestCase):
    def test_no_sample_in_a_proven_cell_is_lost(self):
        found = _certified_pair()
        proven = found.cells[found.states == certificates.PROVEN]
        self.assertLessEqual(found.area, found.attack_area + 0.02)
        self.assertLessEqual(found.share, found.attack_share)
        rng = np.random.default_rng(0)
        chosen = proven[rng.integers(0, len(proven), 4000)]
        b, c = rng.uniform(chosen[:, 0], chosen[:, 1]).T
        away = [np.abs(np.clip(x + b + c * (x - 0.5), 0, 1) - x) for x in (0.25, 0.75)]
        self.assertGreater((0.4 - 2 * away[0] - away[1]).min(), 0)

    @pytest.mark.slow
    def test_few_cells_prove_half_of_the_area(self):
        """The widest come first: finer ones only add what is near the boundary."""
        found = _certified_pair()
        self.assertEqual((found.status, found.num_bounded), ("unknown", 400))
        self.assertGreater(found.area, 0.5 * found.attack_area)
        self.assertLess(found.attack_area, 0.5)
        self.assertGreater(found.share, 0.5 * found.attack_share)
        self.assertLess(found.attack_share, 1)

    @pytest.mark.slow
    def test_all_cells_cover_the_limits(self):
        cells = _certified_pair().cells
        self.assertAlmostEqual(np.prod(cells[:, 1] - cells[:, 0], axis=1).sum(), 1.2)


def _unknown(fn, image, cells, **options):
    del fn, image, options
    return np.full(len(cells), np.nan)


class AnytimeTest(absltest.TestCase):
    @pytest.mark.newest
    def test_resumed_equals_straight(self):
        whole = _certify("rotation")
        part = _certify("rotation", max_cells=8)
        self.assertEqual(part.status, "unknown")
        self.assertLess(part.right, whole.right)
        fn, image = _NETS[1]
        resumed = semantic.certify(
            fn, image, _label(1), attribute="rotation", resume=part
        )
        self.assertEqual(resumed[:6], whole[:6])
        self.assertEqual(part.num_bounded + resumed.num_bounded, whole.num_bounded)

    def test_no_time_proves_nothing(self):
        found = _certify("rotation", time_limit=1e-9)
        self.assertEqual((found.left, found.right, found.status), (0, 0, "unknown"))

    def test_a_misclassified_image_has_no_range(self):
        fn, image = _NETS[1]
        label = (_label(1) + 1) % 3
        found = semantic.certify(fn, image, label, attribute="rotation")
        self.assertEqual((found.left, found.right, found.status), (0, 0, "falsified"))
        self.assertEqual((found.attack_left, found.attack_right), (0, 0))

    def test_nan_is_never_certified(self):
        def fn(x):  # NaN where the sum is below 20
            sums = x.sum(axis=(1, 2, 3))
            return jnp.stack([sums * 0 + 1, jnp.sqrt(sums - 20) * 0], axis=1)

        found = semantic.certify(
            fn, fixed_image(), 0, attribute="brightness", max_cells=40
        )
        lost = found.attack_left
        self.assertLess(lost, 1.0)
        self.assertLessEqual(found.left, lost)
        self.assertEqual(found.right, 1.0)

    def test_bounds_that_are_nan_prove_nothing(self):
        unknown = mock.patch.object(cell_bounds, "of_cells", side_effect=_unknown)
        settings = {"attribute": "brightness", "limit": 0.1}
        with unknown:
            found = semantic.certify(_pixel_net, _PIXEL, 0, max_cells=8, **settings)
            split = semantic.certify_split(
                _pixel_net, _PIXEL, 0, width=0.05, **settings
            )
        self.assertEqual((found.left, found.right, found.area), (0, 0, 0))
        self.assertNotIn(certificates.PROVEN, found.states)
        self.assertEqual(split[:2], (0, 0))


class AcceleratorTest(absltest.TestCase):
    """Off the CPU cells are bounded in float32 first; float64 decides."""

    @pytest.mark.slow
    def test_float64_decides_what_float32_proves(self):
        """Two pixels are one number in float32, and far from that for the model."""

        def fn(x):
            one, other, third = x[0, :, 0]
            return jnp.stack([2.0**30 * (one - other) + 8 * third - 1.5, 0 * third])

        image = np.array([[[0.25], [0.25 + 2.0**-30], [0.25]]])
        self.assertEqual(*np.float32(image)[0, :2, 0])  # there the margin is 0.5 + 8 b
        cells = np.array([[0, 0.125], [0.125, 0.25], [-0.25, -0.125], [0.0625, 0.125]])
        how = cell_bounds.How(semantic.attribute("brightness"), (0.125,))
        bound = functools.partial(
            cell_bounds.of_cells,
            Partial(fn),
            image,
            cells[..., None],
            spec=np.array([[1.0, -1.0]]),
            how=how,
        )
        true, straight = 8 * cells[:, 0] - 0.5, bound()
        # Margins are lowered for rounding, here of terms as large as 2^30.
        np.testing.assert_array_less(straight, true)
        np.testing.assert_allclose(straight, true, rtol=0, atol=2.0**30 * 1e-12)
        with mock.patch.object(jax, "default_backend", return_value="gpu"):
            found = bound()
        is_likely = true + 1 > 0
        np.testing.assert_array_equal(found[is_likely], straight[is_likely])
        np.testing.assert_allclose(found[~is_likely], -1.5, atol=1e-3)


class AttackTest(absltest.TestCase):
    def test_refuses_a_label_that_is_no_class(self):
        fn, image = _NETS[3]
        with self.assertRaisesRegex(ValueError, "label"):
            semantic.attack(fn, image, 3, attribute="hue")

    def test_a_grid_reaches_the_limit(self):
        """int(-eps / delta) of the reference code truncates: one cell short."""

        def fn(x):  # lost at the very limit alone
            b = x[:, 0, 0, 0] - 0.5
            return jnp.stack([0.2999999 - b, b * 0], axis=1)

        found = semantic.attack(fn, _PIXEL, 0, attribute="brightness", limit=0.3)
        self.assertAlmostEqual(found.right, 0.3, places=6)


class GridsTest(parameterized.TestCase):
    @parameterized.parameters("rotation", "translation", "brightness_contrast", "scale")
    def test_first_cells_cover_the_limits_and_zero_is_a_corner(self, name):
        attribute = semantic.attribute(name)
        ranges = [(0.25, 0.7)] * len(attribute.names)
        cells = cell_grids.first_cells(attribute, ranges)
        volume = np.prod(cells[:, 1] - cells[:, 0], axis=1).sum()
        self.assertAlmostEqual(volume, 0.95 ** len(ranges))
        self.assertTrue(np.all((cells[:, 0] >= 0) | (cells[:, 1] <= 0)))
        widths = cell_grids.straightened_widths(attribute, cells)
        ends = 1 / (1 + cells) if name == "scale" else cells
        widest = np.abs(ends[:, 1] - ends[:, 0]).max(axis=0)
        np.testing.assert_array_less(widest, widths)
        np.testing.assert_allclose(widths, widest, rtol=1e-8)

    def test_moves_of_pixels_are_cut_at_whole_pixels(self):
        attribute = semantic.attribute("translation")
        cells = cell_grids.first_cells(attribute, [(1.5, 0.7), (0.25, 2.0)])
        for low, high in np.moveaxis(cells, 2, 0).swapaxes(1, 2):
            self.assertTrue(np.all(np.floor(low) + 1 >= high))

    def test_shares_of_limits(self):
        shares = parameter_ranges.share_of(
            np.array([[-0.5], [0.25], [0.0]]), [(1.0, 0.5)]
        )
        np.testing.assert_array_equal(shares, [0.5, 0.5, 0.0])
        shares = parameter_ranges.share_of(
            np.array([[0.1, 0.1], [-0.1, 0]]), [(0, 1), (1, 0)]
        )
        np.testing.assert_array_equal(shares, [np.inf, np.inf])

    def test_only_cells_connected_with_zero_count(self):
        cells = np.array([[[0.0], [0.2]], [[0.2], [0.3]], [[0.5], [1.0]]])
        self.assertAlmostEqual(cell_grids.connected_area(cells, [(1.0, 1.0)]), 0.15)


class SplittingTest(absltest.TestCase):
    def _split(self, fn=_pixel_net, image=_PIXEL, label=0, **options):
        settings = {"attribute": "brightness", "width": 0.05, "limit": 0.3} | options
        return semantic.certify_split(fn, image, label, **settings)

    @pytest.mark.slow
    def test_implicit_lies_between_hull_and_exact(self):
        hue = functools.partial(self._split, *_NETS[3], 2, attribute="hue")
        hull, implicit, fine = hue(), hue(subdivisions=8), hue(width=0.005)
        self.assertGreaterEqual(implicit.left, hull.left)
        self.assertGreaterEqual(implicit.right, hull.right)
        self.assertLessEqual(implicit.right, 1.434340152 / 6)
        self.assertGreater(fine.right, hull.right)
        self.assertLessEqual(fine.right, 1.434340152 / 6)
        # The first cell fails. The reference code reports its width.
        self.assertEqual(hue(width=0.3)[:2], (0.0, 0.0))

    def test_a_failure_in_the_first_cell_certifies_nothing(self):
        found = self._split(image=_PIXEL - 0.15, width=0.08, relaxation="planes")
        self.assertEqual(found[:2], (0.0, 0.3))

    def test_cells_end_at_the_limit_or_at_a_failure(self):
        found = self._split(width=0.08, relaxation="planes")
        self.assertEqual((found.left, found.right), (0.16, 0.3))

    def test_presets_name_attributes(self):
        for preset in uniform_splitting.PRESETS.values():
            self.assertEqual(
                semantic.attribute(preset.attribute).name, preset.attribute
            )

    def test_options(self):
        for options, text in (
            ({"width": 0.0}, "width"),
            ({"attribute": "brightness_contrast"}, "one"),
            ({"subdivisions": 2, "relaxation": "planes"}, "pixel_box"),
            ({"targets": "untargeted"}, "targets"),
            ({"relaxation": "lp"}, "relax"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                self._split(**options)


if __name__ == "__main__":
    absltest.main()
