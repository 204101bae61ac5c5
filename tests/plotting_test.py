"""Tests for figures of robustness."""

import itertools
import pathlib
import sys
import tempfile
import types
from unittest import mock

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import metrics, plotting


class CurveTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.correct = rng.random(60) < 0.7
        self.radius = np.round(rng.exponential(size=60), 1)
        self.run = (self.correct, self.radius)

    @pytest.mark.newest
    def test_steps_are_exact(self):
        axes = plotting.certified_accuracy_curve({"a": self.run}).axes[0]
        (line,) = axes.get_lines()
        at, accuracy = line.get_data()
        self.assertEqual(line.get_drawstyle(), "steps-pre")
        query = np.linspace(0, at[-1], 1001)
        drawn = accuracy[np.searchsorted(at, query, side="left")]
        expected = metrics.certified_accuracy(*self.run, query)
        np.testing.assert_array_equal(drawn, expected)
        self.assertEqual((at[0], accuracy[-1]), (0.0, 0.0))

    def test_labels_name_norm_and_units(self):
        figure = plotting.certified_accuracy_curve(
            {"a": self.run, "b": self.run}, norm="linf", title="Digits", max_radius=2
        )
        axes = figure.axes[0]
        self.assertEqual(axes.get_xlabel(), "$\\ell_\\infty$ radius (input units)")
        self.assertEqual(axes.get_ylabel(), "Certified accuracy")
        self.assertEqual(axes.get_title(loc="left"), "Digits")
        self.assertEqual(axes.get_xlim(), (0.0, 2.0))
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        self.assertEqual(labels, ["a", "b"])

    def test_legend_lies_outside_of_the_axes(self):
        runs = {f"run number {i}": self.run for i in range(9)}
        figure = plotting.certified_accuracy_curve(runs)
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        self.assertFalse(legend.overlaps(figure.axes[0].get_window_extent()))
        self.assertGreaterEqual(figure.bbox.x1, legend.x1)

    def test_curves_differ_in_colour_or_line(self):
        runs = {str(i): self.run for i in range(20)}
        lines = plotting.certified_accuracy_curve(runs).axes[0].get_lines()
        styles = {(line.get_color(), line.get_linestyle()) for line in lines}
        self.assertLen(styles, 20)

    def test_band_reaches_down_to_the_lower_bound(self):
        axes = plotting.certified_accuracy_curve({"a": self.run}, alpha=0.05).axes[0]
        (band,) = axes.collections
        heights = np.unique(band.get_paths()[0].vertices[:, 1])
        lower = metrics.certified_accuracy_lower(*self.run, 0.0, alpha=0.05)
        self.assertIn(lower, heights)
        self.assertLess(lower, np.mean(self.correct))

    @parameterized.parameters(
        ([0, 0], [0.0, 0.0]), ([1, 1], [0.0, 0.0]), ([1, 1], [np.inf, 0.5])
    )
    def test_extreme_runs_can_be_drawn(self, correct, radius):
        figure = plotting.certified_accuracy_curve({"a": (correct, radius)})
        plotting.save(
            figure, self.enterContext(tempfile.TemporaryDirectory()) + "/curve.svg"
        )

    def test_saved_figure_has_ink_and_no_pyplot(self):
        path = (
            pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
            / "new"
            / "curve.png"
        )
        with mock.patch.dict(sys.modules, {"matplotlib.pyplot": None}):
            figure = plotting.certified_accuracy_curve({"a": self.run})
            plotting.save(figure, path)
        image = matplotlib.image.imread(path)
        self.assertEqual(image.shape[:2], (800, 1280))
        self.assertGreater(image[..., :3].std(), 0.02)

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "at least one run"):
            plotting.certified_accuracy_curve({})
        with self.assertRaisesRegex(ValueError, "at least one example"):
            plotting.certified_accuracy_curve({"a": ([], [])})
        figure = plotting.certified_accuracy_curve({"a": self.run})
        with self.assertRaisesRegex(ValueError, "xyz"):
            plotting.save(
                figure, self.enterContext(tempfile.TemporaryDirectory()) + "/curve.xyz"
            )

    def test_missing_matplotlib_is_explained(self):
        with (
            mock.patch.dict(sys.modules, {"matplotlib.figure": None}),
            self.assertRaisesRegex(ImportError, r"pip install 'robustjax\[plot\]'"),
        ):
            plotting.certified_accuracy_curve({"a": self.run})


class ByNormTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(1)
        self.correct = rng.random(80) < 0.7
        norms = ("l2", "l1", "linf", "subspace:red", "l1.5", "subspace:top")
        self.zeroth = {norm: rng.exponential(size=80) for norm in norms}
        self.first = {norm: 1.2 * radius for norm, radius in self.zeroth.items()}

    def _figure(self, num_norms, **options):
        norms = list(self.zeroth)[:num_norms]
        zeroth = {norm: self.zeroth[norm] for norm in norms}
        first = {norm: self.first[norm] for norm in reversed(norms)}
        return plotting.certified_accuracy_by_norm(
            self.correct, zeroth, first, **options
        )

    def test_area_under_the_curves_is_the_radius_above_them(self):
        for axes, norm in zip(self._figure(6).axes, self.zeroth, strict=True):
            areas = []
            for line in axes.get_lines():
                at, accuracy = line.get_data()
                areas.append(np.sum(np.diff(at) * accuracy[1:]))
            new, old = (
                metrics.average_certified_radius(self.correct, radius[norm])
                for radius in (self.first, self.zeroth)
            )
            np.testing.assert_allclose(areas, [new, old], rtol=1e-12)
            digits = 4 if norm == "linf" else 3
            title = f"ACR {old:.{digits}f} to {new:.{digits}f}"
            self.assertEqual(axes.get_title(loc="left"), title)

    def test_panels_are_labelled(self):
        figure = self._figure(6, title="Digits")
        self.assertEqual(
            [axes.get_xlabel() for axes in figure.axes],
            [
                "$\\ell_2$ radius (input units)",
                "$\\ell_1$ radius (input units)",
                "$\\ell_\\infty$ radius (input units)",
                "Radius in the red channel (input units)",
                "$\\ell_{1.5}$ radius (input units)",
                "Radius in top (input units)",
            ],
        )
        outer = [bool(axes.get_ylabel()) for axes in figure.axes]
        self.assertEqual(outer, [True, False, False, True, False, False])
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        self.assertEqual(labels, ["first order", "zeroth order"])
        self.assertEqual(figure.get_suptitle(), "Digits")

    def test_orders_differ_in_colour_and_line(self):
        first, zeroth = self._figure(1).axes[0].get_lines()
        self.assertEqual(
            (first.get_label(), zeroth.get_label()), ("first order", "zeroth order")
        )
        self.assertNotEqual(first.get_color(), zeroth.get_color())
        self.assertNotEqual(first.get_linestyle(), zeroth.get_linestyle())

    def test_linf_has_a_scale_of_pixel_levels(self):
        figure = self._figure(3)
        figure.draw_without_rendering()
        scales = [axes.child_axes for axes in figure.axes]
        self.assertEqual([len(scale) for scale in scales], [0, 0, 1])
        levels = scales[2][0].get_xlim()
        np.testing.assert_allclose(levels, np.multiply(figure.axes[2].get_xlim(), 255))
        labels = [text.get_text() for text in scales[2][0].get_xticklabels()]
        self.assertIn("0/255", labels)

    @parameterized.parameters(1, 3, 4, 6)
    def test_nothing_overlaps(self, num_norms):
        figure = self._figure(num_norms, title="Digits")
        figure.draw_without_rendering()
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        boxes += [
            figure.legends[0].get_window_extent(),
            figure.texts[0].get_window_extent(),
        ]
        for one, other in itertools.combinations(boxes, 2):
            self.assertFalse(one.overlaps(other), (one, other))
        for box in boxes:
            self.assertTrue(box.width > 0 and box.height > 0)
            self.assertGreaterEqual(box.x0, -1)
            self.assertLessEqual(box.x1, figure.bbox.x1 + 1)

    def test_bands_belong_to_both_orders(self):
        (axes,) = self._figure(1, alpha=0.05).axes
        colours = [tuple(band.get_facecolor()[0][:3]) for band in axes.collections]
        lines = [
            matplotlib.colors.to_rgb(line.get_color()) for line in axes.get_lines()
        ]
        self.assertEqual(colours, lines)
        lower = metrics.certified_accuracy_lower(
            self.correct, self.zeroth["l2"], 0.0, alpha=0.05
        )
        self.assertIn(lower, axes.collections[1].get_paths()[0].vertices[:, 1])

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "at least one, got \\[\\] and \\[\\]"):
            plotting.certified_accuracy_by_norm([1], {}, {})
        with self.assertRaisesRegex(ValueError, r"\['l1'\] and \['l2'\]"):
            plotting.certified_accuracy_by_norm([1], {"l1": [1]}, {"l2": [1]})
        with self.assertRaisesRegex(ValueError, "equal lengths"):
            plotting.certified_accuracy_by_norm([1], {"l1": [1]}, {"l1": [1, 2]})


class RegionTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.angles = np.linspace(0, np.pi, 91)

    def _outline(self, radius, **options):
        figure = plotting.certified_region(self.angles, {"a": radius}, **options)
        return np.array(figure.axes[0].get_lines()[0].get_data())

    def test_outline_has_the_radii_and_is_mirrored(self):
        radius = 1 + 0.3 * np.cos(self.angles)
        x, y = self._outline(radius)
        np.testing.assert_allclose(np.hypot(x, y)[:91], radius, rtol=1e-12)
        np.testing.assert_allclose(x[0], -1.3)  # the worst direction is on the left
        np.testing.assert_allclose((x[::-1], -y[::-1]), (x, y), atol=1e-12)
        np.testing.assert_allclose(np.arctan2(y[30], -x[30]), self.angles[30])

    def test_half_plane_reaches_the_edges_of_the_picture(self):
        with np.errstate(divide="ignore"):
            radius = np.where(
                self.angles < np.pi / 2 - 1e-9, 1 / np.cos(self.angles), np.inf
            )
        figure = plotting.certified_region(self.angles, {"a": radius}, max_radius=3)
        axes = figure.axes[0]
        self.assertEqual(axes.get_xlim() + axes.get_ylim(), (-3, 3, -3, 3))
        patch = axes.patches[0].get_path()
        inside = [(-0.9, 2.9), (2.9, 2.9), (2.9, -2.9), (-0.9, -2.9), (0, 0)]
        self.assertTrue(patch.contains_points(inside).all())
        outside = [(-1.1, 2.9), (-1.1, 0), (-2.9, -2.9)]
        self.assertFalse(patch.contains_points(outside).any())

    def test_reference_circle_labels_and_order_of_shades(self):
        regions = {f"rho {i}": np.full(91, 1 + i / 10) for i in range(5)}
        figure = plotting.certified_region(
            self.angles, regions, reference=0.8, title="p = 0.8", units="pixels"
        )
        axes = figure.axes[0]
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        self.assertEqual(texts, [*regions, "zeroth order"])
        circle = np.array(axes.get_lines()[5].get_data())
        np.testing.assert_allclose(np.hypot(*circle), 0.8)
        shades = [
            matplotlib.colors.to_rgb(line.get_color()) for line in axes.get_lines()[:5]
        ]
        brightness = np.array(shades) @ [0.2126, 0.7152, 0.0722]
        self.assertTrue((np.diff(brightness) > 0.05).all())
        self.assertEqual(axes.get_xlabel(), "Along the gradient (pixels)")
        self.assertEqual(axes.get_title(loc="left"), "p = 0.8")
        self.assertEqual(axes.get_xlim(), (-2.4, 2.4))  # twice the median
        self.assertEqual(axes.get_aspect(), 1.0)

    def test_legend_lies_inside_of_the_figure(self):
        regions = {f"rho = {i / 10}": np.ones(91) for i in range(6)}
        figure = plotting.certified_region(self.angles, regions, reference=1)
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        self.assertGreaterEqual(figure.bbox.x1, legend.x1)
        self.assertFalse(legend.overlaps(figure.axes[0].get_window_extent()))

    @parameterized.parameters(0.0, np.inf)
    def test_extreme_regions_can_be_drawn(self, radius):
        figure = plotting.certified_region(self.angles, {"a": np.full(91, radius)})
        path = self.enterContext(tempfile.TemporaryDirectory()) + "/region.png"
        plotting.save(figure, path)
        self.assertEqual(figure.axes[0].get_xlim(), (-1.0, 1.0))
        self.assertGreater(matplotlib.image.imread(path)[..., :3].std(), 0.02)

    @parameterized.parameters(
        ([0, 1], {}, "at least one region"),
        ([], {"a": []}, "angles"),
        ([[0, 1]], {"a": [[1, 1]]}, "angles"),
        ([-0.1, 1], {"a": [1, 1]}, "angles"),
        ([0, 3.2], {"a": [1, 1]}, "angles"),
        ([0, np.nan], {"a": [1, 1]}, "angles"),
        ([1, 1], {"a": [1, 1]}, "increasing angles"),
        ([0, 1], {"b": [1]}, "2 radii >= 0 of 'b'"),
        ([0, 1], {"b": [1, -1]}, "2 radii >= 0 of 'b'"),
        ([0, 1], {"b": [1, np.nan]}, "2 radii >= 0 of 'b'"),
    )
    def test_errors(self, angles, regions, message):
        with self.assertRaisesRegex(ValueError, message):
            plotting.certified_region(angles, regions)


