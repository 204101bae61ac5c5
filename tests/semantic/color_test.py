"""Colour attributes and their layers against colorsys and numbers worked out apart."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from fixed_images import fixed_image, random_image

from robustjax import semantic
from robustjax.semantic import layers


def _by_colorsys(image, hue, saturation, lightness):
    """The image by colorsys, greys left as they are but for lightness."""
    result = np.empty_like(image)
    for place in np.ndindex(image.shape[:2]):
        pixel = image[place]
        h, light, full = colorsys.rgb_to_hls(*pixel)
        light = np.clip(light + lightness, 0, 1)
        if pixel.max() == pixel.min():
            result[place] = light
            continue
        full = np.clip(full + saturation, 0, 1)
        result[place] = colorsys.hls_to_rgb((h + hue) % 1, light, full)
    return result


class ColorsysTest(parameterized.TestCase):
    @parameterized.parameters((jnp.float64, 1e-12), (jnp.float32, 1e-6))
    def test_hue_saturation_lightness(self, dtype, error):
        self.enterContext(jax.enable_x64(True))
        image = random_image()
        moves = np.random.default_rng(1).uniform(-1, 1, (12, 3))
        for hue, full, light in [*moves, (0, 0, 0), (0.5, 0, 0), (-1, 1, -1)]:
            for own, wanted in (
                (semantic.hue(image.astype(dtype), hue), (hue, 0, 0)),
                (semantic.saturation(image.astype(dtype), full), (0, full, 0)),
                (semantic.lightness(image.astype(dtype), light), (0, 0, light)),
            ):
                self.assertEqual(own.dtype, dtype)
                self.assertLess(np.abs(own - _by_colorsys(image, *wanted)).max(), error)
            if dtype == jnp.float64:
                own = semantic.hsl(image, hue=hue, saturation=full, lightness=light)
                wanted = _by_colorsys(image, hue, full, light)
                self.assertLess(np.abs(own - wanted).max(), error)

    def test_brightness_and_contrast(self):
        image = random_image().astype(np.float32)
        for b, c in ((0.2, 0.3), (-0.5, -1.0), (0.0, 2.0), (1.0, 0.0)):
            wanted = np.clip((1 + c) * (image - 0.5) + 0.5 + b, 0, 1)
            own = semantic.brightness_contrast(image, b, c)
            self.assertLess(np.abs(own - wanted).max(), 1e-6)
        self.assertLess(np.abs(semantic.brightness(image, 0.0) - image).max(), 1e-6)
        self.assertLess(np.abs(semantic.contrast(image, -1.0) - 0.5).max(), 1e-6)


class VectorsTest(absltest.TestCase):
    def test_noted_pixels_and_sums(self):
        self.enterContext(jax.enable_x64(True))
        image = fixed_image()
        self.assertAlmostEqual(image.sum(), 28.3125)
        hue = semantic.hue(image, 0.3 / 6)
        np.testing.assert_allclose(hue[1, 0], (0.475, 0.25, 1), atol=1e-12)
        np.testing.assert_allclose(hue[2, 3], (0.1875, 1, 0.99375), atol=1e-12)
        dark = semantic.lightness(image, -0.2)
        np.testing.assert_allclose(dark[1, 0], (0, 0, 0.85), atol=1e-12)
        np.testing.assert_allclose(dark[2, 3], (0, 0.7875, 0.545192308), atol=1e-9)
        moved = semantic.hsl(image, hue=0.7 / 6, saturation=-0.2, lightness=0.15)
        np.testing.assert_allclose(moved[1, 0], (0.847, 0.595, 0.955), atol=1e-12)
        np.testing.assert_allclose(
            moved[2, 3], (0.53875, 0.787903846, 0.94875), atol=1e-9
        )
        self.assertAlmostEqual(float(moved.sum()), 37.578043956, places=8)


_SINGLE = {
    "hue": (layers.Hue, semantic.hue, 0.5),
    "saturation": (layers.Saturation, semantic.saturation, 1.0),
    "lightness": (layers.Lightness, semantic.lightness, 1.0),
}


class LayersTest(parameterized.TestCase):
    @parameterized.parameters(*_SINGLE)
    def test_layers_equal_the_functions(self, name):
        self._compare(name, jnp.float64, 1e-12)

    @parameterized.parameters(*_SINGLE)
    @pytest.mark.slow
    def test_layers_equal_the_functions_in_float32(self, name):
        """As users run it: without fused products the error of hue is 1.15e-6."""
        self._compare(name, jnp.float32, 1e-6)

    def _compare(self, name, dtype, error):
        self.enterContext(jax.enable_x64(True))
        image = random_image()
        layer, function, limit = _SINGLE[name]
        for t in np.linspace(-limit, limit, 13):
            delta = jnp.asarray([t], dtype)
            wanted = function(image, float(delta[0]))
            sides = ("both", "right" if t >= 0 else "left")
            for side in ("both",) if name == "hue" else sides:
                module = layer(image) if name == "hue" else layer(image, side)
                own = module.apply({}, delta)
                self.assertEqual(own.dtype, dtype)
                self.assertLess(np.abs(own - wanted).max(), error)

    def test_brightness_contrast(self):
        image = random_image().astype(np.float32)
        delta = jnp.array([0.2, -0.4])
        own = layers.BrightnessContrast(image).apply({}, delta)
        wanted = semantic.brightness_contrast(image, *delta)
        self.assertLess(np.abs(own - wanted).max(), 1e-6)
        for index, name in enumerate(("brightness", "contrast")):
            module = layers.BrightnessContrast(image, only=name)
            own = module.apply({}, delta[index : index + 1])
            wanted = semantic.attribute(name)(image, delta[index : index + 1])
            self.assertLess(np.abs(own - wanted).max(), 1e-6)

    def test_hue_has_thirteen_units_a_pixel(self):
        layer = layers.Hue(random_image().astype(np.float32))
        jaxpr = jax.make_jaxpr(lambda d: layer.apply({}, d))(jnp.zeros(1))
        self.assertIn("f32[30,30,13]", str(jaxpr))


class TransformsTest(parameterized.TestCase):
    @parameterized.parameters(
        "hue", "saturation", "lightness", "brightness", "contrast"
    )
    def test_jit_vmap_and_grad(self, name):
        move = semantic.attribute(name)
        image = random_image().astype(np.float32)
        deltas = jnp.linspace(-0.4, 0.4, 5)[:, None]
        stacked = jax.jit(jax.vmap(lambda d: move(image, d)))(deltas)
        np.testing.assert_allclose(stacked[1], move(image, deltas[1]), atol=1e-6)
        slope = jax.jacfwd(lambda d: move(image, d))(jnp.array([0.123]))
        step = 1e-3
        change = (move(image, [0.123 + step]) - move(image, [0.123 - step])) / 2 / step
        bent = np.abs(slope[..., 0] - change) > 0.02
        self.assertTrue(np.all(np.isfinite(slope)))
        self.assertLess(np.mean(bent), 0.02)
        into_image = jax.grad(lambda x: jnp.sum(move(x, jnp.array([0.1]))))(image)
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
        ("hue+hue", "once"), ("tint", "Unknown attribute 'tint'"),
        ("rotation+scale", "one spatial"), ("rotation+hue", "no spatial"),
        ("brightness+brightness_contrast", "once"),
    )  # fmt: skip
    def test_names(self, text, message):
        with self.assertRaisesRegex(ValueError, message):
            semantic.attribute(text)

    def test_numbers(self):
        with self.assertRaisesRegex(ValueError, "2 numbers"):
            semantic.attribute("brightness_contrast")(np.zeros((2, 2, 1)), [0.1])


if __name__ == "__main__":
    absltest.main()
