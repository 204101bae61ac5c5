"""Tests for figures of robustness."""

import pathlib
import sys
import tempfile
from unittest import mock

import matplotlib.image
import numpy as np
from absl.testing import absltest, parameterized

from robustjax import plotting, results


class CurveTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.correct = rng.random(60) < 0.7
        self.radius = np.round(rng.exponential(size=60), 1)
        self.run = (self.correct, self.radius)

    def test_steps_are_exact(self):
        axes = plotting.certified_accuracy_curve({"a": self.run}).axes[0]
        (line,) = axes.get_lines()
        at, accuracy = line.get_data()
        self.assertEqual(line.get_drawstyle(), "steps-pre")
        query = np.linspace(0, at[-1], 1001)
        drawn = accuracy[np.searchsorted(at, query, side="left")]
        expected = results.certified_accuracy(*self.run, query)
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
        lower = results.certified_accuracy_lower(*self.run, 0.0, alpha=0.05)
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


if __name__ == "__main__":
    absltest.main()