class AttackTest(parameterized.TestCase):
    def test_dots_are_means_with_their_spread(self):
        accuracies = {
            "SimCLR": {"clean": [0.8, 0.9, 1.0], "pgd": 0.5},
            "AdvCL": {"clean": [0.7], "pgd": [0.4, 0.6]},
        }
        figure = plotting.accuracy_under_attack(accuracies, title="Digits")
        axes = figure.axes[0]
        drawn = {dots[0].get_label(): dots for dots in axes.containers}
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        self.assertEqual(labels, ["clean", "pgd"])
        means = {"clean": [0.9, 0.7], "pgd": [0.5, 0.5]}
        for label, container in drawn.items():
            dots, _, (bars,) = container
            np.testing.assert_allclose(dots.get_xdata(orig=False), means[label])
            width = np.ptp([bar[:, 0] for bar in bars.get_segments()], axis=1)
            spread = {"clean": [0.2, 0.0], "pgd": [0.0, 2 * np.sqrt(0.02)]}[label]
            np.testing.assert_allclose(width, spread, atol=1e-12)
        ticks = [text.get_text() for text in axes.get_yticklabels()]
        self.assertEqual(ticks, ["SimCLR", "AdvCL"])
        self.assertGreater(*axes.get_ylim())  # the first on top

    def test_errors(self):
        for accuracies in ({}, {"a": {}}):
            with self.assertRaisesRegex(ValueError, "at least one classifier"):
                plotting.accuracy_under_attack(accuracies)
        with self.assertRaisesRegex(ValueError, "attacks clean of b, got pgd"):
            plotting.accuracy_under_attack({"a": {"clean": 1}, "b": {"pgd": 1}})


