"""Limits of zero and huge ones, bad options, logits of inf, and what is compiled."""

import functools
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from compilations import counted
from jax.tree_util import Partial

from robustjax import bounds, semantic
from robustjax._precision import as_run
from robustjax.semantic.attributes import NAMES
from robustjax.semantic.search import cell_bounds, cell_grids

_IMAGE = np.full((1, 1, 1), 0.5)


def _model(x):
    """Class 0 wins while the pixel is above 0.3: to a brightness of -0.2."""
    return jnp.stack([x[:, 0, 0, 0], 0.6 - x[:, 0, 0, 0]], axis=-1)


def _certify(model=_model, image=_IMAGE, label=0, **options):
    options = {"attribute": "brightness", "limit": 0.125} | options
    return semantic.certify(model, image, label, **options)


def _pair_model(x):
    """Class 0 wins while the pixels differ by more than 0.1."""
    away = x[:, 0, 0, 0] - x[:, 0, 1, 0]
    return jnp.stack([away, 0 * away + 0.1], axis=1)


_PAIR = np.array([[[0.75], [0.25]]])


def _unknown(fn, image, cells, **options):
    """In the place of `cell_margins.of_cells`: no cell has bounds."""
    del fn, image, options
    return np.full(len(cells), np.nan)


class LimitsTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_limits_of_zero_ask_of_the_image_alone(self):
        found = _certify(limit=0)
        self.assertEqual(
            (found.status, found.left, found.right, found.share, found.area),
            ("certified", 0, 0, 1, 1),
        )
        lost = _certify(limit=0, label=1)
        self.assertEqual((lost.status, lost.share, lost.area), ("falsified", 0, 0))
        self.assertEqual((lost.left, lost.attack_left), (0, 0))
        for limit in ((0, 0.125), (0.125, 0)):
            found = _certify(limit=limit)
            self.assertEqual((found.status, *found[:2]), ("certified", *limit))

    def test_cells_that_no_number_of_devices_divides_stay_on_one(self):
        cells = jnp.zeros((4, 2, 1))
        with mock.patch.object(jax, "local_devices", return_value=jax.devices() * 3):
            found = cell_bounds._spread_out([jnp.ones(1), cells, jnp.ones(1)])
        self.assertIs(found[1], cells)

    def test_limits_of_another_number_of_parameters(self):
        with self.assertRaisesRegex(ValueError, "or a pair for each of brightness, co"):
            _certify(attribute="brightness_contrast", limit=((0, 1), (1, 1), (0, 1)))

    def test_one_parameter_of_two_may_stay(self):
        """Contrast alone: the margin 0.5 (1 + c) - 0.1 ends at c = -0.8."""
        found = _certify(
            _pair_model, _PAIR, attribute="brightness_contrast", limit=((0, 0), (1, 1))
        )
        self.assertBetween(found.share, 0.8 - 1 / 32, 0.8)
        self.assertBetween(found.attack_share, 0.8 - 1e-9, 0.8 + 1e-3)
        self.assertBetween(found.area, 0.9 - 1 / 64, 0.9)
        self.assertEqual(np.abs(found.cells[:, :, 0]).max(), 0)

    @parameterized.parameters(*NAMES, "rotation+brightness_contrast")
    def test_huge_limits_have_few_first_cells(self, name):
        moving = semantic.attribute(name)
        ranges = [(0.999999 if "scale" in moving.names else 1e30, 1e30)]
        ranges *= len(moving.names)
        cells = cell_grids.first_cells(moving, ranges)
        self.assertLess(len(cells), 2 * 4096)
        if len(ranges) == 1:  # each begins where the one before it ends
            starts, ends = np.sort(cells[..., 0], axis=0).T
            np.testing.assert_array_equal(starts, [-ranges[0][0], *ends[:-1]])
            self.assertEqual(ends[-1], 1e30)
        if len(ranges) > 1 or name == "brightness":
            self.assertTrue(cell_grids.covers(cells, ranges))
        if name in ("brightness", "translation"):  # a hole is seen
            self.assertFalse(cell_grids.covers(np.delete(cells, 7, axis=0), ranges))

    @pytest.mark.slow
    def test_a_search_in_huge_limits_stops_when_told(self):
        began = time.perf_counter()
        pair = functools.partial(_certify, _pair_model, _PAIR)
        both = dict(attribute="brightness_contrast", limit=((0, 0), (0, 1e6)))
        found = pair(**both, max_cells=8)
        self.assertEqual((found.status, found.num_bounded), ("unknown", 8))
        alone = dict(attribute="contrast", limit=(0, 1e6))
        with mock.patch.object(cell_bounds, "of_cells", return_value=np.ones(4)):
            found = pair(**alone, max_cells=8, batch_size=4)
        self.assertEqual((found.status, found.num_bounded), ("unknown", 8))
        self.assertLess(time.perf_counter() - began, 20)
        self.assertEqual(pair(**alone, max_cells=0).num_bounded, 0)

    @parameterized.parameters("brightness", "saturation", "lightness", "hue")
    def test_limits_past_the_last_change_are_refused(self, name):
        image = np.full((1, 1, 3), 0.5)
        with self.assertRaisesRegex(ValueError, "expected a limit of at most"):
            _certify(image=image, attribute=name, limit=(0.1, 1.001))

    def test_wide_translations_are_cut_at_whole_pixels(self):
        """Others than those have no bounds; of limits past the first cells as well."""
        with mock.patch.object(cell_bounds, "of_cells", side_effect=_unknown) as made:
            found = _certify(
                attribute="translation", limit=5000.5, max_cells=400, min_share=1e-6
            )
        seen = [call.args[2] for call in made.call_args_list]
        cells = np.concatenate([*seen, found.cells])
        wide = cells[:, 1] - cells[:, 0] > 1
        self.assertGreater(wide.sum(), 100)
        ends = np.abs(cells.swapaxes(1, 2)[wide])
        self.assertTrue(np.all((ends == np.round(ends)) | (ends == 5000.5)))

    @parameterized.parameters(
        ({"batch_size": -3}, ValueError, "batch_size"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"max_cells": -1}, ValueError, "max_cells"),
        ({"chunk_size": -1}, ValueError, "chunk_size"),
        ({"min_share": 0}, ValueError, "min_share"),
        ({"min_share": -0.1}, ValueError, "min_share"),
        ({"min_share": 1.5}, ValueError, "min_share"),
        ({"min_share": float("nan")}, ValueError, "min_share"),
        ({"time_limit": float("nan")}, ValueError, "time_limit"),
        ({"time_limit": -1.0}, ValueError, "time_limit"),
        ({"limit": float("inf")}, ValueError, "limit"),
        ({"attribute": "scale", "limit": 1.0}, ValueError, "scale above -1"),
    )
    def test_options(self, options, error, text):
        with self.assertRaisesRegex(error, text):
            _certify(**options)


