"""The complete protocols: validity, tightness, abstention and refusals."""

import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from flax import nnx
from scipy import stats

from robustjax import smoothing
from robustjax.smoothing import certification
from robustjax.smoothing.sampling import vote_counts
from robustjax.smoothing.settings import Settings

_KEY = jax.random.key(2)


def _half_space(x: jax.Array) -> jax.Array:
    """Class 0 where the mean of the pixels, scaled, is above 1/2."""
    score = jnp.mean(x.reshape(len(x), -1), axis=-1) - 0.5
    return jnp.stack([score, -score], axis=-1)


def _half_space_inputs(radii: np.ndarray, dim: int) -> np.ndarray:
    """Inputs whose exact smoothed l2 radius is given: their distance to the plane."""
    return np.full((len(radii), dim), 0.5) + radii[:, None] / math.sqrt(dim)


def _three_way(x: jax.Array) -> jax.Array:
    """Three classes by thirds of the first pixel: none may have a majority."""
    first = x[:, 0]
    return jnp.stack([0.5 - first, 0.06 - jnp.abs(first - 0.56), first - 0.62], axis=-1)


class LinearClassifierTest(parameterized.TestCase):
    """Where the smoothed radius is known exactly: the distance to the plane."""

    def _certify_at(self, exact, **options):
        """Certificates of points of this l2 radius, and the radius after rounding."""
        inputs = _half_space_inputs(exact, 4).astype(np.float32)
        exact = (inputs.astype(np.float64).mean(axis=1) - 0.5) * 2
        c = smoothing.certify(
            _KEY, _half_space, inputs, sigma=0.25, num_classes=2, **options
        )
        np.testing.assert_array_equal(c.prediction, 0)
        return c.radius["l2"], exact

    def test_radii_are_tight(self):
        exact = np.linspace(0.8, 2.5, 4) * 0.25
        radius, exact = self._certify_at(exact, alpha=1e-3, num_estimation=100_000)
        self.assertTrue(np.all(radius <= exact))  # else less than 1 time in 100
        self.assertLess(np.max(1 - radius / exact), 0.03)

    def test_radii_are_valid(self):
        """1,000 certificates at alpha = 0.05, so that half of alpha would show."""
        num, alpha = 1000, 0.05
        exact = np.random.default_rng(0).uniform(0.8, 2.0, num) * 0.25
        radius, exact = self._certify_at(exact, alpha=alpha, num_estimation=512)
        violations = int(np.sum(radius > exact))
        self.assertLessEqual(violations, stats.binom.ppf(0.9999, num, alpha))
        self.assertGreater(violations, alpha * num / 4)  # and the bound is used

    def test_norms_follow_from_the_l2_radius(self):
        inputs = _half_space_inputs(np.array([0.3, 0.5, 0.6]), 16)
        norms = ("l2", "l1", "linf", "l4", "subspace")
        radius = smoothing.certify(
            _KEY,
            _half_space,
            inputs,
            sigma=0.25,
            num_classes=2,
            num_estimation=1000,
            norms=norms,
        ).radius
        self.assertEqual(tuple(radius), norms)
        for norm, divisor in (("l1", 1), ("linf", 4), ("l4", 2)):
            np.testing.assert_allclose(radius[norm], radius["l2"] / divisor, rtol=1e-15)

    @pytest.mark.newest
    def test_certificate_carries_its_evidence(self):
        inputs = _half_space_inputs(np.array([0.3, 0.01, -0.3]), 16)
        c = smoothing.certify(
            _KEY,
            _half_space,
            inputs,
            sigma=0.25,
            num_classes=2,
            num_estimation=2000,
            alpha=0.01,
        )
        np.testing.assert_array_equal(c.prediction, [0, -1, 1])
        for i, label in ((0, 0), (2, 1)):
            self.assertEqual(c.count[i], c.counts[i, label])
            self.assertEqual(c.runner_up_count[i], c.counts[i, 1 - label])
        lower = smoothing.clopper_pearson_lower(c.count, 2000, alpha=0.01)
        np.testing.assert_array_equal(c.p_lower, lower)
        np.testing.assert_array_equal(
            c.radius["l2"],
            np.where(
                c.prediction < 0, 0, 0.25 * stats.norm.ppf(np.maximum(lower, 0.5))
            ),
        )
        np.testing.assert_array_equal(c.num_invalid, 0)
        np.testing.assert_array_equal(c.num_samples, 2000)
        evidence = (c.alpha, c.sigma, c.num_selection, c.simultaneous, c.bound, c.order)
        self.assertEqual(evidence, (0.01, 0.25, 100, True, "clopper_pearson", 0))
        self.assertEmpty(c.gradient)
        np.testing.assert_array_equal(c.zeroth_radius["l2"], c.radius["l2"])

    def test_examples_are_certified_alike_in_any_batch(self):
        inputs = _half_space_inputs(np.array([0.1, 0.3, 0.6]), 16)
        kwargs = dict(sigma=0.25, num_classes=2, num_estimation=1000)
        together = smoothing.certify(_KEY, _half_space, inputs, **kwargs)
        for i in range(3):
            alone = smoothing.certify(
                _KEY, _half_space, inputs[i : i + 1], example_ids=[i], **kwargs
            )
            self.assertEqual(alone.count[0], together.count[i])


