"""Colour attributes and their layers against colorsys and numbers worked out apart."""

import colorsys
import fractions
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from fixed_images import fixed_image, random_image

from robustjax import semantic
from robustjax.semantic import attributes, sp_layers
from robustjax.semantic.search import cell_bounds

_NAMES = ("hue", "saturation", "lightness", "brightness", "contrast")
_SINGLE = {
    "hue": (sp_layers.Hue, 0.5),
    "saturation": (sp_layers.Saturation, 1.0),
    "lightness": (sp_layers.Lightness, 1.0),
}
_STEPS = np.linspace(-1, 1, 13)  # of layers, from limit to limit
# Moves in hue, saturation and lightness: random ones, special ones, noted ones.
_NOTED = ((0.3 / 6, 0, 0), (0, 0, -0.2), (0.7 / 6, -0.2, 0.15))
_MOVES = np.array(
    [
        *np.random.default_rng(1).uniform(-1, 1, (12, 3)),
        *((0, 0, 0), (0.5, 0, 0), (-1, 1, -1)),
        *_NOTED,
    ]
)


def _image():
    """Pixels of all kinds, and the fixed image in a corner."""
    image = random_image(columns=12)
    image[-4:, -5:] = fixed_image()
    return image


@jax.jit
def _by_robustjax(image, moves):
    def one(move):
        return {
            "hue": semantic.hue(image, move[0]),
            "saturation": semantic.saturation(image, move[1]),
            "lightness": semantic.lightness(image, move[2]),
            "hsl": semantic.hsl(
                image, hue=move[0], saturation=move[1], lightness=move[2]
            ),
        }

    return jax.vmap(one)(moves)


@functools.cache
def _by_colorsys(kind):
    """The image by colorsys and by move, greys left as they are but for lightness."""
    is_moved = [kind in (name, "hsl") for name in _SINGLE]
    image = _image()
    result = np.empty((len(_MOVES), *image.shape))
    for place in np.ndindex(image.shape[:2]):
        pixel = image[place]
        h, light, full = colorsys.rgb_to_hls(*pixel)
        for at, (hue, saturation, lightness) in enumerate(_MOVES * is_moved):
            new = min(max(light + lightness, 0), 1)
            if pixel.max() == pixel.min():
                result[at, *place] = new
                continue
            more = min(max(full + saturation, 0), 1)
            result[at, *place] = colorsys.hls_to_rgb((h + hue) % 1, new, more)
    return result


class ColorsysTest(parameterized.TestCase):
    @parameterized.parameters((np.float64, 1e-12), (np.float32, 1e-6))
    def test_hue_saturation_lightness(self, dtype, error):
        with jax.enable_x64(True):
            found = jax.device_get(_by_robustjax(_image().astype(dtype), _MOVES))
        for kind in (*_SINGLE, *(("hsl",) if dtype == np.float64 else ())):
            self.assertEqual(found[kind].dtype, dtype)
            away = np.abs(found[kind] - _by_colorsys(kind)).max()
            self.assertLess(away, error, kind)

    def test_noted_pixels_and_sums(self):
        with jax.enable_x64(True):
            found = jax.device_get(_by_robustjax(_image(), _MOVES))
        hue, dark, moved = (
            found[kind][at - 3, -4:, -5:]
            for at, kind in enumerate(("hue", "lightness", "hsl"))
        )
        self.assertAlmostEqual(fixed_image().sum(), 28.3125)
        np.testing.assert_allclose(hue[1, 0], (0.475, 0.25, 1), atol=1e-12)
        np.testing.assert_allclose(hue[2, 3], (0.1875, 1, 0.99375), atol=1e-12)
        np.testing.assert_allclose(dark[1, 0], (0, 0, 0.85), atol=1e-12)
        np.testing.assert_allclose(dark[2, 3], (0, 0.7875, 0.545192308), atol=1e-9)
        np.testing.assert_allclose(moved[1, 0], (0.847, 0.595, 0.955), atol=1e-12)
        np.testing.assert_allclose(
            moved[2, 3], (0.53875, 0.787903846, 0.94875), atol=1e-9
        )
        self.assertAlmostEqual(float(moved.sum()), 37.578043956, places=8)


