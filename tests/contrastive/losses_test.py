"""Chains of transforms against loops, identities and other libraries."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


def _optax(views, *, temperature):
    labels = jnp.tile(jnp.arange(views.shape[1]), len(views))
    rows = views.reshape(-1, views.shape[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a mean in another dtype
        losses = optax.losses.ntxent(rows, labels, temperature=temperature)
    return np.asarray(losses)


def _by_loops(batch, *, temperature, tau_plus, beta):
    """Of every anchor, from numbers that fit into the linear domain."""
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


class ChainTest(parameterized.TestCase):
    @parameterized.product(temperature=(0.2, 1.0), tau_plus=(0.0, 0.3), beta=(0.0, 2.0))
    def test_every_anchor_by_loops(self, temperature, tau_plus, beta):
        rng = np.random.default_rng(1)
        batch = (
            rng.normal(size=(7, 5)),
            rng.normal(size=(2, 7, 5)),
            rng.normal(size=(7, 9, 5)),
        )
        chain = c.compose(
            c.similarity(temperature), c.hard(beta), c.debias(tau_plus), c.per_anchor()
        )
        with jax.enable_x64(True):
            found, _ = jax.jit(chain)(c.from_arrays(*batch))
        expected = _by_loops(
            batch, temperature=temperature, tau_plus=tau_plus, beta=beta
        )
        np.testing.assert_allclose(found, expected, rtol=1e-11)

    def test_two_views_are_a_keyed_loss(self):
        with jax.enable_x64(True):
            views = jnp.asarray(_views())
            rows = views.reshape(12, 4)
            others = np.array(
                [[j for j in range(12) if j % 6 != i % 6] for i in range(12)]
            )
            keyed, _ = c.nca(rows, jnp.roll(rows, 6, axis=0)[None], rows[others])
            masked, _ = c.nca(
                rows, jnp.roll(rows, 6, axis=0), rows,
                mask=np.arange(12)[:, None] % 6 != np.arange(12) % 6,
            )  # fmt: skip
            found, _ = c.nt_xent(views)
        np.testing.assert_allclose([keyed, masked], found, rtol=1e-14)

    def test_equals_optax(self):
        with jax.enable_x64(True):
            views = jnp.asarray(_views())
            expected = _optax(views, temperature=0.3)
            found, _ = c.nt_xent(views, temperature=0.3)
        np.testing.assert_allclose(found, np.mean(expected), rtol=1e-12)

    def test_equals_optax_with_three_views(self):
        with jax.enable_x64(True):
            views = jnp.asarray(_views(3))
            expected = _optax(views, temperature=0.5)
            found, _ = c.compose(c.similarity(0.5), c.mean_of_logs())(views)
        np.testing.assert_allclose(found, np.mean(expected), rtol=1e-12)

    def test_views_that_are_positives_only(self):
        views = _views(4)
        with jax.enable_x64(True):
            batch = c.from_views(views, num_anchor_views=2)
            self.assertEqual(batch.positives.shape, (3, 12, 4))
            np.testing.assert_array_equal(batch.positives[:, 1], views[[1, 2, 3], 1])
            np.testing.assert_array_equal(batch.positives[:, 7], views[[2, 3, 0], 1])
            np.testing.assert_array_equal(batch.negatives, views[:2].reshape(12, 4))
            found, _ = c.compose(c.similarity(0.5), c.per_anchor())(batch)
            others = [j for j in range(12) if j % 6 != 1]
            alone = _by_loops(
                (views[0, 1:2], views[1:, 1:2], views[:2].reshape(12, 4)[others][None]),
                temperature=0.5, tau_plus=0, beta=0,
            )  # fmt: skip
        np.testing.assert_allclose(found[1], alone[0], rtol=1e-12)


class IdentitiesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(jax.enable_x64(True))
        self.views = jnp.asarray(_views())
        self.many = jnp.asarray(_views(4))

    def _same(self, found, expected):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)

    @parameterized.parameters(0.0, np.float32(0))
    def test_nothing_debiased_is_plain(self, tau_plus):
        self._same(c.debiased(self.views, tau_plus=tau_plus), c.nt_xent(self.views))

    def test_nothing_hard_is_debiased(self):
        self._same(c.hard_negative(self.views, beta=0.0), c.debiased(self.views))

    def test_hard_is_never_below_plain(self):
        found = [
            c.hard_negative(_views(seed=seed), tau_plus=0.0, beta=1.0)[0]
            - c.nt_xent(_views(seed=seed))[0]
            for seed in range(20)
        ]
        self.assertGreater(min(found), 0)

    def test_debiasing_helps_exactly_the_well_aligned(self):
        batch = c.from_views(self.views)
        shared = c.similarity(0.5), c.per_anchor()
        plain, _ = c.compose(*shared)(batch)
        less, _ = c.compose(shared[0], c.debias(0.1), shared[1])(batch)
        unit = batch.anchors / np.linalg.norm(batch.anchors, axis=1, keepdims=True)
        logits = np.exp(unit @ unit.T / 0.5)
        is_other = np.arange(12)[:, None] % 6 != np.arange(12) % 6
        mean = np.where(is_other, logits, 0).sum(axis=1) / 10
        p = np.array([logits[i, (i + 6) % 12] for i in range(12)])
        np.testing.assert_array_equal(less < plain, mean < p)
        self.assertBetween(np.sum(mean < p), 1, 12)

    def test_one_positive_of_any_kind_is_the_plain_loss(self):
        expected = c.nt_xent(self.views)
        for positives in (c.sum_inside(), c.mean_of_logs(), c.supcon()):
            self._same(c.compose(c.similarity(0.5), positives)(self.views), expected)

    def test_soft_targets_at_the_ends(self):
        x, y, z = self.many[0], self.many[1:], self.views[1]
        whole = c.mix_nca(x, y, z, mixed=y, mixing=1.0)
        mean = c.compose(c.similarity(0.5), c.mean_of_logs())(c.from_arrays(x, y, z))
        self._same(whole, mean)
        one = c.nca(x, y[:1], z)
        self._same(c.mix_nca(x, y[:1], z, mixed=y[:1], mixing=1.0), one)
        for mixing in (0.0, 0.4, 1.0):
            self._same(
                c.mix_nca(
                    x, y[:1], z, mixed=y[1:2], mixing=mixing, form="clean_plus_soft"
                ),
                one,
            )

    def test_reductions_of_the_integrated_loss(self):
        clean, attacked = self.views, self.views + 0.1 * self.many[:2]
        hard = (c.hard(1.0), c.debias(0.1))
        for estimator, expected in (
            ((), c.nt_xent(clean)),
            ((c.debias(0.1),), c.debiased(clean)),
            (hard, c.hard_negative(clean)),
        ):
            found = c.int_nacl(
                clean, attacked, estimator=estimator, adversarial_weight=0.0
            )
            self._same(found, expected)
        self._same(
            c.int_cl(clean, attacked, adversarial_weight=0.7),
            c.adversarial(clean, attacked, adversarial_weight=0.7),
        )
        total = c.nt_xent(clean)[0] + 0.7 * c.nt_xent(attacked)[0]
        self._same(c.adversarial(clean, attacked, adversarial_weight=0.7), (total,))
        mixed_estimators = c.int_cl(clean, attacked, adversarial_estimator=hard)
        self._same(
            mixed_estimators,
            (c.nt_xent(clean)[0] + c.hard_negative(attacked)[0],),
        )
        several = c.int_nacl(self.many, attacked, adversarial_weight=0.0)
        self._same(several, c.compose(c.similarity(0.5))(self.many))

    def test_order_and_length_of_rows_change_nothing(self):
        x, y, z = self.many[0], self.many[1:], self.views[1]
        lengths = 0.1 + np.arange(6)[:, None]
        how = {"estimator": (c.hard(1.0), c.debias(0.1))}
        expected = c.nca(x, y, z, **how)
        self._same(c.nca(x, y[::-1], z, **how), expected)
        self._same(c.nca(x * lengths, y * lengths[None], 1e-3 * z, **how), expected)

    def test_equal_positives_lower_the_sum_by_up_to_their_log(self):
        x, y, z = self.views[0], self.views[1:], self.many[2]
        unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, y[0], z)]
        p = np.exp(np.sum(unit[0] * unit[1], axis=1) / 0.5)
        mass = np.exp(unit[0] @ unit[2].T / 0.5).sum(axis=1)
        found, _ = c.nca(x, jnp.repeat(y, 3, axis=0), z)
        np.testing.assert_allclose(found, np.mean(np.log1p(mass / (3 * p))), rtol=1e-12)


class WeightsTest(parameterized.TestCase):
    def test_loss_ratio_is_a_weighted_mean_without_gradient_of_weights(self):
        with jax.enable_x64(True):
            views = jnp.asarray(_views())
            each = c.compose(c.similarity(0.5), c.per_anchor())
            ratio = c.compose(c.similarity(0.5), c.weighted("loss_ratio"))
            losses, _ = each(views)
            weights = losses / losses.mean()
            numbers = c.compose(c.similarity(0.5), c.weighted(weights))
            by_function = c.compose(
                c.similarity(0.5), c.weighted(lambda x: x / jnp.mean(x))
            )
            mean = jax.value_and_grad(lambda v: jnp.mean(weights * each(v)[0]))
            expected = jax.jit(mean)(views)
            for chain in (ratio, numbers, by_function):
                value = jax.value_and_grad(lambda v, chain=chain: chain(v)[0])
                found = jax.jit(value)(views)
                np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
                np.testing.assert_allclose(found[1], expected[1], atol=1e-14)

    def test_loss_ratio_of_solved_pairs_is_finite(self):
        """All losses underflow."""
        apart = jnp.eye(4)[None].repeat(2, axis=0)

        def value(views):
            return c.int_cl(views, views, temperature=0.01, weights="loss_ratio")[0]

        loss, gradient = jax.jit(jax.value_and_grad(value))(apart)
        self.assertEqual(loss, 0)
        self.assertTrue(np.all(np.isfinite(gradient)))

    def test_numbers_of_another_shape(self):
        chain = c.compose(c.similarity(0.5), c.weighted(jnp.ones((5,))))
        with self.assertRaisesRegex(ValueError, r"weights \(12,\)"):
            chain(_views())


class TransformationsTest(parameterized.TestCase):
    @parameterized.named_parameters(*((name, name) for name in _PRESETS))
    def test_jit_grad_vmap_with_one_trace(self, name):
        num_traces = 0

        def value(views):
            nonlocal num_traces
            num_traces += 1
            return _PRESETS[name](views)[0]

        stack = jnp.asarray([_views(seed=seed) for seed in range(3)], jnp.float32)
        compiled = jax.jit(jax.value_and_grad(value))
        one_by_one = [compiled(views) for views in stack]
        self.assertEqual(num_traces, 1)
        values, gradients = jax.jit(jax.vmap(jax.value_and_grad(value)))(stack)
        np.testing.assert_allclose(values, [v for v, _ in one_by_one], rtol=1e-5)
        np.testing.assert_allclose(gradients, [g for _, g in one_by_one], atol=1e-6)
        eager = value(stack[0])
        np.testing.assert_allclose(eager, values[0], rtol=1e-5)

    def test_annealed_numbers_need_no_new_trace(self):
        num_traces = 0

        @jax.jit
        def value(views, temperature, beta, tau_plus):
            nonlocal num_traces
            num_traces += 1
            return c.hard_negative(
                views, temperature=temperature, beta=beta, tau_plus=tau_plus
            )[0]

        views = jnp.asarray(_views(), jnp.float32)
        for numbers in ((0.5, 1.0, 0.1), (0.3, 0.5, 0.0), (1.0, 0.0, 0.2)):
            found = value(views, *map(jnp.float32, numbers))
            temperature, beta, tau_plus = numbers
            expected, _ = c.hard_negative(
                views, temperature=temperature, beta=beta, tau_plus=tau_plus
            )
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        self.assertEqual(num_traces, 1)

    @parameterized.product(temperature=(0.05, 0.011, 0.005), block_size=(None, 5))
    def test_cold_float32_is_float64(self, temperature, block_size):
        def value(views):
            return c.hard_negative(
                views, temperature=temperature, block_size=block_size
            )[0]

        views = _views(num=16)
        derivative = jax.value_and_grad(value)
        found = jax.jit(derivative)(jnp.asarray(views, jnp.float32))
        with jax.enable_x64(True):
            expected = jax.jit(derivative)(jnp.asarray(views))
        self.assertTrue(np.all(np.isfinite(found[1])))
        scale = np.abs(expected[1]).max()
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[1], expected[1], atol=2e-3 * scale)

    def test_gradients_are_finite_an_ulp_from_the_clamp(self):
        """One negative whose similarity makes N tau p = R up to rounding."""

        def on_circle(angle):
            return jnp.stack([jnp.cos(angle), jnp.sin(angle)])

        def value(theirs, others):
            return c.nca(
                jnp.array([[1.0, 0.0]]), on_circle(theirs)[None, None],
                on_circle(others)[None], temperature=0.5, estimator=(c.debias(0.5),),
            )[0]  # fmt: skip

        cosines = np.random.default_rng(0).uniform(0.02, 0.12, 400)
        theirs = np.arccos(cosines - 0.5 * np.log(0.5))[:, None]
        theirs = (theirs + 1.2e-7 * np.arange(-12, 13)).astype(np.float32).ravel()
        others = np.repeat(np.arccos(cosines), 25).astype(np.float32)
        derivative = jax.jit(jax.vmap(jax.value_and_grad(value, argnums=(0, 1))))
        self.assertTrue(
            all(np.all(np.isfinite(v)) for v in jax.tree.leaves(
                derivative(theirs, others)))
        )  # fmt: skip

    def test_all_clamped_has_finite_gradients_through_positives_alone(self):
        x, y = jnp.asarray(_views(), jnp.float32)

        def value(x, y, z):
            loss, aux = c.nca(x, y[None], z, estimator=(c.debias(0.9),))
            return loss, aux.clamped_fraction

        derivative = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))
        gradients, clamped = derivative(x, y, -x)
        self.assertEqual(clamped, 1)
        self.assertTrue(all(np.all(np.isfinite(g)) for g in gradients))
        np.testing.assert_array_equal(gradients[2], 0)
        self.assertGreater(np.abs(gradients[1]).max(), 0)


if __name__ == "__main__":
    absltest.main()
