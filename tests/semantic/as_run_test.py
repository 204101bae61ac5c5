"""What searches decide is about the function that its user calls."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest
from jax.tree_util import Partial

from robustjax import semantic

_IMAGE = np.full((1, 1, 1), 0.5)
_THRESHOLD = np.float64(0.3)


def _logits(threshold, x):
    return jnp.stack([x[:, 0, 0, 0] - threshold, 0 * x[:, 0, 0, 0]], axis=-1)


def _narrow(x):
    return _logits(0.25, x.astype(jnp.bfloat16)).astype(x.dtype)


def _looped(x):
    return jax.lax.fori_loop(0, 2, lambda i, y: y / 2, 4 * _logits(0.25, x))


class AsRunTest(absltest.TestCase):
    def _meets(self, model, distance):
        """Three ways to the distance at which class 0 is lost."""
        exact = semantic.exact_radius(model, _IMAGE, 0, attribute="brightness")
        self.assertAlmostEqual(exact.left, distance, delta=1e-12)
        found = semantic.certify(model, _IMAGE, 0, attribute="brightness")
        self.assertBetween(found.left, distance - 2 / 4096, distance)
        self.assertAlmostEqual(found.attack_left, distance, delta=1e-6)
        self.assertGreaterEqual(found.attack_left, distance - 1e-12)
        self.assertTrue(semantic.check(found, model, _IMAGE).is_confirmed)

    def test_constants_of_a_closure_are_float32_and_those_of_a_partial_are_not(self):
        with jax.enable_x64(False):
            self._meets(lambda x: _logits(_THRESHOLD, x), 0.5 - np.float32(_THRESHOLD))
            self._meets(Partial(_logits, _THRESHOLD), 0.5 - _THRESHOLD)

    def test_casts_to_narrower_floats_are_left_out_by_attacks_as_well(self):
        """bfloat16 has no numbers between .2490 and .25, nor between .25 and .2520."""
        self._meets(_narrow, 0.25)

    def test_integers_of_a_partial_are_numbers_of_python(self):
        """As an array, 100 would widen uint8, and 200 + 100 would not wrap around."""

        def model(n, x):
            wrapped = (jnp.uint8(200) + n).astype(x.dtype) / 255  # 44 / 255
            return _logits(1 - wrapped, x)

        fn = Partial(model, 100)
        with jax.enable_x64(False):
            self.assertLess(fn(np.float32(_IMAGE[None]))[0, 0], 0)
            found = semantic.certify(fn, _IMAGE, 0, attribute="brightness", limit=0.1)
            self.assertEqual((found.left, found.attack_left), (0, 0))

    def test_a_model_that_bounds_cannot_follow_is_attacked_as_it_is(self):
        found = semantic.attack(_looped, _IMAGE, 0, attribute="brightness")
        self.assertAlmostEqual(found.left, 0.25, delta=1e-6)


if __name__ == "__main__":
    absltest.main()
