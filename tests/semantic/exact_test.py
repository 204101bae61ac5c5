"""Exact radii against noted ones, dense evaluation and certificates."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from fixed_images import fixed_image, random_image, tiny_net

from robustjax import bounds, semantic
from robustjax.semantic import walk

_LINEAR = (
    "hue", "saturation", "lightness", "brightness", "contrast", "shear",
    "translation_rows", "translation_columns",
)  # fmt: skip


def _conv_net(x):
    """Convolutions, two kinds of pooling, a skip connection."""
    rng = np.random.default_rng(0)

    def conv(x, channels):
        kernel = rng.normal(size=(3, 3, x.shape[-1], channels)) / 3
        return jax.lax.conv_general_dilated(
            x, kernel.astype(x.dtype), (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    y = jax.nn.relu(conv(x - 0.5, 4))
    y = jax.lax.reduce_window(
        y, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
    )
    y = jax.nn.relu(conv(y, 4)) + y
    y = jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    y = jnp.abs(conv(y, 2)).reshape(len(x), -1)
    return y @ rng.normal(size=(y.shape[1], 4)).astype(y.dtype)


def _margin(fn, attribute, image, label, moves):
    with jax.enable_x64(True):
        move = semantic.attribute(attribute)
        images = jax.vmap(lambda t: move(image, t[None]))(jnp.asarray(moves))
        logits = np.asarray(fn(images))
    return (logits[:, [label]] - np.delete(logits, label, axis=1)).min(axis=1)


class NotedTest(parameterized.TestCase):
    @parameterized.parameters(
        ("hue", None, 1.434340152 / 6), ("lightness", 0.503859152, 1.0),
        ("saturation", 1.0, 1.0), ("brightness", 1.0, 1.0),
    )  # fmt: skip
    def test_tiny_net(self, attribute, left, right):
        found = semantic.exact_radius(tiny_net(), fixed_image(), 2, attribute=attribute)
        self.assertAlmostEqual(found.right, right, delta=1e-9)
        self.assertEqual(found.flip_right == -1, right == 1.0)
        if left is not None:
            self.assertAlmostEqual(found.left, left, delta=1e-9)


class DenseTest(parameterized.TestCase):
    @parameterized.product(attribute=_LINEAR, net=("tiny", "conv"))
    def test_the_margin_is_positive_inside_and_zero_at_the_ends(self, attribute, net):
        image = fixed_image()
        fn = tiny_net() if net == "tiny" else _conv_net
        with jax.enable_x64(True):
            label = int(np.argmax(fn(jnp.asarray(image)[None])[0]))
        found = semantic.exact_radius(fn, image, label, attribute=attribute)
        self.assertGreater(min(found.left, found.right), 0)
        moves = np.linspace(-found.left, found.right, 20_001)[1:-1]
        self.assertGreater(_margin(fn, attribute, image, label, moves).min(), 0)
        for end, flip in (
            (-found.left, found.flip_left),
            (found.right, found.flip_right),
        ):
            if flip < 0 or abs(end) == 1:  # or a tie at the limit
                continue
            at, beyond = _margin(
                fn, attribute, image, label, np.array([end, end * (1 + 1e-6)])
            )
            self.assertLess(abs(at), 1e-9)
            self.assertLess(beyond, 0)

    def test_float32_weights(self):
        rng = np.random.default_rng(0)
        first, second = (
            jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((60, 16), (16, 3))
        )

        def fn(x):
            return jax.nn.relu(x.reshape(len(x), -1) @ first) @ second

        image = fixed_image()
        label = int(np.argmax(fn(jnp.asarray(image, jnp.float32)[None])))
        found = semantic.exact_radius(fn, image, label, attribute="brightness")
        wide = semantic.exact_radius(
            lambda x: jax.nn.relu(x.reshape(len(x), -1) @ np.float64(first))
            @ np.float64(second),
            image, label, attribute="brightness",
        )  # fmt: skip
        np.testing.assert_allclose(found[:2], wide[:2], rtol=1e-12)

    def test_many_pieces_take_several_stretches(self):
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(2700, 64))

        def fn(x):
            y = jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ weight)
            return jnp.stack([5000 + y[:, :32].sum(1), y[:, 32:].sum(1)], axis=1)

        found = semantic.exact_radius(fn, random_image(), 0, attribute="hue")
        self.assertGreater(found.num_pieces, 3 * walk.CAPACITY)
        self.assertEqual(found[:4], (0.5, 0.5, -1, -1))


class EdgeTest(absltest.TestCase):
    def test_a_misclassified_image_has_no_radius(self):
        found = semantic.exact_radius(tiny_net(), fixed_image(), 0, attribute="hue")
        self.assertEqual((found.left, found.right), (0.0, 0.0))

    def test_a_net_that_gives_nan_has_no_radius(self):
        def fn(x):
            sums = x.sum(axis=(1, 2, 3))
            return jnp.stack([sums, sums * jnp.nan], axis=1)

        found = semantic.exact_radius(fn, fixed_image(), 0, attribute="brightness")
        self.assertEqual((found.left, found.right), (0.0, 0.0))

    def test_limits(self):
        found = semantic.exact_radius(
            tiny_net(), fixed_image(), 2, attribute="lightness", limit=(0.25, 0.0)
        )
        self.assertEqual(found[:4], (0.25, 0.0, -1, -1))

    def test_a_grey_image_does_not_move_in_hue(self):
        image = np.repeat(fixed_image()[..., :1], 3, axis=-1)
        label = int(np.argmax(tiny_net()(jnp.asarray(image, jnp.float32)[None])))
        found = semantic.exact_radius(tiny_net(), image, label, attribute="hue")
        self.assertEqual((found.left, found.right), (0.5, 0.5))


class RefusalTest(parameterized.TestCase):
    def test_models_that_are_not_piecewise_linear_are_named(self):
        for fn, name in (
            (lambda x: jnp.tanh(x).sum((1, 2)), "tanh"),
            (lambda x: jax.nn.softmax(x.sum((1, 2))), "product"),
            (lambda x: (x * x).sum((1, 2)), "square"),
        ):
            with self.assertRaisesRegex(bounds.UnsupportedError, name):
                semantic.exact_radius(fn, fixed_image(), 0, attribute="brightness")

    @parameterized.parameters(
        ({"attribute": "rotation"}, "piecewise linear"),
        ({"attribute": "brightness_contrast"}, "piecewise linear"),
        ({"attribute": "hue", "limit": 0.6}, "0.5"),
        ({"attribute": "lightness", "limit": -0.6}, "limit >= 0"),
        ({"attribute": "colour"}, "Unknown attribute"),
    )
    def test_options(self, options, text):
        with self.assertRaisesRegex(ValueError, text):
            semantic.exact_radius(tiny_net(), fixed_image(), 2, **options)

    def test_labels_and_images(self):
        for image, label, text in (
            (fixed_image(), 3, "label"), (fixed_image() + 1, 0, r"\[0, 1\]"),
            (np.zeros((4, 5, 3), np.uint8), 0, "divide"),
        ):  # fmt: skip
            with self.assertRaisesRegex(ValueError, text):
                semantic.exact_radius(tiny_net(), image, label, attribute="hue")


if __name__ == "__main__":
    absltest.main()
