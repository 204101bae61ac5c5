"""Intervals and planes of pixels: sound by sampling, tight against a program."""

import fractions
import functools
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_data
import scipy.optimize
from absl.testing import absltest, parameterized
from fixed_images import fixed_image

from robustjax import data, semantic
from robustjax.semantic.relaxations import enclosures

# Cells by attribute: lower and upper corners. "mirrored": read with reflection about an
# integer centre. It is half a pixel off the middle of an even size, so that the sources
# of the farthest pixels move faster than those about the middle.
_CELLS = {
    "hue": (((-0.2 / 6,), (0.4 / 6,)), ((-0.5,), (0.5,)), ((-0.31 / 6,), (0.29 / 6,))),
    "saturation": (((-0.7,), (0.6,)), ((-0.5,), (0.5,)), ((-0.31,), (0.29,))),
    "lightness": (((-0.2,), (0.2,)), ((0.3,), (0.9,)), ((-0.31,), (0.29,))),
    "brightness": (((-0.4,), (0.1,)),),
    "contrast": (((-0.2,), (0.2,)), ((-1.0,), (1.5,)), ((-0.31,), (0.29,))),
    "rotation": (((-3.0,), (5.0,)), ((86.0,), (93.0,)), ((7.3,), (7.4,))),
    "rotation mirrored": (((24.97,), (37.17,)),),
    "scale": (((-0.2,), (0.1,)),),
    "scale mirrored": (((-0.345,), (3.4,)),),
    "shear mirrored": (((-0.72,), (0.72,)),),
    "translation_rows": (((-1.5,), (0.8,)),),
    "translation": (((-1.0, 0.0), (-0.3, 0.9)), ((-1.0, 0.0), (0.0, 1.0))),
    "brightness_contrast": (((-0.2, -0.3), (0.1, 0.5)),),
    "hue+saturation+lightness": (((-0.05, -0.1, -0.1), (0.05, 0.2, 0.2)),),
    "scale+brightness_contrast": (((-0.1, -0.1, -0.2), (0.1, 0.1, 0.2)),),
}
# Attributes joined by the same rules as those above; only the long test samples them.
_MORE_CELLS = {
    "translation+brightness": (((0.0, -1.0, 0.0), (1.0, 0.0, 0.1)),),
    "hue+brightness": (((-0.05, -0.1), (0.05, 0.2)),),
    "rotation+brightness": (((2.0, -0.1), (4.0, 0.2)),),
    "hue+lightness": (((0.0, -0.1), (0.1, 0.2)),),
    "shear": (((-0.4,), (0.3,)),),
    "hue+saturation": (((-0.05, -0.3), (0.1, 0.2)),),
    "rotation+contrast": (((-2.0, -0.2), (1.0, 0.3)),),
}
# Maximum excess of the width of an interval over the range of sampled pixels.
_EXACT = dict.fromkeys(
    (
        "hue", "saturation", "lightness", "brightness", "contrast", "shear",
        "shear mirrored", "translation_rows", "translation", "brightness_contrast",
    ),
    2e-3,
)  # fmt: skip
_EXCESS = {**_EXACT, "rotation": 0.02, "scale": 0.02}
# Lines of these are compared with a linear program, over the last cell.
_PROGRAMS = ("hue", "saturation", "lightness", "contrast")


@functools.partial(jax.jit, static_argnames=("attribute", "max_widths"))
def _bounds(images, cells, *, attribute, max_widths):
    enclose = functools.partial(semantic.enclosure, attribute, max_widths=max_widths)
    return jax.vmap(enclose)(images, cells)


@functools.partial(jax.jit, static_argnames="attribute")
def _moved(images, moves, *, attribute):
    return jax.vmap(jax.vmap(attribute, (None, 0)))(images, moves)


def _attribute(case):
    name, _, is_mirrored = case.partition(" ")
    if not is_mirrored:
        return semantic.attribute(name)
    sampling = semantic.Sampling("reflect", center="integer")
    return semantic.attribute(name, sampling=sampling)


def _cells(case):
    return np.array((_CELLS | _MORE_CELLS)[case])


def _images(case):
    """An image a cell; for linear programs one of other colours."""
    is_color = _attribute(case).is_color or case == "contrast"
    image = fixed_image() if is_color else fixed_image(6, 8, 1)
    images = np.stack([image] * len(_cells(case)))
    if case in _PROGRAMS:
        images[-1] = np.random.default_rng(0).random(image.shape)
    return images


def _straight(attribute, moves):
    """The parameters of planes: a scale is 1 / (1 + delta)."""
    is_scale = np.array([name == "scale" for name in attribute.names])
    return np.where(is_scale, 1 / np.where(is_scale, 1 + moves, 1.0), moves)


def _widths(case, cells):
    straight = _straight(_attribute(case), cells)
    return tuple(np.abs(straight[:, 1] - straight[:, 0]).max(axis=0).tolist())


