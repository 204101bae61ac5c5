"""Distances of adversarial inputs: where none is far, and of nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from robustjax import attacks


class SmallestEpsilonTest(absltest.TestCase):
    def test_a_band_near_by_is_found(self):
        """Adversarial between .03 and .05 of x alone, uphill to no end."""

        def band(x):
            away = jnp.abs(x[:, 0] - 0.5)
            inside = (away > 0.03) & (away < 0.05)
            return jnp.stack([jnp.where(inside, -1.0, 1.0), away], axis=-1)

        x, labels = np.full((20, 1), 0.5), np.zeros(20, int)
        found = attacks.smallest_epsilon(
            jax.random.key(0), band, x, labels=labels, num_steps=2
        )
        self.assertTrue(np.all((found.epsilon > 0.0299) & (found.epsilon < 0.05)))

    def test_of_nothing(self):
        found = attacks.smallest_epsilon(
            jax.random.key(0), lambda x: x, np.zeros((0, 3)), labels=np.zeros(0, int)
        )
        self.assertEqual(found.epsilon.shape, (0,))

    def test_refuses_inputs_outside_of_the_range(self):
        with self.assertRaisesRegex(ValueError, "inside of valid_range"):
            attacks.smallest_epsilon(
                jax.random.key(0), lambda x: x, np.full((1, 2), -2.0), labels=[0]
            )


if __name__ == "__main__":
    absltest.main()
