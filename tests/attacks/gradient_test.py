"""Attacks reach what is known of linear classifiers, and stay where they may be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from robustjax import attacks

_WEIGHT = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def _linear(x):
    return x.reshape(len(x), -1) @ _WEIGHT


def _inputs(count=20):
    rng = np.random.default_rng(1)
    x = rng.uniform(0.3, 0.7, (count, 3, 4)).astype(np.float32)
    return x, np.argmax(_linear(x), axis=-1)


class AttackTest(parameterized.TestCase):
    @parameterized.parameters("linf", "l2")
    def test_derivatives_that_are_no_numbers_lose_no_input(self, norm):
        def kinked(x):  # 0 times infinity at 0.5
            return _linear(jnp.where(x > 0.5, jnp.sqrt(x - 0.5), 0))

        x = np.full((4, 3, 4), 0.5, np.float32)
        self.assertTrue(np.isnan(jax.grad(lambda v: kinked(v).sum())(x)).any())
        labels = np.argmax(kinked(x), axis=-1)
        found = [
            attacks.pgd(jax.random.key(0), kinked, x, labels=labels, epsilon=0.1,
                        norm=norm),
            attacks.fgsm(kinked, x, labels, epsilon=0.1),
        ]  # fmt: skip
        for own in found:
            self.assertTrue(np.isfinite(own.x).all())
            self.assertLessEqual(np.abs(own.x - x).max(), 0.1 + 1e-6)

    def test_tiny_derivatives_have_a_direction(self):
        x, labels = _inputs()
        how = {"labels": labels, "epsilon": 0.3, "norm": "l2"}
        found = [
            attacks.pgd(jax.random.key(0), lambda x, s=s: s * _linear(x), x, **how)
            for s in (1.0, 1e-25)
        ]
        np.testing.assert_allclose(found[0].x, found[1].x, atol=1e-5)
        self.assertTrue(np.any(found[1].is_adversarial))

    def test_a_tie_that_loses_the_label_is_stronger_than_one_that_does_not(self):
        def tied(x):
            first, last = jnp.array([[1.0, 1.0, 0.0]]), jnp.array([[0.0, 1.0, 1.0]])
            return jnp.where(x[:, :1] > 0.5, first, last)

        x, labels = jnp.array([[0.5]]), jnp.array([1])
        self.assertFalse(attacks.fgsm(tied, x, labels, epsilon=0.0).is_adversarial[0])
        found = attacks.pgd(
            jax.random.key(0), tied, x, labels=labels, epsilon=0.1, num_restarts=10
        )
        self.assertTrue(found.is_adversarial[0])
        self.assertEqual(tied(found.x).argmax(), 0)

    @parameterized.parameters(("linf", 1), ("l2", 2))
    def test_linear_classifiers_fall_exactly_at_their_margin(self, norm, dual):
        """The margin falls by epsilon times the dual norm of a difference of rows."""
        x, labels = _inputs()
        logits = _linear(x)
        epsilons = []
        for logit, label in zip(logits, labels, strict=True):
            others = [j for j in range(3) if j != label]
            norms = [
                np.linalg.norm(_WEIGHT[:, label] - _WEIGHT[:, j], 1 if dual == 1 else 2)
                for j in others
            ]
            gaps = [logit[label] - logit[j] for j in others]
            epsilons.append(min(g / n for g, n in zip(gaps, norms, strict=True)))
        edge = np.array(epsilons, np.float32)
        for factor, falls in ((0.99, False), (1.05, True)):
            found = attacks.pgd(
                jax.random.key(0), _linear, x, labels=labels, epsilon=factor * edge,
                norm=norm, num_steps=40, num_restarts=2,
            )  # fmt: skip
            if falls:
                self.assertGreaterEqual(np.mean(found.is_adversarial), 0.95)
            else:
                self.assertFalse(np.any(found.is_adversarial))

    @parameterized.parameters("linf", "l2")
    def test_stays_in_ball_and_range_and_tells_the_truth(self, norm):
        x, labels = _inputs()
        epsilon = np.linspace(0, 0.6, len(x)).astype(np.float32)
        found = attacks.pgd(
            jax.random.key(1), _linear, x, labels=labels, epsilon=epsilon, norm=norm
        )
        delta = np.asarray(found.x - x).reshape(len(x), -1)
        size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
        self.assertTrue(np.all(size <= epsilon + 1e-6))
        self.assertTrue(np.all((found.x >= 0) & (found.x <= 1)))
        predicted = np.argmax(_linear(np.asarray(found.x)), axis=-1)
        np.testing.assert_array_equal(found.is_adversarial, predicted != labels)
        self.assertFalse(found.is_adversarial[0])

    def test_more_steps_and_starts_are_no_weaker(self):
        x, labels = _inputs()

        def margin(**options):
            found = attacks.pgd(
                jax.random.key(2), _bent, x, labels=labels, epsilon=0.2, **options
            )
            return np.asarray(found.margin)

        def _bent(x):
            return jnp.sin(4 * _linear(x))

        labels = np.argmax(np.sin(4 * _linear(x)), axis=-1)
        self.assertLess(margin(num_steps=30).mean(), margin(num_steps=1).mean())
        more = margin(num_steps=10, num_restarts=4)
        self.assertTrue(np.all(more <= margin(num_steps=10, num_restarts=1) + 1e-6)
                        or more.mean() < margin(num_steps=10).mean())  # fmt: skip

    def test_fgsm_is_one_step(self):
        x, labels = _inputs()
        found = attacks.fgsm(_linear, x, labels, epsilon=0.05)
        delta = np.abs(np.asarray(found.x) - x)
        np.testing.assert_allclose(delta, 0.05, atol=1e-6)
        logits = _linear(x)
        clean = logits[np.arange(len(x)), labels]
        self.assertTrue(np.all(found.margin < clean - np.sort(logits)[:, -2]))

    def test_a_step_that_helps_the_classifier_is_not_taken(self):
        def wave(x):
            return jnp.stack([jnp.cos(40 * x[:, 0]), 0 * x[:, 0]], axis=-1)

        x, labels = np.linspace(0.3, 0.7, 1000)[:, None], np.zeros(1000, int)
        found = attacks.fgsm(wave, x, labels, epsilon=0.1)
        is_lost = np.asarray(wave(x)).argmax(axis=-1) != labels
        self.assertTrue(np.any(is_lost))
        self.assertTrue(np.all(found.is_adversarial[is_lost]))

    @parameterized.product(
        attack=("fgsm", "pgd", "apgd"), loss=("margin", "cross_entropy")
    )
    def test_confidence_saves_no_classifier(self, attack, loss):
        """Scaled logits are the same classifier; softmax in float32 is 1 at 1,000."""
        x = np.random.default_rng(2).uniform(0.3, 0.7, (300, 40)).astype(np.float32)
        weight = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
        labels = np.argmax((x - 0.5) @ weight, axis=-1)
        shares = []
        for scale in (1, 1000):

            def classifier(x, scale=scale):
                return scale * ((x - 0.5) @ weight)

            how = dict(labels=labels, epsilon=0.03, loss=loss)
            found = (
                attacks.fgsm(classifier, x, **how)
                if attack == "fgsm"
                else getattr(attacks, attack)(
                    jax.random.key(0), classifier, x, **how, num_steps=20
                )
            )
            shares.append(float(np.mean(found.is_adversarial)))
        self.assertBetween(shares[0], 0.1, 0.9)
        self.assertGreaterEqual(shares[1], shares[0] - 0.02)

    def test_loss_of_the_result_is_the_cross_entropy(self):
        x, labels = _inputs()
        found = attacks.fgsm(_linear, x, labels, epsilon=0.05)
        expected = optax.softmax_cross_entropy_with_integer_labels(
            jnp.asarray(_linear(found.x)), labels
        )
        np.testing.assert_allclose(found.loss, expected, rtol=1e-5)

    @parameterized.parameters(attacks.pgd, attacks.apgd)
    def test_narrow_floats_are_widened(self, attack):
        x, labels = _inputs()
        found = attack(
            jax.random.key(0), _linear, jnp.asarray(x, jnp.bfloat16), labels=labels,
            epsilon=1e-3,
        )  # fmt: skip
        self.assertEqual(found.x.dtype, jnp.float32)
        self.assertGreater(np.abs(found.x - jnp.asarray(x, jnp.bfloat16)).max(), 5e-4)

    def test_infinite_derivatives_have_a_sign(self):
        def root(x):
            return jnp.stack([0.3 - jnp.sqrt(x[:, 0]), 0 * x[:, 0]], axis=-1)

        found = attacks.fgsm(root, np.zeros((1, 1)), np.zeros(1, int), epsilon=0.5)
        self.assertEqual(found.x.item(), 0.5)
        self.assertTrue(found.is_adversarial.item())

    def test_jit_and_not_finite_logits(self):
        x, labels = _inputs()

        def broken(x):
            return jnp.where(x.reshape(len(x), -1)[:, :1] > 0.5, jnp.nan, _linear(x))

        run = jax.jit(
            lambda k, v: attacks.pgd(k, broken, v, labels=labels, epsilon=0.3)
        )
        found = run(jax.random.key(0), x)
        self.assertTrue(np.all(found.is_adversarial | np.isfinite(found.margin)))

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


class AscentTest(parameterized.TestCase):
    def test_moves_uphill_inside_of_ball_and_range(self):
        x = np.random.default_rng(0).uniform(size=(5, 7)).astype(np.float32)

        def loss(x):
            return jnp.sum(jnp.square(x - 0.5), axis=1)

        found = attacks.ascend(jax.random.key(0), loss, x, epsilon=0.1, num_steps=20)
        best = np.clip(x + 0.1 * np.sign(x - 0.5), 0, 1)
        self.assertLessEqual(np.abs(found.x - x).max(), 0.1 + 1e-6)
        np.testing.assert_allclose(found.loss, loss(found.x), rtol=1e-6)
        self.assertGreater(np.mean(np.isclose(found.x, best, atol=1e-5)), 0.8)

    def test_carries_no_gradient_and_takes_any_loss_shape(self):
        x = jnp.full((3, 2), 0.5)

        def total(scale):
            found = attacks.ascend(
                jax.random.key(0), lambda x: scale * jnp.sum(x), x, epsilon=0.1
            )
            return jnp.sum(found.x) + found.loss

        self.assertEqual(jax.grad(total)(2.0), 0)

    def test_starts_at_x_where_told(self):
        x = jnp.full((3, 2), 0.5)
        found = attacks.ascend(
            jax.random.key(0), lambda x: jnp.zeros(3), x, epsilon=0.1,
            random_start=False,
        )  # fmt: skip
        np.testing.assert_array_equal(found.x, x)

    @parameterized.parameters(
        (dict(epsilon=-1.0), "epsilon"),
        (dict(norm="l1"), "norm"),
        (dict(num_steps=0), "num_steps"),
        (dict(valid_range=(0.5, 0.5)), "valid_range"),
    )
    def test_refuses(self, changes, text):
        with self.assertRaisesRegex(ValueError, text):
            attacks.ascend(
                jax.random.key(0),
                jnp.sum,
                jnp.ones((2, 3)),
                **{"epsilon": 0.1} | changes,
            )


if __name__ == "__main__":
    absltest.main()
