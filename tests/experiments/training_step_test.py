"""Tests for one step of noise-augmented training."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from robustjax_experiments.training import training_step


class _Recorder(nn.Module):
    """A linear classifier that keeps the input it was trained on."""

    @nn.compact
    def __call__(self, x, *, train=False):
        seen = self.variable("batch_stats", "seen", jnp.zeros, x.shape)
        if train:
            seen.value = x
        return nn.Dense(3)(x.reshape((len(x), -1)))


class TrainStepTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        rng = np.random.default_rng(0)
        cls.images = rng.random((64, 4, 4, 1), dtype=np.float32)
        cls.labels = rng.integers(0, 3, 64, dtype=np.int32)
        cls.seed = jax.random.key(0)
        cls.module, cls.optimizer = _Recorder(), optax.sgd(0.1)
        cls.step = staticmethod(
            training_step.make_train_step(
                cls.module, cls.optimizer, sigma=0.5, augment="none"
            )
        )
        state = training_step.initial_state(
            cls.seed, cls.module, cls.optimizer, input_shape=(4, 4, 1)
        )
        zeros = {"batch_stats": {"seen": jnp.zeros_like(cls.images)}}
        cls.state = jax.device_get(state._replace(statistics=zeros))

    def _seen(self, num_steps, *, seed=None):
        """The inputs that the model saw in so many steps."""
        state, seen = jax.tree.map(jnp.array, self.state), []
        for _ in range(num_steps):
            arguments = self.seed if seed is None else seed, self.images, self.labels
            state, _ = self.step(state, *arguments)
            seen.append(np.asarray(state.statistics["batch_stats"]["seen"]))
        return np.stack(seen)

    def test_noise_is_redrawn_every_step_and_has_the_right_size(self):
        seen = self._seen(20)
        noise = (seen - self.images).reshape(20, -1)
        correlations = np.corrcoef(noise) - np.eye(20)
        self.assertLess(np.abs(correlations).max(), 5 / np.sqrt(noise.shape[1]))
        self.assertAlmostEqual(
            noise.std(), 0.5, delta=5 * 0.5 / np.sqrt(2 * noise.size)
        )
        self.assertAlmostEqual(noise.mean(), 0.0, delta=5 * 0.5 / np.sqrt(noise.size))

    def test_noise_depends_on_the_seed_and_the_step_alone(self):
        first, again = self._seen(2), self._seen(2)
        np.testing.assert_array_equal(first, again)
        other = self._seen(2, seed=jax.random.key(1))
        self.assertFalse(np.any(first == other))

    @pytest.mark.newest
    def test_without_noise_it_is_plain_gradient_descent(self):
        step = training_step.make_train_step(
            self.module, self.optimizer, sigma=0.0, augment="none"
        )
        before = jax.tree.map(jnp.array, self.state)
        state, (loss, accuracy) = step(before, self.seed, self.images, self.labels)
        params = self.state.params["Dense_0"]
        x = self.images.reshape(64, -1).astype(np.float64)
        logits = x @ np.float64(params["kernel"])  # the bias starts at zero
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        target = np.eye(3)[self.labels]
        gradient = x.T @ (probabilities - target) / 64
        np.testing.assert_allclose(
            state.params["Dense_0"]["kernel"],
            params["kernel"] - 0.1 * gradient,
            rtol=1e-5,
            atol=1e-6,
        )
        expected = -np.log((probabilities * target).sum(axis=1)).mean()
        self.assertAlmostEqual(float(loss), expected, places=5)
        hits = (logits.argmax(axis=1) == self.labels).mean()
        self.assertAlmostEqual(float(accuracy), hits, places=6)
        self.assertEqual(int(state.step), 1)

    def test_state_is_donated(self):
        state = jax.tree.map(jnp.array, self.state)
        self.step(state, self.seed, self.images, self.labels)
        self.assertTrue(state.params["Dense_0"]["kernel"].is_deleted())

    def test_accuracies_with_and_without_noise(self):
        apply_fn = jax.tree_util.Partial(lambda x: x[:, 0, 0])  # votes for a pixel
        images = jnp.broadcast_to(jnp.array([0.9, 0.1, 0.0]), (5000, 1, 1, 3))
        labels = jnp.array([0] * 4000 + [1] * 999 + [-1])  # -1: fills up a batch
        clean, noisy = training_step.num_correct(
            self.seed, apply_fn, images, labels, 100.0
        )
        self.assertEqual(int(clean), 4000)
        self.assertAlmostEqual(int(noisy) / 4999, 1 / 3, delta=0.04)


class AugmentedTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.image = rng.random((16, 16, 3), dtype=np.float32)
        self.images = np.broadcast_to(self.image, (400, 16, 16, 3))

    def _candidates(self):
        """All 25 shifts by up to two pixels, made by NumPy."""
        padded = np.pad(self.image, ((2, 2), (2, 2), (0, 0)))
        return np.stack(
            [padded[i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
        )

    @parameterized.parameters(("crop", 25), ("crop_flip", 50))
    def test_gives_all_shifts_and_mirror_images(self, mode, expected):
        augment = jax.jit(training_step.augmented, static_argnames="mode")
        actual = np.asarray(augment(jax.random.key(0), self.images, mode=mode))
        possible = self._candidates()
        if mode == "crop_flip":
            possible = np.concatenate([possible, possible[:, :, ::-1]])
        equal = (actual[:, None] == possible[None]).all(axis=(2, 3, 4))
        self.assertTrue(equal.any(axis=1).all())
        self.assertEqual(equal.any(axis=0).sum(), expected)

    def test_none_changes_nothing(self):
        actual = training_step.augmented(jax.random.key(0), self.images, mode="none")
        chex.assert_trees_all_equal(actual, self.images)


if __name__ == "__main__":
    absltest.main()
