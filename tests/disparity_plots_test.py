"""Figures of what smoothing costs: what is drawn is what was given."""

import matplotlib.colors
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import hidden_cost, plotting


class AccuracyByClassTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_draws_every_class_and_line(self):
        sigmas = [0.0, 0.5, 1.0]
        accuracy = {"cat": [0.9, 0.4, np.nan], "ship": [1.0, 0.9, 0.8]}
        figure = plotting.accuracy_by_class(
            sigmas,
            accuracy,
            bounds={"cat": ([0.8, 0.3, 0], [1, 0.5, 1])},
            needed={"radius 1": 0.3},
            vanishing=0.7,
        )
        axes = figure.axes[0]
        lines = {line.get_label(): line for line in axes.get_lines()}
        for name, values in accuracy.items():
            at, drawn = lines[name].get_data()
            np.testing.assert_array_equal(at, sigmas)
            np.testing.assert_array_equal(drawn, values)
        texts = {text.get_text() for text in axes.texts}
        self.assertEqual(texts, {"radius 1", "ball vanishes"})
        levels = sorted(line.get_xdata()[0] for line in axes.get_lines()[2:])
        self.assertEqual(levels, [0.3, 0.7])
        self.assertLen(axes.collections, 1)

    def test_labels_of_close_lines_do_not_overlap(self):
        figure = plotting.accuracy_by_class(
            [0.0, 1.5],
            {"cat": [0.9, 0.4]},
            needed={"radius 0.5": 0.203},
            vanishing=0.16,
        )
        figure.canvas.draw()
        one, two = (text.get_window_extent() for text in figure.axes[0].texts)
        self.assertFalse(one.overlaps(two))

    @parameterized.parameters(({},), ({"cat": [0.1]},))
    def test_refuses(self, accuracy):
        with self.assertRaisesRegex(ValueError, "series|values of 'cat'"):
            plotting.accuracy_by_class([0.0, 0.5], accuracy)


class HeatMapTest(parameterized.TestCase):
    def test_numbers_and_frames(self):
        table = np.array([[0.1, 0.2, np.nan], [0.4, 0.55, 0.6]])
        figure = plotting.noise_heat_map(
            [0.5, 1], [0, 0.5, 1], {"gap": table, "accuracy": 1 - table}, title="noise"
        )
        self.assertLen(figure.axes, 2)
        self.assertEqual(figure.get_suptitle(), "noise")
        for axes, values in zip(figure.axes, (table, 1 - table), strict=True):
            (image,) = axes.get_images()
            np.testing.assert_array_equal(
                np.ma.filled(image.get_array(), np.nan), values
            )
            written = {t.get_position(): t.get_text() for t in axes.texts}
            self.assertEqual(written[1, 1], f"{values[1, 1]:.2f}")
            self.assertNotIn((2, 0), written)  # not a number
            centres = [np.add(p.get_xy(), (0.47, 0.45)) for p in axes.patches]
            np.testing.assert_allclose(centres, [(1, 0), (2, 1)])  # of equal noise
            ticks = [t.get_text() for t in axes.get_xticklabels()]
            self.assertEqual(ticks, ["0", "0.5", "1"])

    def test_refuses(self):
        for values in ({}, {"gap": [[0.1]]}):
            with self.assertRaisesRegex(ValueError, r"shape \(1, 2\)"):
                plotting.noise_heat_map([0], [0, 1], values)


class SliceTest(parameterized.TestCase):
    def test_panels_show_the_labels_in_the_colours_of_the_legend(self):
        labels = np.array([[0, 0, 1], [0, 1, 1], [2, 1, 1]], np.int32)
        found = hidden_cost.SliceMap(
            base=labels,
            smoothed=labels[::-1].copy(),
            counts=np.zeros((3, 3, 4), np.int32),
            x=np.arange(3.0),
            y=np.arange(3.0),
            coordinates=np.array([[0.0, 0], [2, 0], [0, 2]]),
            basis=np.eye(2),
        )
        figure = plotting.region_slice(
            {"sigma 1": found}, class_names=["a", "b", "c"], title="slices"
        )
        self.assertLen(figure.axes, 2)
        self.assertEqual(figure.get_suptitle(), "slices")
        legend = figure.legends[0]
        names = [text.get_text() for text in legend.get_texts()]
        self.assertEqual(names, ["a", "b", "c"])
        colours = [patch.get_facecolor() for patch in legend.get_patches()]
        for axes, drawn in zip(figure.axes, (labels, labels[::-1]), strict=True):
            (image,) = axes.get_images()
            shown = image.cmap(image.norm(drawn))
            for i in range(3):
                expected = matplotlib.colors.to_rgba(colours[i])
                np.testing.assert_allclose(
                    shown[drawn == i], [expected] * (drawn == i).sum()
                )

    def test_refuses_nothing(self):
        with self.assertRaisesRegex(ValueError, "at least one slice"):
            plotting.region_slice({}, class_names=["a"])


class RaysTest(parameterized.TestCase):
    def test_empty_rays_lie_at_zero(self):
        figure = plotting.shrinkage_along_rays(
            [1.0, 2.0, np.inf], {"sigma 0.5": [0.8, np.nan, 0.3]}, title="rays"
        )
        self.assertEqual(figure.axes[0].get_title(loc="left"), "rays")
        line = figure.axes[0].get_lines()[1]
        np.testing.assert_array_equal(line.get_ydata(), [0.8, 0.0, 0.3])
        self.assertTrue(np.isfinite(figure.axes[0].get_xlim()).all())

    def test_refuses(self):
        with self.assertRaisesRegex(ValueError, "values of 'a'"):
            plotting.shrinkage_along_rays([1.0], {"a": [1.0, 2.0]})


if __name__ == "__main__":
    absltest.main()
