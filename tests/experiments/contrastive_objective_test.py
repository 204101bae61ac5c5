"""The losses of the methods that contrastive.py compares, against their presets."""

import dataclasses
import functools
import types

import contrastive
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from robustjax_experiments.configs.contrastive import METHODS
from robustjax_experiments.studies import contrastive_methods, contrastive_training
from robustjax_experiments.studies.contrastive_methods import Objective

from robustjax import contrastive as losses

_ADVERSARIAL = ("adv", "intcl", "intnacl")
_PRESETS = {
    "simclr": (losses.nt_xent, {}),
    "debiased": (losses.debiased, {"tau_plus": 0.2}),
    "hard": (losses.hard_negative, {"tau_plus": 0.2, "beta": 2.0}),
}
_SHIFT = contrastive_methods.augmentation("shift", image_shape=(8, 8, 1))
_SHARES = (1.0, 0.5)  # of mixing
_PIXELS = {"scale": np.float32(1)}  # parameters of `_Pixels`


class _Pixels(nn.Module):
    """Embeddings that are the pixels."""

    @nn.compact
    def __call__(self, x, *, train=False):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * x.reshape(len(x), -1)


def _config(**changes):
    settings = {"model": "mlp", "width": 8, "hidden": 8, "projection": 4}
    return contrastive.ContrastiveConfig(workdir="unused", **settings | changes)


def _objective(config, method, module=None):
    if module is None:
        module = contrastive_methods.create_encoder(
            config.model,
            hidden=config.hidden,
            width=config.projection,
            options=config.model_options(),
        )
    return Objective(METHODS[method], module, _SHIFT, config)


def _images():
    return np.random.default_rng(0).random((6, 8, 8, 1), np.float32)


def _views(key, images, num_views):
    """The views that an objective makes with a key."""
    view_key = jax.random.split(key, 3)[0]
    return losses.make_views(view_key, images, _SHIFT, num_views=num_views)


@jax.jit
def _clean_losses(key, images):
    """The loss of each clean method, and that of its preset on the same views."""
    config = _config(tau_plus=0.2, beta=2.0)
    flat = _views(key, images, 2).reshape(2, len(images), -1)
    return {
        name: (
            _objective(config, name, _Pixels())(_PIXELS, {}, key, images)[0],
            preset(flat, **options)[0],
        )
        for name, (preset, options) in _PRESETS.items()
    }


@jax.jit
def _adversarial_losses(key, images, epsilons):
    """Losses and metrics of each adversarial method at several radii."""

    def one(epsilon, name):
        settings = vars(_config(adversarial_weight=0.5)) | {"train_epsilon": epsilon}
        objective = _objective(types.SimpleNamespace(**settings), name, _Pixels())
        loss, (_, metrics) = objective(_PIXELS, {}, key, images)
        return loss, metrics

    every = jax.vmap(one, in_axes=(0, None))
    return {name: every(epsilons, name) for name in _ADVERSARIAL}


def _mixed_losses(key, images, seen, mixing):
    """The loss of NaCl with mixed neighbours, and the same put together by hand."""
    config = _config(form="soft_target", mixing=mixing)
    objective = _objective(config, "nacl", _Pixels())
    loss, _ = objective(_PIXELS, {}, key, images)
    mix_key = jax.random.split(key, 3)[2]
    inputs = contrastive_methods._mixed_inputs(mix_key, seen, mixing=mixing)
    batch = losses.from_views(
        seen.reshape(4, len(images), -1),
        num_anchor_views=2,
        mixed=inputs.reshape(3, 2 * len(images), -1),
    )
    form = losses.mean_of_logs() if mixing == 1 else losses.soft_target(mixing)
    steps = losses.similarity(0.5), losses.hard(1.0), losses.debias(0.1), form
    return loss, losses.compose(*steps)(batch)[0]


@jax.jit
def _of_four_views(key, images):
    """Mixed inputs, and both losses with each share of mixing: one program."""
    seen = _views(key, images, 4)
    losses_of = {mixing: _mixed_losses(key, images, seen, mixing) for mixing in _SHARES}
    return _mixed(key, images, seen), losses_of


def _mixed(key, images, seen):
    """Positives of four views, mixed inputs that are these, and none of these."""
    positives = losses.from_views(
        seen.reshape(4, len(images), -1), num_anchor_views=2
    ).positives
    found = contrastive_methods._mixed_inputs(key, seen, mixing=1.0)
    numbers = jnp.arange(float(len(images)))[None, :, None]
    numbers = jnp.broadcast_to(numbers, (4, len(images), 1))
    others = contrastive_methods._mixed_inputs(key, numbers, mixing=0.0)
    return positives, found, others


