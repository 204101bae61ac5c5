"""Published logs: the published figures and radii follow from them.

The figures are those of the papers' tables or were counted from the files on their
own; radii in the logs have three digits.
"""

import functools
import pathlib

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import metrics, results, smoothing
from tests import real_data

_HALVES = np.arange(0, 3.25, 0.25)
_CIFAR = "higher_order/cifar10/resnet110/noise_{}/results_{}.txt"
_IMAGENET = "higher_order/imagenet/resnet50/noise_{}/results_{}.txt"
_LOCUSLAB = "locuslab/certify/cifar10/resnet110/noise_{0}/test/sigma_{0}"
_ADVERSARIAL = "smoothing_adversarial_cohen/noise_{0}/test/sigma_{0}.gz"

# sigma, norm, certified accuracy at 0, .25, .5, ..., average certified radius.
_CIFAR_FIGURES = (
    ("0.12", "l1", ".836 .678", 0.2875),
    ("0.12", "l2", ".836 .606", 0.2867),
    ("0.12", "cohen", ".836 .606", 0.2868),
    ("0.25", "l1", ".774 .711 .541 .254 0", 0.4738),
    ("0.25", "l2", ".774 .631 .427 .253", 0.4383),
    ("0.25", "cohen", ".774 .615 .427 .254", 0.4351),
    ("0.50", "l1", ".649 .624 .567 .457 .327 .156 .071 .023", 0.6320),
    ("0.50", "l2", ".649 .567 .444 .330 .211 .126 .071 .034", 0.5263),
    ("0.50", "cohen", ".649 .552 .422 .324 .212 .126 .073 .034", 0.5155),
    ("1.00", "l1", ".479 .469 .446 .406 .348 .289 .238 .180 .110 .063 .034", 0.7128),
    ("1.00", "l2", ".479 .424 .352 .285 .233 .168 .124 .085 .052 .030 .022", 0.5084),
    ("1.00", "cohen", ".479 .417 .322 .262 .216 .159 .116 .081 .052 .030 .022", 0.4872),
)
_IMAGENET_FIGURES = (
    ("0.25", "r", ".667 .613 .501 .387 .297", 0.5235),
    ("0.25", "l1", ".667 .629 .559 .385 0", 0.4889),
    ("0.25", "l2", ".667 .595 .495 .387 .297", 0.5172),
    ("0.25", "cohen", ".667 .585 .495 .387 .297", 0.5168),
    ("0.50", "r", ".573 .541 .475 .441 .389 .333 .287 .228 .180", 0.7984),
    ("0.50", "l1", ".573 .563 .525 .463 .423 .347 .289 .214 0", 0.7681),
    ("0.50", "l2", ".573 .527 .461 .431 .381 .333 .287 .228 .180", 0.7855),
    ("0.50", "cohen", ".573 .519 .461 .425 .379 .333 .287 .228 .184", 0.7800),
    ("1.00", "r", ".437 .423 .407 .383 .355 .327 .293 .257 .208 .170 .150", 0.9625),
    ("1.00", "l1", ".437 .435 .423 .407 .387 .365 .337 .303 .267 .216 .174", 1.0016),
    ("1.00", "l2", ".437", 0.9304),
    ("1.00", "cohen", ".437 .409 .381 .355 .327 .293 .265 .224 .194 .170 .150", 0.9148),
)
# At .5, 1, 2, 3, 4, 6, 8 / 255, and the average radii of l2 and Cohen's l2.
_LINF_FIGURES = (
    ("0.12", ".758 .652 .382 0", None),
    ("0.25", ".719 .672 .479 .313 .183 0", (0.4545, 0.4492)),
    ("0.50", ".602 .579 .489 .363 .256 .110 .048", (0.5270, 0.5121)),
    ("1.00", ".419 .406 .361 .291 .238 .160 .090", (0.4774, 0.4523)),
)


@functools.cache
def _read(path):
    return results.read_log(real_data.folder("smoothing_logs") / path)


def _accuracy(log, norm, at):
    return metrics.certified_accuracy(log.correct, log.radius(norm), at)


