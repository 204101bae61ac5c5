"""Adversarial views, and encoders in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from robustjax import contrastive as c

_NT_XENT = c.compose(c.similarity(0.5))


def _encode(weights, x):
    return jnp.tanh(x @ weights)


def _case(num=16):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(num, 6)).astype(np.float32)
    other = np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1).astype(np.float32)
    return jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), x, other


def _loss(weights, x, anchors):
    return _NT_XENT(jnp.stack([anchors, _encode(weights, x)]))[0]


class AdversarialViewTest(parameterized.TestCase):
    @parameterized.parameters(("linf", 1), ("linf", 5), ("l2", 5))
    def test_raises_the_loss_inside_of_ball_and_range(self, norm, num_steps):
        weights, x, other = _case()
        anchors = _encode(weights, other)
        found = c.adversarial_view(
            jax.random.key(0), lambda x: _encode(weights, x), x, anchors=anchors,
            loss_fn=_NT_XENT, epsilon=0.1, norm=norm, num_steps=num_steps,
        )  # fmt: skip
        delta = np.asarray(found - x)
        size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
        self.assertLessEqual(size.max(), 0.1 + 1e-6)
        self.assertTrue(np.all((found >= 0) & (found <= 1)))
        clean, attacked = (_loss(weights, v, anchors) for v in (x, found))
        noise = np.random.default_rng(1).uniform(-0.1, 0.1, x.shape)
        random = _loss(weights, np.clip(x + noise, 0, 1).astype(np.float32), anchors)
        self.assertGreater(attacked, clean + 0.02)
        self.assertGreater(attacked, random + 0.02)

    def test_at_the_anchor_itself_only_a_random_start_lowers_the_positive(self):
        weights, x, _ = _case()
        anchors = _encode(weights, x)

        def positive_alone(views):
            x, y = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in views)
            return -jnp.sum(x * y), None

        def cosine(random_start):
            found = c.adversarial_view(
                jax.random.key(0), lambda x: _encode(weights, x), x, anchors=anchors,
                loss_fn=positive_alone, epsilon=1e-3, random_start=random_start,
            )  # fmt: skip
            return -positive_alone([anchors, _encode(weights, found)])[0] / len(x)

        gradient = jax.grad(lambda v: positive_alone([anchors, _encode(weights, v)])[0])
        self.assertLess(np.abs(gradient(x)).max(), 1e-5)
        self.assertLess(cosine(True), cosine(False) - 1e-8)

    def test_no_gradient_goes_through_the_view(self):
        weights, x, other = _case()

        def through(weights, is_stopped):
            fixed = jax.lax.stop_gradient(weights) if is_stopped else weights
            view = c.adversarial_view(
                jax.random.key(0), lambda x: _encode(fixed, x), x,
                anchors=_encode(fixed, other), loss_fn=_NT_XENT, epsilon=0.1,
            )  # fmt: skip
            return _loss(weights, view, _encode(weights, other))

        derivative = jax.jit(jax.grad(through), static_argnums=1)
        gradients = [derivative(weights, stop) for stop in (True, False)]
        np.testing.assert_array_equal(*gradients)
        self.assertGreater(np.abs(gradients[0]).max(), 0)

    def test_empty_range_and_negative_epsilon(self):
        weights, x, other = _case()
        for changes, text in (
            ({"epsilon": -0.1}, "epsilon"),
            ({"valid_range": (1.0, 1.0)}, "valid_range"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                c.adversarial_view(
                    jax.random.key(0), lambda x: _encode(weights, x), x, anchors=other,
                    loss_fn=_NT_XENT, **{"epsilon": 0.1} | changes,
                )  # fmt: skip


class ChunksTest(parameterized.TestCase):
    @parameterized.parameters(1, 4, 16)
    def test_same_value_and_gradient(self, chunk_size):
        weights, x, other = _case()
        chunked = c.in_chunks(_encode, chunk_size=chunk_size)

        def value(weights, encode):
            return c.nt_xent(jnp.stack([encode(weights, x), encode(weights, other)]))[0]

        expected = jax.value_and_grad(value)(weights, _encode)
        found = jax.jit(jax.value_and_grad(value), static_argnums=1)(weights, chunked)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-6)

    def test_activations_of_one_chunk_are_kept(self):
        def deep(weights, x):
            for _ in range(6):
                x = jnp.tanh(x @ weights)
            return x

        def memory(encode):
            def value(weights, x):
                return c.nt_xent(jnp.stack([encode(weights, x)] * 2), block_size=64)[0]

            shapes = (
                jax.ShapeDtypeStruct((64, 64), jnp.float32),
                jax.ShapeDtypeStruct((4096, 64), jnp.float32),
            )
            compiled = jax.jit(jax.grad(value)).lower(*shapes).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        self.assertLess(
            memory(c.in_chunks(deep, chunk_size=256)), memory(deep) - 4 * 2**20
        )

    def test_chunks_must_divide(self):
        weights, x, _ = _case()
        with self.assertRaisesRegex(ValueError, "chunk_size=5"):
            c.in_chunks(_encode, chunk_size=5)(weights, x)


if __name__ == "__main__":
    absltest.main()
