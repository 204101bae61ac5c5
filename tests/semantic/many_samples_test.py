"""Certified ranges and cells at 100,000 sampled moves an image, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from fixed_images import tiny_net

from robustjax import semantic

_EXACT = ("hue", "saturation", "lightness", "brightness", "contrast", "shear",
          "translation_rows", "translation_columns")  # fmt: skip
_COLOR, _GREY = tiny_net(), tiny_net(72)
_NUM_IMAGES, _NUM_MOVES = 3, 100_000


def _cases(is_color):
    """A network, images, and the class that it gives each."""
    fn = _COLOR if is_color else _GREY
    for seed in range(_NUM_IMAGES):
        size = (4, 5, 3) if is_color else (9, 8, 1)
        image = np.random.default_rng(seed).random(size)
        yield fn, image, int(np.argmax(fn(jnp.asarray(image, jnp.float32)[None])))


def _least_margin(fn, attribute, image, label, moves):
    with jax.enable_x64(True):
        move = semantic.attribute(attribute)

        def margin(t):
            logits = fn(move(image, t)[None])[0]
            return logits[label] - jnp.delete(logits, label).max()

        every = jax.jit(lambda moves: jax.lax.map(margin, moves, batch_size=5000))
        return float(every(jnp.asarray(moves)).min())


@pytest.mark.slow
class ManySamplesTest(parameterized.TestCase):
    @parameterized.parameters(*_EXACT)
    def test_exact_ranges(self, attribute):
        rng = np.random.default_rng(0)
        for fn, image, label in _cases(is_color=True):
            found = semantic.exact_radius(fn, image, label, attribute=attribute)
            moves = rng.uniform(-found.left, found.right, (_NUM_MOVES, 1))
            margin = _least_margin(fn, attribute, image, label, moves)
            self.assertGreater(margin, 0)
            self.assertGreater(found.left + found.right, 0)

    @parameterized.parameters("hue", "contrast", "rotation", "scale")
    def test_certified_ranges(self, attribute):
        rng = np.random.default_rng(1)
        for fn, image, label in _cases(is_color=attribute == "hue"):
            found = semantic.certify(fn, image, label, attribute=attribute)
            self.assertGreater(found.left + found.right, 0)
            self.assertLessEqual(found.left, found.attack_left)
            self.assertLessEqual(found.right, found.attack_right)
            moves = rng.uniform(-found.left, found.right, (_NUM_MOVES, 1))
            margin = _least_margin(fn, attribute, image, label, moves)
            self.assertGreater(margin, 0)

    @parameterized.parameters(
        ("brightness_contrast", None), ("translation", 1.5),
        ("rotation+brightness", ((10, 10), (0.1, 0.1))),
    )  # fmt: skip
    def test_certified_cells(self, attribute, limit):
        rng = np.random.default_rng(2)
        for fn, image, label in _cases(is_color=False):
            found = semantic.certify(
                fn, image, label, attribute=attribute, limit=limit, max_cells=1000
            )
            proven = found.cells[found.states == 1]
            self.assertNotEmpty(proven)
            chosen = proven[rng.integers(0, len(proven), _NUM_MOVES)]
            moves = rng.uniform(chosen[:, 0], chosen[:, 1])
            margin = _least_margin(fn, attribute, image, label, moves)
            self.assertGreater(margin, 0)


if __name__ == "__main__":
    absltest.main()
