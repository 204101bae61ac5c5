"""Spatial attributes against SciPy's affine transform and other libraries' numbers."""

import functools

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from fixed_images import fixed_image
from scipy import ndimage

from robustjax import semantic
from robustjax.semantic import Sampling

_MODES = {"zero": "grid-constant", "edge": "nearest", "reflect": "mirror"}
_DEGREES = np.array([0.0, 10.0, -33.3, 90.0, 170.0])


@functools.partial(jax.jit, static_argnames="padding")
def _moved(image, degrees, factors, slants, shifts, *, padding):
    """Rotated images, and those scaled, sheared and moved at once."""
    sampling = Sampling(padding)
    turn = functools.partial(semantic.rotate, sampling=sampling)
    rotated = jax.vmap(turn, (None, 0))(image, degrees)

    def affine(factors, slant, shift):
        return semantic.affine(
            image, factors=factors, slant=slant, shift=shift, sampling=sampling
        )

    return rotated, jax.vmap(affine)(factors, slants, shifts)


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
    @parameterized.parameters(*_MODES)
    def test_rotations_and_affine_maps(self, padding):
        rng = np.random.default_rng(0)
        image = fixed_image(7, 10, 3)
        factors, shifts = rng.uniform(0.5, 2, (5, 2)), rng.uniform(-4, 4, (5, 2))
        slants = rng.uniform(-1, 1, 5)
        with jax.enable_x64(True):
            rotated, affine = jax.device_get(
                _moved(image, _DEGREES, factors, slants, shifts, padding=padding)
            )
        for own, angle in zip(rotated, np.deg2rad(_DEGREES), strict=True):
            matrix = np.array(
                [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            )
            wanted = _by_scipy(image, matrix, np.zeros(2), padding)
            np.testing.assert_allclose(own, wanted, atol=1e-10)
        for own, factor, lean, shift in zip(
            affine, factors, slants, shifts, strict=True
        ):
            matrix = np.array([[1 / factor[0], 0], [-lean / factor[1], 1 / factor[1]]])
            wanted = _by_scipy(image, matrix, -shift / factor, padding)
            np.testing.assert_allclose(own, wanted, atol=1e-10)


@jax.jit
def _turned(image, degrees):
    radial = Sampling("edge", "radial", "integer")
    return (
        semantic.rotate(image, degrees[0]),
        semantic.rotate(image, degrees[1]),
        semantic.rotate(image, degrees[0], sampling=radial),
        # A source falls on the edge of two cells.
        semantic.affine(image, factors=(1.1, 0.9), slant=0.2, shift=(0.5, -0.25)),
    )


class VectorsTest(absltest.TestCase):
    def test_noted_sums(self):
        image = fixed_image(8, 8, 1)
        with jax.enable_x64(True):
            found = jax.device_get(_turned(image, np.array([10.0, 90.0])))
        wanted = [29.170767231335, image.sum(), 31.720762881, 25.283143939]
        sums = [np.asarray(own).sum() for own in found]
        np.testing.assert_allclose(sums, wanted, rtol=1e-10)

    @pytest.mark.newest
    def test_turned_by_a_right_angle(self):
        image = fixed_image(8, 8, 1)
        with jax.enable_x64(True):
            _, turned, *_ = _turned(image, np.array([10.0, 90.0]))
        np.testing.assert_allclose(turned, np.rot90(image, -1), atol=1e-12)


_MOVES = {
    "rotation": (12.0,), "scale": (0.2,), "shear": (-0.3,),
    "translation": (0.4, -1.3), "translation_rows": (0.4,),
    "brightness+rotation": (20.0, 0.3),
}  # fmt: skip


def _by_functions(x, moves):
    """What the functions make of an image, by attribute."""
    turned = semantic.rotate(x, moves["brightness+rotation"][0])
    rows = moves["translation_rows"][0]
    return {
        "rotation": semantic.rotate(x, moves["rotation"][0]),
        "scale": semantic.scale(x, moves["scale"][0]),
        "shear": semantic.shear(x, moves["shear"][0]),
        "translation": semantic.translate(x, moves["translation"]),
        "translation_rows": semantic.translate(x, (rows, 0)),
        # Space comes before brightness.
        "brightness+rotation": semantic.brightness(
            turned, moves["brightness+rotation"][1]
        ),
    }


@jax.jit
def _by_both(x, moves):
    attributes = {name: semantic.attribute(name) for name in moves}
    own = {name: attributes[name](x, moves[name]) for name in moves}
    still = {name: attributes[name](x, 0 * moves[name]) for name in moves}
    whole = semantic.translate(x, (1, -2))
    return own, _by_functions(x, moves), still, whole


class AttributeTest(absltest.TestCase):
    def test_attributes_give_the_functions_and_zero_is_the_identity(self):
        image = fixed_image(5, 8, 3)
        moves = {name: np.array(move) for name, move in _MOVES.items()}
        with jax.enable_x64(True):
            own, wanted, still, whole = jax.device_get(_by_both(image, moves))
        for name in _MOVES:
            with self.subTest(name):
                np.testing.assert_allclose(own[name], wanted[name], atol=1e-12)
                np.testing.assert_allclose(still[name], image, atol=1e-12)
        np.testing.assert_allclose(whole[1:, :-2], image[:-1, 2:], atol=1e-12)
        self.assertEqual(np.abs(whole[0]).max(), 0)

    def test_a_row_of_pixels_is_its_own_reflection(self):
        image, reflect = fixed_image()[:1], Sampling("reflect")
        translate = jax.jit(functools.partial(semantic.translate, sampling=reflect))
        moved = translate(image, np.array([0.4, 0.0]))
        np.testing.assert_allclose(moved, image, atol=1e-6)

    def test_images_keep_their_dtype(self):
        image = jax.ShapeDtypeStruct((5, 8, 3), np.float32)
        with jax.enable_x64(True):
            for name, move in _MOVES.items():
                attribute = semantic.attribute(name)
                found = jax.eval_shape(attribute, image, np.array(move))
                self.assertEqual((found.shape, found.dtype), (image.shape, image.dtype))


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (Sampling("wrap"), "padding"),
        (Sampling("zero", "cubic"), "interpolation"),
        (Sampling(center="corner"), "center"),
    )
    def test_options(self, sampling, text):
        with self.assertRaisesRegex(ValueError, f"Unknown {text}"):
            semantic.rotate(np.zeros((3, 3, 1)), 10.0, sampling=sampling)

    def test_scale(self):
        with self.assertRaisesRegex(ValueError, "1 \\+ delta"):
            semantic.scale(np.zeros((3, 3, 1)), -1.0)


if __name__ == "__main__":
    absltest.main()
