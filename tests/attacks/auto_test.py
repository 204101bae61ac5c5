"""Auto-PGD against its algorithm in plain loops."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from robustjax import attacks
from robustjax.attacks import auto, ball, results

_RNG = np.random.default_rng(0)
_FIRST, _SECOND = _RNG.normal(size=(12, 16)), _RNG.normal(size=(16, 5))


def _network(x):
    first, second = (jnp.asarray(w, x.dtype) for w in (_FIRST, _SECOND))
    return jnp.tanh(x.reshape(len(x), -1) @ first) @ second


def _inputs(num=40, dtype=np.float32):
    x = np.random.default_rng(1).uniform(0.2, 0.8, (num, 3, 4)).astype(dtype)
    return x, np.argmax(_network(jnp.asarray(x)), axis=-1)


def _loops(x, label, *, start, epsilon, num_steps, loss, norm):
    """Alg. 1 of Croce and Hein for one example, written with numbers that change."""

    def value(z):
        return -attacks_loss(jnp.asarray(z)[None], label, loss)

    derivative = jax.jit(jax.value_and_grad(value))

    def f(z):
        found, gradient = derivative(z)
        return -float(found), -np.asarray(gradient)

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
    return top_loss


def attacks_loss(x, label, loss):
    logits = _network(x)[0]
    if loss == "cross_entropy":
        return jax.nn.logsumexp(logits) - logits[label]
    order = jnp.sort(logits)[::-1]
    other = jnp.where(order[0] == logits[label], order[1], order[0])
    return other - logits[label]


class ApgdTest(parameterized.TestCase):
    @parameterized.product(loss=("cross_entropy", "margin"), norm=("linf", "l2"))
    def test_largest_loss_is_that_of_the_algorithm(self, loss, norm):
        key, epsilon = jax.random.key(3), 0.15
        with jax.enable_x64(True):
            x, labels = _inputs(6, np.float64)
            around = ball.ball(x, epsilon, norm=norm)
            aim = results.target(
                _network, labels, epsilon=around.radius,
                settings=attacks.AttackSettings("apgd", loss, norm, 30, 1, (0.0, 1.0)),
            )  # fmt: skip
            starts = around.random_point(jax.random.split(key, 1)[0])
            expected = [
                _loops(
                    own, int(label), start=start, epsilon=epsilon, num_steps=30,
                    loss=loss, norm=norm,
                )
                for own, label, start in zip(x, labels, np.asarray(starts), strict=True)
            ]  # fmt: skip
            state, schedule = auto._start(aim, starts), auto._schedule(30)
            for window, share in zip(*schedule, strict=True):
                state = auto._move(aim, around, state, share=share)
                state = auto._check(state, window) if window else state
        found = np.asarray(state.top_loss)
        if loss == "cross_entropy":
            found = np.logaddexp(0.0, found)  # of the log-odds, which are raised
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    @parameterized.product(
        norm=(("linf", 1), ("l2", 2)), loss=("cross_entropy", "margin")
    )
    def test_two_linear_classes_fall_exactly_at_their_margin(self, norm, loss):
        weight = _RNG.normal(size=12).astype(np.float32)

        def linear(x):
            return jnp.stack([(x - 0.5) @ weight, jnp.zeros(len(x))], axis=1)

        x = np.random.default_rng(2).uniform(0.4, 0.6, (20, 12)).astype(np.float32)
        signed = (x - 0.5) @ weight
        labels, edge = (signed < 0).astype(int), np.abs(signed)
        edge = edge / np.linalg.norm(weight, norm[1])
        for factor, falls in ((0.99, False), (1.01, True)):
            found = attacks.apgd(
                jax.random.key(0), linear, x, labels=labels, epsilon=factor * edge,
                norm=norm[0], loss=loss,
            )  # fmt: skip
            self.assertEqual(np.mean(found.is_adversarial), falls)

    @parameterized.parameters("linf", "l2")
    def test_result_tells_the_truth(self, norm):
        x, labels = _inputs()
        epsilon = np.linspace(0, 0.4, len(x)).astype(np.float32)
        run = jax.jit(
            lambda key: attacks.apgd(
                key,
                _network,
                x,
                labels=labels,
                epsilon=epsilon,
                norm=norm,
                num_steps=20,
                num_restarts=2,
            )
        )
        found = run(jax.random.key(0))
        delta = np.asarray(found.x - x).reshape(len(x), -1)
        size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
        self.assertTrue(np.all(size <= epsilon + 1e-6))
        self.assertTrue(np.all((found.x >= 0) & (found.x <= 1)))
        logits = np.asarray(_network(found.x))
        np.testing.assert_array_equal(found.is_adversarial, logits.argmax(1) != labels)
        own = logits[np.arange(len(x)), labels]
        np.testing.assert_allclose(
            found.loss, np.log(np.exp(logits).sum(axis=1)) - own, atol=1e-5
        )
        np.testing.assert_array_equal(found.epsilon, epsilon)
        self.assertEqual(found.settings.attack, "apgd")
        self.assertEqual(found.settings.num_restarts, 2)

    def test_checkpoints_of_100_steps(self):
        windows = np.asarray(auto._schedule(100)[0])
        points = np.flatnonzero(windows) + 1
        np.testing.assert_array_equal(points, [22, 41, 57, 70, 80, 87, 93, 99])
        np.testing.assert_array_equal(np.diff([0, *points]), windows[windows > 0])

    @parameterized.parameters(1, 2, 3, 7)
    def test_few_steps(self, num_steps):
        x, labels = _inputs()
        found = attacks.apgd(
            jax.random.key(0), _network, x, labels=labels, epsilon=0.1,
            num_steps=num_steps,
        )  # fmt: skip
        self.assertTrue(np.all(np.isfinite(found.margin)))

    def test_dlr_is_what_it_is_called(self):
        x, labels = _inputs()
        found = attacks.apgd(
            jax.random.key(0), _network, x, labels=labels, epsilon=0.05, loss="dlr"
        )
        logits = np.asarray(_network(found.x))
        order = np.sort(logits, axis=1)[:, ::-1]
        own = logits[np.arange(len(x)), labels]
        other = np.where(own == order[:, 0], order[:, 1], order[:, 0])
        expected = (other - own) / (order[:, 0] - order[:, 2])
        np.testing.assert_allclose(found.loss, expected, rtol=1e-4)
        self.assertBetween(np.mean(found.is_adversarial), 0.1, 0.95)

    def test_two_classes_have_no_dlr(self):
        x, labels = _inputs()
        with self.assertRaisesRegex(ValueError, "three classes"):
            attacks.apgd(
                jax.random.key(0), lambda x: _network(x)[:, :2], x,
                labels=labels % 2, epsilon=0.1, loss="dlr",
            )  # fmt: skip


if __name__ == "__main__":
    absltest.main()