@functools.cache
def _enclosed(case):
    """Intervals and planes of all cells of an attribute, in float64."""
    cells, attribute = _cells(case), _attribute(case)
    with jax.enable_x64(True):
        found = _bounds(
            _images(case), cells, attribute=attribute, max_widths=_widths(case, cells)
        )
        return jax.device_get(found)


def _pixels(case, moves):
    with jax.enable_x64(True):
        return np.asarray(_moved(_images(case), moves, attribute=_attribute(case)))


def _drawn(low, high, count):
    """Corners of a cell, and moves inside of it."""
    moves = np.random.default_rng(0).uniform(low, high, size=(count, len(low)))
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), -1)
    moves[: 2 ** len(low)] = corners.reshape(-1, len(low))
    return moves


def _covering(case, low, high):
    """A fine line; a grid where intervals must be exact; or 700 draws."""
    if len(low) == 1:
        return np.linspace(low, high, 4001)
    drawn = _drawn(low, high, 700)
    if case not in _EXACT:
        return drawn
    along = [np.linspace(a, b, 65) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*along), -1).reshape(-1, len(low))
    return np.concatenate([drawn, grid])


class SoundnessTest(parameterized.TestCase):
    @parameterized.parameters(*_CELLS)
    def test_pixels_are_inside_and_intervals_tight(self, case):
        """Exact along one parameter; of others within what planes can lose."""
        moves = np.stack([_covering(case, *cell) for cell in _cells(case)])
        pixels = self._check(case, moves)
        lower, upper, _ = _enclosed(case)
        self.assertTrue(np.all(np.isfinite([lower, upper])))
        excess = (upper - lower) - (pixels.max(axis=1) - pixels.min(axis=1))
        self.assertLess(excess.max(), _EXCESS.get(case, np.inf))

    @parameterized.parameters(*_CELLS, *_MORE_CELLS)
    @pytest.mark.slow
    def test_a_million_pixels_are_inside(self, case):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            self._check(
                case,
                np.stack(
                    [rng.uniform(*cell, (4000, len(cell[0]))) for cell in _cells(case)]
                ),
            )

    def _check(self, case, moves):
        lower, upper, planes = (_enclosed(case)[k] for k in range(3))
        pixels = _pixels(case, moves)
        at = _straight(_attribute(case), moves)
        join = functools.partial(np.einsum, "knd,kdhwc->knhwc")
        above = join(at, planes.upper_slope) + planes.upper_offset[:, None]
        below = join(at, planes.lower_slope) + planes.lower_offset[:, None]
        for side in (
            upper[:, None] - pixels,
            pixels - lower[:, None],
            above - pixels,
            pixels - below,
        ):
            self.assertGreater(side.min(), -1e-12)
        return pixels

    def test_a_cell_across_an_edge_of_pixels_has_no_bounds(self):
        """Moves along rows and columns are bilinear only inside of a cell of pixels."""
        cells = np.array([[[-0.2, 0.1], [0.3, 0.4]], [[0.1, -0.2], [0.4, 0.3]]])
        case = "translation"
        with jax.enable_x64(True):
            found = _bounds(
                _images(case),
                cells,
                attribute=_attribute(case),
                max_widths=_widths(case, _cells(case)),
            )
        lower, upper, planes = jax.device_get(found)
        for side in (lower, upper, planes.lower_offset, planes.upper_offset):
            self.assertTrue(np.all(np.isnan(side)))


@functools.partial(jax.jit, static_argnames="name")
def _covered(image, cells, *, name):
    attribute = semantic.attribute(name)

    def one(cell):
        found = semantic.enclosure(attribute, image, cell, max_widths=(1.0,))
        return found, enclosures.covered(attribute, image, found)

    return jax.vmap(one)(cells)


def _contrasted(image, t):
    """In exact arithmetic."""
    half = fractions.Fraction(1, 2)
    return np.clip((1 + t) * (image - half) + half, 0, 1)


def _shifted(image, t):
    """The image moved down by t in [0, 1], with zeros beyond, in exact arithmetic."""
    above = np.concatenate([0 * image[:1], image[:-1]])
    return image + t * (above - image)


class RoundingTest(parameterized.TestCase):
    @parameterized.parameters(("contrast", _contrasted), ("translation_rows", _shifted))
    def test_covered_enclosures_hold_in_exact_arithmetic(self, name, exact):
        rng = np.random.default_rng(0)
        image = rng.random((4, 3, 2))
        cells = np.sort(rng.random((40, 2)), axis=1)[..., None]
        with jax.enable_x64(True):
            found = jax.device_get(_covered(image, cells, name=name))
        rational = np.vectorize(fractions.Fraction, otypes=[object])
        num_outside = []
        for lower, upper, planes in found:
            outside = 0
            for at, (low, high) in enumerate(cells[..., 0]):
                for t in (low, 0.5 * (low + high), high):
                    pixels = exact(rational(image), fractions.Fraction(t))
                    below, above = (
                        rational(slope[at, 0]) * fractions.Fraction(t)
                        + rational(offset[at])
                        for slope, offset in (planes[:2], planes[2:4])
                    )
                    for one, other in (
                        (rational(lower[at]), pixels),
                        (pixels, rational(upper[at])),
                        (below, pixels),
                        (pixels, above),
                    ):
                        outside += int(np.sum(one > other))
            num_outside.append(outside)
        self.assertGreater(num_outside[0], 0)
        self.assertEqual(num_outside[1], 0)


