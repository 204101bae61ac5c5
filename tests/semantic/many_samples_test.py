"""Certified ranges and cells at 100,000 sampled moves an image, in float64."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from fixed_images import class_of, margins_at, tiny_net

from robustjax import semantic

_EXACT = ("hue", "saturation", "lightness", "brightness", "contrast", "shear",
          "translation_rows", "translation_columns")  # fmt: skip
_COLOR, _GREY = tiny_net(), tiny_net(72)
_NUM_IMAGES, _NUM_MOVES = 3, 100_000


def _cases(*, is_color):
    """A network, images, and the class that it gives each."""
    fn = _COLOR if is_color else _GREY
    for seed in range(_NUM_IMAGES):
        size = (4, 5, 3) if is_color else (9, 8, 1)
        image = np.random.default_rng(seed).random(size)
        yield fn, image, class_of(fn, image)


@pytest.mark.slow
class ManySamplesTest(parameterized.TestCase):
    def _check(self, attribute, fn, image, label, moves):
        moving = semantic.attribute(attribute)
        margin = margins_at(fn, moving, image, label, moves)
        self.assertGreater(margin.min(), 0)

    @parameterized.parameters(*_EXACT)
    def test_exact_ranges(self, attribute):
        rng = np.random.default_rng(0)
        for case in _cases(is_color=True):
            found = semantic.exact_radius(*case, attribute=attribute)
            self.assertGreater(found.left + found.right, 0)
            moves = rng.uniform(-found.left, found.right, (_NUM_MOVES, 1))
            self._check(attribute, *case, moves)

    @parameterized.parameters("hue", "contrast", "rotation", "scale")
    def test_certified_ranges(self, attribute):
        rng = np.random.default_rng(1)
        for case in _cases(is_color=attribute == "hue"):
            found = semantic.certify(*case, attribute=attribute)
            self.assertGreater(found.left + found.right, 0)
            for own, attack in (
                (found.left, found.attack_left),
                (found.right, found.attack_right),
            ):
                self.assertLessEqual(own, attack)
                self.assertGreater(own, 0.99 * min(attack, 0.3))
            moves = rng.uniform(-found.left, found.right, (_NUM_MOVES, 1))
            self._check(attribute, *case, moves)

    @parameterized.parameters(
        ("brightness_contrast", None),
        ("translation", 1.5),
        ("rotation+brightness", ((10, 10), (0.1, 0.1))),
        ("hue+lightness", 0.2),
    )
    def test_certified_cells(self, attribute, limit):
        rng, areas = np.random.default_rng(2), []
        for case in _cases(is_color=attribute == "hue+lightness"):
            found = semantic.certify(
                *case, attribute=attribute, limit=limit, max_cells=1000
            )
            proven = found.cells[found.states == 1]
            self.assertNotEmpty(proven)
            areas.append(found.area)
            self.assertLessEqual(found.area, found.attack_area + 0.02)
            self.assertLessEqual(found.share, found.attack_share)
            chosen = proven[rng.integers(0, len(proven), _NUM_MOVES)]
            moves = rng.uniform(chosen[:, 0], chosen[:, 1])
            self._check(attribute, *case, moves)
        self.assertGreater(max(areas), 0.05)


if __name__ == "__main__":
    absltest.main()
