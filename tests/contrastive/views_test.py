"""Augmentations are what they are called, and views depend on their keys alone."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from robustjax import contrastive as c

_KEYS = jax.random.split(jax.random.key(0), 200)


def _image(channels=3, height=9, width=7):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(0.1, 0.9, (height, width, channels)), jnp.float32)


def _many(augment, image):
    return np.asarray(jax.jit(jax.vmap(augment, (0, None)))(_KEYS, image))


class AugmentationsTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 0.3, 1.0)
    def test_flip(self, probability):
        image = _image()
        found = _many(c.random_flip(probability), image)
        is_flipped = np.all(found == np.asarray(image)[:, ::-1], axis=(1, 2, 3))
        is_same = np.all(found == np.asarray(image), axis=(1, 2, 3))
        np.testing.assert_array_equal(is_flipped, ~is_same)
        self.assertLess(abs(is_flipped.mean() - probability), 0.12)

    def test_shifts_are_all_there_and_keep_what_stays(self):
        image = np.asarray(_image(1))
        expected = {
            (i, j): np.pad(image, ((2, 2), (2, 2), (0, 0)))[i : i + 9, j : j + 7]
            for i in range(5)
            for j in range(5)
        }
        seen = set()
        for found in _many(c.pixel_shift(2), image):
            (place,) = [k for k, v in expected.items() if np.array_equal(v, found)]
            seen.add(place)
        self.assertLen(seen, 25)

    def test_holes_are_squares_inside(self):
        image = np.asarray(_image(1))
        places = set()
        for found in _many(c.cut_out(3), image):
            rows, columns = np.nonzero(found[..., 0] == 0)
            self.assertLen(rows, 9)
            self.assertEqual((np.ptp(rows), np.ptp(columns)), (2, 2))
            is_kept = found != 0
            np.testing.assert_array_equal(found[is_kept], image[is_kept])
            places.add((rows.min(), columns.min()))
        self.assertLen(places, 7 * 5)

    def test_crop_of_everything_is_the_image(self):
        image = _image()
        augment = c.random_resized_crop(area=(1.0, 1.0), ratio=(1.0, 1.0))
        np.testing.assert_allclose(augment(_KEYS[0], image), image, atol=1e-6)

    def test_crops_of_a_plane_are_planes_inside(self):
        """Values tell the place: a crop of the coordinates has its corners inside."""
        grid = jnp.stack(
            jnp.meshgrid(jnp.arange(40.0), jnp.arange(40.0), indexing="ij"), axis=-1
        )
        augment = c.random_resized_crop(area=(0.2, 0.8), ratio=(0.75, 4 / 3))
        shares, ratios = [], []
        for crop in _many(augment, grid):
            self.assertTrue(np.all((crop > -1e-3) & (crop < 39 + 1e-3)))
            steps = np.diff(crop[5:-5, 20, 0]), np.diff(crop[20, 5:-5, 1])
            for own in steps:
                np.testing.assert_allclose(own, own.mean(), atol=1e-3)
            height, width = (own.mean() for own in steps)
            shares.append(height * width)
            ratios.append(width / height)
        self.assertBetween(min(shares), 0.19, 0.3)
        self.assertBetween(max(shares), 0.7, 0.81)
        self.assertBetween(min(ratios), 0.74, 0.85)
        self.assertBetween(max(ratios), 1.2, 1.35)

    def test_grey(self):
        image = np.asarray(_image())
        (found,) = np.unique(_many(c.random_grey(1.0), image), axis=0)
        luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
        np.testing.assert_allclose(found, np.stack([luma] * 3, axis=-1), rtol=1e-5)

    def test_jitter_of_hue_alone_turns_it(self):
        image = np.asarray(_image(height=1, width=4))
        augment = c.color_jitter(brightness=0, contrast=0, saturation=0, hue=0.1)
        hues = np.array([colorsys.rgb_to_hsv(*map(float, p))[0] for p in image[0]])
        turns = []
        for found in _many(augment, image):
            own = np.array([colorsys.rgb_to_hsv(*map(float, p))[0] for p in found[0]])
            turn = (own - hues + 0.5) % 1 - 0.5
            np.testing.assert_allclose(turn, turn[0], atol=1e-3)
            turns.append(turn[0])
        self.assertBetween(min(turns), -0.1001, -0.08)
        self.assertBetween(max(turns), 0.08, 0.1001)

    def test_jitter_keeps_the_range_and_no_jitter_the_image(self):
        image = _image()
        found = _many(c.color_jitter(), image)
        self.assertTrue(np.all((found >= 0) & (found <= 1)))
        self.assertGreater(found.std(axis=0).mean(), 0.02)
        still = c.color_jitter(brightness=0, contrast=0, saturation=0, hue=0)
        np.testing.assert_allclose(still(_KEYS[0], image), image, atol=1e-5)

    def test_blur_keeps_constants_and_flattens(self):
        image = _image()
        augment = c.random_blur(sigma=(1.0, 2.0))
        constant = np.full_like(image, 0.4)
        inside = augment(_KEYS[0], constant)[3:-3, 3:-3]
        np.testing.assert_allclose(inside, 0.4, atol=1e-5)
        blurred = np.asarray(augment(_KEYS[0], image))[2:-2, 2:-2]
        self.assertLess(blurred.std(), 0.6 * np.asarray(image).std())

    def test_brightness_and_noise(self):
        image = _image()
        factors = _many(c.random_brightness(0.6, 1.2), image) / np.asarray(image)
        np.testing.assert_allclose(np.ptp(factors, axis=(1, 2, 3)), 0, atol=1e-5)
        self.assertBetween(factors.min(), 0.6, 0.63)
        self.assertBetween(factors.max(), 1.17, 1.2)
        noise = _many(c.additive_noise(0.1), image) - np.asarray(image)
        self.assertLess(abs(noise.std() - 0.1), 0.002)
        self.assertLess(abs(noise.mean()), 0.002)


class ViewsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.images = np.random.default_rng(1).uniform(size=(5, 8, 8, 1))
        self.images = self.images.astype(np.float32)
        self.augment = c.in_turn(
            c.pixel_shift(1), c.cut_out(2), c.random_brightness(0.6, 1.6),
            c.additive_noise(0.1),
        )  # fmt: skip

    def test_shape_range_and_difference(self):
        found = jax.jit(
            lambda key: c.make_views(key, self.images, self.augment, num_views=3)
        )(jax.random.key(0))
        self.assertEqual(found.shape, (3, 5, 8, 8, 1))
        self.assertTrue(np.all((found >= 0) & (found <= 1)))
        flat = np.asarray(found).reshape(15, -1)
        distances = np.abs(flat[:, None] - flat[None]).max(axis=-1)
        self.assertGreater(distances[~np.eye(15, dtype=bool)].min(), 0.05)

    def test_same_key_same_views(self):
        found, again, other = (
            c.make_views(jax.random.key(seed), self.images, self.augment)
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(found, again)
        self.assertGreater(np.abs(found - other).max(), 0.05)

    def test_refuses(self):
        for text, call in (
            (
                "num_views",
                lambda: c.make_views(_KEYS[0], self.images, None, num_views=0),
            ),
            ("images", lambda: c.make_views(_KEYS[0], self.images[0], self.augment)),
            (
                "divide by 255",
                lambda: c.make_views(_KEYS[0], np.uint8(self.images), None),
            ),
            ("probability", lambda: c.random_flip(1.5)),
            ("area", lambda: c.random_resized_crop(area=(0.5, 0.2))),
            ("area", lambda: c.random_resized_crop(area=(0.5, 1.2))),
            ("hue", lambda: c.color_jitter(hue=0.6)),
            ("contrast", lambda: c.color_jitter(contrast=-0.1)),
            ("sigma", lambda: c.random_blur(sigma=(0.0, 1.0))),
            ("sigma", lambda: c.additive_noise(-1.0)),
            ("size", lambda: c.cut_out(9)(_KEYS[0], self.images[0])),
            ("3 channels", lambda: c.random_grey(0.5)(_KEYS[0], self.images[0])),
        ):
            with self.assertRaisesRegex(ValueError, text):
                call()


if __name__ == "__main__":
    absltest.main()
