"""Dense, in blocks and over devices: one value, one gradient, another memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from robustjax import contrastive as c

_LOSSES = (
    ("plain", c.nt_xent),
    ("hard", c.hard_negative),
)
_MIB = 2**20


def _views(num_views=2, num=16, width=5):
    return np.random.default_rng(0).normal(size=(num_views, num, width))


def _temporary_memory(loss_fn, num, width):
    shape = jax.ShapeDtypeStruct((2, num // 2, width), jnp.float32)
    derivative = jax.jit(jax.value_and_grad(lambda views: loss_fn(views)[0]))
    compiled = derivative.lower(shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes / _MIB


class BlocksTest(parameterized.TestCase):
    @parameterized.product(size=(1, 5, 8, 31, 32, 100), loss=_LOSSES)
    def test_blocks_are_dense(self, size, loss):
        def value(views, temperature, size):
            return loss[1](views, temperature=temperature, block_size=size)[0]

        derivative = jax.value_and_grad(value, argnums=(0, 1))
        with jax.enable_x64(True):
            args = jnp.asarray(_views()), jnp.asarray(0.2)
            dense, blocks = (
                jax.jit(functools.partial(derivative, size=own))(*args)
                for own in (None, size)
            )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-14),
            blocks, dense,
        )  # fmt: skip

    def test_beta_mask_and_aux(self):
        rng = np.random.default_rng(1)
        x, y, z = (rng.normal(size=s) for s in ((7, 4), (2, 7, 4), (11, 4)))
        mask = rng.uniform(size=(7, 11)) < 0.5

        def value(x, y, z, beta, size):
            estimator = (c.hard(beta), c.debias(0.05))
            return c.nca(
                x,
                y,
                z,
                mask=mask,
                temperature=0.3,
                estimator=estimator,
                block_size=size,
            )

        derivative = jax.value_and_grad(value, argnums=(0, 1, 2, 3), has_aux=True)
        with jax.enable_x64(True):
            args = *map(jnp.asarray, (x, y, z)), jnp.asarray(0.7)
            dense, blocks = (
                jax.jit(functools.partial(derivative, size=own))(*args)
                for own in (None, 3)
            )
        self.assertGreater(np.abs(dense[1][3]), 1e-3)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-14),
            blocks, dense,
        )  # fmt: skip

    def test_gradient_of_blocks_by_finite_differences(self):
        with jax.enable_x64(True):
            views = jnp.asarray(_views(num=4, width=3))
            value = jax.jit(lambda v: c.hard_negative(v, block_size=3)[0])
            check_grads(value, (views,), 1, ("rev",), rtol=1e-6, atol=1e-8)

    def test_bfloat16_is_near_and_sums_in_float32(self):
        views = jnp.asarray(_views(num=64, width=32), jnp.bfloat16)
        for size in (None, 16):
            derivative = jax.jit(
                jax.value_and_grad(
                    lambda v, size=size: c.hard_negative(v, block_size=size)[0]
                )
            )
            value, gradient = derivative(views)
            expected = derivative(views.astype(jnp.float32))
            self.assertEqual((value.dtype, gradient.dtype), (jnp.float32, jnp.bfloat16))
            np.testing.assert_allclose(value, expected[0], rtol=3e-3)
            scale = np.abs(expected[1]).max()
            np.testing.assert_allclose(
                gradient.astype(jnp.float32), expected[1], atol=0.03 * scale
            )

    @parameterized.named_parameters(*_LOSSES)
    def test_memory_is_linear_in_the_number_of_rows(self, loss_fn):
        blocked = functools.partial(loss_fn, block_size=256)
        half, whole = (_temporary_memory(blocked, n, 128) for n in (4096, 8192))
        self.assertLess(whole, 60)
        self.assertLess(whole, 2.2 * half)
        dense = _temporary_memory(loss_fn, 8192, 128)
        self.assertGreater(dense, 5 * whole)  # so that what is measured is memory


class DevicesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.mesh = Mesh(np.array(jax.devices()[:4]), ("images",))
        self.views = jnp.asarray(_views())

    @parameterized.product(size=(None, 3), loss=_LOSSES)
    def test_four_devices_are_one(self, size, loss):
        expected = jax.jit(jax.value_and_grad(loss[1], has_aux=True))(self.views)
        how = {"block_size": size, "axis_name": "images"}
        over_devices = jax.shard_map(
            functools.partial(loss[1], **how), mesh=self.mesh,
            in_specs=PartitionSpec(None, "images"), out_specs=PartitionSpec(),
        )  # fmt: skip
        found = jax.jit(jax.value_and_grad(over_devices, has_aux=True))(self.views)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15),
            found, expected,
        )  # fmt: skip

    @parameterized.parameters(None, 3)
    def test_gradients_inside_by_shared_parameters(self, size):
        weights = jnp.asarray(np.random.default_rng(2).normal(size=(5, 6)))

        def inside(weights, views):
            return jax.grad(
                lambda w: c.int_cl(
                    views @ w, 0.9 * views @ w, estimator=(c.hard(1.0),),
                    weights="loss_ratio", block_size=size, axis_name="images",
                )[0]
            )(weights)  # fmt: skip

        found = jax.jit(
            jax.shard_map(
                inside, mesh=self.mesh, out_specs=PartitionSpec(),
                in_specs=(PartitionSpec(), PartitionSpec(None, "images")),
            )
        )(weights, self.views)  # fmt: skip
        expected = jax.jit(
            jax.grad(
                lambda w: c.int_cl(
                    self.views @ w, 0.9 * self.views @ w, estimator=(c.hard(1.0),),
                    weights="loss_ratio",
                )[0]
            )
        )(weights)  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)

    def test_negatives_of_other_devices_matter(self):
        local = jax.jit(
            jax.shard_map(
                lambda views: jax.lax.pmean(c.nt_xent(views)[0], "images"),
                mesh=self.mesh,
                in_specs=PartitionSpec(None, "images"),
                out_specs=PartitionSpec(),
            )
        )
        self.assertGreater(c.nt_xent(self.views)[0] - local(self.views), 0.5)


if __name__ == "__main__":
    absltest.main()
