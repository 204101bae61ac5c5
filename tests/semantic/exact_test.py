"""Exact radii against noted ones, dense evaluation and certificates."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from fixed_images import (
    class_of,
    fixed_image,
    logits_at,
    margins_at,
    random_image,
    tiny_net,
)
from jax.tree_util import Partial

from robustjax import bounds, semantic
from robustjax.bounds import tracing
from robustjax.semantic import parameter_ranges
from robustjax.semantic.exact import piecewise_linear

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
            x,
            kernel.astype(np.float32).astype(x.dtype),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    y = jax.nn.relu(conv(x - 0.5, 4))
    y = jax.lax.reduce_window(
        y, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
    )
    y = jax.nn.relu(conv(y, 4)) + y
    y = jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
    y = jnp.abs(conv(y, 2)).reshape(len(x), -1)
    last = rng.normal(size=(y.shape[1], 4)).astype(np.float32)
    return y @ last.astype(y.dtype)


_NETS = {"tiny": tiny_net(), "conv": _conv_net}


@functools.cache
def _label(net):
    return class_of(_NETS[net], fixed_image())


@functools.cache
def _exact(attribute, net="tiny"):
    return semantic.exact_radius(
        _NETS[net], fixed_image(), _label(net), attribute=attribute
    )


class NotedTest(parameterized.TestCase):
    @parameterized.parameters(
        ("hue", None, 1.434340152 / 6),
        ("lightness", 0.503859152, 1.0),
        ("saturation", 1.0, 1.0),
        ("brightness", 1.0, 1.0),
    )
    def test_tiny_net(self, attribute, left, right):
        self.assertEqual(_label("tiny"), 2)
        found = _exact(attribute)
        self.assertAlmostEqual(found.right, right, delta=1e-9)
        self.assertEqual(found.flip_right == -1, right == 1.0)
        if left is not None:
            self.assertAlmostEqual(found.left, left, delta=1e-9)


class DenseTest(parameterized.TestCase):
    @parameterized.parameters(
        *((attribute, "tiny") for attribute in _LINEAR), ("hue", "conv")
    )
    def test_the_margin_is_positive_inside_and_zero_at_the_ends(self, attribute, net):
        self._check(attribute, net)

    @parameterized.parameters(*_LINEAR)
    @pytest.mark.slow
    def test_the_margin_of_a_larger_net(self, attribute):
        self._check(attribute, "conv")

    def _check(self, attribute, net):
        fn, label, found = _NETS[net], _label(net), _exact(attribute, net)
        self.assertGreater(min(found.left, found.right), 0)
        inside = np.linspace(-found.left, found.right, 4_001)[1:-1]
        ends = np.array([-found.left, found.right])
        moves = np.concatenate([inside, ends, ends * (1 + 1e-6)])[:, None]
        moving = semantic.attribute(attribute)
        margin = margins_at(fn, moving, fixed_image(), label, moves)
        self.assertGreater(margin[: len(inside)].min(), 0)
        for at, flip in ((0, found.flip_left), (1, found.flip_right)):
            if flip < 0 or abs(ends[at]) == 1:  # or a tie at the limit
                continue
            self.assertLess(abs(margin[len(inside) + at]), 1e-9)
            self.assertLess(margin[len(inside) + 2 + at], 0)

    def test_float32_weights(self):
        rng = np.random.default_rng(0)
        first, second = (
            np.float32(rng.normal(size=size)) for size in ((60, 16), (16, 3))
        )

        def fn(x):
            return jax.nn.relu(x.reshape(len(x), -1) @ first) @ second

        image = fixed_image()
        label = int(np.argmax(jax.jit(fn)(np.float32(image)[None])))
        found = semantic.exact_radius(fn, image, label, attribute="brightness")
        wide = semantic.exact_radius(
            lambda x: (
                jax.nn.relu(x.reshape(len(x), -1) @ np.float64(first))
                @ np.float64(second)
            ),
            image,
            label,
            attribute="brightness",
        )
        np.testing.assert_allclose(found[:2], wide[:2], rtol=1e-12)

    def test_many_pieces_take_several_stretches(self):
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(2700, 64))

        def fn(x):
            y = jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ weight)
            return jnp.stack([5000 + y[:, :32].sum(1), y[:, 32:].sum(1)], axis=1)

        found = semantic.exact_radius(fn, random_image(), 0, attribute="hue")
        self.assertGreater(found.num_pieces, 3 * piecewise_linear.CAPACITY)
        self.assertEqual(found[:4], (0.5, 0.5, -1, -1))

    def test_knots_that_are_near_are_kept_apart(self):
        """The margin is lost on a range of 5e-8 alone, between knots of one layer."""
        start, width = 0.1, 5e-8

        def fn(turns, least, x):
            hinges = jax.nn.relu(x[:, 0, 0, :1] - turns)
            spike = hinges @ jnp.array([1.0, -2.0, 1.0])
            return jnp.stack([0 * spike + least, spike], axis=1)

        turns = 0.5 + start + width * np.array([[0, 1, 2]])
        found = semantic.exact_radius(
            Partial(fn, turns, np.float64(width / 2)),
            np.full((1, 1, 1), 0.5),
            0,
            attribute="brightness",
        )
        self.assertEqual(found.left, 1.0)
        self.assertAlmostEqual(found.right, start + width / 2, delta=1e-12)


class CertifiedTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_certified_is_below_exact_is_below_attack(self):
        self._check("hue")

    @parameterized.parameters(*_LINEAR)
    @pytest.mark.slow
    def test_of_every_attribute_certified_is_below_exact(self, attribute):
        self._check(attribute)

    def _check(self, attribute):
        exact = _exact(attribute)
        found = semantic.certify(_NETS["tiny"], fixed_image(), 2, attribute=attribute)
        ((limit, _),) = parameter_ranges.resolve(semantic.attribute(attribute), None)
        for own, true, attack in (
            (found.left, exact.left, found.attack_left),
            (found.right, exact.right, found.attack_right),
        ):
            self.assertLessEqual(own, true + 1e-12)
            self.assertGreaterEqual(attack, true - 1e-12)
            self.assertGreater(own, true - limit / 1024)
            if true < limit:
                self.assertLess(attack, true + limit / 4096)

    @pytest.mark.slow
    def test_relaxations(self):
        ranges = {
            relaxation: semantic.certify(
                _NETS["tiny"],
                fixed_image(),
                2,
                attribute="lightness",
                relaxation=relaxation,
                min_share=1 / 64,
            )
            for relaxation in ("planes", "layers", "both", "pixel_box", "scalar_box")
        }
        for found in ranges.values():
            self.assertLessEqual(found.left, 0.503859153)
        self.assertGreaterEqual(ranges["both"].num_bounded, 1)
        for better, worse in (("both", "pixel_box"), ("planes", "scalar_box")):
            self.assertLessEqual(ranges[better].num_bounded, ranges[worse].num_bounded)

    def test_witnesses_are_lost_and_in_order(self):
        fn, image = _NETS["tiny"], fixed_image()
        found = semantic.attack(fn, image, 2, attribute="hue+lightness", limit=0.5)
        self.assertGreater(len(found.witnesses), 3)
        moving = semantic.attribute("hue+lightness")
        logits = logits_at(fn, moving, image, found.witnesses)
        np.testing.assert_array_equal(logits.argmax(axis=1), found.classes)
        self.assertNotIn(2, found.classes)
        share = np.abs(found.witnesses).max(axis=1) / 0.5
        self.assertTrue(np.all(np.diff(share) >= -1e-12))
        self.assertAlmostEqual(share[0], found.share)


class EdgeTest(absltest.TestCase):
    @pytest.mark.newest
    def test_a_misclassified_image_has_no_radius(self):
        found = semantic.exact_radius(_NETS["tiny"], fixed_image(), 0, attribute="hue")
        self.assertEqual((found.left, found.right), (0.0, 0.0))

    def test_a_net_that_gives_nan_has_no_radius(self):
        def fn(x):
            sums = x.sum(axis=(1, 2, 3))
            return jnp.stack([sums, sums * jnp.nan], axis=1)

        found = semantic.exact_radius(fn, fixed_image(), 0, attribute="brightness")
        self.assertEqual((found.left, found.right), (0.0, 0.0))

    def test_stretches_of_too_many_knots_are_cut(self):
        """And the walk ends where no stretch is short enough."""
        walk, widths = piecewise_linear.along_curve, []

        def short(fn, curve, times):
            widths.append(times[-1] - times[0])
            if widths[-1] > longest:
                raise piecewise_linear.TooManyKnotsError
            return walk(fn, curve, times)

        whole = _exact("lightness")
        with mock.patch.object(piecewise_linear, "along_curve", short):
            longest = 0.02
            found = semantic.exact_radius(
                _NETS["tiny"], fixed_image(), 2, attribute="lightness"
            )
            self.assertGreater(max(widths), longest)
            np.testing.assert_allclose(found[:4], whole[:4], atol=1e-12)
            longest = -1.0
            with self.assertRaises(piecewise_linear.TooManyKnotsError):
                semantic.exact_radius(
                    _NETS["tiny"], fixed_image(), 2, attribute="lightness"
                )
        self.assertLess(min(widths), 1e-8)

    def test_parts_that_nothing_needs_are_passed_over(self):
        graph = tracing.trace(
            lambda x: jnp.unstack(jax.nn.relu(x))[1],
            jax.ShapeDtypeStruct((2, 3), jnp.float32),
        )
        (bend,) = piecewise_linear.bends(graph)
        self.assertEqual(graph.nodes[bend - 1].operation.breakpoint, 0)

    def test_more_knots_than_fit(self):
        """As many as there are, and one for each of 64 units that bend between."""
        net = Partial(lambda x: jax.nn.relu(x - (np.arange(64) + 0.1) / 64))
        times = np.linspace(0, 1, piecewise_linear.CAPACITY)
        line = Partial(lambda t: jnp.full(64, t))
        with self.assertRaises(piecewise_linear.TooManyKnotsError):
            piecewise_linear.along_curve(net, line, times)
        knots, _ = piecewise_linear.along_curve(net, line, times[::2])
        self.assertLen(knots, len(times[::2]) + 64)

    def test_limits(self):
        found = semantic.exact_radius(
            _NETS["tiny"], fixed_image(), 2, attribute="lightness", limit=(0.25, 0.0)
        )
        self.assertEqual(found[:4], (0.25, 0.0, -1, -1))

    def test_a_grey_image_does_not_move_in_hue(self):
        image = np.repeat(fixed_image()[..., :1], 3, axis=-1)
        label = class_of(_NETS["tiny"], image)
        found = semantic.exact_radius(_NETS["tiny"], image, label, attribute="hue")
        self.assertEqual((found.left, found.right), (0.5, 0.5))


class RefusalTest(parameterized.TestCase):
    def test_models_that_are_not_piecewise_linear_are_named(self):
        for fn, name in (
            (lambda x: jnp.tanh(x).sum((1, 2)), "tanh"),
            (lambda x: jax.nn.softmax(x.sum((1, 2))), "exp"),
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
            semantic.exact_radius(_NETS["tiny"], fixed_image(), 2, **options)

    def test_labels_and_images(self):
        for image, label, text in (
            (fixed_image(), 3, "label"),
            (fixed_image() + 1, 0, r"\[0, 1\]"),
            (np.zeros((4, 5, 3), np.uint8), 0, "divide"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                semantic.exact_radius(_NETS["tiny"], image, label, attribute="hue")


if __name__ == "__main__":
    absltest.main()
