"""Chains of transforms against loops, identities and other libraries."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import waves
from absl.testing import absltest, parameterized

from robustjax import contrastive as c

_views = waves.noisy_views
_PRESETS = {
    "nt_xent": c.nt_xent,
    "debiased": c.debiased,
    "hard_negative": c.hard_negative,
    "nca": lambda views: c.nca(views[0], views[1:], views[0]),
    "mix_nca": lambda views: c.mix_nca(
        views[0], views[1:], views[0], mixed=views[1:], mixing=0.7
    ),
    "adversarial": lambda views: c.adversarial(views, views),
    "int_cl": lambda views: c.int_cl(views, views, weights="loss_ratio"),
    "int_nacl": lambda views: c.int_nacl(views, views, estimator=(c.hard(1.0),)),
}


def _in_float64(function, *arrays):
    """Results of one compiled program, as NumPy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*arrays))


def _by_loops(batch, *, temperature, tau_plus, beta):
    """Loss of every anchor, from numbers that fit into the linear domain."""
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in batch]
    losses = []
    for i, anchor in enumerate(unit[0]):
        positive = np.exp(unit[1][:, i] @ anchor / temperature)
        negative = np.exp(unit[2][i] @ anchor / temperature)
        weights = negative**beta
        num = len(negative)
        mass = (weights * negative).sum() / weights.mean()
        mass = (mass - num * tau_plus * positive.mean()) / (1 - tau_plus)
        mass = max(mass, num * np.exp(-1 / temperature))
        losses.append(-np.log(positive.sum() / (positive.sum() + mass)))
    return np.array(losses)


def _paired_rows(views):
    """Anchors, positives and negatives of two views, each negative in full."""
    rows = views.reshape(-1, views.shape[-1])
    num = len(rows) // 2
    others = [[j for j in range(2 * num) if (j - i) % num] for i in range(2 * num)]
    return rows, np.roll(rows, num, axis=0)[None], rows[np.array(others)]


class ChainTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_every_anchor_by_loops(self):
        rng = np.random.default_rng(1)
        batch = (
            rng.normal(size=(7, 5)),
            rng.normal(size=(2, 7, 5)),
            rng.normal(size=(7, 9, 5)),
        )
        temperatures, betas = np.array([0.2, 0.2, 1.0, 1.0]), np.array([0.0, 2.0] * 2)

        def found(temperatures, betas, *batch):
            def losses(temperature, beta, tau_plus):
                chain = c.compose(
                    c.similarity(temperature),
                    c.hard(beta),
                    c.debias(tau_plus),
                    c.per_anchor(),
                )
                return chain(c.from_arrays(*batch))[0]

            each = jax.vmap(losses, (0, 0, None))  # the share 0 skips the step
            return {tau: each(temperatures, betas, tau) for tau in (0.0, 0.3)}

        for tau_plus, rows in _in_float64(found, temperatures, betas, *batch).items():
            for row, temperature, beta in zip(rows, temperatures, betas, strict=True):
                expected = _by_loops(
                    batch, temperature=temperature, tau_plus=tau_plus, beta=beta
                )
                np.testing.assert_allclose(row, expected, rtol=1e-11)

    def test_two_views_are_a_keyed_loss(self):
        def found(views, anchors, positives, negatives):
            keyed, _ = c.nca(anchors, positives, negatives)
            masked, _ = c.nca(
                anchors,
                positives[0],
                anchors,
                mask=np.arange(12)[:, None] % 6 != np.arange(12) % 6,
            )
            return keyed, masked, c.nt_xent(views)[0]

        keyed, masked, plain = _in_float64(found, _views(), *_paired_rows(_views()))
        np.testing.assert_allclose([keyed, masked], plain, rtol=1e-14)

    def test_equals_optax(self):
        """Of two views, and the mean over positives of three."""

        def found(*batches):
            losses = []
            for views in batches:
                labels = jnp.tile(jnp.arange(views.shape[1]), len(views))
                rows = views.reshape(-1, views.shape[-1])
                losses.append(jnp.mean(optax.losses.ntxent(rows, labels, 0.3)))
            ours, _ = c.nt_xent(batches[0], temperature=0.3)
            several, _ = c.compose(c.similarity(0.3), c.mean_of_logs())(batches[1])
            return losses, [ours, several]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a mean in another dtype
            expected, ours = _in_float64(found, _views(), _views(3))
        np.testing.assert_allclose(ours, expected, rtol=1e-12)

    def test_views_that_are_positives_only(self):
        views = _views(4)

        def found(views):
            batch = c.from_views(views, num_anchor_views=2)
            return batch, c.compose(c.similarity(0.5), c.per_anchor())(batch)[0]

        batch, losses = _in_float64(found, views)
        self.assertEqual(batch.positives.shape, (3, 12, 4))
        np.testing.assert_array_equal(batch.positives[:, 1], views[[1, 2, 3], 1])
        np.testing.assert_array_equal(batch.positives[:, 7], views[[2, 3, 0], 1])
        np.testing.assert_array_equal(batch.negatives, views[:2].reshape(12, 4))
        others = [j for j in range(12) if j % 6 != 1]
        alone = _by_loops(
            (views[0, 1:2], views[1:, 1:2], views[:2].reshape(12, 4)[others][None]),
            temperature=0.5, tau_plus=0, beta=0,
        )  # fmt: skip
        np.testing.assert_allclose(losses[1], alone[0], rtol=1e-12)


class IdentitiesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.views, self.many = _views(), _views(4)

    def _same(self, pairs, *arrays):
        """The losses of each pair are equal; all pairs are one program."""
        found = _in_float64(
            lambda *own: {k: (a[0], b[0]) for k, (a, b) in pairs(*own).items()},
            *arrays,
        )
        for name, (first, second) in found.items():
            np.testing.assert_allclose(first, second, rtol=1e-13, err_msg=name)

    def test_nothing_debiased_is_plain_and_nothing_hard_debiased(self):
        def pairs(views):
            plain, debiased = c.nt_xent(views), c.debiased(views)
            return {
                "zero": (c.debiased(views, tau_plus=0.0), plain),
                "numpy": (c.debiased(views, tau_plus=np.float32(0)), plain),
                "hard": (c.hard_negative(views, beta=0.0), debiased),
            }

        self._same(pairs, self.views)

    def test_hard_is_never_below_plain(self):
        def gap(views):
            hard, _ = c.hard_negative(views, tau_plus=0.0, beta=1.0)
            return hard - c.nt_xent(views)[0]

        stack = np.stack([_views(seed=seed) for seed in range(100)])
        self.assertGreater(_in_float64(jax.vmap(gap), stack).min(), 0)

    def test_debiasing_helps_exactly_the_well_aligned(self):
        def losses(views):
            first, last = c.similarity(0.5), c.per_anchor()
            plain, _ = c.compose(first, last)(views)
            return plain, c.compose(first, c.debias(0.1), last)(views)[0]

        plain, less = _in_float64(losses, self.views)
        rows = self.views.reshape(12, 4)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        logits = np.exp(unit @ unit.T / 0.5)
        is_other = np.arange(12)[:, None] % 6 != np.arange(12) % 6
        mean = np.where(is_other, logits, 0).sum(axis=1) / 10
        p = np.array([logits[i, (i + 6) % 12] for i in range(12)])
        np.testing.assert_array_equal(less < plain, mean < p)
        self.assertBetween(np.sum(mean < p), 1, 12)

    def test_one_positive_of_any_kind_is_the_plain_loss(self):
        def pairs(views):
            plain = c.nt_xent(views)
            return {
                how.__name__: (c.compose(c.similarity(0.5), how())(views), plain)
                for how in (c.sum_inside, c.mean_of_logs, c.supcon)
            }

        self._same(pairs, self.views)

    def test_soft_targets_at_the_ends(self):
        def pairs(x, y, z):
            mean = c.compose(c.similarity(0.5), c.mean_of_logs())
            one = c.nca(x, y[:1], z)
            return {
                "whole": (
                    c.mix_nca(x, y, z, mixed=y, mixing=1.0),
                    mean(c.from_arrays(x, y, z)),
                ),
                "one": (c.mix_nca(x, y[:1], z, mixed=y[:1], mixing=1.0), one),
                "clean": (
                    c.mix_nca(
                        x, y[:1], z, mixed=y[1:2], mixing=0.4, form="clean_plus_soft"
                    ),
                    one,
                ),
            }

        self._same(pairs, self.many[0], self.many[1:], self.views[1])

    def test_reductions_of_the_integrated_loss(self):
        def pairs(clean, attacked, many):
            hard = (c.hard(1.0), c.debias(0.1))
            plain, hard_loss = c.nt_xent(clean), c.hard_negative(clean)
            clae = c.adversarial(clean, attacked, adversarial_weight=0.7)

            def clean_alone(views, **how):
                return c.int_nacl(views, attacked, adversarial_weight=0.0, **how)

            return {
                "plain": (clean_alone(clean), plain),
                "debiased": (
                    clean_alone(clean, estimator=(c.debias(0.1),)),
                    c.debiased(clean),
                ),
                "hard": (clean_alone(clean, estimator=hard), hard_loss),
                "several": (clean_alone(many), c.compose(c.similarity(0.5))(many)),
                "int_cl": (c.int_cl(clean, attacked, adversarial_weight=0.7), clae),
                "sum": (clae, (plain[0] + 0.7 * c.nt_xent(attacked)[0],)),
                "estimators": (
                    c.int_cl(attacked, clean, adversarial_estimator=hard),
                    (c.nt_xent(attacked)[0] + hard_loss[0],),
                ),
            }

        attacked = self.views + 0.1 * self.many[:2]
        self._same(pairs, self.views, attacked, self.many)

    def test_order_and_length_of_rows_change_nothing(self):
        lengths = 0.1 + np.arange(6)[:, None]

        def pairs(x, y, z):
            how = {"estimator": (c.hard(1.0), c.debias(0.1))}
            expected = c.nca(x, y, z, **how)
            scaled = c.nca(x * lengths, y * lengths[None], 1e-3 * z, **how)
            return {
                "order": (c.nca(x, y[::-1], z, **how), expected),
                "length": (scaled, expected),
            }

        self._same(pairs, self.many[0], self.many[1:], self.views[1])

    def test_equal_positives_lower_the_sum_by_up_to_their_log(self):
        x, y, z = self.views[0], self.views[1:], self.many[2]
        unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y[0], z)]
        p = np.exp(np.sum(unit[0] * unit[1], axis=1) / 0.5)
        mass = np.exp(unit[0] @ unit[2].T / 0.5).sum(axis=1)
        found, _ = _in_float64(c.nca, x, np.repeat(y, 3, axis=0), z)
        np.testing.assert_allclose(found, np.mean(np.log1p(mass / (3 * p))), rtol=1e-12)