class SemanticTest(parameterized.TestCase):
    def test_histograms_count_every_image(self):
        rng = np.random.default_rng(0)
        radii = {f"attribute {i}": rng.random((2, 50)) for i in range(4)}
        figure = plotting.radius_histograms(radii)
        for axes, (label, pair) in zip(figure.axes, radii.items(), strict=True):
            self.assertEqual(axes.get_xlabel(), label)
            edges = np.linspace(0, pair.max(), 21)
            heights = [bar.get_height() for bar in axes.patches[:20]]
            np.testing.assert_array_equal(heights, np.histogram(pair[0], edges)[0])
            outline = axes.patches[20].get_path().vertices
            counts = np.histogram(pair[1], edges)[0]
            np.testing.assert_array_equal(outline[1:40:2, 1], counts)
        names = [axes.get_ylabel() for axes in figure.axes]
        self.assertEqual(names, ["images", "", "", "images"])

    def test_grid_shows_the_images_in_their_place(self):
        images = np.random.default_rng(0).random((2, 3, 4, 4, 3))
        titles = [[f"{i}{j}" for j in range(3)] for i in range(2)]
        figure = plotting.image_grid(images, titles)
        for axes, image, title in zip(
            figure.axes, images.reshape(6, 4, 4, 3), np.ravel(titles), strict=True
        ):
            self.assertEqual(axes.get_title(), title)
            np.testing.assert_array_equal(axes.get_images()[0].get_array(), image)
        places = [axes.get_subplotspec().num1 for axes in figure.axes]
        self.assertEqual(places, list(range(6)))
        (axes,) = plotting.image_grid([[np.full((2, 2, 1), 1.5)]], [["white"]]).axes
        np.testing.assert_array_equal(axes.get_images()[0].get_array(), np.ones((2, 2)))

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "at least one attribute"):
            plotting.radius_histograms({})
        with self.assertRaisesRegex(ValueError, "finite radii, got others of hue"):
            plotting.radius_histograms({"hue": ([0.1], [np.inf])})
        image = np.zeros((2, 2, 1))
        for images, titles in (([[image]], [["a", "b"]]), ([[image]], [["a"], ["b"]])):
            with self.assertRaisesRegex(ValueError, "rows of one length"):
                plotting.image_grid(images, titles)


class SynBenchTest(parameterized.TestCase):
    def _result(self, thresholds=(0.6, 0.8)):
        return types.SimpleNamespace(
            thresholds=thresholds,
            ceiling=np.array([0.9, 0.8]),
            score=np.array([[0.1, 0.2], [0.5, 0.4]]),
            standard_error=np.array([[0.0, 0.0], [0.01, 0.02]]),
            accuracy=np.array([[0.5, 0.5], [0.7, 0.9]]),
            bound=np.array([[np.nan, 1.0], [2.0, 1.0]]),
            raw_accuracy=np.array([[0.5, 0.5], [0.8, 1.0]]),
            raw_bound=np.array([[0.0, 0.0], [4.0, 2.0]]),
            task={"relative_epsilons": [0.0, 0.25]},
        )

    def test_curves_and_scores(self):
        figure = plotting.synbench_scores({"a": self._result()}, epsilon_index=1)
        left, right = figure.axes
        for line, at in zip(left.get_lines(), ((0.8, 4, 2), (0.7, 2, 1)), strict=True):
            running, curve = line.get_data()
            first, high, low = at  # the accuracy of the first scale, both bounds
            last = first + 0.2
            expected = (high * (running < first) + low * (running < last)) / 2
            is_clear = np.abs(np.subtract.outer(running, at[:1])).min(axis=1) > 1e-9
            is_clear &= np.abs(running - last) > 1e-9
            np.testing.assert_allclose(curve[is_clear], expected[is_clear])
        (scores,) = right.containers
        np.testing.assert_array_equal(scores[0].get_data(), [(0.6, 0.8), (0.5, 0.4)])
        (bars,) = scores[2]
        width = np.ptp([bar[:, 1] for bar in bars.get_segments()], axis=1)
        np.testing.assert_allclose(width, 2 * 1.96 * np.array([0.01, 0.02]))
        self.assertEqual(right.get_ylabel(), "SynBench score (epsilon 0.25)")

    def test_errors(self):
        with self.assertRaisesRegex(ValueError, "at least one result"):
            plotting.synbench_scores({})
        with self.assertRaisesRegex(ValueError, "same thresholds"):
            plotting.synbench_scores({"a": self._result(), "b": self._result((0.7,))})


if __name__ == "__main__":
    absltest.main()
