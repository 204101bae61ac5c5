"""Spatial attributes against SciPy's affine transform and other libraries' numbers."""

import jax
import numpy as np
from absl.testing import absltest, parameterized
from fixed_images import fixed_image
from scipy import ndimage

from robustjax import semantic
from robustjax.semantic import Sampling

_MODES = {"zero": "grid-constant", "edge": "nearest", "reflect": "mirror"}


def _by_scipy(image, matrix, shift, padding):
    """Output (r, c) is the image at matrix @ (r, c) + shift, from the centre."""
    center = (np.array(image.shape[:2]) - 1) / 2
    offset = center + shift - matrix @ center
    planes = [
        ndimage.affine_transform(
            image[..., k], matrix, offset, order=1, mode=_MODES[padding]
        )
        for k in range(image.shape[-1])
    ]
    return np.stack(planes, axis=-1)


class ScipyTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.product(
        padding=tuple(_MODES), degrees=(0.0, 10.0, -33.3, 90.0, 170.0)
    )
    def test_rotation(self, padding, degrees):
        image = fixed_image(7, 10, 3)
        angle = np.deg2rad(degrees)
        matrix = np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        own = semantic.rotate(image, degrees, sampling=Sampling(padding))
        wanted = _by_scipy(image, matrix, np.zeros(2), padding)
        np.testing.assert_allclose(own, wanted, atol=1e-10)

    @parameterized.product(padding=tuple(_MODES), seed=(0, 1, 2, 3))
    def test_affine(self, padding, seed):
        rng = np.random.default_rng(seed)
        image = fixed_image(9, 6, 1)
        factors, shift = rng.uniform(0.5, 2, 2), rng.uniform(-4, 4, 2)
        slant = rng.uniform(-1, 1)
        matrix = np.array([[1 / factors[0], 0], [-slant / factors[1], 1 / factors[1]]])
        own = semantic.affine(
            image, factors=factors, slant=slant, shift=shift, sampling=Sampling(padding)
        )
        wanted = _by_scipy(image, matrix, -shift / factors, padding)
        np.testing.assert_allclose(own, wanted, atol=1e-10)


class VectorsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_noted_sums(self):
        image = fixed_image(8, 8, 1)
        sums = [
            semantic.rotate(image, 10).sum(),
            semantic.rotate(
                image, 10, sampling=Sampling("edge", "radial", "integer")
            ).sum(),
            semantic.affine(
                image, factors=(1.1, 0.9), slant=0.2, shift=(0.5, -0.25)
            ).sum(),
        ]
        wanted = [29.170767231335, 31.720762881, 25.283143939]
        np.testing.assert_allclose(sums, wanted, rtol=1e-10)

    def test_turned_by_a_right_angle(self):
        image = fixed_image(6, 6, 3)
        own = semantic.rotate(image, 90)
        np.testing.assert_allclose(own, np.rot90(image, -1), atol=1e-12)

    def test_zero_is_the_identity(self):
        image = fixed_image(5, 8, 3)
        for name in ("rotation", "scale", "shear", "translation"):
            move = semantic.attribute(name)
            own = move(image, np.zeros(len(move.names)))
            np.testing.assert_allclose(own, image, atol=1e-12)

    def test_whole_pixels(self):
        image = fixed_image(5, 8, 1)
        own = semantic.translate(image, (1, -2))
        np.testing.assert_allclose(own[1:, :-2], image[:-1, 2:], atol=1e-12)
        self.assertEqual(float(np.abs(own[0]).max()), 0)


class AttributeTest(parameterized.TestCase):
    @parameterized.parameters(
        ("rotation", (12.0,)), ("scale", (0.2,)), ("shear", (-0.3,)),
        ("translation", (0.4, -1.3)), ("translation_rows", (0.4,)),
    )  # fmt: skip
    def test_gives_the_function(self, name, delta):
        functions = {
            "rotation": lambda x: semantic.rotate(x, *delta),
            "scale": lambda x: semantic.scale(x, *delta),
            "shear": lambda x: semantic.shear(x, *delta),
            "translation": lambda x: semantic.translate(x, delta),
            "translation_rows": lambda x: semantic.translate(x, (*delta, 0)),
        }
        image = fixed_image(9, 7, 1).astype(np.float32)
        own = semantic.attribute(name)(image, np.array(delta))
        np.testing.assert_allclose(own, functions[name](image), atol=1e-6)

    def test_space_comes_before_brightness(self):
        image = fixed_image(9, 7, 1).astype(np.float32)
        own = semantic.attribute("brightness+rotation")(image, np.array([20.0, 0.3]))
        wanted = semantic.brightness(semantic.rotate(image, 20.0), 0.3)
        np.testing.assert_allclose(own, wanted, atol=1e-6)


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (Sampling("wrap"), "padding"), (Sampling("zero", "cubic"), "interpolation"),
        (Sampling(center="corner"), "center"),
    )  # fmt: skip
    def test_options(self, sampling, text):
        with self.assertRaisesRegex(ValueError, f"Unknown {text}"):
            semantic.rotate(np.zeros((3, 3, 1)), 10.0, sampling=sampling)

    def test_scale(self):
        with self.assertRaisesRegex(ValueError, "1 \\+ delta"):
            semantic.scale(np.zeros((3, 3, 1)), -1.0)


if __name__ == "__main__":
    absltest.main()
