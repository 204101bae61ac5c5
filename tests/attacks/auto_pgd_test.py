"""Auto-PGD against its algorithm in plain loops."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from absl.testing import absltest, parameterized

from robustjax import attacks
from robustjax.attacks import auto_pgd, ball

_RNG = np.random.default_rng(0)
_FIRST, _SECOND = _RNG.normal(size=(12, 16)), _RNG.normal(size=(16, 5))
_NUM_STARTS = 2


def _network(x):
    first, second = (jnp.asarray(w, x.dtype) for w in (_FIRST, _SECOND))
    return jnp.tanh(x.reshape(len(x), -1) @ first) @ second


def _logits(x):
    return np.tanh(x.reshape(len(x), -1) @ _FIRST) @ _SECOND


def _inputs(num=40, dtype=np.float32):
    x = np.random.default_rng(1).uniform(0.2, 0.8, (num, 3, 4)).astype(dtype)
    return x, np.argmax(_logits(x), axis=-1)


def _evaluated(z, label, loss):
    """The loss, its gradient, whether the label is lost, and its margin."""
    hidden = np.tanh(z.reshape(-1) @ _FIRST)
    logits = hidden @ _SECOND
    own = np.eye(5)[label]
    other = np.eye(5)[np.argmax(np.where(own > 0, -np.inf, logits))]
    margin = (own - other) @ logits
    if loss == "cross_entropy":
        value = scipy.special.logsumexp(logits) - logits[label]
        by_logits = scipy.special.softmax(logits) - own
    else:
        value, by_logits = -margin, other - own
    gradient = _FIRST @ ((1 - hidden**2) * (_SECOND @ by_logits))
    return value, gradient.reshape(z.shape), (logits.argmax() != label, margin)


def _loops(x, label, *, starts, epsilon, num_steps, loss, norm):
    """Alg. 1 of Croce and Hein for one example, written with numbers that change.

    Returns the margin and the point of the iterate with the smallest margin, of which
    one that loses the label comes first.
    """
    best = [*_evaluated(x, label, loss)[2], x]

    def f(z):
        value, gradient, (is_lost, margin) = _evaluated(z, label, loss)
        if (is_lost and not best[0]) or margin < best[1]:
            best[:] = is_lost, margin, z
        return value, gradient

    def project(z):
        delta = z - x
        if norm == "linf":
            delta = np.clip(delta, -epsilon, epsilon)
        elif np.linalg.norm(delta) > epsilon:
            delta = delta * epsilon / np.linalg.norm(delta)
        return np.clip(x + delta, 0, 1)

    def uphill(z, gradient, eta):
        if norm == "linf":
            return project(z + eta * np.sign(gradient))
        return project(z + eta * gradient / max(np.linalg.norm(gradient), 1e-300))

    percents = (0, 22, 41, 57, 70, 80, 87, 93, 99)
    checkpoints = sorted({math.ceil(p * num_steps / 100) for p in percents})
    for start in starts:
        eta, history, etas, tops = 2 * epsilon, [], [2 * epsilon], []
        old, now = start, start
        loss_now, gradient = f(now)
        top, top_loss, top_gradient = now, loss_now, gradient
        tops.append(top_loss)
        for k in range(num_steps):
            ahead = uphill(now, gradient, eta)
            alpha = 1.0 if k == 0 else 0.75
            new = project(now + alpha * (ahead - now) + (1 - alpha) * (now - old))
            loss_new, gradient_new = f(new)
            history.append(loss_new > loss_now)
            old, now, loss_now, gradient = now, new, loss_new, gradient_new
            if loss_now > top_loss:
                top, top_loss, top_gradient = now, loss_now, gradient
            if k + 1 in checkpoints:
                since = k + 1 - checkpoints[checkpoints.index(k + 1) - 1]
                slow = sum(history[-since:]) < 0.75 * since
                same_eta = len(etas) > 1 and etas[-1] == etas[-2]
                if slow or (same_eta and tops[-1] == top_loss):
                    eta, now, loss_now, gradient = eta / 2, top, top_loss, top_gradient
                etas.append(eta)
                tops.append(top_loss)
    return best[1], best[2]


@functools.cache
def _run(loss, norm, num_steps):
    """Inputs, labels, radii, random starts and what is found, in float64."""
    x, labels = _inputs(14, np.float64)
    epsilon = np.linspace(0, 0.3, len(x))

    @jax.jit
    def attacked(key, x, labels, epsilon):
        around = ball.ball(x, epsilon, norm=norm)
        starts = jax.vmap(around.random_point)(jax.random.split(key, _NUM_STARTS))
        return starts, attacks.apgd(
            key,
            _network,
            x,
            labels=labels,
            epsilon=epsilon,
            norm=norm,
            loss=loss,
            num_steps=num_steps,
            num_restarts=_NUM_STARTS,
        )

    with jax.enable_x64(True):
        found = attacked(jax.random.key(3), x, labels, epsilon)
        starts, found = jax.tree.map(np.asarray, found)
    return x, labels, epsilon, starts, found


class ApgdTest(parameterized.TestCase):
    @parameterized.parameters(
        ("cross_entropy", "linf", 30),
        ("cross_entropy", "l2", 30),
        ("margin", "linf", 30),
        ("margin", "l2", 30),
        ("cross_entropy", "linf", 3),
    )
    def test_result_is_that_of_the_algorithm(self, loss, norm, num_steps):
        x, labels, epsilon, starts, found = _run(loss, norm, num_steps)
        expected = [
            _loops(
                own,
                label,
                starts=starts[:, i],
                epsilon=epsilon[i],
                num_steps=num_steps,
                loss=loss,
                norm=norm,
            )
            for i, (own, label) in enumerate(zip(x, labels, strict=True))
        ]
        margins, points = zip(*expected, strict=True)
        np.testing.assert_allclose(found.margin, margins, rtol=1e-9)
        np.testing.assert_allclose(found.x, points, atol=1e-9)

    @parameterized.product(loss=("cross_entropy", "margin"), norm=("linf", "l2"))
    def test_result_tells_the_truth(self, loss, norm):
        x, labels, epsilon, _, found = _run(loss, norm, 30)
        delta = (found.x - x).reshape(len(x), -1)
        size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
        self.assertTrue(np.all(size <= epsilon + 1e-12))
        self.assertTrue(np.all((found.x >= 0) & (found.x <= 1)))
        logits = _logits(found.x)
        np.testing.assert_array_equal(found.is_adversarial, logits.argmax(1) != labels)
        self.assertBetween(np.mean(found.is_adversarial), 0.2, 0.95)
        own = logits[np.arange(len(x)), labels]
        other = np.where(np.eye(5)[labels] > 0, -np.inf, logits).max(axis=1)
        expected = other - own
        if loss == "cross_entropy":
            expected = scipy.special.logsumexp(logits, axis=1) - own
        np.testing.assert_allclose(found.loss, expected, rtol=1e-9)
        np.testing.assert_array_equal(found.epsilon, epsilon)
        self.assertEqual(
            found.settings,
            attacks.AttackSettings("apgd", loss, norm, 30, _NUM_STARTS, (0.0, 1.0)),
        )

    @parameterized.parameters(("linf", 1, "cross_entropy"), ("l2", 2, "margin"))
    def test_two_linear_classes_fall_exactly_at_their_margin(self, norm, dual, loss):
        weight = np.random.default_rng(4).normal(size=12).astype(np.float32)

        @jax.jit
        def attacked(x, labels, epsilon):
            def linear(x):
                return jnp.stack([(x - 0.5) @ weight, jnp.zeros(len(x))], axis=1)

            return attacks.apgd(
                jax.random.key(0),
                linear,
                x,
                labels=labels,
                epsilon=epsilon,
                norm=norm,
                loss=loss,
            ).is_adversarial

        x = np.random.default_rng(2).uniform(0.4, 0.6, (20, 12)).astype(np.float32)
        signed = (x - 0.5) @ weight
        labels, edge = (signed < 0).astype(int), np.abs(signed)
        edge = edge / np.linalg.norm(weight, dual)
        for factor, falls in ((0.99, False), (1.01, True)):
            is_lost = attacked(x, labels, np.float32(factor) * edge)
            self.assertEqual(np.mean(is_lost), falls)

    @pytest.mark.newest
    def test_checkpoints(self):
        """Of 100 steps those of the paper; of few steps never 0 steps apart."""
        for num_steps, expected in (
            (100, [22, 41, 57, 70, 80, 87, 93, 99]),
            (7, [2, 3, 4, 5, 6, 7]),
            (2, [1, 2]),
            (1, [1]),
        ):
            windows, shares = map(np.asarray, auto_pgd._schedule(num_steps))
            points = np.flatnonzero(windows) + 1
            np.testing.assert_array_equal(points, expected)
            np.testing.assert_array_equal(np.diff([0, *points]), windows[windows > 0])
            np.testing.assert_array_equal(shares, [1.0, *[0.75] * (num_steps - 1)])

    def test_steps_are_halved_by_the_two_conditions_alone(self):
        """Few gains, or no new top at the step size of the last checkpoint."""
        gains, was_halved, is_new_top = map(
            np.ravel, np.meshgrid([2, 3, 4], [False, True], [False, True])
        )
        num = len(gains)
        now, top = np.zeros((num, 2), np.float32), np.ones((num, 2), np.float32)
        top_loss = np.full(num, 5, np.float32)
        state = auto_pgd._State(
            x=now,
            last_x=now,
            gradient=now,
            loss=now[:, 0],
            top_x=top,
            top_gradient=top,
            top_loss=top_loss,
            size=top[:, 0],
            num_gains=gains,
            was_halved=was_halved,
            checked_loss=top_loss - is_new_top,
        )
        found = jax.tree.map(np.asarray, jax.jit(auto_pgd._check)(state, 4))
        expected = (gains < 3) | (~was_halved & ~is_new_top)
        self.assertBetween(expected.mean(), 0.3, 0.7)
        np.testing.assert_array_equal(found.was_halved, expected)
        np.testing.assert_array_equal(found.size, np.where(expected, 0.5, 1))
        for own in (found.x[:, 0], found.gradient[:, 1], found.loss / 5):
            np.testing.assert_array_equal(own, expected)
        np.testing.assert_array_equal(found.num_gains, 0)
        np.testing.assert_array_equal(found.checked_loss, top_loss)
        np.testing.assert_array_equal(found.last_x, now)

    def test_dlr_is_what_it_is_called(self):
        x, labels = _inputs()

        @jax.jit
        def attacked(x, labels):
            return attacks.apgd(
                jax.random.key(0), _network, x, labels=labels, epsilon=0.05, loss="dlr"
            )

        found = jax.tree.map(np.asarray, attacked(x, labels))
        logits = _logits(found.x)
        order = np.sort(logits, axis=1)[:, ::-1]
        own = logits[np.arange(len(x)), labels]
        other = np.where(logits.argmax(axis=1) == labels, order[:, 1], order[:, 0])
        expected = (other - own) / (order[:, 0] - order[:, 2])
        np.testing.assert_allclose(found.loss, expected, rtol=1e-4)
        self.assertBetween(np.mean(found.is_adversarial), 0.1, 0.95)

    def test_two_classes_have_no_dlr(self):
        x, labels = _inputs()

        def attacked(x):
            return attacks.apgd(
                jax.random.key(0),
                lambda x: _network(x)[:, :2],
                x,
                labels=labels % 2,
                epsilon=0.1,
                loss="dlr",
            )

        with self.assertRaisesRegex(ValueError, "three classes"):
            jax.eval_shape(attacked, x)


if __name__ == "__main__":
    absltest.main()
