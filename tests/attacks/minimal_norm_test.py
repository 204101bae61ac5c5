"""Distances of adversarial inputs: where they are known, near by, and of nothing."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest

from robustjax import attacks

_WEIGHT = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def _linear(x):
    return x @ _WEIGHT


class SmallestEpsilonTest(absltest.TestCase):
    @pytest.mark.newest
    @pytest.mark.slow
    def test_linear_classifiers_in_the_2_norm(self):
        """The distance is known; more halvings never return a farther input.

        Where bisection has converged, rounding moves what is found to and fro.
        """
        x = np.random.default_rng(1).uniform(0.3, 0.7, (200, 12)).astype(np.float32)
        logits = _linear(x.astype(float))
        labels = logits.argmax(axis=1)
        gaps = logits.max(axis=1, keepdims=True) - logits
        norms = np.linalg.norm(_WEIGHT[:, labels].T[:, :, None] - _WEIGHT, axis=1)
        is_own = np.eye(3, dtype=bool)[labels]
        ratios = gaps / np.where(is_own, 1, norms)
        edge = np.where(is_own, np.inf, ratios).min(axis=1)

        def run(limit, num_halvings):
            return attacks.smallest_epsilon(
                jax.random.key(0),
                _linear,
                x,
                labels=labels,
                limit=limit,
                norm="l2",
                num_halvings=num_halvings,
            )

        found = [run(0.5, num) for num in (20, 40, 60, 80)]
        for own in found:
            distances = np.linalg.norm(own.x.astype(float) - x, axis=1)
            np.testing.assert_array_equal(own.epsilon, distances)
            self.assertTrue(np.all(_linear(own.x).argmax(axis=1) != labels))
            self.assertTrue(np.all(distances > edge - 1e-6))
        self.assertLess(np.median(found[0].epsilon / edge), 1.03)
        for fewer, more in itertools.pairwise(found):
            self.assertTrue(np.all(more.epsilon <= fewer.epsilon))
        is_far = edge > 0.05
        self.assertBetween(is_far.mean(), 0.3, 0.95)
        near = run(0.05, 2)
        self.assertTrue(np.all(np.isinf(near.epsilon[is_far])))
        np.testing.assert_array_equal(near.x[is_far], x[is_far])

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
        # one of 0.5 / 2**k hits, and bisection goes on from there
        self.assertTrue(np.all((found.epsilon > 0.0299) & (found.epsilon < 0.0305)))

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
