"""Adaptive certification: valid at the size it stops at, and it saves samples."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import smoothing

_KEY = jax.random.key(8)


def _half_space(x: jax.Array) -> jax.Array:
    score = jnp.mean(x.reshape(len(x), -1), axis=-1) - 0.5
    return jnp.stack([score, -score], axis=-1)


def _inputs(distances, dim=4) -> np.ndarray:
    """Inputs at these l2 distances from the plane."""
    moves = np.asarray(distances)[:, None] / math.sqrt(dim) * np.ones((1, dim))
    return (0.5 + moves).astype("f4")


def _certify(x, *, apply_fn=_half_space, **options):
    options = dict(sigma=0.25, num_classes=2, max_samples=20_000) | options
    return smoothing.certify_adaptively(_KEY, apply_fn, x, **options)


class OrderZeroTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_stops_early_where_it_can(self):
        x = _inputs([0.05, 0.2, 0.31, 0.6])
        c = _certify(x, target_radius=0.3)
        self.assertEqual(c.bound, "sequence")
        self.assertLess(c.num_samples[0], 2000)  # hopeless
        self.assertLess(c.num_samples[3], 2000)  # easy
        self.assertEqual(c.num_samples[2], 20_000)  # undecided to the end
        self.assertGreaterEqual(c.radius["l2"][3], 0.3)
        self.assertTrue(np.all(c.radius["l2"] <= [0.05, 0.2, 0.31, 0.6]))
        lower = smoothing.binomial_sequence_lower(c.count, c.num_samples, alpha=1e-3)
        np.testing.assert_array_equal(c.p_lower, lower)
        np.testing.assert_array_equal(c.counts.sum(axis=-1), c.num_samples)

    def test_counts_are_a_prefix_of_those_of_a_fixed_run(self):
        x = _inputs([0.2, 0.5, 0.25])
        c = _certify(x, target_radius=0.2, example_ids=[5, 3, 9])
        for i, (own, idx) in enumerate(zip(c.num_samples, [5, 3, 9], strict=True)):
            fixed = smoothing.certify(
                _KEY,
                _half_space,
                x[i : i + 1],
                sigma=0.25,
                num_classes=2,
                num_estimation=int(own),
                example_ids=[idx],
            )
            np.testing.assert_array_equal(fixed.counts[0], c.counts[i])

    @pytest.mark.slow
    def test_bound_covers_at_the_size_it_stops_at(self):
        """That a bound for a fixed size would fail is shown in sequences_test."""
        num, alpha, p = 1500, 0.1, 0.85
        threshold = stats.norm.ppf(p)

        def apply_fn(x):  # x = 1/2 and sigma = 1: class 0 with probability p
            score = threshold - (x[:, 0] - 0.5)
            return jnp.stack([score, -score], axis=-1)

        # a target just above the true radius: reached by luck alone
        c = smoothing.certify_adaptively(
            _KEY,
            apply_fn,
            np.full((num, 1), 0.5),
            sigma=1.0,
            num_classes=2,
            alpha=alpha,
            num_selection=10,
            target_radius=threshold + 1e-3,
            max_samples=4000,
        )
        is_right = c.selected == 0
        wrong = np.mean((c.p_lower > p)[is_right])
        self.assertLessEqual(wrong, alpha + 3 * math.sqrt(alpha / num))

    def test_no_examples(self):
        c = _certify(np.zeros((0, 4), np.float32), target_radius=0.1)
        self.assertEqual(c.radius["l2"].shape, (0,))


class OrderOneTest(parameterized.TestCase):
    def test_stages_carry_their_own_level(self):
        x = _inputs([0.02, 0.3, 0.6], dim=36)
        c = _certify(x, order=1, norms="l1", target_radius=0.32)
        np.testing.assert_array_equal(c.num_samples, [20_000, 8192, 2048])
        np.testing.assert_array_equal(c.stage, [3, 2, 1])
        for i in range(3):
            level = float(smoothing.stage_alpha(c.stage[i], alpha=1e-3)) / 2
            lower = smoothing.clopper_pearson_lower(
                c.count[i], c.num_samples[i], alpha=level
            )
            self.assertEqual(c.p_lower[i], lower)
            self.assertLessEqual(c.radius["l1"][i], 6 * [0.02, 0.3, 0.6][i])
        self.assertTrue(np.all(c.radius["l1"] >= c.zeroth_radius["l1"]))
        self.assertGreater(c.radius["l1"][1], c.zeroth_radius["l1"][1] + 0.03)
        self.assertLess(c.zeroth_radius["l1"][1], 0.32)

    @pytest.mark.slow
    def test_all_bounds_cover_at_the_stage_it_stops_at(self):
        num, alpha, p, dim = 600, 0.1, 0.85, 4
        threshold = stats.norm.ppf(p)

        def apply_fn(x):  # x = 1/2 and sigma = 1: class 0 with probability p
            score = threshold - jnp.sum(x - 0.5, axis=-1) / math.sqrt(dim)
            return jnp.stack([score, -score], axis=-1)

        length = stats.norm.pdf(threshold)
        exposed = length / math.sqrt(dim)
        possible = smoothing.norm_radius(p, exposed, length, norm="l1", dim=dim)
        # a target just above what the true values give: reached by luck alone
        c = smoothing.certify_adaptively(
            _KEY,
            apply_fn,
            np.full((num, dim), 0.5),
            sigma=1.0,
            num_classes=2,
            alpha=alpha,
            num_selection=50,
            target_radius=float(possible) + 1e-3,
            max_samples=10_000,
            order=1,
            norms=("l1",),
        )
        self.assertTrue(np.all(c.selected == 0))
        evidence = c.gradient["l1"]
        for wrong in (
            c.p_lower > p,
            evidence.dual_upper < exposed,
            evidence.length_lower > length,
        ):
            self.assertLessEqual(np.mean(wrong), alpha / 2 + 3 * math.sqrt(alpha / num))
        by_count = smoothing.clopper_pearson_lower(c.count, c.num_samples, alpha=0.3)
        self.assertGreater(np.mean(by_count > p), alpha)  # a test that can fail
        self.assertTrue(np.all(c.radius["l1"] > c.zeroth_radius["l1"]))

    def test_counts_are_a_prefix_of_those_of_a_fixed_run(self):
        x = _inputs([0.02, 0.4], dim=36)
        c = _certify(x, order=1, target_radius=0.2, max_samples=5000)
        fixed = smoothing.certify(
            _KEY, _half_space, x, sigma=0.25, num_classes=2, num_estimation=5000
        )
        np.testing.assert_array_equal(c.counts[0], fixed.counts[0])
        self.assertEqual(c.num_samples[1], 2048)

    @parameterized.parameters(2049, 2100, 8200)
    def test_a_last_stage_that_is_too_short_for_two_halves_is_joined(self, size):
        c = _certify(
            _inputs([0.1], dim=36), order=1, target_radius=2.0, max_samples=size
        )
        self.assertEqual(c.num_samples, size)


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(target_radius=-1.0), "target_radius"),
        (dict(target_radius=float("nan")), "target_radius"),
        (dict(target_radius=0.1, max_samples=128), "max_samples >= 129"),
        (dict(target_radius=0.1, order=3), "order"),
        (dict(target_radius=0.1, norms=()), "norm"),
    )
    def test_refuses(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            _certify(_inputs([0.3]), **arguments)


if __name__ == "__main__":
    absltest.main()
