"""Dense, in blocks and over devices: one value, one gradient, another memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec
from scipy import special

from robustjax import contrastive as c

_MIB = 2**20


def _views(num_views=2, num=16, width=5):
    return np.random.default_rng(0).normal(size=(num_views, num, width))


def _in_float64(function, *arrays):
    """Results of one compiled program, as NumPy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


def _same(found, expected, **tolerances):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **tolerances), found, expected
    )


def _temporary_memory(num, width, block_size):
    def value(views):
        return c.hard_negative(views, block_size=block_size)[0]

    shape = jax.ShapeDtypeStruct((2, num // 2, width), jnp.float32)
    compiled = jax.jit(jax.value_and_grad(value)).lower(shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes / _MIB


class BlocksTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_blocks_are_dense(self):
        """Blocks of one, and with little or much padding; and finite differences."""
        cases = {
            c.hard_negative: (None, 1, 5, 31),
            c.nt_xent: (None, 5),
        }

        def value(views, temperature, loss, size):
            return loss(views, temperature=temperature, block_size=size)[0]

        def derivatives(views, temperature, moved_views):
            derivative = jax.value_and_grad(value, argnums=(0, 1))
            hard, plain = (
                [derivative(views, temperature, loss, size) for size in sizes]
                for loss, sizes in cases.items()
            )
            moved = jax.vmap(value, (0, None, None, None))
            around = moved(moved_views, temperature, c.hard_negative, 5)
            return hard, plain, around

        step = 1e-5
        directions = np.random.default_rng(4).normal(size=(8, 2, 16, 5))
        moved = np.concatenate(
            [_views() + step * directions, _views() - step * directions]
        )
        *losses, around = _in_float64(derivatives, _views(), np.array(0.2), moved)
        for dense, *blocks in losses:
            for found in blocks:
                _same(found, dense, rtol=1e-11, atol=1e-14)
        slopes = (around[:8] - around[8:]) / (2 * step)
        expected = np.sum(losses[0][2][1][0] * directions, axis=(1, 2, 3))
        np.testing.assert_allclose(slopes, expected, rtol=1e-6, atol=1e-8)

    @parameterized.parameters(32, 100)
    def test_one_block_is_the_dense_program(self, size):
        programs = [
            str(jax.make_jaxpr(functools.partial(c.nt_xent, block_size=own))(_views()))
            for own in (None, size)
        ]
        self.assertEqual(*programs)

    def test_beta_mask_and_aux(self):
        rng = np.random.default_rng(1)
        x, y, z = (rng.normal(size=s) for s in ((7, 4), (2, 7, 4), (11, 4)))
        mask = rng.uniform(size=(7, 11)) < 0.5

        def value(x, y, z, beta, size):
            return c.nca(
                x,
                y,
                z,
                mask=mask,
                temperature=0.3,
                block_size=size,
                estimator=(c.hard(beta), c.debias(0.05)),
            )

        derivative = jax.value_and_grad(value, argnums=(0, 1, 2, 3), has_aux=True)
        dense, blocks = _in_float64(
            lambda *args: [derivative(*args, size) for size in (None, 3)],
            x,
            y,
            z,
            np.array(0.7),
        )
        self.assertGreater(np.abs(dense[1][3]), 1e-3)
        _same(blocks, dense, rtol=1e-10, atol=1e-14)

    def test_bfloat16_is_near_and_sums_in_float32(self):
        @jax.jit
        def derivatives(views):
            def value(views, size):
                return c.hard_negative(views, block_size=size)[0]

            derivative = jax.value_and_grad(value)
            expected = derivative(views.astype(jnp.float32), None)
            return expected, [derivative(views, size) for size in (None, 16)]

        views = _views(num=64, width=32).astype(jnp.bfloat16)
        expected, found = jax.tree.map(np.asarray, derivatives(views))
        scale = np.abs(expected[1]).max()
        for value, gradient in found:
            self.assertEqual((value.dtype, gradient.dtype), (jnp.float32, jnp.bfloat16))
            np.testing.assert_allclose(value, expected[0], rtol=3e-3)
            np.testing.assert_allclose(
                gradient.astype(np.float32), expected[1], atol=0.03 * scale
            )

    def test_memory_is_linear_in_the_number_of_rows(self):
        half, whole = (_temporary_memory(num, 128, 256) for num in (4096, 8192))
        self.assertLess(whole, 60)
        self.assertLess(whole, 2.2 * half)
        dense = _temporary_memory(8192, 128, None)
        self.assertGreater(dense, 5 * whole)  # so that what is measured is memory


def _hard_by_loops(views, temperature, beta):
    """The loss without debiasing, and its derivative by the views, in float64.

    From d log mass / d s_k = p_k + beta (p_k - q_k) of each anchor.
    """
    rows = np.concatenate(views).astype(float)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows, num, total = rows / length, len(views[0]), 0.0
    slopes = np.zeros_like(rows)
    for i, row in enumerate(rows):
        negatives = [j for j in range(2 * num) if (j - i) % num]
        own = (i + num) % (2 * num)
        s, positive = rows[negatives] @ row / temperature, rows[own] @ row / temperature
        q = special.softmax(beta * s)
        p = q * np.exp(s - s.max())
        log_mass = np.log(len(s)) + s.max() + np.log(p.sum())
        p /= p.sum()
        total += np.logaddexp(0, log_mass - positive)
        by_mass = special.expit(log_mass - positive) / temperature / (2 * num)
        by_s = by_mass * (p + np.where(p == q, 0, beta * (p - q)))
        slopes[i] += by_s @ rows[negatives] - by_mass * rows[own]
        slopes[negatives] += by_s[:, None] * row
        slopes[own] -= by_mass * row
    slopes -= np.sum(slopes * rows, axis=1, keepdims=True) * rows  # of unit length
    return total / (2 * num), (slopes / length).reshape(np.shape(views))


class ExtremesTest(parameterized.TestCase):
    def test_large_beta_and_small_temperatures_lose_no_digits(self):
        """In float32, at once and in blocks, against float64 and the limit."""
        views = _views().astype(np.float32)
        cases = np.array(
            [(t, beta) for t in (0.5, 0.02) for beta in (0, 2, 50, 1e4, 1e8, 1e30)]
            + [(0.5, 3e38), (0.005, 3e38), (1e-6, 1.0), (1e-8, 1.0), (1e-8, 1e30)]
        )

        @jax.jit
        def found(temperatures, betas):
            def of_size(size):
                def value(temperature, beta):
                    loss = functools.partial(
                        c.hard_negative,
                        temperature=temperature,
                        beta=beta,
                        tau_plus=0.0,
                        block_size=size,
                    )
                    return jax.value_and_grad(lambda v: loss(v)[0])(views)

                return jax.vmap(value)(temperatures, betas)

            return [of_size(size) for size in (None, 5)]

        expected = [_hard_by_loops(views, *case) for case in cases]
        for values, gradients in found(*cases.T.astype(np.float32)):
            for own, slopes, (value, gradient) in zip(
                values, gradients, expected, strict=True
            ):
                np.testing.assert_allclose(own, value, rtol=2e-6)
                scale = np.abs(gradient).max()
                np.testing.assert_allclose(slopes / scale, gradient / scale, atol=2e-4)

    def test_forward_derivatives_and_those_by_beta(self):
        """Dense losses may be differentiated forwards, and by beta at any size."""

        def value(beta):
            return c.hard_negative(_views(), beta=beta, tau_plus=0.0)[0]

        betas = np.array([0.5, 3.0])
        slopes = _in_float64(jax.vmap(jax.jacfwd(value)), betas)
        for slope, beta in zip(slopes, betas, strict=True):
            ends = [_hard_by_loops(_views(), 0.5, beta + h)[0] for h in (1e-5, -1e-5)]
            np.testing.assert_allclose(slope, np.diff(ends[::-1])[0] / 2e-5, rtol=1e-7)


class DevicesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        mesh = Mesh(np.array(jax.devices()[:4]), ("images",))
        self.spread = functools.partial(
            jax.shard_map, mesh=mesh, out_specs=PartitionSpec()
        )

    def test_four_devices_are_one(self):
        """Values of presets at once, and a gradient in blocks; more are below."""

        def values(views, axis_name):
            other = 0.9 * views
            return {
                "nt_xent": c.nt_xent(views, axis_name=axis_name),
                "debiased": c.debiased(views, axis_name=axis_name),
                "adversarial": c.adversarial(views, other, axis_name=axis_name),
            }

        def both(views):
            def over_devices(function, **how):
                return self.spread(
                    functools.partial(function, axis_name="images", **how),
                    in_specs=PartitionSpec(None, "images"),
                )(views)

            hard = self.spread(
                functools.partial(c.hard_negative, axis_name="images", block_size=3),
                in_specs=PartitionSpec(None, "images"),
            )
            derivative = jax.value_and_grad(hard, has_aux=True)

            def alone(views, axis_name):
                return jax.lax.pmean(c.nt_xent(views)[0], axis_name)

            expected = jax.value_and_grad(c.hard_negative, has_aux=True)(views)
            return (
                (values(views, None), expected),
                (over_devices(values), derivative(views)),
                over_devices(alone),
            )

        expected, found, alone = _in_float64(both, _views())
        _same(found, expected, rtol=1e-12, atol=1e-15)
        # negatives of other devices matter
        self.assertGreater(expected[0]["nt_xent"][0] - alone, 0.5)

    @pytest.mark.slow
    def test_gradients_inside_by_shared_parameters(self):
        weights = np.random.default_rng(2).normal(size=(5, 6))

        def loss(weights, views, axis_name=None, size=None):
            return c.int_cl(
                views @ weights,
                0.9 * views @ weights,
                estimator=(c.hard(1.0),),
                weights="loss_ratio",
                block_size=size,
                axis_name=axis_name,
            )[0]

        def inside(weights, views):
            return [
                jax.grad(loss)(weights, views, "images", size) for size in (None, 3)
            ]

        def both(weights, views):
            specs = (PartitionSpec(), PartitionSpec(None, "images"))
            found = self.spread(inside, in_specs=specs)(weights, views)
            return found, jax.grad(loss)(weights, views)

        found, expected = _in_float64(both, weights, _views())
        for own in found:
            np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-14)


if __name__ == "__main__":
    absltest.main()