@jax.jit
def _by_layers(image, steps):
    """By attribute: its function; layers of a known and of a traced image, by side."""
    found = {}
    for name, (layer, limit) in _SINGLE.items():
        deltas = limit * steps[:, None]
        sides = ({},) if name == "hue" else ({}, {"side": "right"}, {"side": "left"})
        found[name] = (
            jax.vmap(functools.partial(semantic.attribute(name), image))(deltas),
            [
                jax.vmap(functools.partial(layer(source, **side).apply, {}))(deltas)
                for source in (_image(), image)
                for side in sides
            ],
        )
    return found


@jax.jit
def _contrasts(image, moves):
    """Brightness and contrast, and both; by functions and by layers."""

    def one(move):
        brightness, contrast = (
            sp_layers.BrightnessContrast(image, only=name).apply({}, move[at : at + 1])
            for at, name in enumerate(("brightness", "contrast"))
        )
        return (
            (semantic.brightness(image, move[0]), brightness),
            (semantic.contrast(image, move[1]), contrast),
            (
                semantic.brightness_contrast(image, move[0], move[1]),
                sp_layers.BrightnessContrast(image).apply({}, move),
            ),
        )

    return jax.vmap(one)(moves)


class LayersTest(parameterized.TestCase):
    def test_layers_equal_the_functions(self):
        with jax.enable_x64(True):
            found = _by_layers(_image(), _STEPS)
        holds = {0: _STEPS <= 1, 1: _STEPS >= 0, 2: _STEPS <= 0}
        for name, (wanted, every) in jax.device_get(found).items():
            for at, own in enumerate(every):
                away = np.abs(own - wanted)[holds[at % (len(every) // 2)]]
                self.assertLess(away.max(), 1e-12, name)

    @parameterized.parameters(*_SINGLE)
    @pytest.mark.slow
    def test_layers_equal_the_functions_in_float32(self, name):
        """As users run it: without fused products the error of hue is 1.15e-6."""
        image, (layer, limit) = random_image(), _SINGLE[name]
        with jax.enable_x64(True):
            for t in limit * _STEPS.astype(np.float32):
                wanted = semantic.attribute(name)(image, [float(t)])
                side = {"side": "right" if t >= 0 else "left"}
                for options in ({},) if name == "hue" else ({}, side):
                    own = layer(image, **options).apply({}, jnp.asarray([t]))
                    self.assertEqual(own.dtype, np.float32)
                    self.assertLess(np.abs(own - wanted).max(), 1e-6)

    def test_brightness_and_contrast(self):
        image = _image().astype(np.float32)
        moves = np.array(
            [(0.2, 0.3), (-0.5, -1), (0, 2), (1, 0), (0.2, -0.4), (0, 0)], np.float32
        )
        for own, is_moved in zip(
            _contrasts(image, moves), ((1, 0), (0, 1), (1, 1)), strict=True
        ):
            more, factor = (moves * is_moved).T[..., None, None, None]
            wanted = np.clip((1 + factor) * (image - 0.5) + 0.5 + more, 0, 1)
            for found in own:
                self.assertLess(np.abs(found - wanted).max(), 1e-6)

    def test_hue_has_thirteen_units_a_pixel(self):
        layer = sp_layers.Hue(random_image().astype(np.float32))
        jaxpr = jax.make_jaxpr(lambda d: layer.apply({}, d))(jnp.zeros(1, jnp.float32))
        self.assertIn("f32[30,30,13]", str(jaxpr))


_DELTAS = {
    "int": lambda v: np.round(v).astype(int),
    "bool": lambda v: v > 0.4,
    "float16": lambda v: v.astype(np.float16),
    "bfloat16": lambda v: jnp.asarray(v, jnp.bfloat16),
    "list": lambda v: v.tolist(),
    "float32": lambda v: v.astype(np.float32),
}


_SOME = np.array([[[0.8, 0.3, 0.1], [0.7, 0.7, 0.7], [0.1, 0.2, 0.9]]])


@jax.jit
def _every_layer(one, two):
    return (
        sp_layers.Hue(_SOME).apply({}, one),
        sp_layers.Saturation(_SOME).apply({}, one),
        sp_layers.Lightness(_SOME, "right").apply({}, one),
        sp_layers.BrightnessContrast(_SOME).apply({}, two),
        sp_layers.BrightnessContrast(_SOME, "contrast").apply({}, one),
    )


class LayerOfTest(absltest.TestCase):
    def test_each_attribute_of_colour_has_its_layer(self):
        kinds = {name: kind for name, (kind, _) in _SINGLE.items()}
        for name in ("brightness", "contrast", "brightness_contrast"):
            kinds[name] = sp_layers.BrightnessContrast
        moves = {name: attributes.attribute(name) for name in kinds}
        own = {n: cell_bounds.layer_of(move, _SOME) for n, move in moves.items()}

        @jax.jit
        def values(deltas):
            return {
                name: (own[name].apply({}, delta), moves[name](_SOME, delta))
                for name, delta in deltas.items()
            }

        deltas = {name: np.full(len(move.names), 0.1) for name, move in moves.items()}
        for name, (found, expected) in values(deltas).items():
            self.assertIsInstance(own[name], kinds[name])
            np.testing.assert_allclose(found, expected, atol=1e-5)
        with self.assertRaisesRegex(ValueError, "no SP-layer of 'rotation'"):
            cell_bounds.layer_of(attributes.attribute("rotation"), _SOME)


class NumbersTest(parameterized.TestCase):
    """The image keeps its values, whatever kind of numbers the attribute has."""

    @parameterized.parameters(*_DELTAS)
    def test_layers_take_any_numbers(self, kind):
        one, two = (_DELTAS[kind](np.array(v)) for v in ([0.5], [0.5, 1.0]))
        with jax.enable_x64(False):
            found = _every_layer(jnp.asarray(one), jnp.asarray(two))
        with jax.enable_x64(True):
            wanted = _every_layer(*(np.asarray(v, np.float64) for v in (one, two)))
        for own, true in zip(found, wanted, strict=True):
            self.assertEqual((own.dtype, true.dtype), (np.float32, np.float64))
            np.testing.assert_allclose(own, true, atol=2e-6)

    def test_zero_is_the_image(self):
        for zero in ([0], np.array([0]), jnp.array([0]), np.array([False])):
            found = sp_layers.Hue(_SOME).apply({}, zero)
            np.testing.assert_allclose(found, _SOME, atol=1e-6)

    @parameterized.parameters(
        (sp_layers.Hue, {}, 0.1, r"delta \[1\]"),
        (sp_layers.Hue, {}, [0.1, 0.2], "delta"),
        (sp_layers.Hue, {}, [0.6], r"delta in \[-0.5, 0.5\]"),
        (sp_layers.Saturation, {"side": "right"}, [-0.1], r"delta in \[0.0, inf\]"),
        (sp_layers.Lightness, {"side": "left"}, [0.1], r"delta in \[-inf, 0.0\]"),
        (sp_layers.Lightness, {"side": "up"}, [0.1], "side 'up'"),
        (sp_layers.BrightnessContrast, {}, [0.1], r"delta \[2\]"),
        (sp_layers.BrightnessContrast, {"only": "contrast"}, [0.1j], "complex"),
    )
    def test_refused(self, layer, options, delta, text):
        with self.assertRaisesRegex(ValueError, text):
            layer(fixed_image(), **options).apply({}, delta)

    def test_traced_images_of_integers(self):
        image = np.zeros((2, 2, 3), np.uint8)
        for move in (semantic.hue, semantic.lightness, semantic.rotate):
            with self.assertRaisesRegex(ValueError, "uint8"):
                jax.eval_shape(lambda x, move=move: move(x, 0.1), image)


# Again and again, in an image of the shape of the others: they share programs.
_TINY = np.resize(
    [[1e-20, 0, 0], [1e-20, 1e-20, 3e-20], [1e-30, 2e-30, 0], [1e-38, 0, 2e-38],
     [1e-42, 0, 0], [1, 1, 1 - 1e-7], [0.5, 0.5 + 1e-7, 0.5], [1, 1, 1], [0, 0, 0]],
    _image().shape,
)  # fmt: skip


class TinyChromaTest(parameterized.TestCase):
    @parameterized.parameters(np.float32, np.float64)
    def test_gradients_are_finite(self, dtype):
        deltas = np.array([[0.0], [0.1], [-0.3]])
        with jax.enable_x64(dtype == np.float64):
            found = _derivatives(_TINY.astype(dtype), deltas.astype(dtype))
        for name, parts in jax.device_get(found).items():
            for part in jax.tree.leaves(parts):
                self.assertEqual(part.dtype, dtype)
                self.assertTrue(np.all(np.isfinite(part)), name)

    def test_dark_pixels_move_as_bright_ones(self):
        """The slopes of a pixel are those of differences, also where it is scaled."""
        moves = {"hue": [0.05], "saturation": [-0.3], "lightness": [0.0]}

        @jax.jit
        def slopes(pixel):
            step = 1e-6 * jnp.eye(3)[:, None, None]
            found = {}
            for name, far in moves.items():
                move = functools.partial(semantic.attribute(name), delta=np.array(far))
                ends = [jax.vmap(move)(pixel[None] + way * step) for way in (1, -1)]
                found[name] = jax.jacfwd(move)(pixel), (ends[0] - ends[1]) / 2e-6
            return found

        pixel = np.array([[[0.5, 0.25, 0.125]]])
        with jax.enable_x64(True):
            bright, dark = slopes(pixel), slopes(pixel * 1e-20)
        for name, (slope, change) in bright.items():
            wanted = np.moveaxis(change, 0, -1)
            np.testing.assert_allclose(slope[..., 0, 0, :], wanted, atol=1e-6)
            np.testing.assert_allclose(dark[name][0], slope, rtol=1e-9, atol=1e-9)

    def test_saturation_of_nearly_grey_pixels_against_fractions(self):
        """A difference of 2^-50 of the channels keeps all its digits."""
        near, small = fractions.Fraction(1, 2), fractions.Fraction(1, 2**50)
        channels = near + small, near, near - small / 2
        largest, least = max(channels), min(channels)
        light = (largest + least) / 2
        room = 1 - abs(2 * light - 1)
        steep = [(c - light) * room / (largest - least) for c in channels]
        wanted = [float(light + s) for s in steep]
        with jax.enable_x64(True):
            pixel = np.array([[[float(c) for c in channels]]])
            found = jax.jit(semantic.saturation)(pixel, 1.0)
        np.testing.assert_allclose(found[0, 0], wanted, rtol=0, atol=1e-12)


@jax.jit
def _derivatives(image, deltas):
    """By attribute: values of all deltas at once, and alone; slopes; gradients."""
    found = {}
    for name in _NAMES:
        move = semantic.attribute(name)
        found[name] = (
            jax.vmap(move, (None, 0))(image, deltas),
            [move(image, delta) for delta in deltas],
            jax.jacfwd(move, argnums=1)(image, deltas[1])[..., 0],
            jax.grad(lambda x, move=move: jnp.sum(move(x, deltas[1])))(image),
        )
    return found


class TransformsTest(absltest.TestCase):
    @pytest.mark.newest
    def test_jit_vmap_and_grad(self):
        step = 1e-3
        deltas = np.array([[0.123 - step], [0.123], [0.123 + step]], np.float32)
        found = jax.device_get(_derivatives(_image().astype(np.float32), deltas))
        for name, (stacked, alone, slope, into_image) in found.items():
            with self.subTest(name):
                np.testing.assert_allclose(stacked, alone, atol=1e-6)
                change = (stacked[2] - stacked[0]) / 2 / step
                self.assertTrue(np.all(np.isfinite(slope)))
                self.assertLess(np.mean(np.abs(slope - change) > 0.02), 0.02)
                self.assertTrue(np.all(np.isfinite(into_image)))


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (np.zeros((4, 4, 1)), r"\[h, w, 3\], a colour image"),
        (np.zeros((4, 4)), "shape"),
        (np.zeros((4, 4, 3), np.uint8), "divide by 255"),
        (np.full((4, 4, 3), 1.5), r"in \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), r"in \[0, 1\]"),
    )
    def test_images(self, image, text):
        with self.assertRaisesRegex(ValueError, text):
            semantic.hue(image, 0.1)

    @parameterized.parameters(
        ("hue+hue", "once"),
        ("tint", "Unknown attribute 'tint'"),
        ("rotation+scale", "one spatial"),
        ("rotation+hue", "no spatial"),
        ("brightness+brightness_contrast", "once"),
    )
    def test_names(self, text, message):
        with self.assertRaisesRegex(ValueError, message):
            semantic.attribute(text)

    def test_numbers(self):
        with self.assertRaisesRegex(ValueError, "2 numbers"):
            semantic.attribute("brightness_contrast")(np.zeros((2, 2, 1)), [0.1])


if __name__ == "__main__":
    absltest.main()
