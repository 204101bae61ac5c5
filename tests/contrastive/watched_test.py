"""What losses tell beside their value, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import waves
from absl.testing import absltest, parameterized

from robustjax import contrastive as c

_views = waves.noisy_views


class AuxTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_cosines_and_effective_negatives(self):
        x = np.eye(3, dtype=np.float32)
        negatives = np.stack([np.stack([-row, row, row]) for row in x])

        @jax.jit
        def run(x, negatives):
            equal = x[:1].repeat(5, axis=0)
            return c.nca(x, x[None], negatives, temperature=0.01)[1], [
                c.nca(x, x[None], equal, estimator=how)[1].effective_negatives
                for how in ((), (c.hard(2.0),))
            ]

        found, equal = run(x, negatives)
        np.testing.assert_allclose(found.positive_cosine, 1, rtol=1e-6)
        np.testing.assert_allclose(found.negative_cosine, 1 / 3, rtol=1e-5)
        np.testing.assert_allclose(found.effective_negatives, 2, rtol=1e-5)
        self.assertEqual(float(found.invalid_fraction), 0)
        np.testing.assert_allclose(equal, 5, rtol=1e-5)  # all count

    def test_numbers_that_are_none_are_not_hidden(self):
        @jax.jit
        def run(views, x, y):
            whole = [c.hard_negative(views, block_size=size) for size in (None, 5)]
            return whole, c.nca(x, y[None], y, estimator=(c.debias(0.1),))

        for bad in (np.nan, np.inf):
            views = _views().astype(np.float32)
            anchors = views[0].copy()
            views[1, 2, 0] = anchors[4, 0] = bad
            whole, (alone, aux) = jax.tree.map(
                np.asarray, run(views, anchors, _views()[1].astype(np.float32))
            )
            for loss, own in whole:
                self.assertTrue(np.isnan(loss))
                self.assertEqual(own.invalid_fraction, 1)
            self.assertTrue(np.isnan(alone))
            np.testing.assert_allclose(aux.invalid_fraction, 1 / 6)

    def test_rows_of_zeros_have_finite_derivatives_and_aux_none(self):
        """The derivative of everything that is watched is zero.

        Lengths whose squares underflow or overflow change no loss.
        """

        @jax.jit
        def run(zeros, views):
            def total(views):
                aux = c.hard_negative(views, block_size=5)[1]
                return sum(jnp.sum(x) for x in aux)

            plain = jax.value_and_grad(lambda v: c.nt_xent(v)[0])(zeros)
            scaled = jax.vmap(lambda scale: c.nt_xent(scale * views)[0])(scales)
            return plain, jax.grad(total)(views), scaled

        views = _views().astype(np.float32)
        zeros = views.copy()
        zeros[0, 1] = 0
        scales = np.array([1, 1e-30, 1e30], np.float32)
        (value, gradient), of_aux, scaled = run(zeros, views)
        plain, *others = np.asarray(scaled)
        np.testing.assert_allclose(others, plain, rtol=1e-5)
        self.assertTrue(np.isfinite(value))
        self.assertTrue(np.all(np.isfinite(gradient)))
        np.testing.assert_array_equal(of_aux, 0)


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters((1, 6, 4), (3, 6, 4), (6, 4))
    def test_views_whose_first_axis_is_not_two(self, *shape):
        for preset in (c.nt_xent, c.debiased, c.hard_negative):
            with self.assertRaisesRegex(ValueError, r"views \[2, n, d\]"):
                preset(np.ones(shape))

    def test_a_batch_of_one(self):
        one = np.ones((2, 1, 4))
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
            jax.eval_shape(c.compose(c.similarity(0.5), c.soft_target(0.5)), views)
        with self.assertRaisesRegex(ValueError, "mixed like positives"):
            jax.eval_shape(lambda v: c.from_views(v, mixed=v), views)

    def test_an_anchor_without_negatives(self):
        x, y = _views()
        mask = np.ones((6, 6), bool)
        mask[4] = False
        with self.assertRaisesRegex(ValueError, "anchor 4"):
            c.nca(x, y[None], y, mask=mask)
        with self.assertRaisesRegex(ValueError, "mask"):
            c.nca(x, y[None], y, mask=mask[:5])

        @jax.jit
        def values(mask):  # traced: it can only be NaN
            return [
                c.nca(x, y[None], y, mask=mask, estimator=how)[0]
                for how in ((), (c.hard(1.0), c.debias(0.1)))
            ]

        self.assertTrue(np.all(np.isnan(values(mask))))

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
        def two_positives(views):
            return c.int_cl(c.from_views(views), views[:2])

        with self.assertRaisesRegex(ValueError, "one positive"):
            jax.eval_shape(two_positives, _views(3))


if __name__ == "__main__":
    absltest.main()