class TightnessTest(parameterized.TestCase):
    @parameterized.parameters(
        ("hue", 0.108750, 0.014167),
        ("lightness", 0.381270, 0.073350),
        ("contrast", 0.085000, 0.014375),
    )
    def test_noted_widths_and_gaps(self, case, width, gap):
        lower, upper, planes = _enclosed(case)
        middle = _cells(case)[0].mean()
        slope = planes.upper_slope[0, 0] - planes.lower_slope[0, 0]
        own = slope * middle + planes.upper_offset[0] - planes.lower_offset[0]
        self.assertAlmostEqual(np.mean(upper[0] - lower[0]), width, places=6)
        self.assertAlmostEqual(np.mean(own), gap, places=6)

    @parameterized.parameters(*_PROGRAMS)
    def test_lines_are_those_of_a_linear_program(self, case):
        *_, planes = _enclosed(case)
        cells = _cells(case)
        pixels = _pixels(case, np.linspace(cells[:, 0], cells[:, 1], 4001, axis=1))
        along = np.linspace(*cells[-1, :, 0], 4001)[::2]
        pixels = pixels[-1, ::2].reshape(len(along), -1)
        middle = cells[-1].mean()
        above = planes.upper_slope[-1, 0] * middle + planes.upper_offset[-1]
        for k in range(0, pixels.shape[1], 3):
            rows = np.stack([-along, -np.ones_like(along)], axis=1)
            best = scipy.optimize.linprog(
                [middle, 1], rows, -pixels[:, k], bounds=(None, None)
            )
            self.assertLess(abs(best.fun - above.flat[k]), 1e-3)
            self.assertGreater(above.flat[k], best.fun - 1e-9)


class DeepGTest(absltest.TestCase):
    @pytest.mark.slow
    def test_rotation_is_near_the_published_lines(self):
        """First MNIST image, +-1 degree: mean gap 0.00547 and width 0.0138 there."""
        folder = real_data.folder("deepg_example1")
        image = data.load("mnist", split="test", data_dir=folder.parent).images[0]
        x = np.asarray(image, np.float64).reshape(1, 28, 28, 1)
        with jax.enable_x64(True):
            lower, upper, planes = jax.device_get(
                _bounds(
                    x,
                    np.array([[[-1.0], [1.0]]]),
                    attribute=semantic.attribute("rotation"),
                    max_widths=(2.0,),
                )
            )
        self.assertLess(np.mean(planes.upper_offset - planes.lower_offset), 0.00546)
        self.assertLess(np.mean(upper - lower), 0.013774)
        lines = pathlib.Path(folder, "0.csv").read_text().splitlines()
        published = np.array([float(v) for v in lines[1].replace(",", " ").split()])
        self.assertLess(
            np.mean(upper - lower), np.mean(published[1::2] - published[::2])
        )


class TransformTest(absltest.TestCase):
    @pytest.mark.newest
    def test_float32_is_near_float64(self):
        case = "rotation"
        images, cells = _images(case).astype(np.float32), _cells(case)
        lower, upper, planes = _bounds(
            images,
            cells.astype(np.float32),
            attribute=_attribute(case),
            max_widths=_widths(case, cells),
        )
        self.assertEqual(lower.dtype, np.float32)
        wanted = _enclosed(case)
        np.testing.assert_allclose(lower, wanted[0], atol=1e-5)
        np.testing.assert_allclose(upper, wanted[1], atol=1e-5)
        for own, true in zip(planes, wanted[2], strict=True):
            np.testing.assert_allclose(own[0], true[0], atol=1e-5)

    def test_widths_are_those_of_the_cell_unless_given(self):
        """In the parameter of the planes, 1 / (1 + delta)."""
        with mock.patch.object(enclosures, "_whole", side_effect=StopIteration) as made:
            for name, cell in (("scale", (-0.5, 1.0)), ("shear", (-0.5, 1.0))):
                with self.assertRaises(StopIteration):
                    semantic.enclosure(
                        semantic.attribute(name),
                        jnp.zeros((2, 2, 1)),
                        np.array(cell)[:, None],
                    )
        widths = [call.args[3] for call in made.call_args_list]
        self.assertEqual(widths, [{"scale": 1.5}, {"shear": 1.5}])

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