class SelectionTest(parameterized.TestCase):
    def test_few_misses_take_one_off_the_votes(self):
        request = Settings(
            sigma=0.25,
            shape=(4,),
            num_classes=2,
            num_selection=100,
            order=1,
            num_estimation=1000,
            alpha=0.001,
            norms=("l2",),
        )
        counts = np.array([[97, 3, 0], [95, 5, 0], [0, 100, 0], [10, 10, 80]])
        selected, baseline = certification.select(counts, request)
        np.testing.assert_array_equal(selected, [0, 0, 1, 2])
        np.testing.assert_array_equal(baseline, [1.0, 0.5, 1.0, 0.5])


class NoiseTest(parameterized.TestCase):
    def test_selection_estimation_and_prediction_share_no_noise(self):
        """No sample of one stage is one of another, for one key and example."""
        seen = []

        def record(noisy):
            seen[-1].append(noisy)

        def apply_fn(x):
            jax.debug.callback(record, x)
            return jnp.stack([x[:, 0], -x[:, 0]], axis=-1)

        original = vote_counts.class_counts

        def class_counts(*args, **kwargs):
            seen.append([])
            counts = original(*args, **kwargs)
            jax.effects_barrier()
            return counts

        kwargs = dict(sigma=0.5, num_classes=2)
        x = np.full((1, 8), 0.5)
        for n0, n in ((1, 10), (100, 300), (300, 100), (128, 128)):
            seen.clear()
            with mock.patch.object(vote_counts, "class_counts", class_counts):
                smoothing.certify(
                    _KEY, apply_fn, x, num_selection=n0, num_estimation=n, **kwargs
                )
                smoothing.predict(_KEY, apply_fn, x, num_samples=n + 1, **kwargs)
            self.assertLen(seen, 3)
            stages = [np.concatenate(stage) for stage in seen]
            for i, j in ((0, 1), (0, 2), (1, 2)):
                apart = np.abs(stages[i][:, None] - stages[j][None]).max(axis=-1)
                self.assertGreater(apart.min(), 0.01)

    def test_float32_sigma_never_enlarges_a_radius(self):
        inputs = _half_space_inputs(np.array([0.3]), 16)
        kwargs = dict(num_classes=2, num_estimation=1000)
        for sigma in (0.12, 0.7, 0.9, np.float32(0.7), jnp.asarray(0.1, "float32")):
            c = smoothing.certify(_KEY, _half_space, inputs, sigma=sigma, **kwargs)
            self.assertEqual(c.radius["l2"].dtype, np.float64)
            self.assertLessEqual(c.sigma, min(float(sigma), float(np.float32(sigma))))
            self.assertAlmostEqual(c.sigma, float(sigma), delta=1e-7)

    def test_a_classifier_with_state_is_read_again(self):
        model = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
        kwargs = dict(sigma=0.1, num_classes=2, num_estimation=100)
        x = np.full((1, 4), 0.5)
        before = smoothing.certify(_KEY, model, x, **kwargs).prediction[0]
        model.kernel[...] = -model.kernel[...]
        after = smoothing.certify(_KEY, model, x, **kwargs).prediction[0]
        self.assertEqual({int(before), int(after)}, {0, 1})