class IntegersTest(absltest.TestCase):
    def test_they_are_taken_as_floats(self):
        """As integers, a unit vector is zero but for the axes."""
        views = np.array([[[3, 4], [1, 0]], [[4, 3], [0, 1]]])
        loss_fn = jax.jit(c.compose(c.similarity(0.5)))
        own, expected = (loss_fn(v)[0] for v in (views, views.astype(np.float32)))
        np.testing.assert_allclose(own, expected, rtol=1e-6)


class WeightsTest(parameterized.TestCase):
    def test_loss_ratio_is_a_weighted_mean_without_gradient_of_weights(self):
        losses = _by_loops(_paired_rows(_views()), temperature=0.5, tau_plus=0, beta=0)
        weights = losses / losses.mean()

        def value(views, how):
            if how is None:
                each, _ = c.compose(c.similarity(0.5), c.per_anchor())(views)
                return jnp.mean(weights * each)
            return c.compose(c.similarity(0.5), c.weighted(how))(views)[0]

        ways = (None, "loss_ratio", weights, lambda x: x / jnp.mean(x))
        expected, *others = _in_float64(
            lambda views: [jax.value_and_grad(value)(views, how) for how in ways],
            _views(),
        )
        for found in others:
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
            np.testing.assert_allclose(found[1], expected[1], atol=1e-14)

    def test_loss_ratio_of_solved_pairs_is_finite(self):
        """All losses underflow."""
        apart = np.eye(4, dtype=np.float32)[None].repeat(2, axis=0)

        def value(views):
            return c.int_cl(views, views, temperature=0.01, weights="loss_ratio")[0]

        loss, gradient = jax.jit(jax.value_and_grad(value))(apart)
        self.assertEqual(float(loss), 0)
        self.assertTrue(np.all(np.isfinite(gradient)))

    def test_a_batch_stands_for_its_views(self):
        """With one positive; less than two views are no batch."""
        views = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
        of_views, of_batch = jax.jit(
            lambda x: (c.nt_xent(x), c.nt_xent(c.from_views(x)))
        )(views)
        np.testing.assert_array_equal(of_views[0], of_batch[0])
        with self.assertRaisesRegex(ValueError, r"\[2 or more, n, d\], .*\(1, 4, 3\)"):
            c.from_views(views[:1])

    def test_numbers_of_another_shape(self):
        chain = c.compose(c.similarity(0.5), c.weighted(np.ones((5,))))
        with self.assertRaisesRegex(ValueError, r"weights \(12,\)"):
            jax.eval_shape(chain, _views())


