"""Adversarial views, and encoders in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import contrastive as c

_NT_XENT = c.compose(c.similarity(0.5))
_KINDS = (("linf", 1), ("linf", 3), ("l2", 3))  # norm, steps


def _encode(weights, x):
    return jnp.tanh(x @ weights)


def _case(num=16):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(num, 6)).astype(np.float32)
    other = np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1).astype(np.float32)
    return rng.normal(size=(6, 4)).astype(np.float32), x, other


def _view(weights, x, anchors, **options):
    how = {"loss_fn": _NT_XENT, "epsilon": 0.1} | options
    return c.adversarial_view(
        jax.random.key(0), lambda x: _encode(weights, x), x, anchors=anchors, **how
    )


class AdversarialViewTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_raises_the_loss_inside_of_ball_and_range(self):
        weights, x, other = _case()
        noise = np.random.default_rng(1).uniform(-0.1, 0.1, x.shape)
        noisy = np.clip(x + noise, 0, 1).astype(np.float32)

        @jax.jit
        def run(weights, x, other, noisy):
            anchors = _encode(weights, other)
            views = [
                _view(weights, x, anchors, norm=norm, num_steps=num_steps)
                for norm, num_steps in _KINDS
            ]
            each = jax.vmap(lambda v: _NT_XENT(jnp.stack([anchors, v]))[0])
            return views, each(_encode(weights, jnp.stack([x, noisy, *views])))

        views, losses = jax.tree.map(np.asarray, run(weights, x, other, noisy))
        clean, random, *attacked = losses
        for (norm, num_steps), found, loss in zip(_KINDS, views, attacked, strict=True):
            with self.subTest(norm=norm, num_steps=num_steps):
                delta = found - x
                size = (
                    np.abs(delta).max(1)
                    if norm == "linf"
                    else np.linalg.norm(delta, axis=1)
                )
                self.assertLessEqual(size.max(), 0.1 + 1e-6)
                self.assertTrue(np.all((found >= 0) & (found <= 1)))
                self.assertGreater(loss, clean + 0.02)
                self.assertGreater(loss, random + 0.02)

    def test_at_the_anchor_itself_only_a_random_start_lowers_the_positive(self):
        def positive_alone(views):
            x, y = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in views)
            return -jnp.sum(x * y), None

        @jax.jit
        def run(weights, x):
            anchors = _encode(weights, x)

            def loss(x):
                return positive_alone([anchors, _encode(weights, x)])[0]

            how = {"loss_fn": positive_alone, "epsilon": 1e-3}
            losses = [
                loss(_view(weights, x, anchors, random_start=start, **how))
                for start in (True, False)
            ]
            return jax.grad(loss)(x), losses

        weights, x, _ = _case()
        gradient, losses = jax.tree.map(np.asarray, run(weights, x))
        self.assertLess(np.abs(gradient).max(), 1e-5)
        with_start, without = (-loss / len(x) for loss in losses)
        self.assertLess(with_start, without - 1e-8)

    def test_no_gradient_goes_through_the_view(self):
        weights, x, other = _case()

        @jax.jit
        def run(*args):
            def through(weights, x, other):
                view = _view(weights, x, _encode(weights, other))
                return jnp.sum(jnp.sin(view)), view

            return jax.grad(through, argnums=(0, 1, 2), has_aux=True)(*args)

        gradients, view = run(weights, x, other)
        for own in gradients:
            np.testing.assert_array_equal(own, 0)
        moved = np.asarray(run(0.3 - weights, x, other)[1])
        self.assertGreater(np.abs(np.asarray(view) - moved).max(), 0.01)

    def test_empty_range_and_negative_epsilon(self):
        weights, x, other = _case()
        for changes, text in (
            ({"epsilon": -0.1}, "epsilon"),
            ({"valid_range": (1.0, 1.0)}, "valid_range"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                _view(weights, x, other, **changes)


class ChunksTest(parameterized.TestCase):
    def test_same_value_and_gradient(self):
        encoders = [
            _encode,
            *(c.in_chunks(_encode, chunk_size=size) for size in (1, 4, 16)),
        ]

        @jax.jit
        def run(weights, x, other):
            def value(weights, encode):
                embeddings = encode(weights, x)
                return jnp.sum(jnp.sin(3 * embeddings) * other[:, :4]), embeddings

            derivative = jax.value_and_grad(value, has_aux=True)
            return [derivative(weights, encode) for encode in encoders]

        expected, *chunked = run(*_case())
        for found in chunked:
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
                found,
                expected,
            )

    def test_activations_of_one_chunk_are_kept(self):
        def deep(weights, x):
            for _ in range(6):
                x = jnp.tanh(x @ weights)
            return x

        def memory(encode):
            def value(weights, x):
                return jnp.sum(jnp.square(encode(weights, x)))

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