class CoverageTest(parameterized.TestCase):
    def test_bound_of_the_complete_protocol_covers(self):
        """2,000 classifiers of known p, each certified with its own noise."""
        num, alpha, p = 2000, 0.05, 0.8
        threshold = stats.norm.ppf(p)

        def apply_fn(x):  # x = 1/2 and sigma = 1: class 0 with probability p
            score = threshold - (x[:, 0] - 0.5)
            return jnp.stack([score, -score], axis=-1)

        c = smoothing.certify(
            _KEY,
            apply_fn,
            np.full((num, 1), 0.5),
            sigma=1.0,
            num_classes=2,
            num_selection=10,
            num_estimation=500,
            alpha=alpha,
        )
        truth = np.where(c.selected == 0, p, 1 - p)
        violations = np.mean(c.p_lower > truth)
        slack = 3 * math.sqrt(alpha * (1 - alpha) / num)
        self.assertLessEqual(violations, alpha + slack)
        self.assertGreater(violations, alpha / 3)  # not vacuous: the bound is tight

    def test_bonferroni_certifies_without_a_majority(self):
        kwargs = dict(sigma=0.25, num_classes=3, num_estimation=20_000)
        x = np.array([[0.43]])
        complement = smoothing.certify(_KEY, _three_way, x, **kwargs)
        bonferroni = smoothing.certify(
            _KEY, _three_way, x, runner_up="bonferroni", **kwargs
        )
        self.assertLess(bonferroni.p_lower[0], 0.65)
        self.assertGreaterEqual(
            bonferroni.radius["l2"][0], 0.9 * complement.radius["l2"][0]
        )
        x = np.array([[0.5]])  # class 0: 1/2, so never a certified majority
        self.assertEqual(
            smoothing.certify(_KEY, _three_way, x, **kwargs).prediction, -1
        )
        bonferroni = smoothing.certify(
            _KEY, _three_way, x, runner_up="bonferroni", **kwargs
        )
        self.assertEqual(bonferroni.prediction, 0)
        # the largest move that keeps class 0 first: to where it equals class 2
        r = np.linspace(0, 1, 100_001)
        is_tie = stats.norm.cdf(-r / 0.25) <= stats.norm.sf((0.12 - r) / 0.25)
        exact = r[is_tie.argmax()]
        self.assertBetween(bonferroni.radius["l2"][0], 1e-3, exact)

    def test_invalid_samples_compete(self):
        def apply_fn(x):
            score = jnp.where(x[:, 0] > 0.5, jnp.nan, x[:, 0])
            return jnp.stack([score, -10 + 0 * score], axis=-1)

        kwargs = dict(sigma=0.25, num_classes=2, num_estimation=500)
        c = smoothing.certify(_KEY, apply_fn, np.array([[0.9], [0.1]]), **kwargs)
        self.assertEqual(c.selected[0], 2)  # the extra class
        np.testing.assert_array_equal(c.prediction, [-1, 0])
        self.assertEqual(c.radius["l2"][0], 0.0)
        self.assertTrue(np.all(c.num_invalid > 0))
        label = smoothing.predict(
            _KEY, apply_fn, np.array([[0.9], [0.1]]), sigma=0.25, num_classes=2
        )
        np.testing.assert_array_equal(label, [-1, 0])

    def test_invalid_samples_are_the_strongest_competitor(self):
        """Probabilities .45, .15 and, invalid, .40: nobody may ignore the latter."""
        first, second = stats.norm.ppf([0.45, 0.60])

        def apply_fn(x):  # x = 1/2 and sigma = 1
            z = x[:, 0] - 0.5
            scores = jnp.stack([first - z, z - first], axis=-1)
            return jnp.where((z > second)[:, None], jnp.nan, scores)

        x, kwargs = np.array([[0.5]]), dict(sigma=1.0, num_classes=2)
        c = smoothing.certify(
            _KEY, apply_fn, x, num_estimation=20_000, runner_up="bonferroni", **kwargs
        )
        self.assertEqual(c.selected[0], 0)
        self.assertEqual(c.runner_up_count[0], c.num_invalid[0])
        self.assertGreater(c.p_upper[0], 0.40)
        self.assertEqual(
            smoothing.predict(_KEY, apply_fn, x, num_samples=100, **kwargs), -1
        )