class TransformationsTest(parameterized.TestCase):
    def test_jit_grad_vmap_of_all_presets_with_one_trace(self):
        """Gradients are those of a weighted sum of losses with all kinds of steps."""
        num_traces = 0
        weights = {"hard_negative": 0.5, "mix_nca": 1.0, "int_cl": 1.5}
        others = _PRESETS.keys() - weights.keys()

        def total(views):
            values = {name: _PRESETS[name](views)[0] for name in weights}
            return sum(weights[name] * values[name] for name in weights), values

        @jax.jit
        def derivative(views):
            nonlocal num_traces
            num_traces += 1
            (_, values), gradient = jax.value_and_grad(total, has_aux=True)(views)
            values |= {name: _PRESETS[name](views)[0] for name in others}
            return [values[name] for name in _PRESETS], gradient

        stack = np.stack([_views(seed=seed) for seed in range(3)]).astype(np.float32)
        one_by_one = [derivative(views) for views in stack]
        values, gradients = jax.jit(jax.vmap(derivative))(stack)
        singles, single_gradients = zip(*one_by_one, strict=True)
        np.testing.assert_allclose(np.transpose(values), singles, rtol=1e-5)
        np.testing.assert_allclose(gradients, single_gradients, atol=1e-6)
        self.assertEqual(num_traces, 1)

    def test_annealed_numbers_need_no_new_trace(self):
        num_traces = 0

        @jax.jit
        def value(views, temperature, beta, tau_plus):
            nonlocal num_traces
            num_traces += 1
            return c.hard_negative(
                views, temperature=temperature, beta=beta, tau_plus=tau_plus
            )[0]

        for numbers in ((0.5, 1.0, 0.1), (0.3, 0.5, 0.0), (1.0, 0.0, 0.2)):
            found = value(_views().astype(np.float32), *map(np.float32, numbers))
            temperature, beta, tau_plus = numbers
            expected = _by_loops(
                _paired_rows(_views()),
                temperature=temperature,
                beta=beta,
                tau_plus=tau_plus,
            ).mean()
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        self.assertEqual(num_traces, 1)

    @pytest.mark.slow
    def test_cold_float32_is_float64(self):
        """At once and in blocks, down to a temperature of .005."""

        def value(views, temperature, block_size):
            return c.hard_negative(
                views, temperature=temperature, block_size=block_size
            )[0]

        @jax.jit
        def derivatives(views, temperatures):
            each = jax.vmap(jax.value_and_grad(value), (None, 0, None))
            return [each(views, temperatures, size) for size in (None, 5)]

        views, temperatures = _views(num=16), np.array([0.05, 0.011, 0.005])
        narrow = derivatives(views.astype(np.float32), temperatures.astype(np.float32))
        with jax.enable_x64(True):
            wide = derivatives(views, temperatures)
        narrow, wide = (jax.tree.map(np.asarray, own) for own in (narrow, wide))
        for found, expected in zip(narrow, wide, strict=True):
            self.assertEqual(found[1].dtype, np.float32)
            self.assertTrue(np.all(np.isfinite(found[1])))
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-6)
            for own, other in zip(found[1], expected[1], strict=True):
                scale = np.abs(other).max()
                np.testing.assert_allclose(own, other, atol=2e-3 * scale)

    def test_gradients_are_finite_an_ulp_from_the_clamp(self):
        """One negative whose similarity makes N tau p = R up to rounding."""

        def on_circle(angle):
            return jnp.stack([jnp.cos(angle), jnp.sin(angle)])

        def value(theirs, others):
            return c.nca(
                jnp.array([[1.0, 0.0]]),
                on_circle(theirs)[None, None],
                on_circle(others)[None],
                temperature=0.5,
                estimator=(c.debias(0.5),),
            )[0]

        cosines = np.random.default_rng(0).uniform(0.02, 0.12, 400)
        theirs = np.arccos(cosines - 0.5 * np.log(0.5))[:, None]
        theirs = (theirs + 1.2e-7 * np.arange(-12, 13)).astype(np.float32).ravel()
        others = np.repeat(np.arccos(cosines), 25).astype(np.float32)
        derivative = jax.jit(jax.vmap(jax.value_and_grad(value, argnums=(0, 1))))
        self.assertTrue(
            all(
                np.all(np.isfinite(v))
                for v in jax.tree.leaves(derivative(theirs, others))
            )
        )

    def test_all_clamped_has_finite_gradients_through_positives_alone(self):
        x, y = _views().astype(np.float32)

        def value(x, y, z):
            loss, aux = c.nca(x, y[None], z, estimator=(c.debias(0.9),))
            return loss, aux.clamped_fraction

        derivative = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))
        gradients, clamped = derivative(x, y, -x)
        self.assertEqual(float(clamped), 1)
        self.assertTrue(all(np.all(np.isfinite(g)) for g in gradients))
        np.testing.assert_array_equal(gradients[2], 0)
        self.assertGreater(np.abs(np.asarray(gradients[1])).max(), 0)


if __name__ == "__main__":
    absltest.main()
