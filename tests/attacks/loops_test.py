"""Attacks from Python and inside of a compiled function: the same, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import _loops, attacks

_WEIGHT = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def _net(x):
    return jnp.tanh(x.reshape(len(x), -1) @ jnp.asarray(_WEIGHT)) * 3


def _inputs(num=8):
    x = np.random.default_rng(1).uniform(0.2, 0.8, (num, 6)).astype(np.float32)
    return x, (x @ _WEIGHT).argmax(axis=-1)


def _attack(attack, x, labels, epsilon):
    return attack(
        jax.random.key(3),
        _net,
        x,
        labels=labels,
        epsilon=epsilon,
        num_steps=4,
        num_restarts=2,
    )


class LoopsTest(parameterized.TestCase):
    @parameterized.parameters(attacks.pgd, attacks.apgd)
    def test_steps_from_python_are_those_of_a_traced_loop(self, attack):
        x, labels = _inputs()
        own = _attack(attack, x, labels, 0.1)
        traced = jax.jit(lambda *a: _attack(attack, *a))(x, labels, 0.1)
        np.testing.assert_allclose(own.x, traced.x, atol=1e-6)
        np.testing.assert_allclose(own.margin, traced.margin, atol=1e-5)
        np.testing.assert_array_equal(own.is_adversarial, traced.is_adversarial)

    @pytest.mark.newest
    def test_a_loop_of_xla_gives_the_same(self):
        """As on accelerators."""
        x, labels = _inputs()
        own = _attack(attacks.pgd, x, labels, 0.1)
        with (
            absltest.mock.patch.object(_loops, "on_host", lambda *_: False),
            absltest.mock.patch.object(_loops, "_UNROLLED", 0),
        ):
            other = _attack(attacks.pgd, x, labels, 0.1)
        np.testing.assert_allclose(own.x, other.x, atol=1e-6)

    def test_steps_of_a_traced_attack_are_written_out_on_a_cpu(self):
        """XLA runs gradients of convolutions in its own loops many times slower."""

        def ascended(x, num_steps):
            return attacks.ascend(
                jax.random.key(0),
                lambda x: jnp.sum(_net(x) ** 2),
                x,
                epsilon=0.1,
                num_steps=num_steps,
                random_start=False,
            ).x

        lowered = jax.jit(ascended, static_argnames="num_steps").lower
        x, _ = _inputs()
        for num_steps, has_loop in ((10, False), (1 + _loops._UNROLLED, True)):
            text = lowered(x, num_steps=num_steps).as_text()
            self.assertEqual("stablehlo.while" in text, has_loop)

    @parameterized.parameters(attacks.pgd, attacks.apgd)
    def test_another_radius_or_image_compiles_nothing(self, attack):
        x, labels = _inputs()
        _attack(attack, x, labels, 0.1)
        counts = [f._cache_size() for f in (_loops._next, _loops.once)]
        for epsilon in (0.2, np.float32(0.3), np.full(8, 0.1)):
            _attack(attack, x[::-1], labels[::-1], epsilon)
        self.assertEqual(counts, [f._cache_size() for f in (_loops._next, _loops.once)])

    def test_the_arrays_of_the_caller_are_kept(self):
        carry, items = jnp.ones(3), jnp.arange(4.0)
        last = _loops.repeat(_sum, jnp.float32(2.0), carry, items=items)
        np.testing.assert_array_equal(last, 1 + 2 * 6 * np.ones(3))
        np.testing.assert_array_equal(carry, np.ones(3))


def _sum(context, item, carry):
    return carry + context * item


class LabelsTest(parameterized.TestCase):
    @parameterized.parameters(attacks.fgsm, attacks.pgd, attacks.apgd)
    def test_labels_that_no_class_has_are_refused(self, attack):
        x, labels = _inputs(3)
        key = () if attack is attacks.fgsm else (jax.random.key(0),)
        for wrong in (labels + 3, labels - 3, labels.astype(np.float32)):
            with self.assertRaisesRegex(ValueError, "Expected labels"):
                attack(*key, _net, x, labels=wrong, epsilon=0.1)
        with self.assertRaisesRegex(ValueError, r"logits \[3, k\]"):
            attack(*key, lambda x: x[:, 0], x, labels=labels, epsilon=0.1)

    @parameterized.parameters(
        attacks.fgsm, attacks.pgd, attacks.apgd, attacks.smallest_epsilon
    )
    def test_labels_beyond_int32_are_not_wrapped(self, attack):
        """2**40 and 2**32 are 0 in int32, as -(2**32) is."""
        x, labels = _inputs(3)
        key = () if attack is attacks.fgsm else (jax.random.key(0),)
        radius = {} if attack is attacks.smallest_epsilon else {"epsilon": 0.1}
        for large in (2**40, 2**32, -(2**32)):
            wrong = np.array([*labels[:2], large])
            with self.assertRaisesRegex(ValueError, rf"Expected labels in .*{large}"):
                attack(*key, _net, x, labels=wrong, **radius)
        with self.assertRaisesRegex(ValueError, "Expected labels in .*4294967296"):
            attack(*key, _net, x, labels=[0, 1, 2**32], **radius)
        with self.assertRaisesRegex(ValueError, r"Expected labels \[3\]"):
            attack(*key, _net, x, labels=labels[:2], **radius)

    @parameterized.parameters(
        (attacks.fgsm, "cross_entropy"), (attacks.pgd, "margin"), (attacks.apgd, "dlr")
    )
    def test_traced_labels_of_no_class_are_no_success(self, attack, loss):
        """The other rows are what they are alone, and so is a row without logits."""
        key = () if attack is attacks.fgsm else (jax.random.key(0),)
        steps = {} if attack is attacks.fgsm else {"num_steps": 12}  # a loop

        def broken(x):  # no logits where the first pixel is 1
            return jnp.where(x[:, :1] == 1, jnp.nan, _net(x))

        @jax.jit
        def run(x, labels):
            return attack(
                *key, broken, x, labels=labels, epsilon=0.3, loss=loss, **steps
            )

        x, labels = _inputs()
        x[6:, 0] = 1
        is_class = np.array([0, 1, 0, 1, 1, 0, 0, 1], bool)
        wrong = np.where(is_class, labels, [3, 0, -1, 0, 0, 7, -3, 0])
        own, right = (jax.tree.map(np.asarray, run(x, v)) for v in (wrong, labels))
        self.assertFalse(own.is_adversarial[~is_class].any())
        for value in (own.margin, own.loss):
            np.testing.assert_array_equal(np.isnan(value)[:6], ~is_class[:6])
        self.assertTrue(np.isnan(own.margin[6]))
        np.testing.assert_array_equal(own.x[~is_class], x[~is_class])
        self.assertTrue(right.is_adversarial[is_class].any())
        for name in ("x", "margin", "is_adversarial"):
            np.testing.assert_array_equal(
                getattr(own, name)[is_class], getattr(right, name)[is_class]
            )

    def test_of_the_smallest_epsilon(self):
        x, labels = _inputs(3)
        with self.assertRaisesRegex(ValueError, "Expected labels in"):
            attacks.smallest_epsilon(jax.random.key(0), _net, x, labels=labels + 3)


if __name__ == "__main__":
    absltest.main()