class PredictTest(parameterized.TestCase):
    def test_errs_at_most_alpha_and_abstains_on_the_boundary(self):
        num, alpha = 2000, 0.05
        kwargs = dict(sigma=1.0, num_classes=2, num_samples=100, alpha=alpha)
        barely = np.full((num, 4), 0.5 + 0.02)  # p = .516 for class 0
        labels = smoothing.predict(_KEY, _half_space, barely, **kwargs)
        errors = np.mean(labels == 1)
        self.assertLessEqual(errors, alpha + 3 * math.sqrt(alpha / num))
        self.assertGreater(np.mean(labels == -1), 0.8)
        clear = smoothing.predict(_KEY, _half_space, np.ones((3, 4)), **kwargs)
        np.testing.assert_array_equal(clear, 0)
        self.assertEqual(clear.dtype, np.int32)


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(num_estimation=9), "num_estimation >= 10"),
        (dict(num_selection=0), "num_selection"),
        (
            dict(num_selection=2**31),
            r"num_estimation < 2\*\*31, got 2147483648 and 100",
        ),
        (dict(alpha=0.0), "alpha"),
        (dict(alpha=1.0), "alpha"),
        (dict(alpha=float("nan")), "alpha"),
        (dict(sigma=float("nan")), "sigma"),
        (dict(order=2), "order 0 or 1, got 2"),
        (dict(order=-1), "order"),
        (dict(order=1), "num_estimation >= 129"),
        (dict(votes="weak"), "votes"),
        (dict(form="sphere"), "form"),
        (dict(method="loose"), "method"),
        (dict(norms=()), "norm"),
        (dict(norms=("l2", "l2")), "distinct"),
        (dict(sigma=1e-50), "float32"),
        (dict(sigma=1e39), "float32"),
        (dict(sigma=np.array([0.5])), "sigma as one number"),
        (dict(norms=("l2", "l0")), "l0"),
        (dict(runner_up="best"), "runner_up"),
        (dict(num_classes=1), "num_classes"),
        (dict(num_classes=3), "apply_fn"),
    )
    def test_certify_refuses(self, arguments, text):
        kwargs = dict(sigma=0.5, num_classes=2, num_estimation=100) | arguments
        with self.assertRaisesRegex(ValueError, text):
            smoothing.certify(_KEY, _half_space, np.ones((1, 4)), **kwargs)

    def test_predict_names_the_smallest_number(self):
        with self.assertRaisesRegex(ValueError, "num_samples >= 11"):
            smoothing.predict(
                _KEY,
                _half_space,
                np.ones((1, 4)),
                sigma=1,
                num_classes=2,
                num_samples=10,
            )


if __name__ == "__main__":
    absltest.main()