@functools.cache
def _found_of_four_views():
    return jax.device_get(_of_four_views(jax.random.key(1), _images()))


@functools.cache
def _loss_and_gradient(**changes):
    """Those of the method "adv" with an encoder that is a network."""
    objective = _objective(_config(**dict(changes)), "adv")
    images = _images()

    @jax.jit
    def found(key):
        params = objective.module.init(key, images)["params"]
        loss_fn = jax.value_and_grad(objective, has_aux=True)
        (loss, _), gradient = loss_fn(params, {}, key, images)
        return loss, gradient

    return jax.device_get(found(jax.random.key(1)))


class ObjectiveTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.images, cls.key = _images(), jax.random.key(1)

    @pytest.mark.newest
    def test_clean_methods_are_the_presets(self):
        for name, pair in _clean_losses(self.key, self.images).items():
            with self.subTest(name):
                np.testing.assert_allclose(*pair, rtol=1e-5)

    @pytest.mark.slow
    def test_adversarial_methods_add_a_larger_term(self):
        radii = np.float32([0.3, 1e-4])
        found = _adversarial_losses(self.key, self.images, radii)
        for name, (loss, metrics) in jax.device_get(found).items():
            clean, attacked = metrics["clean_loss"], metrics["adversarial_loss"]
            with self.subTest(name):
                np.testing.assert_allclose(loss, clean + 0.5 * attacked, rtol=1e-6)
                self.assertGreater(attacked[0], attacked[1] + 0.05)
                np.testing.assert_allclose(clean[0], clean[1], rtol=1e-5)

    def test_mixed_inputs_are_in_the_order_of_positives(self):
        (positives, found, others), _ = _found_of_four_views()
        np.testing.assert_array_equal(found.reshape(positives.shape), positives)
        self.assertTrue(np.all(others[..., 0] != np.tile(np.arange(6), 2)))

    @parameterized.parameters(*_SHARES)
    def test_mixed_neighbours_have_their_form(self, mixing):
        _, losses_of = _found_of_four_views()
        np.testing.assert_allclose(*losses_of[mixing], rtol=1e-5)

    @parameterized.parameters(
        ("simclr", 1.0), ("nacl", 2.0), ("adv", 2.0), ("intcl", 2.0), ("intnacl", 3.0)
    )
    def test_work_counts_encoder_passes(self, name, expected):
        config = _config(batch_size=64)
        self.assertEqual(_objective(config, name).work, expected)
        mixed = dataclasses.replace(config, form="soft_target", attack_steps=5)
        passes = {"nacl": 4 + 6, "intnacl": 4 + 6 + 6, "adv": 2 + 6, "intcl": 2 + 6}
        self.assertEqual(_objective(mixed, name).work, passes.get(name, 2) / 2)
        matched = dataclasses.replace(config, epochs=30, compute_matched=True)
        plan = contrastive_training.make_plan(matched, num_images=130, work=expected)
        self.assertEqual(plan.num_epochs, round(30 / expected))
        self.assertEqual(plan.steps_per_epoch, 2)

    @pytest.mark.slow
    def test_chunks_change_memory_alone(self):
        """Chunks of three: of the 12 views, and of the 6 attacked images."""
        one, two = _loss_and_gradient(), _loss_and_gradient(chunk_size=3)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            one,
            two,
        )

    @pytest.mark.slow
    def test_bfloat16_encodes_and_losses_are_float32(self):
        loss, _ = _loss_and_gradient(dtype="bfloat16")
        expected, _ = _loss_and_gradient()
        self.assertEqual(loss.dtype, np.float32)
        np.testing.assert_allclose(loss, expected, rtol=0.05)
        self.assertNotEqual(loss, expected)

    @pytest.mark.slow
    def test_batch_statistics_are_those_of_clean_views(self):
        found = []
        for name in ("hard", "intcl"):
            statistics, updated = jax.device_get(_statistics(name))
            self.assertGreater(_distance(updated, statistics), 0.01)
            found.append(updated)
        self.assertLess(_distance(*found), 1e-6)


def _statistics(name):
    """Batch statistics before and after a step, of a ResNet without blocks."""
    module = contrastive_methods.create_encoder(
        "resnet20", hidden=8, width=4, options={"width": 4, "num_blocks": 0}
    )
    objective = _objective(_config(), name, module)

    @jax.jit
    def found(key, images):
        statistics = dict(objective.module.init(key, images))
        params = statistics.pop("params")
        return statistics, objective(params, statistics, key, images)[1][0]

    return found(jax.random.key(1), _images())


def _distance(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


if __name__ == "__main__":
    absltest.main()