def _constant_model(logits):
    def model(x):
        return 0 * x[:, 0, 0, :1] + np.array([logits])

    return model


def _overflowing(x):
    """The label wins by far, and by inf above a brightness of 709.8 / 2840 = 0.25."""
    way = jax.nn.relu(x[:, 0, 0, 0] - 0.5)
    return jnp.stack([1 + jnp.exp(2840 * way), 0 * way], axis=1)


class InfiniteLogitsTest(parameterized.TestCase):
    @parameterized.parameters(
        ((np.inf, 0.0, 0.0),),
        ((np.nan, 0.0, 0.0),),
        ((np.inf, np.inf, 0.0),),
        ((1.0, np.nan, 0.0),),
        ((1.0, 0.0, -np.inf),),
        ((np.inf, 0.0, np.nan),),
    )
    def test_they_are_never_certified(self, logits):
        model = _constant_model(logits)
        found = _certify(model)
        self.assertEqual((found.left, found.right, found.area), (0, 0, 0))
        self.assertEqual((found.attack_left, found.status), (0, "falsified"))
        exact = semantic.exact_radius(model, _IMAGE, 0, attribute="brightness")
        self.assertEqual((exact.left, exact.right), (0, 0))

    def test_bounds_that_may_be_infinite_prove_nothing(self):
        """Also where no counterexample tells so."""
        brightness = semantic.attribute("brightness")
        widths = cell_grids.bounded_widths(brightness)
        how = cell_bounds.How(brightness, widths, chunk_size=32)  # that of `certify`
        cells = np.array([[[0.0], [0.01]], [[0.0], [0.26]]] * 2)
        margins = cell_bounds.of_cells(
            as_run(bounds.single(_overflowing)),
            _IMAGE,
            cells,
            spec=np.array([[1.0, -1.0]]),
            how=how,
        )
        self.assertGreater(margins[0], 0.9)
        self.assertTrue(np.isnan(margins[1]))
        ends = bounds.Bounds(jnp.ones(1), jnp.full(1, jnp.inf))
        with mock.patch.object(bounds, "linear_bounds", return_value=ends):
            margins = cell_bounds.of_cells(
                Partial(lambda x: x[0, 0]),
                _IMAGE,
                cells,
                how=how,
                spec=np.array([[1.0]]),
            )
        self.assertTrue(np.all(np.isnan(margins)))
        found = _certify(_overflowing, limit=0.3, max_cells=200)
        self.assertEqual(found.left, 0.3)
        self.assertBetween(found.right, 0.05, 709.8 / 2840)
        self.assertLessEqual(found.right, found.attack_right)


_RAY = np.linspace(-1, 1, 8).reshape(4, 2) + np.eye(4, 2)


def _linear_model(x):
    return x.reshape(len(x), -1) @ _RAY.astype(x.dtype)


class CompilationTest(parameterized.TestCase):
    @parameterized.parameters(
        (_linear_model, (2, 2, 1), "rotation", 5.0, 9.0),
        (_pair_model, (1, 2, 1), "brightness_contrast", 0.2, 0.31),
    )
    def test_another_image_label_and_limit_compile_nothing(
        self, model, shape, name, first, second
    ):
        images = np.random.default_rng(0).random((2, *shape))
        labels = [int(np.argmax(model(x[None])[0])) for x in images]
        certify = functools.partial(
            semantic.certify, model, attribute=name, max_cells=24
        )
        found = certify(images[0], labels[0], limit=first)
        semantic.check(found, model, images[0])
        with counted() as programs:
            found = certify(images[1], labels[1], limit=second)
            certify(images[1], 1 - labels[1], limit=first)
            semantic.check(found, model, images[1])
        self.assertEmpty(programs)

    def test_exact_radii_compile_nothing_more(self):
        exact = functools.partial(semantic.exact_radius, _model, attribute="brightness")
        exact(_IMAGE, 0, limit=0.9)
        with counted() as programs:
            exact(_IMAGE + 0.1, 1, limit=0.8)
            exact(_IMAGE + 0.2, 0, limit=0.7)
        self.assertEmpty(programs)

    def test_programs_are_counted(self):
        with counted() as programs:
            jax.jit(lambda x: x + 1)(np.ones(3))
        self.assertLen(programs, 1)


if __name__ == "__main__":
    absltest.main()
