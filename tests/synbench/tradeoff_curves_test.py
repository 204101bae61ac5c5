"""Areas, scores and the finite-sample ceiling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import integrate, stats

from robustjax import synbench
from robustjax.synbench import tradeoff_curves

_SCALES = np.array(synbench.SCALES)
_score = jax.jit(synbench.score_of_curves, static_argnames="mode")


@functools.partial(jax.jit, static_argnames="mode")
def _kept(share, thresholds, *, mode="exact"):
    """The score of a representation that keeps a share of the signal."""
    curve = synbench.reference_curve(share * jnp.asarray(_SCALES, share.dtype))
    return synbench.score_of_curves(*curve, thresholds=thresholds, mode=mode)


_score_and_slope = jax.jit(
    jax.vmap(jax.value_and_grad(lambda share: _kept(share, [0.7])[0]))
)


@functools.cache
def _curves():
    return synbench.reference_curve(_SCALES)


class AreaTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_noted_raw_areas(self):
        areas = synbench.curve_area(*_curves(), thresholds=[0.6, 0.9, 0.95, 0.99])
        expected = [0.345175566492, 0.065763568147, 0.029589411869, 0.004667163989]
        np.testing.assert_allclose(areas, expected, rtol=1e-10)

    def test_noted_grid_sums(self):
        sums = synbench.curve_area(
            *_curves(),
            thresholds=[0.6, 0.7, 0.9, 0.99],
            mode="grid",
        )
        expected = [85.830414091907, 59.621057882178, 15.913199934353, 0.980401400634]
        np.testing.assert_allclose(sums, expected, rtol=1e-12)

    def test_grid_points_of_every_threshold(self):
        constant = np.ones((1,)), np.ones((1,))  # counts all points but the last
        counts = synbench.curve_area(*constant, mode="grid")
        noted = np.array([100, 87, 75, 62, 50, 38, 25, 13, 3])
        np.testing.assert_array_equal(counts, noted - 1)

    def test_area_is_the_integral_of_the_curve(self):
        rng = np.random.default_rng(0)
        accuracy, bound = rng.uniform(0.5, 1, 6), rng.uniform(1, 3, 6)
        for threshold in (0.6, 0.8):
            found = synbench.curve_area(accuracy, bound, thresholds=[threshold])
            points = np.sort(accuracy[accuracy > threshold])
            expected = integrate.quad(
                lambda t: synbench.bound_curve(accuracy, bound, thresholds=[t])[0],
                threshold,
                1,
                points=points,
                limit=200,
            )
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-9)

    def test_nan_bounds_below_the_threshold_do_not_count(self):
        area = synbench.curve_area([0.0, 0.9], [np.nan, 1.0], thresholds=[0.6])
        np.testing.assert_allclose(area, [0.15])

    def test_refuses_an_unknown_mode(self):
        with self.assertRaisesRegex(ValueError, "mode"):
            synbench.curve_area([0.7], [1.0], mode="sum")


class ThresholdTest(parameterized.TestCase):
    @parameterized.parameters(0.3, 0.5)
    def test_what_a_constant_reaches_is_no_threshold(self, low):
        scales = np.ones(1, np.float32)
        for call in (
            lambda t, s: synbench.score_of_curves(
                0.8 * s, 1.2 * s, scales=s, thresholds=t
            ),
            lambda t, s: synbench.finite_sample_ceiling(8, 64, scales=s, thresholds=t),
        ):
            for wrong, text in (
                ([low], "thresholds above 0.5, "),
                ((0.7, low), "thresholds above 0.5, "),
                (jnp.array([low]), "thresholds above 0.5, "),
                ([], "one or more"),
            ):
                with self.assertRaisesRegex(ValueError, text):
                    jax.eval_shape(functools.partial(call, wrong), scales)
            just_above = jax.jit(functools.partial(call, np.array([0.51])))
            self.assertGreater(just_above(scales).item(), 0)

    def test_of_unequal_classes(self):
        for prior in (0.07, 0.15, 0.3, 0.35, 0.6, 0.9):
            floor = round(max(prior, 1 - prior), 2)
            tradeoff_curves.check_thresholds((floor + 1e-6,), prior=prior)
            with self.assertRaisesRegex(ValueError, f"above {floor}, "):
                tradeoff_curves.check_thresholds((0.99, floor), prior=prior)


class ScoreTest(parameterized.TestCase):
    def test_noted_scores_of_a_kept_share(self):
        thresholds = np.array([0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
        for share, expected in (
            (1.0, [1, 1, 1, 1, 1, 1]),
            (0.9, [0.980649, 0.971020, 0.959200, 0.940516, 0.921214, 0.870310]),
            (0.5, [0.829891, 0.742475, 0.637748, 0.476055, 0.320511, 0.023262]),
            (0.25, [0.553149, 0.338938, 0.132611, 0, 0, 0]),
        ):
            curve = synbench.reference_curve(share * _SCALES)
            found = synbench.score_of_curves(*curve, thresholds=thresholds)
            np.testing.assert_allclose(found, expected, atol=6e-7)
            singles = (np.float32(v) for v in curve)
            single = _score(*singles, thresholds=np.float32(thresholds))
            np.testing.assert_allclose(single, found, atol=5e-5)

    def test_grid_tends_to_exact(self):
        thresholds = np.array([0.6, 0.9])
        with jax.enable_x64(True):
            exact = np.asarray(_kept(np.float64(0.9), thresholds))
            grid = np.asarray(_kept(np.float64(0.9), thresholds, mode="grid"))
        np.testing.assert_array_less(abs(grid - exact), 0.008)
        self.assertGreater(abs(grid - exact).max(), 1e-6)

    def test_grows_with_the_share_and_has_a_derivative(self):
        values, slopes = _score_and_slope(np.linspace(0.2, 1, 9, dtype=np.float32))
        self.assertTrue(np.all(np.diff(values) > 0))
        self.assertTrue(np.all(np.isfinite(slopes) & (np.asarray(slopes) > 0)))


@functools.partial(jax.jit, static_argnames="scales")
def _ceilings(num_features, num_train, thresholds, *, scales=synbench.SCALES, kept=1.0):
    return synbench.finite_sample_ceiling(
        num_features, num_train, scales=scales, thresholds=thresholds, kept_signal=kept
    )


class CeilingTest(parameterized.TestCase):
    def test_noted_table(self):
        thresholds = np.array([0.6, 0.7, 0.8, 0.9, 0.95])
        for num_features, expected in (
            (192, [0.950, 0.957, 0.958, 0.955, 0.948]),
            (384, [0.912, 0.919, 0.918, 0.908, 0.893]),
            (768, [0.850, 0.849, 0.836, 0.804, 0.766]),
            (1024, [0.810, 0.798, 0.772, 0.718, 0.656]),
            (1536, [0.702, 0.648, 0.566, 0.424, 0.282]),
        ):
            found = synbench.finite_sample_ceiling(
                num_features, 2048, thresholds=thresholds
            )
            np.testing.assert_allclose(found, expected, atol=5.1e-4)

    def test_no_ceiling_without_enough_samples(self):
        with jax.enable_x64(True):
            none, little, fewer, much = (
                float(_ceilings(p, n, np.array([0.6]))[0])
                for p, n in ((2046, 2048), (7, 10), (8, 10), (2, 10**7))
            )
        self.assertEqual((none, fewer), (0, 0))
        self.assertGreater(little, 0)
        self.assertGreater(much, 0.9999)

    def test_of_a_share_of_the_signal(self):
        with jax.enable_x64(True):
            found = [
                _ceilings(p, 2048, np.array([0.7]), kept=0.9)[0] for p in (0, 16, 64)
            ]
        np.testing.assert_allclose(found, [0.971, 0.966, 0.954], atol=5.1e-4)

    def test_is_what_an_estimated_rule_reaches(self):
        """Training redrawn, test noise integrated out: p = 64, n = 512."""
        p, n, rng = 64, 512, np.random.default_rng(0)
        scales = np.arange(0.4, 4.9, 0.4)
        accuracy, bound = np.zeros((2, 40, len(scales)))
        for repeat in range(40):
            for i, s in enumerate(scales):
                mean = np.zeros(p)
                mean[0] = s
                noise = rng.normal(size=(n, p))
                half = noise[: n // 2].mean(0) - noise[n // 2 :].mean(0)
                own_mean = mean + half / 2
                noise[: n // 2] -= noise[: n // 2].mean(0)
                noise[n // 2 :] -= noise[n // 2 :].mean(0)
                weight = np.linalg.solve(noise.T @ noise / (n - 2), own_mean)
                r = weight @ mean / np.linalg.norm(weight)
                accuracy[repeat, i] = stats.norm.cdf(r)
                margin = r + stats.norm.pdf(r) / stats.norm.cdf(r)
                bound[repeat, i] = (
                    margin * np.linalg.norm(weight) / abs(weight @ own_mean)
                )
        thresholds = np.array([0.7, 0.9])
        with jax.enable_x64(True):
            scores = np.asarray(
                _score(accuracy, bound, scales=scales, thresholds=thresholds)
            )
            ceiling = np.asarray(_ceilings(p, n, thresholds, scales=tuple(scales)))
        error = scores.std(axis=0) / np.sqrt(len(scores))
        np.testing.assert_array_less(
            abs(scores.mean(axis=0) - ceiling), 3 * error + 0.003
        )
        self.assertLess(ceiling.max(), 0.95)


class ConstantsTest(absltest.TestCase):
    def test_scales_are_those_of_the_script(self):
        np.testing.assert_allclose(synbench.SCALES, np.arange(0.1, 5.0, 0.1))
        np.testing.assert_array_equal(tradeoff_curves.GRID, np.linspace(0.6, 1, 100))


if __name__ == "__main__":
    absltest.main()
