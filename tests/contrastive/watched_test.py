"""What losses tell beside their value, and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import waves
from absl.testing import absltest, parameterized

from robustjax import contrastive as c

_views = waves.noisy_views


class AuxTest(parameterized.TestCase):
    def test_cosines_and_effective_negatives(self):
        x = np.eye(3, dtype=np.float32)
        negatives = np.stack([np.stack([-row, row, row]) for row in x])
        found = c.nca(x, x[None], negatives, temperature=0.01)[1]
        np.testing.assert_allclose(found.positive_cosine, 1, rtol=1e-6)
        np.testing.assert_allclose(found.negative_cosine, 1 / 3, rtol=1e-5)
        np.testing.assert_allclose(found.effective_negatives, 2, rtol=1e-5)
        self.assertEqual(found.invalid_fraction, 0)

    def test_equal_negatives_all_count(self):
        x = np.eye(3, dtype=np.float32)
        for estimator in ((), (c.hard(2.0),)):
            found = c.nca(x, x[None], x[:1].repeat(5, axis=0), estimator=estimator)[1]
            np.testing.assert_allclose(found.effective_negatives, 5, rtol=1e-5)

    @parameterized.parameters(jnp.nan, jnp.inf)
    def test_numbers_that_are_none_are_not_hidden(self, bad):
        views = jnp.asarray(_views(), jnp.float32)
        for block_size in (None, 5):
            loss_fn = jax.jit(functools.partial(c.hard_negative, block_size=block_size))
            loss, aux = loss_fn(views.at[1, 2, 0].set(bad))
            self.assertTrue(jnp.isnan(loss))
            self.assertEqual(aux.invalid_fraction, 1)
        x, y, z = views[0].at[4, 0].set(bad), views[1:], views[1]
        loss, aux = jax.jit(functools.partial(c.nca, estimator=(c.debias(0.1),)))(
            x, y, z
        )
        self.assertTrue(jnp.isnan(loss))
        np.testing.assert_allclose(aux.invalid_fraction, 1 / 6)

    def test_rows_of_zeros_have_finite_derivatives(self):
        views = jnp.asarray(_views(), jnp.float32).at[0, 1].set(0)
        derivative = jax.jit(jax.value_and_grad(lambda v: c.nt_xent(v)[0]))
        value, gradient = derivative(views)
        self.assertTrue(jnp.isfinite(value))
        self.assertTrue(jnp.all(jnp.isfinite(gradient)))

    def test_no_aux_carries_a_gradient(self):
        def total(views):
            aux = c.hard_negative(views, block_size=5)[1]
            return sum(jnp.sum(x) for x in aux)

        gradient = jax.jit(jax.grad(total))(jnp.asarray(_views(), jnp.float32))
        np.testing.assert_array_equal(gradient, 0)


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters((1, 6, 4), (3, 6, 4), (6, 4))
    def test_views_whose_first_axis_is_not_two(self, *shape):
        for preset in (c.nt_xent, c.debiased, c.hard_negative):
            with self.assertRaisesRegex(ValueError, r"views \[2, n, d\]"):
                preset(np.ones(shape))

    def test_a_batch_of_one(self):
        one = jnp.ones((2, 1, 4))
        for preset in (c.nt_xent, c.debiased, c.hard_negative):
            with self.assertRaisesRegex(ValueError, "batch of one"):
                preset(one)
        for preset in (c.adversarial, c.int_cl, c.int_nacl):
            with self.assertRaisesRegex(ValueError, "batch of one"):
                preset(one, one)

    def test_numbers_out_of_range(self):
        views = _views()
        x, y, z = views[0], views[1:], views[1]
        for expected, call in (
            ("temperature", lambda: c.nt_xent(views, temperature=0.0)),
            ("temperature", lambda: c.nt_xent(views, temperature=-1.0)),
            ("tau_plus", lambda: c.debiased(views, tau_plus=1.0)),
            ("tau_plus", lambda: c.debiased(views, tau_plus=-0.1)),
            ("beta", lambda: c.hard_negative(views, beta=-1.0)),
            ("beta", lambda: c.hard_negative(views, beta=jnp.nan)),
            ("mixing", lambda: c.mix_nca(x, y, z, mixed=y, mixing=1.1)),
            ("mixing", lambda: c.clean_plus_soft(-0.1)),
            ("form", lambda: c.mix_nca(x, y, z, mixed=y, form="hard")),
            (
                "adversarial_weight",
                lambda: c.int_cl(views, views, adversarial_weight=-1),
            ),
            ("weights", lambda: c.int_cl(views, views, weights="ratio")),
            ("block_size", lambda: c.nt_xent(views, block_size=0)),
            ("num_anchor_views", lambda: c.from_views(views, num_anchor_views=3)),
        ):
            with self.assertRaisesRegex(ValueError, expected):
                call()

    @parameterized.parameters(
        ((0, 3), (1, 0, 3), (5, 3)),
        ((6, 4), (1, 6, 5), (6, 4)),
        ((6, 4), (1, 5, 4), (6, 4)),
        ((6, 4), (0, 6, 4), (6, 4)),
        ((6, 4), (1, 6, 4), (6, 5)),
        ((6, 4), (1, 6, 4), (5, 7, 4)),
        ((6, 4), (1, 6, 4), (0, 4)),
    )
    def test_shapes_that_do_not_fit(self, *shapes):
        with self.assertRaisesRegex(ValueError, "Expected anchors"):
            c.from_arrays(*map(np.ones, shapes))

    def test_mixed_inputs_that_are_missing_or_of_another_shape(self):
        views = _views()
        with self.assertRaisesRegex(ValueError, "mixed inputs"):
            c.compose(c.similarity(0.5), c.soft_target(0.5))(views)
        with self.assertRaisesRegex(ValueError, "mixed like positives"):
            c.from_views(views, mixed=views)

    def test_an_anchor_without_negatives(self):
        x, y = _views()
        mask = np.ones((6, 6), bool)
        mask[4] = False
        with self.assertRaisesRegex(ValueError, "anchor 4"):
            c.nca(x, y[None], y, mask=mask)
        with self.assertRaisesRegex(ValueError, "mask"):
            c.nca(x, y[None], y, mask=mask[:5])
        for estimator in ((), (c.hard(1.0), c.debias(0.1))):
            value = jax.jit(
                lambda mask, how=estimator: c.nca(
                    x, y[None], y, mask=mask, estimator=how
                )[0]
            )
            self.assertTrue(jnp.isnan(value(mask)))  # traced: it can only be NaN

    def test_steps_out_of_order(self):
        t = c.similarity(0.5)
        for steps in (
            (),
            (c.hard(1.0),),
            (c.hard(1.0), t),
            (t, t),
            (t, c.debias(0.1), c.hard(1.0)),
            (t, c.sum_inside(), c.supcon()),
            (t, c.mean(), c.sum_inside()),
        ):
            with self.assertRaisesRegex(ValueError, "in the order"):
                c.compose(*steps)

    def test_more_than_one_positive(self):
        many = c.from_views(_views(3))
        with self.assertRaisesRegex(ValueError, "one positive"):
            c.int_cl(many, _views())


if __name__ == "__main__":
    absltest.main()
