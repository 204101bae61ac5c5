"""Augmentations are what they are called, and views depend on their keys alone."""

import colorsys
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import contrastive as c


def _image(channels=3, height=9, width=7):
    rng = np.random.default_rng(0)
    return rng.uniform(0.1, 0.9, (height, width, channels)).astype(np.float32)


def _many(image, *augmentations):
    """200 draws of each augmentation, from one compiled program."""

    @jax.jit
    def draw(image):
        keys = jax.random.split(jax.random.key(0), 200)
        return [jax.vmap(own, (0, None))(keys, image) for own in augmentations]

    return map(np.asarray, draw(image))


class AugmentationsTest(parameterized.TestCase):
    def test_flip_and_grey(self):
        image, shares = _image(), (0.0, 0.3, 1.0)
        *flipped, grey = _many(image, *map(c.random_flip, shares), c.random_grey(1.0))
        for found, probability in zip(flipped, shares, strict=True):
            is_flipped = np.all(found == image[:, ::-1], axis=(1, 2, 3))
            is_same = np.all(found == image, axis=(1, 2, 3))
            np.testing.assert_array_equal(is_flipped, ~is_same)
            self.assertLess(abs(is_flipped.mean() - probability), 0.12)
        (found,) = np.unique(grey, axis=0)
        luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
        np.testing.assert_allclose(found, np.stack([luma] * 3, axis=-1), rtol=1e-5)

    def test_shifts_and_holes_are_all_there_and_keep_what_stays(self):
        image = _image(1)
        shifted, cut = _many(image, c.pixel_shift(2), c.cut_out(3))
        expected = {
            (i, j): np.pad(image, ((2, 2), (2, 2), (0, 0)))[i : i + 9, j : j + 7]
            for i in range(5)
            for j in range(5)
        }
        seen = set()
        for found in shifted:
            (place,) = [k for k, v in expected.items() if np.array_equal(v, found)]
            seen.add(place)
        self.assertLen(seen, 25)
        places = set()
        for found in cut:
            rows, columns = np.nonzero(found[..., 0] == 0)
            self.assertLen(rows, 9)
            self.assertEqual((np.ptp(rows), np.ptp(columns)), (2, 2))
            is_kept = found != 0
            np.testing.assert_array_equal(found[is_kept], image[is_kept])
            places.add((rows.min(), columns.min()))
        self.assertLen(places, 7 * 5)

    def test_crops_of_a_plane_are_planes_inside(self):
        """Values tell the place: a crop of the coordinates has its corners inside."""
        grid = np.moveaxis(np.indices((40, 40)), 0, -1).astype(np.float32)
        whole, crops = _many(
            grid,
            c.random_resized_crop(area=(1.0, 1.0), ratio=(1.0, 1.0)),
            c.random_resized_crop(area=(0.2, 0.8), ratio=(0.75, 4 / 3)),
        )
        np.testing.assert_allclose(whole, np.stack([grid] * 200), atol=39e-6)
        shares, ratios = [], []
        for crop in crops:
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

    def test_jitter_of_hue_alone_turns_it(self):
        image = _image(height=1, width=4)
        augment = c.color_jitter(brightness=0, contrast=0, saturation=0, hue=0.1)
        hues = np.array([colorsys.rgb_to_hsv(*map(float, p))[0] for p in image[0]])
        turns = []
        for found in next(_many(image, augment)):
            own = np.array([colorsys.rgb_to_hsv(*map(float, p))[0] for p in found[0]])
            turn = (own - hues + 0.5) % 1 - 0.5
            np.testing.assert_allclose(turn, turn[0], atol=1e-3)
            turns.append(turn[0])
        self.assertBetween(min(turns), -0.1001, -0.08)
        self.assertBetween(max(turns), 0.08, 0.1001)

    def test_jitter_keeps_the_range_and_no_jitter_the_image(self):
        image = _image()
        found, still = _many(
            image,
            c.color_jitter(),
            c.color_jitter(brightness=0, contrast=0, saturation=0, hue=0),
        )
        self.assertTrue(np.all((found >= 0) & (found <= 1)))
        self.assertGreater(found.std(axis=0).mean(), 0.02)
        np.testing.assert_allclose(still, np.stack([image] * 200), atol=1e-5)

    def test_blur_keeps_constants_and_flattens(self):
        """The last channel is constant, and channels are not mixed."""
        image = _image()
        image[..., 2] = 0.4
        (found,) = _many(image, c.random_blur(sigma=(1.0, 2.0)))
        np.testing.assert_allclose(found[:, 3:-3, 3:-3, 2], 0.4, atol=1e-5)
        blurred = found[:, 2:-2, 2:-2, :2]
        self.assertLess(blurred.std(axis=(1, 2, 3)).max(), 0.6 * image[..., :2].std())

    def test_brightness_and_noise(self):
        image = _image()
        noise_fn = c.additive_noise(0.1)
        brighter, noisy, twice = _many(
            image,
            c.random_brightness(0.6, 1.2),
            noise_fn,
            c.in_turn(noise_fn, noise_fn),
        )
        factors, noise = brighter / image, noisy - image
        np.testing.assert_allclose(np.ptp(factors, axis=(1, 2, 3)), 0, atol=1e-5)
        self.assertBetween(factors.min(), 0.6, 0.63)
        self.assertBetween(factors.max(), 1.17, 1.2)
        self.assertLess(abs(noise.std() - 0.1), 0.002)
        self.assertLess(abs(noise.mean()), 0.002)
        # each step has a key of its own
        self.assertLess(abs((twice - image).std() - 0.1 * np.sqrt(2)), 0.003)


class ViewsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.images = np.random.default_rng(1).uniform(size=(5, 8, 8, 1))
        self.images = self.images.astype(np.float32)
        self.augment = c.in_turn(
            c.pixel_shift(1),
            c.cut_out(2),
            c.random_brightness(0.6, 1.6),
            c.additive_noise(0.1),
        )

    @pytest.mark.newest
    def test_views_differ_and_depend_on_their_keys_alone(self):
        @jax.jit
        def run(key):
            fewer = c.make_views(key, self.images[:4], self.augment)
            return c.make_views(key, self.images, self.augment, num_views=3), fewer

        found, again, other = (
            jax.tree.map(np.asarray, run(jax.random.key(seed))) for seed in (0, 0, 1)
        )
        views, fewer = found
        self.assertEqual(views.shape, (3, 5, 8, 8, 1))
        self.assertTrue(np.all((views >= 0) & (views <= 1)))
        flat = views.reshape(15, -1)
        distances = np.abs(flat[:, None] - flat[None]).max(axis=-1)
        self.assertGreater(distances[~np.eye(15, dtype=bool)].min(), 0.05)
        np.testing.assert_array_equal(views, again[0])
        self.assertGreater(np.abs(views - other[0]).max(), 0.05)
        # the numbers of view and image alone: not how many there are
        np.testing.assert_array_equal(fewer, views[:2, :4])

    def test_refuses(self):
        for text, call in (
            (
                "num_views",
                lambda: c.make_views(None, self.images, None, num_views=0),
            ),
            ("images", lambda: c.make_views(None, self.images[0], self.augment)),
            (
                "divide by 255",
                lambda: c.make_views(None, np.uint8(self.images), None),
            ),
            ("probability", lambda: c.random_flip(1.5)),
            ("area", lambda: c.random_resized_crop(area=(0.5, 0.2))),
            ("area", lambda: c.random_resized_crop(area=(0.5, 1.2))),
            ("hue", lambda: c.color_jitter(hue=0.6)),
            ("contrast", lambda: c.color_jitter(contrast=-0.1)),
            ("sigma", lambda: c.random_blur(sigma=(0.0, 1.0))),
            ("sigma", lambda: c.additive_noise(-1.0)),
            ("size", lambda: c.cut_out(9)(None, self.images[0])),
            (
                "3 channels",
                lambda: c.random_grey(0.5)(jax.random.key(0), self.images[0]),
            ),
        ):
            with self.assertRaisesRegex(ValueError, text):
                call()

    def test_without_dm_pix(self):
        with mock.patch.dict(sys.modules, dm_pix=None):
            for augmentation in (c.color_jitter, c.random_blur):
                with self.assertRaisesRegex(ImportError, r"robustjax\[views\]"):
                    augmentation()


if __name__ == "__main__":
    absltest.main()
