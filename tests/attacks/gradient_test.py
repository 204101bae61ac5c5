"""Attacks reach what is known of linear classifiers, and stay where they may be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from absl.testing import absltest, parameterized

from robustjax import attacks
from robustjax.attacks import ball

_WEIGHT = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def _linear(x):
    return x.reshape(len(x), -1) @ _WEIGHT


def _inputs(count=20):
    rng = np.random.default_rng(1)
    x = rng.uniform(0.3, 0.7, (count, 3, 4)).astype(np.float32)
    return x, np.argmax(_linear(x), axis=-1)


def _run(attack, apply_fn, x, **options):
    if attack is attacks.fgsm:
        return attack(apply_fn, x, options.pop("labels"), **options)
    return attack(jax.random.key(0), apply_fn, x, **options)


def _lengths(delta, norm):
    flat = np.asarray(delta).reshape(len(delta), -1)
    return np.abs(flat).max(1) if norm == "linf" else np.linalg.norm(flat, axis=1)


@functools.cache
def _attack_on_linear(norm):
    @jax.jit
    def attacked(key, x, labels, epsilon):
        return attacks.pgd(
            key,
            _linear,
            x,
            labels=labels,
            epsilon=epsilon,
            norm=norm,
            num_steps=40,
            num_restarts=2,
        )

    return attacked


class AttackTest(parameterized.TestCase):
    def test_derivatives_that_are_no_numbers_lose_no_input(self):
        def kinked(x):  # 0 times infinity at 0.5
            return _linear(jnp.where(x > 0.5, jnp.sqrt(x - 0.5), 0))

        @jax.jit
        def run(x):
            how = {"labels": jnp.argmax(kinked(x), axis=-1), "epsilon": 0.1}
            found = [
                _run(attacks.pgd, kinked, x, **how, norm="linf"),
                _run(attacks.pgd, kinked, x, **how, norm="l2"),
                _run(attacks.fgsm, kinked, x, **how),
            ]
            gradient = jax.grad(lambda v: kinked(v).sum())(x)
            return gradient, [own.x for own in found]

        x = np.full((4, 3, 4), 0.5, np.float32)
        gradient, found = jax.tree.map(np.asarray, run(x))
        self.assertTrue(np.isnan(gradient).any())
        for own in found:
            self.assertTrue(np.isfinite(own).all())
            self.assertLessEqual(np.abs(own - x).max(), 0.1 + 1e-6)

    def test_tiny_derivatives_have_a_direction(self):
        @jax.jit
        def run(scale, x, labels):
            return _run(
                attacks.pgd,
                lambda x: scale * _linear(x),
                x,
                labels=labels,
                epsilon=0.3,
                norm="l2",
            )

        found = [run(np.float32(scale), *_inputs()) for scale in (1.0, 1e-25)]
        np.testing.assert_allclose(found[0].x, found[1].x, atol=1e-5)
        self.assertTrue(np.any(found[1].is_adversarial))

    def test_a_tie_that_loses_the_label_is_stronger_than_one_that_does_not(self):
        def tied(x):
            first, last = jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[0.0, 1.0, 1.0]])
            return jnp.where(x[:, :1] > 0.5, first, last)

        @jax.jit
        def run(x, labels):
            clean = _run(attacks.fgsm, tied, x, labels=labels, epsilon=0.0)
            found = _run(
                attacks.pgd, tied, x, labels=labels, epsilon=0.1, num_restarts=10
            )
            return clean.is_adversarial, found.is_adversarial, tied(found.x)

        clean, found, logits = run(np.array([[0.5]], np.float32), np.array([1]))
        self.assertFalse(clean.item())
        self.assertTrue(found.item())
        self.assertEqual(np.argmax(logits), 0)

    @parameterized.parameters(("linf", 1), ("l2", 2))
    def test_linear_classifiers_fall_exactly_at_their_margin(self, norm, dual):
        """The margin falls by epsilon times the dual norm of a difference of rows."""
        x, labels = _inputs()
        logits = _linear(x)
        epsilons = []
        for logit, label in zip(logits, labels, strict=True):
            others = [j for j in range(3) if j != label]
            norms = [
                np.linalg.norm(_WEIGHT[:, label] - _WEIGHT[:, j], dual) for j in others
            ]
            gaps = [logit[label] - logit[j] for j in others]
            epsilons.append(min(g / n for g, n in zip(gaps, norms, strict=True)))
        edge = np.array(epsilons, np.float32)
        attack = _attack_on_linear(norm)
        for factor, falls in ((0.99, False), (1.05, True)):
            epsilon = np.float32(factor) * edge
            found = attack(jax.random.key(0), x, labels, epsilon)
            if falls:
                self.assertGreaterEqual(np.mean(found.is_adversarial), 0.95)
            else:
                self.assertFalse(np.any(found.is_adversarial))

    @parameterized.parameters("linf", "l2")
    def test_stays_in_ball_and_range_and_tells_the_truth(self, norm):
        x, labels = _inputs()
        largest = {"linf": 0.6, "l2": 2.0}[norm]
        epsilon = np.linspace(0, largest, len(x)).astype(np.float32)
        found = _attack_on_linear(norm)(jax.random.key(1), x, labels, epsilon)
        found = jax.tree.map(np.asarray, found)
        self.assertTrue(np.all(_lengths(found.x - x, norm) <= epsilon + 1e-6))
        self.assertTrue(np.all((found.x >= 0) & (found.x <= 1)))
        self.assertTrue(np.any((found.x == 0) | (found.x == 1)))  # the range cuts
        predicted = np.argmax(_linear(found.x), axis=-1)
        np.testing.assert_array_equal(found.is_adversarial, predicted != labels)
        self.assertFalse(found.is_adversarial[0])
        np.testing.assert_array_equal(found.epsilon, epsilon)

    def test_more_steps_and_starts_are_no_weaker(self):
        """The first of several starts is the only one of one."""

        def bent(x):
            return jnp.sin(4 * _linear(x))

        @jax.jit
        def margins(x, labels):
            return [
                _run(
                    attacks.pgd,
                    bent,
                    x,
                    labels=labels,
                    epsilon=0.2,
                    num_steps=num_steps,
                    num_restarts=num_restarts,
                ).margin
                for num_steps, num_restarts in ((1, 1), (12, 1), (12, 4))
            ]

        x, _ = _inputs()
        labels = np.argmax(np.sin(4 * _linear(x)), axis=-1)
        single, longer, more = map(np.asarray, margins(x, labels))
        self.assertLess(longer.mean(), single.mean())
        self.assertTrue(np.all(more <= longer + 1e-6))
        self.assertLess(more.mean(), longer.mean())

    @pytest.mark.newest
    def test_fgsm_is_one_step_with_the_loss_of_its_result(self):
        x, labels = _inputs()
        found = jax.jit(attacks.fgsm, static_argnums=0)(
            _linear, x, labels, epsilon=np.float32(0.05)
        )
        found = jax.tree.map(np.asarray, found)
        np.testing.assert_allclose(np.abs(found.x - x), 0.05, atol=1e-6)
        logits = _linear(x)
        clean = logits[np.arange(len(x)), labels]
        self.assertTrue(np.all(found.margin < clean - np.sort(logits)[:, -2]))
        after = _linear(found.x)
        own = after[np.arange(len(x)), labels]
        expected = scipy.special.logsumexp(after, axis=1) - own
        np.testing.assert_allclose(found.loss, expected, rtol=1e-5)

    def test_a_step_that_helps_the_classifier_is_not_taken(self):
        """And an infinite derivative has a sign."""

        def wave(x):
            return jnp.stack([jnp.cos(40 * x[:, 0]), 0 * x[:, 0]], axis=-1)

        def root(x):
            return jnp.stack([0.3 - jnp.sqrt(x[:, 0]), 0 * x[:, 0]], axis=-1)

        @jax.jit
        def run(x, zero):
            found = _run(attacks.fgsm, wave, x, labels=labels, epsilon=0.1)
            return found, _run(attacks.fgsm, root, zero, labels=labels[:1], epsilon=0.5)

        x = np.linspace(0.3, 0.7, 1000, dtype=np.float32)[:, None]
        labels = np.zeros(1000, int)
        found, at_zero = run(x, np.zeros((1, 1), np.float32))
        is_lost = np.cos(40 * x[:, 0]) < 0
        self.assertTrue(np.any(is_lost))
        self.assertTrue(np.all(np.asarray(found.is_adversarial)[is_lost]))
        self.assertEqual(at_zero.x.item(), 0.5)
        self.assertTrue(at_zero.is_adversarial.item())

    def test_confidence_saves_no_classifier(self):
        """Scaled logits are the same classifier; softmax in float32 is 1 at 1,000."""
        x = np.random.default_rng(2).uniform(0.3, 0.7, (300, 40)).astype(np.float32)
        weight = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
        labels = np.argmax((x - 0.5) @ weight, axis=-1)

        @jax.jit
        def run(scale, x):
            found = {}
            for attack in (attacks.fgsm, attacks.pgd, attacks.apgd):
                for loss in ("margin", "cross_entropy"):
                    steps = {} if attack is attacks.fgsm else {"num_steps": 20}
                    found[f"{attack.__name__} {loss}"] = _run(
                        attack,
                        lambda x: scale * ((x - 0.5) @ weight),
                        x,
                        labels=labels,
                        epsilon=0.03,
                        loss=loss,
                        **steps,
                    ).is_adversarial
            return found

        plain, sure = (run(np.float32(scale), x) for scale in (1, 1000))
        for name, is_lost in plain.items():
            with self.subTest(name):
                share = np.mean(is_lost)
                self.assertBetween(share, 0.1, 0.9)
                self.assertGreaterEqual(np.mean(sure[name]), share - 0.02)

    def test_narrow_floats_are_widened(self):
        x, labels = _inputs()

        @jax.jit
        def run(x):
            how = {"labels": labels, "epsilon": 1e-3, "num_steps": 12}
            return [
                _run(attack, _linear, x, **how).x
                for attack in (attacks.pgd, attacks.apgd)
            ]

        narrow = x.astype(jnp.bfloat16)
        for found in map(np.asarray, run(narrow)):
            self.assertEqual(found.dtype, np.float32)
            moved = np.abs(found - narrow.astype(np.float32))
            self.assertGreater(moved.max(), 5e-4)

    def test_logits_that_are_not_finite_are_lost(self):
        x, labels = _inputs()

        def broken(x):
            return jnp.where(x.reshape(len(x), -1)[:, :1] > 0.5, jnp.nan, _linear(x))

        @jax.jit
        def run(x, labels, epsilon):
            return _run(attacks.pgd, broken, x, labels=labels, epsilon=epsilon)

        found = jax.tree.map(np.asarray, run(x, labels, np.float32(0.3)))
        self.assertTrue(np.all(found.is_adversarial | np.isfinite(found.margin)))
        is_broken = x[:, 0, 0] > 0.5
        self.assertBetween(is_broken.mean(), 0.2, 0.8)
        for label in range(3):  # none is that of logits that are NaN
            found = run(x, np.full(len(x), label), np.float32(0))
            np.testing.assert_array_equal(
                found.is_adversarial, is_broken | (_linear(x).argmax(axis=1) != label)
            )

    @parameterized.parameters(
        (dict(epsilon=-0.1), "epsilon"),
        (dict(norm="l1"), "norm"),
        (dict(loss="hinge"), "loss"),
        (dict(num_steps=0), "num_steps"),
        (dict(valid_range=(1.0, 0.0)), "valid_range"),
        (dict(valid_range=(0.0, 0.5)), "x inside of valid_range"),
        (dict(labels=np.zeros(3, int)), "labels"),
    )
    def test_refuses(self, changes, text):
        x, labels = _inputs()
        arguments = dict(labels=labels, epsilon=0.1) | changes
        with self.assertRaisesRegex(ValueError, text):
            attacks.pgd(jax.random.key(0), _linear, x, **arguments)

    def test_inputs_on_the_border_of_the_range_are_taken(self):
        x = np.array([[0.0, 1.0]], np.float32)
        np.testing.assert_array_equal(ball.ball(x, 0.0).centre, x)


class AscentTest(parameterized.TestCase):
    def test_moves_uphill_inside_of_ball_and_range(self):
        x = np.random.default_rng(0).uniform(size=(5, 7)).astype(np.float32)

        def loss(x):
            return jnp.sum(jnp.square(x - 0.5), axis=1)

        @jax.jit
        def run(x):
            found = attacks.ascend(
                jax.random.key(0), loss, x, epsilon=0.1, num_steps=20
            )
            return found, loss(found.x)

        found, expected = jax.tree.map(np.asarray, run(x))
        best = np.clip(x + 0.1 * np.sign(x - 0.5), 0, 1)
        self.assertLessEqual(np.abs(found.x - x).max(), 0.1 + 1e-6)
        np.testing.assert_allclose(found.loss, expected, rtol=1e-6)
        self.assertGreater(np.mean(np.isclose(found.x, best, atol=1e-5)), 0.8)

    def test_carries_no_gradient_and_takes_any_loss_shape(self):
        """And starts at x where told."""

        @jax.jit
        def run(scale, x):
            def total(scale):
                found = attacks.ascend(
                    jax.random.key(0), lambda x: scale * jnp.sum(x), x, epsilon=0.1
                )
                return jnp.sum(found.x) + found.loss

            still = attacks.ascend(
                jax.random.key(0),
                lambda x: jnp.zeros(3),
                x,
                epsilon=0.1,
                random_start=False,
            )
            return jax.grad(total)(scale), still.x

        x = np.full((3, 2), 0.5, np.float32)
        gradient, found = run(np.float32(2), x)
        self.assertEqual(float(gradient), 0)
        np.testing.assert_array_equal(found, x)

    @parameterized.parameters(
        (dict(epsilon=-1.0), "epsilon"),
        (dict(norm="l1"), "norm"),
        (dict(num_steps=0), "num_steps"),
        (dict(valid_range=(0.5, 0.5)), "valid_range"),
        (dict(x=np.ones(3)), r"x \[n, ...\], got shape \(3,\)"),
    )
    def test_refuses(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            attacks.ascend(
                jax.random.key(0),
                jnp.sum,
                **{"x": np.ones((2, 3)), "epsilon": 0.1} | changes,
            )


if __name__ == "__main__":
    absltest.main()
