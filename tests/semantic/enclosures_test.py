"""Intervals and planes of pixels: sound by sampling, tight against a program."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_data
import scipy.optimize
from absl.testing import absltest, parameterized
from fixed_images import fixed_image, random_image

from robustjax import data, semantic

# Attribute, lower and upper corner of a cell.
_CELLS = (
    ("hue", (-0.2 / 6,), (0.4 / 6,)),
    ("hue", (-0.5,), (0.5,)),
    ("saturation", (-0.7,), (0.6,)),
    ("lightness", (-0.2,), (0.2,)),
    ("lightness", (0.3,), (0.9,)),
    ("brightness", (-0.4,), (0.1,)),
    ("contrast", (-0.2,), (0.2,)),
    ("contrast", (-1.0,), (1.5,)),
    ("rotation", (-3.0,), (5.0,)),
    ("rotation", (86.0,), (93.0,)),
    ("rotation", (7.3,), (7.4,)),
    ("scale", (-0.2,), (0.1,)),
    ("shear", (-0.4,), (0.3,)),
    ("translation_rows", (-1.5,), (0.8,)),
    ("translation", (-1.0, 0.0), (-0.3, 0.9)),
    ("brightness_contrast", (-0.2, -0.3), (0.1, 0.5)),
    ("hue+saturation", (-0.05, -0.3), (0.1, 0.2)),
    ("hue+lightness", (0.0, -0.1), (0.1, 0.2)),
    ("hue+saturation+lightness", (-0.05, -0.1, -0.1), (0.05, 0.2, 0.2)),
    ("hue+brightness", (-0.05, -0.1), (0.05, 0.2)),
    ("rotation+brightness", (2.0, -0.1), (4.0, 0.2)),
    ("rotation+contrast", (-2.0, -0.2), (1.0, 0.3)),
    ("scale+brightness_contrast", (-0.1, -0.1, -0.2), (0.1, 0.1, 0.2)),
    ("translation+brightness", (0.0, -1.0, 0.0), (1.0, 0.0, 0.1)),
)


def _straight(names, moves):
    """The parameters of planes: a scale is 1 / (1 + delta)."""
    columns = [
        1 / (1 + moves[:, k]) if name == "scale" else moves[:, k]
        for k, name in enumerate(names)
    ]
    return np.stack(columns, axis=1)


def _image(attribute):
    return fixed_image() if attribute.is_color else fixed_image(9, 8, 1)


@functools.cache
def _enclosed(name, low, high):
    with jax.enable_x64(True):
        attribute = semantic.attribute(name)
        widths = tuple(float(w) for w in np.ptp(_corners(attribute, low, high), axis=0))
        enclosed = jax.jit(
            functools.partial(
                semantic.enclosure, attribute, _image(attribute), max_widths=widths
            )
        )
        return jax.device_get(enclosed(np.array([low, high])))


def _corners(attribute, low, high):
    return _straight(attribute.names, np.array([low, high]))


class SoundnessTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(*_CELLS)
    def test_pixels_are_inside(self, name, low, high):
        self._check(name, low, high, count=700)

    @parameterized.parameters(*_CELLS)
    @pytest.mark.slow
    def test_a_million_pixels_are_inside(self, name, low, high):
        self._check(name, low, high, count=20_000)

    def _check(self, name, low, high, *, count):
        attribute = semantic.attribute(name)
        lower, upper, planes = _enclosed(name, low, high)
        rng = np.random.default_rng(0)
        moves = rng.uniform(low, high, size=(count, len(low)))
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), -1)
        moves[: 2 ** len(low)] = corners.reshape(-1, len(low))
        if len(low) == 1:
            moves[2:] = np.linspace(low, high, count)[2:]
        image = jnp.asarray(_image(attribute))
        moved = jax.jit(jax.vmap(functools.partial(attribute, image)))
        pixels = np.asarray(moved(jnp.asarray(moves)))
        at = _straight(attribute.names, moves)
        above = np.tensordot(at, planes.upper_slope, axes=1) + planes.upper_offset
        below = np.tensordot(at, planes.lower_slope, axes=1) + planes.lower_offset
        for side in (upper - pixels, pixels - lower, above - pixels, pixels - below):
            self.assertGreater(side.min(), -1e-12)

    @parameterized.parameters(*_CELLS)
    def test_intervals_are_tight(self, name, low, high):
        """Exact along one parameter; of others within what planes can lose."""
        attribute = semantic.attribute(name)
        lower, upper, _ = _enclosed(name, low, high)
        if len(low) > 1 or name in ("rotation", "scale"):
            self.assertTrue(np.all(np.isfinite([lower, upper])))
            if name not in ("rotation", "scale", "brightness_contrast", "translation"):
                return
        along = [np.linspace(a, b, 4001 if len(low) == 1 else 65)
                 for a, b in zip(low, high, strict=True)]  # fmt: skip
        moves = np.stack(np.meshgrid(*along), -1).reshape(-1, len(low))
        image = jnp.asarray(_image(attribute))
        moved = jax.jit(jax.vmap(functools.partial(attribute, image)))
        pixels = np.asarray(moved(jnp.asarray(moves)))
        excess = (upper - lower) - (pixels.max(axis=0) - pixels.min(axis=0))
        allowed = {"rotation": 0.02, "scale": 0.02}.get(name, 2e-3)
        self.assertLess(excess.max(), allowed)


class TightnessTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(
        ("hue", -0.2 / 6, 0.4 / 6, 0.108750, 0.014167),
        ("lightness", -0.2, 0.2, 0.381270, 0.073350),
        ("contrast", -0.2, 0.2, 0.085000, 0.014375),
    )
    def test_noted_widths_and_gaps(self, name, low, high, width, gap):
        lower, upper, planes = semantic.enclosure(
            semantic.attribute(name), fixed_image(), np.array([[low], [high]])
        )
        middle = 0.5 * (low + high)
        slope = planes.upper_slope[0] - planes.lower_slope[0]
        own = slope * middle + planes.upper_offset - planes.lower_offset
        self.assertAlmostEqual(float(jnp.mean(upper - lower)), width, places=6)
        self.assertAlmostEqual(float(jnp.mean(own)), gap, places=6)

    @parameterized.parameters("hue", "saturation", "lightness", "contrast")
    def test_lines_are_those_of_a_linear_program(self, name):
        image, attribute = random_image(12, 4), semantic.attribute(name)
        cell = np.array([[-0.31], [0.29]]) * (1 / 6 if name == "hue" else 1)
        *_, planes = semantic.enclosure(attribute, image, cell)
        along = np.linspace(*cell[:, 0], 2001)
        pixels = jax.vmap(lambda t: attribute(image, t[None]))(jnp.asarray(along))
        pixels = np.asarray(pixels).reshape(len(along), -1)
        middle = cell.mean()
        above = np.asarray(planes.upper_slope[0] * middle + planes.upper_offset).ravel()
        for k in range(0, pixels.shape[1], 7):
            rows = np.stack([-along, -np.ones_like(along)], axis=1)
            best = scipy.optimize.linprog(
                [middle, 1], rows, -pixels[:, k], bounds=(None, None)
            )
            self.assertLess(abs(best.fun - above[k]), 1e-3)
            self.assertGreater(above[k], best.fun - 1e-9)

    @pytest.mark.slow
    def test_a_knot_in_the_middle_that_ties(self):
        """A peak in the middle of a cell: all chords through it tie."""
        image = np.array([[[1.0, 0.0, 0.0]]])  # red falls on both sides of +-1 sextant
        attribute = semantic.attribute("saturation")
        *_, planes = semantic.enclosure(attribute, image, np.array([[-0.5], [0.5]]))
        along = np.linspace(-0.5, 0.5, 101)
        pixels = jax.vmap(lambda t: attribute(image, t[None]))(jnp.asarray(along))
        slope, offset = np.ravel(planes.upper_slope), np.ravel(planes.upper_offset)
        above = along[:, None] * slope + offset
        self.assertGreater((above - np.asarray(pixels)[:, 0, 0]).min(), -1e-12)


class DeepGTest(absltest.TestCase):
    @pytest.mark.slow
    def test_rotation_is_near_the_published_lines(self):
        """First MNIST image, +-1 degree: mean gap 0.00547 and width 0.0138 there."""
        folder = real_data.folder("deepg_example1")
        self.enterContext(jax.enable_x64(True))
        image = data.load("mnist", split="test", data_dir=folder.parent).images[0]
        x = np.asarray(image, np.float64).reshape(28, 28, 1)
        lower, upper, planes = semantic.enclosure(
            semantic.attribute("rotation"), x, np.array([[-1.0], [1.0]])
        )
        self.assertLess(
            float(jnp.mean(planes.upper_offset - planes.lower_offset)), 0.00546
        )
        self.assertLess(float(jnp.mean(upper - lower)), 0.013774)
        lines = pathlib.Path(folder, "0.csv").read_text().splitlines()
        published = np.array([float(v) for v in lines[1].replace(",", " ").split()])
        self.assertLess(
            float(jnp.mean(upper - lower)), np.mean(published[1::2] - published[::2])
        )


class TransformTest(absltest.TestCase):
    def test_jit_and_vmap_over_cells(self):
        attribute = semantic.attribute("rotation")
        image = fixed_image(6, 6, 1).astype(np.float32)
        cells = np.array([[[0.0], [1.0]], [[1.0], [2.0]]], np.float32)
        enclose = functools.partial(
            semantic.enclosure, attribute, image, max_widths=(1.0,)
        )
        stacked = jax.jit(jax.vmap(enclose))(cells)
        alone = enclose(cells[1])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a[1], b, atol=1e-5), stacked, alone
        )

    def test_radial_interpolation_is_refused(self):
        attribute = semantic.attribute(
            "rotation", sampling=semantic.Sampling(interpolation="radial")
        )
        with self.assertRaisesRegex(ValueError, "Only bilinear"):
            semantic.enclosure(
                attribute, fixed_image(4, 4, 1), np.array([[0.0], [1.0]])
            )


if __name__ == "__main__":
    absltest.main()
