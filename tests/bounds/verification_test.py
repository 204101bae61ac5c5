"""Verified boxes and radii against closed forms, samples and attacks."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import attacks, bounds, models


@functools.cache
def _net(seed=0, sizes=(6, 16, 16, 3)):
    rng = np.random.default_rng(seed)
    weights = [
        (rng.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32)
        for a, b in itertools.pairwise(sizes)
    ]

    def fn(x):
        for weight in weights[:-1]:
            x = jax.nn.relu(x @ weight + 0.05)
        return x @ weights[-1]

    return fn


@functools.cache
def _inputs(fn):
    x = np.random.default_rng(1).uniform(size=(40, 6)).astype(np.float32)
    return x, np.asarray(jax.jit(jax.vmap(fn))(x)).argmax(axis=-1)


class MarginRowsTest(absltest.TestCase):
    def test_rows_are_differences_to_all_others(self):
        logits = np.array([3.0, 1.0, 7.0, 2.0])
        rows_of = functools.partial(bounds.margin_rows, num_classes=4)
        rows, mapped = jax.jit(lambda c: (rows_of(2), jax.vmap(rows_of)(c)))(
            np.arange(4)
        )
        np.testing.assert_allclose(np.sort(rows @ logits), [4.0, 5.0, 6.0])
        np.testing.assert_array_equal(mapped[2], rows)


class LargestEpsilonTest(parameterized.TestCase):
    def test_of_linear_classifiers_it_is_the_distance(self):
        """The linf distance to a hyperplane is the margin by the l1 norm."""
        weight = np.random.default_rng(0).normal(size=(5, 3))
        x = np.random.default_rng(1).uniform(0.3, 0.7, size=(50, 5))
        logits = x @ weight
        labels = logits.argmax(axis=-1)
        gaps = np.array([
            min((z[c] - z[j]) / np.abs(weight[:, c] - weight[:, j]).sum()
                for j in range(3) if j != c)
            for z, c in zip(logits, labels, strict=True)
        ])  # fmt: skip
        gaps = np.minimum(gaps, 0.2)
        matrix = jnp.asarray(weight)
        for method in ("crown-ibp", "alpha"):
            own = bounds.largest_epsilon(
                lambda z: z @ matrix.astype(z.dtype), x, labels, limit=0.2,
                num_halvings=16, valid_range=(-1.0, 2.0), method=method,
            )  # fmt: skip
            np.testing.assert_allclose(own.epsilon, gaps, atol=2e-5)
            self.assertTrue(np.all(own.epsilon <= gaps + 1e-7))
            self.assertTrue(np.all(own.margin > 0))

    @pytest.mark.slow
    def test_methods_are_ordered_and_below_the_attack(self):
        fn = _net()
        x, labels = _inputs(fn)
        found = [
            bounds.largest_epsilon(fn, x, labels, method=method).epsilon
            for method in ("ibp", "crown-ibp", "crown", "alpha")
        ]
        step = 0.5 / 2**10 + 1e-9
        for cheap, dear in itertools.pairwise(found):
            self.assertTrue(np.all(dear >= cheap - step))
        attack = attacks.smallest_epsilon(
            jax.random.key(0), jax.vmap(fn), x, labels=labels, num_restarts=3
        )
        self.assertTrue(np.all(found[-1] <= attack.epsilon))
        self.assertGreater(
            found[-1].mean(), 0.5 * np.minimum(attack.epsilon, 0.5).mean()
        )
        inside = np.isfinite(attack.epsilon)
        changed = jax.vmap(fn)(attack.x[inside]).argmax(axis=-1)
        self.assertTrue(np.all(np.asarray(changed) != labels[inside]))
        distance = np.abs(attack.x.astype(float) - x)[inside].max(axis=1)
        np.testing.assert_allclose(distance, attack.epsilon[inside], rtol=1e-12)

    def test_wrong_labels_get_nothing(self):
        fn = _net(3)
        x, labels = _inputs(fn)
        own = bounds.largest_epsilon(fn, x, (labels + 1) % 3)
        np.testing.assert_array_equal(own.epsilon, 0.0)
        self.assertTrue(np.all(np.isnan(own.margin)))

    @pytest.mark.slow
    def test_models_of_any_dtype(self):
        """float64 confirms what the model is without its casts."""
        module = models.create("mlp", num_classes=3, features=(8,), dtype="bfloat16")
        init = jax.jit(functools.partial(module.init, train=False))
        variables = init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
        x = np.random.default_rng(2).uniform(size=(5, 4, 4, 1)).astype(np.float32)
        labels, found = None, []
        for dtype in ("bfloat16", "float32"):
            apply_fn = models.classifier(module.clone(dtype=dtype), variables)
            if labels is None:
                labels = np.asarray(jax.jit(apply_fn)(x)).argmax(axis=-1)
            own = bounds.largest_epsilon(
                bounds.single(apply_fn), x, labels, method="crown-ibp"
            )
            found.append(own.epsilon)
        self.assertGreater(found[0].max(), 0.0)
        np.testing.assert_allclose(*found, atol=2e-3)


class VerifyTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_margins_hold_at_samples(self):
        fn = _net(3)
        x, labels = _inputs(fn)
        own = bounds.verify(fn, x - 0.03, x + 0.03, labels=labels)
        self.assertGreater(own.is_verified.sum(), 5)
        rng = np.random.default_rng(0)
        forward = jax.jit(jax.vmap(jax.vmap(fn)))
        for share in (rng.uniform(-1, 1, (200, *x.shape)),
                      rng.choice([-1.0, 1.0], (200, *x.shape))):  # fmt: skip
            inputs = (x[None] + 0.03 * share).astype(np.float32)
            logits = np.asarray(forward(inputs))
            label_logit = np.take_along_axis(logits, labels[None, :, None], axis=2)
            is_other = np.arange(3)[None, None] != labels[None, :, None]
            margin = np.where(is_other, label_logit - logits, np.inf).min(axis=(0, 2))
            self.assertTrue(np.all(own.margin <= margin + 1e-5))

    def test_float64_decides(self):
        """A margin of 1e-17 is too small to tell; float32 takes 1e-12 for zero."""

        def fn(gap, x):
            return jnp.stack([x[0] + gap, x[0]])

        for gap, expected in ((1e-17, False), (1e-12, True), (-1e-8, False)):
            with jax.enable_x64(True):
                own = bounds.verify(
                    jax.tree_util.Partial(fn, np.float64(gap)),
                    np.zeros((1, 1)), np.ones((1, 1)), labels=np.array([0]),
                )  # fmt: skip
                most = bounds.largest_epsilon(
                    jax.tree_util.Partial(fn, np.float64(gap)),
                    np.full((1, 1), 0.5), np.array([0]),
                )  # fmt: skip
            self.assertEqual(own.is_verified[0], expected)
            self.assertEqual(most.epsilon[0], 0.5 * expected)
            self.assertEqual(np.isnan(most.margin[0]), not expected)
            self.assertEqual(own.arithmetic, "float64")

    def test_what_is_not_finite_is_not_verified(self):
        def fn(x):
            return jnp.stack([x[0] + 5.0, 0 * jnp.log(x[0] - 0.5)])

        own = bounds.verify(
            fn, np.array([[0.2], [0.7]]), np.full((2, 1), 0.9), labels=np.array([0, 0])
        )
        np.testing.assert_array_equal(own.is_verified, [False, True])

    def test_refusals(self):
        fn = _net()
        x, labels = _inputs(fn)
        for change, text in (
            ({"labels": labels[:2]}, "labels"),
            ({"labels": labels + 3}, "labels"),
            ({"method": "magic"}, "magic"),
            ({"upper": x - 1}, "lower <= upper"),
            ({"upper": x * np.nan}, "NaN"),
            ({"upper": x[:, :2]}, "lower and upper alike, got"),
        ):
            arguments = {"lower": x, "upper": x, "labels": labels} | change
            with self.assertRaisesRegex(ValueError, text):
                bounds.verify(fn, arguments.pop("lower"), arguments.pop("upper"),
                              **arguments)  # fmt: skip
        with self.assertRaisesRegex(ValueError, "255"):
            bounds.largest_epsilon(fn, 255 * x, labels)
        with self.assertRaisesRegex(ValueError, "logits"):
            bounds.verify(lambda z: z.sum(), x, x, labels=labels)


class CastsTest(absltest.TestCase):
    def test_ignored_casts_give_the_wide_function(self):
        def narrow(x):
            y = jnp.dot(x.astype(jnp.bfloat16), jnp.ones((3, 2), jnp.bfloat16),
                        preferred_element_type=jnp.float32)  # fmt: skip
            return jax.nn.elu(y.astype(jnp.bfloat16), 2.0).astype(jnp.float32)

        def wide(x):
            return jax.nn.elu(x @ jnp.ones((3, 2)), 2.0)

        box = jnp.array([-0.3, 0.1, -0.2]), jnp.array([0.3, 0.2, 0.1])
        own, same = jax.jit(lambda *box: (
            bounds.linear_bounds(narrow, *box, casts="ignore"),
            bounds.linear_bounds(wide, *box),
        ))(*box)  # fmt: skip
        np.testing.assert_allclose(own.lower, same.lower, rtol=1e-5)
        np.testing.assert_allclose(own.upper, same.upper, rtol=1e-5)

    def test_roundings_of_narrow_floats_are_covered(self):
        """A box so small that they decide; without them values would be outside."""
        weights = jax.random.normal(jax.random.key(0), (2, 3, 16)).astype(jnp.bfloat16)

        def narrow(x):
            hidden = jnp.tanh(x.astype(jnp.bfloat16) @ weights[0])
            counts = jnp.sum(hidden > 0).astype(jnp.bfloat16) + 300
            return (hidden @ weights[1].T).astype(jnp.float32) + counts

        lower = np.float32([0.3, 0.1, -0.2])
        upper = lower + np.float32(1e-4)
        share = np.random.default_rng(0).uniform(size=(500, 3)).astype(np.float32)
        points = np.clip(lower + share * (upper - lower), lower, upper)

        @jax.jit
        def evaluate(low, high):
            found = [
                bounds.linear_bounds(narrow, low, high, method="crown", casts=casts)
                for casts in ("cover", "ignore")
            ]
            return found, jax.vmap(narrow)(points)

        (own, wide), values = jax.device_get(evaluate(lower, upper))
        self.assertTrue(np.all(own.lower <= values) and np.all(values <= own.upper))
        self.assertFalse(np.all(wide.lower <= values) and np.all(values <= wide.upper))
        self.assertLess(np.max(own.upper - own.lower), 5)

    def test_what_is_too_large_for_narrow_floats_is_not_known(self):
        def fn(x):
            return (x.astype(jnp.float16) * 60000).astype(jnp.float32)

        found = bounds.interval_bounds(fn, jnp.float32([0.5, 1.0]), jnp.float32([1, 2]))
        self.assertEqual(found.upper.tolist()[1], np.inf)
        self.assertBetween(found.upper.tolist()[0], 60000, 60100)

    def test_rounding_to_fewer_bits_is_a_cast(self):
        def rounded(x):
            return 2 * jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=1)

        box = jnp.float32([-0.3, 0.1]), jnp.float32([0.3, 0.2])
        own = jax.jit(lambda *box: bounds.linear_bounds(
            rounded, *box, method="ibp", casts="ignore"
        ))(*box)  # fmt: skip
        np.testing.assert_allclose(own, 2 * np.array(box), rtol=1e-6)
        covered = jax.device_get(bounds.interval_bounds(rounded, *box))
        np.testing.assert_array_less(covered.lower, 2 * box[0] - 0.04)
        x = np.linspace(box[0], box[1], 300)
        values = jax.device_get(jax.jit(rounded)(x))
        self.assertTrue(np.all(covered.lower <= values))
        self.assertTrue(np.all(values <= covered.upper))


if __name__ == "__main__":
    absltest.main()