class PublishedLogsTest(parameterized.TestCase):
    def _check(self, log, norm, figures, average=None, at=_HALVES):
        figures = np.array(figures.split(), dtype=float)
        actual = _accuracy(log, norm, at[: len(figures)])
        np.testing.assert_array_equal(np.round(actual, 3), figures)
        if average is not None:
            radius = metrics.average_certified_radius(log.correct, log.radius(norm))
            self.assertEqual(round(radius, 4), average)

    @parameterized.parameters(*_CIFAR_FIGURES)
    def test_higher_order_cifar10(self, sigma, norm, figures, average):
        self._check(_read(_CIFAR.format(sigma, "l1")), norm, figures, average)

    @parameterized.parameters(*_IMAGENET_FIGURES)
    def test_higher_order_imagenet(self, sigma, norm, figures, average):
        self._check(_read(_IMAGENET.format(sigma, "l1")), norm, figures, average)

    @parameterized.parameters(*_LINF_FIGURES)
    def test_higher_order_linf(self, sigma, figures, averages):
        log = _read(_CIFAR.format(sigma, "lInf"))
        at = np.array([0.5, 1, 2, 3, 4, 6, 8]) / 255
        self._check(log, "linf", figures, at=at)
        for norm, average in zip(("l2", "cohen"), averages or (), strict=False):
            self._check(log, norm, "", average)

    @parameterized.parameters(
        ("0.12", (0.8317, 0.5977, 0, 0), 324),
        ("0.25", (0.7665, 0.6116, 0.4225, 0), 795),
        ("0.50", (0.6568, 0.5491, 0.4279, 0.2197), 1523),
        ("1.00", (0.4715, 0.4094, 0.3377, 0.2213), 2955),
    )
    def test_smoothing_adversarial(self, sigma, figures, num_abstained):
        log = _read(_ADVERSARIAL.format(sigma))
        np.testing.assert_array_equal(log.columns["idx"], np.arange(10_000))
        accuracy = _accuracy(log, "l2", [0, 0.25, 0.5, 1.0])
        np.testing.assert_allclose(accuracy, figures, rtol=1e-12)
        self.assertEqual(metrics.abstention_rate(log.predict), num_abstained / 10_000)

    @parameterized.parameters(
        ("0.12", 0.2701), ("0.25", 0.4289), ("0.50", 0.5375), ("1.00", 0.5417)
    )
    def test_locuslab_cifar10(self, sigma, average):
        log = _read(_LOCUSLAB.format(sigma))
        figures = ".748 .600 .428 .266" if sigma == "0.25" else ""
        self._check(log, "l2", figures, average)

    def test_every_file_can_be_read(self):
        folder = real_data.folder("smoothing_logs")
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        sizes = {path: len(results.read_log(path)) for path in paths}
        self.assertLen(paths, 32)
        locuslab = [size for path, size in sizes.items() if "locuslab" in path.parts]
        self.assertLen(locuslab, 17)
        self.assertEqual(sorted(set(locuslab)), [427, 500, 513])

    @pytest.mark.newest
    def test_logged_radii_follow_from_the_counts(self):
        folder = real_data.folder("smoothing_logs")
        num_certified = 0
        for path in sorted((folder / "higher_order").rglob("*.txt")):
            log = results.read_log(path)
            sigma = float(path.parent.name.removeprefix("noise_"))
            p_lower = smoothing.clopper_pearson_lower(
                log.columns["count"], _num_estimation(path), alpha=0.001
            )
            radius = smoothing.zeroth_order_radius(p_lower, sigma=sigma)
            logged, certified = log.radius("cohen"), log.radius("cohen") > 0
            actual = [float(f"{value:.3g}") for value in radius[certified]]
            np.testing.assert_array_equal(actual, logged[certified], err_msg=str(path))
            num_certified += np.count_nonzero(certified)
        self.assertEqual(num_certified, 4613)


def _num_estimation(path: pathlib.Path) -> int:
    if "imagenet" in path.parts:
        return 1_250_000
    return 200_000 if path.name == "results_l1.txt" else 4_000_000


if __name__ == "__main__":
    absltest.main()
