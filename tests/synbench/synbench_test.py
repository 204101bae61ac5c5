"""The score: the noted fixture, ceilings, errors that cover, streams, bad input."""

import dataclasses
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.tree_util import Partial
from scipy import stats

from robustjax import synbench
from robustjax.synbench import estimated_rules, score, uncertainty
from robustjax.synbench.task import Task

_KEY = jax.random.key(0)
_FEW = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
_terms = jax.jit(estimated_rules.test_terms)


def _flat(x):
    return x.reshape(len(x), -1)


def _affine(matrix, shift=0.0):
    matrix = np.asarray(matrix, np.float32)
    return lambda x: x @ matrix + np.float32(shift)


def _score(feature_fn=_flat, shape=(8,), **options):
    options = {"scales": _FEW, "num_train": 512, "num_test": 512} | options
    with jax.enable_x64(False):  # with which other labels would be drawn
        return synbench.synbench(_KEY, feature_fn, shape, **options)


_on_host = functools.partial(_score, is_on_host=True)  # compiles less for each map


@functools.cache
def _plain():
    """The score of the inputs themselves; for all to read."""
    traces = []

    def feature_fn(x):
        traces.append(x.shape)
        return x

    found = _score(feature_fn)
    assert traces == [(256, 8)], "there is one compilation for all scales"
    return found


@functools.cache
def _at_two_radii():
    return _on_host(relative_epsilons=(0.0, 0.5))


class FixtureTest(parameterized.TestCase):
    """Features without random numbers, of the note."""

    @staticmethod
    def _data(start):
        i, j = np.arange(1, 65)[:, None] + start, np.arange(1, 6)[None]
        base = np.sin(12.9898 * i * j) + 0.5 * np.cos(78.233 * i + j**2)
        base = base + 0.3 * np.sin(0.37 * i * (j + 1))
        labels = np.arange(64) % 2
        signs = np.where(labels == 1, 1, -1)[:, None]
        return base + signs * np.array([0.6, -0.2, 0.4, 0.1, 0]), labels

    def test_accuracy_and_bound(self):
        train, test = self._data(0), self._data(64)
        np.testing.assert_allclose(train[0][0, 0], -0.3714320391278, rtol=1e-12)
        np.testing.assert_allclose(test[0][-1, -1], 0.9586570255839, rtol=1e-12)
        task = Task((5,), relative_epsilons=(0.2, 0.5, 0.9), cut=1e-6)
        found = estimated_rules.host(estimated_rules.moments_of, *train)
        made = estimated_rules.rules_of(found, task)
        terms = np.asarray(estimated_rules.host(_terms, *test, made))
        _, correct, u, _ = terms.sum(axis=1).T
        np.testing.assert_array_equal(correct / 64, [0.828125, 0.8125, 0.828125])
        np.testing.assert_allclose(
            u / correct, [1.316974354821, 1.341824443891, 1.316998101448], rtol=1e-9
        )
        np.testing.assert_allclose(
            made.multiplier[:2], [5.620689542009, 1.398879721997], rtol=1e-9
        )
        batches = terms.reshape(3, 4, 16, 4).sum(axis=2)
        by_batch = (batches[..., 2] / batches[..., 1]).mean(axis=1)
        np.testing.assert_allclose(
            by_batch[:2], [1.314791597424, 1.343521248473], rtol=1e-9
        )

    def test_means_over_batches(self):
        rng = np.random.default_rng(0)
        sums = np.zeros((1, 1, 4, 4))
        sums[..., 0], sums[..., 1] = 128, rng.integers(60, 128, 4)
        sums[..., 2] = sums[..., 1] * rng.uniform(1, 2, 4)
        task = dataclasses.replace(Task((5,), scales=(1.0,)), batch_means=True)
        _, bound = score.curves(sums, task)
        halves = sums[0, 0, :, 1:3].reshape(2, 2, 2).sum(axis=1)
        expected = np.mean(halves[:, 1] / halves[:, 0])
        np.testing.assert_allclose(bound, [[expected]])


def _blurred(blur, x):
    """Noise, drawn from the inputs, is added so that a share of signal is left."""
    number = jax.lax.bitcast_convert_type(x.sum(), jnp.uint32)
    key = jax.random.fold_in(jax.random.key(7), number)
    return x + jax.random.normal(key, x.shape) * blur


class CeilingTest(parameterized.TestCase):
    @parameterized.parameters(1.0, 0.6)
    def test_a_gaussian_representation_scores_its_ceiling(self, share):
        feature_fn = Partial(_blurred, np.float32(np.sqrt(1 / share**2 - 1)))
        found = _score(feature_fn, (64,), num_train=2048, num_test=2048)
        expected = synbench.finite_sample_ceiling(
            64, 2048, scales=_FEW, thresholds=synbench.THRESHOLDS, kept_signal=share
        )
        keep = expected > 0.05
        gap = abs(found.score[0] - expected)[keep]
        np.testing.assert_array_less(gap, 3 * found.standard_error[0][keep])
        if share == 1:
            np.testing.assert_allclose(found.ceiling, expected, rtol=1e-12)


class StandardErrorTest(parameterized.TestCase):
    def test_covers_the_test_noise(self):
        """2,000 redraws of the test inputs of one set of rules, p = 8."""
        scales = np.array([0.8, 1.4, 2.0])
        thresholds = np.array([0.6, 0.8])
        rng = np.random.default_rng(0)
        direction = np.full(8, 8**-0.5)
        task = Task((8,), scales=tuple(scales), num_train=256, num_test=2048)
        used, truth = [], []
        for s in scales:
            y = np.arange(256) % 2
            x = rng.normal(size=(256, 8)) + np.where(y, s, -s)[:, None] * direction
            x = x.astype(np.float32)  # as features are
            own = estimated_rules.host(estimated_rules.moments_of, x, y)
            made = estimated_rules.rules_of(own, task)
            w, c = np.asarray(made.weight)[:, 0], np.asarray(made.center)
            used.append((w, c, float(made.unit[0])))
            signs = np.array([1, -1])[:, None]
            k = signs[:, 0] * ((signs * s * direction - c) @ w)
            r = k / np.linalg.norm(w)
            z = stats.norm.cdf(r).mean()
            v = (r * stats.norm.cdf(r) + stats.norm.pdf(r)).mean()
            truth.append((z, v * np.linalg.norm(w) / used[-1][2]))
        z, v = np.array(truth).T
        expected = synbench.curve_area(z, v / z, thresholds=thresholds)
        sums = np.zeros((3, 2000, 1, 4))
        for i, (s, (w, c, unit)) in enumerate(zip(scales, used, strict=True)):
            y = rng.random((2000, 2048)) < 0.5
            signs = np.where(y, 1, -1)
            noise = rng.standard_normal(y.shape, np.float32) * np.linalg.norm(w)
            u = signs * (noise + (signs * s * (w @ direction) - c @ w)) / unit
            is_correct = u > 0
            sums[i, :, 0, 0] = 2048
            sums[i, :, 0, 1] = is_correct.sum(axis=1)
            sums[i, :, 0, 2] = (u * is_correct).sum(axis=1)
            sums[i, :, 0, 3] = (u**2 * is_correct).sum(axis=1)
        accuracy, bound = score.curves(sums, task)
        areas = synbench.curve_area(accuracy, bound, thresholds=thresholds)
        errors = uncertainty.standard_error(sums, thresholds, np.ones((1, 2)))
        covered = np.mean(abs(areas - expected[None]) <= 1.96 * errors, axis=0)
        np.testing.assert_array_less(abs(covered - 0.95), 0.02)


class StreamTest(parameterized.TestCase):
    def test_other_settings_trace_nothing_again(self):
        traces = []

        def feature_fn(x):
            traces.append(x.shape)
            return x

        for options in (
            {},
            {"relative_epsilons": (0.3,)},
            {"scales": tuple(s + 0.2 for s in _FEW)},
            {"prior": 0.45},
            {"center": (0.4,), "pixel_std": (0.2,), "num_train": 768},
            {"shrinkage": 0.1, "mode": "grid", "variances": 2.0},
        ):
            _score(feature_fn, **({"thresholds": (0.6,)} | options))
        self.assertEqual(traces, [(256, 8)])

    @pytest.mark.newest
    def test_batch_size_changes_nothing(self):
        one = _at_two_radii()  # 256 at a time
        other = _on_host(relative_epsilons=(0.0, 0.5), batch_size=48)
        np.testing.assert_allclose(other.score, one.score, rtol=1e-9)
        np.testing.assert_allclose(other.sums, one.sums, rtol=1e-6)

    def test_devices_change_nothing(self):
        mesh = jax.make_mesh((4,), ("batch",))
        found = _score(mesh=mesh)
        np.testing.assert_allclose(found.score, _plain().score, rtol=1e-6)

    def test_host_functions_give_the_same(self):
        """As a model of another framework: NumPy in and out, channels first."""

        def torch_like(x):
            self.assertIsInstance(x, np.ndarray)
            channels_first = np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2)))
            return channels_first.reshape(len(x), -1)[:, ::-1]

        host = _on_host(torch_like, (2, 2, 2))  # the same numbers, in another order
        np.testing.assert_allclose(host.score, _plain().score, rtol=1e-9)

    def test_host_functions_are_told_to_say_so(self):
        with self.assertRaisesRegex(TypeError, "is_on_host=True"):
            _score(lambda x: np.asarray(x).reshape(len(x), -1))

    def test_progress_and_parts(self):
        seen = []
        whole = _on_host(progress=seen.append)
        self.assertEqual(seen, list(range(len(_FEW))))
        task = Task((8,), scales=_FEW, num_train=512, num_test=512)
        with jax.enable_x64(False):
            parts = [
                synbench.measure_scale(_KEY, _flat, task, index=i, is_on_host=True)
                for i in seen
            ]
        again = synbench.score_of_scales(_KEY, task, parts)
        np.testing.assert_array_equal(again.score, whole.score)

    def test_inputs_do_not_depend_on_the_other_scales(self):
        others = _on_host(scales=(2.0, 0.3, 1.2, 1.9, 2.9, 4.0))
        np.testing.assert_array_equal(others.accuracy[:, 0], _plain().accuracy[:, 3])


class InvarianceTest(parameterized.TestCase):
    def test_affine_maps_of_features_change_nothing_at_epsilon_zero(self):
        matrix = np.random.default_rng(0).normal(size=(8, 8))
        moved = _on_host(_affine(matrix, 3.0))
        np.testing.assert_allclose(moved.score, _plain().score, rtol=1e-4)

    def test_rotations_change_nothing_at_any_epsilon(self):
        matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
        moved = _on_host(_affine(matrix), relative_epsilons=(0.0, 0.5))
        still = _at_two_radii()
        np.testing.assert_allclose(moved.score, still.score, rtol=1e-4)
        np.testing.assert_allclose(still.score[0], _plain().score[0], rtol=1e-6)

    def test_priors_and_noise_levels_have_their_own_raw_curves(self):
        """The score of the inputs themselves is their ceiling, whatever the task."""
        for options in (
            {"prior": 0.3},
            {"variances": 4.0},
            {"variances": np.linspace(0.5, 2, 8), "relative_epsilons": (0.0, 0.3)},
        ):
            found = _on_host(
                thresholds=(0.75,), num_train=4096, num_test=4096, **options
            )
            is_plain = "prior" not in options
            self.assertEqual(np.isfinite(found.ceiling).all(), is_plain)
            gap = abs(found.score - 1)
            np.testing.assert_array_less(gap, 4 * found.standard_error + 0.01)

    def test_a_direction_of_little_noise_is_told_from_brightness(self):
        direction = np.zeros(9)
        direction[0] = 2.0
        found = _on_host(lambda x: x[:, 1:], (9,), direction=direction)
        np.testing.assert_array_less(found.score, 0.05)


class FewSamplesTest(absltest.TestCase):
    """White noise of 64 features, 8 samples of each."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with pytest.warns(UserWarning, match="perfect representation would score"):
            cls.found = _on_host(
                shape=(64,), num_test=2048, relative_epsilons=(0.0, 0.8)
            )

    def test_identity_scores_its_ceiling(self):
        found = self.found
        gap = abs(found.score[0] - found.ceiling)[:7]
        np.testing.assert_array_less(gap, 3 * found.standard_error[0][:7])
        self.assertLess(found.ceiling.max(), 0.97)
        np.testing.assert_allclose(found.score_to_ceiling, found.score / found.ceiling)

    def test_white_noise_wants_all_the_regularisation_there_is(self):
        """The ideal rule is the difference of the means, which a ridge goes to."""
        found = self.found
        np.testing.assert_array_equal(found.best_epsilon[:, :6], 0.8)
        self.assertEqual(found.best_epsilon.shape, (2, len(found.thresholds)))
        half = dataclasses.replace(found, half_score=-found.half_score)
        np.testing.assert_array_equal(half.best_epsilon[:, 0], [0.8, 0])
        self.assertTrue(np.all(found.half_score < found.score))
        self.assertTrue(np.all(np.isnan(_plain().half_score)))


class CompareTest(parameterized.TestCase):
    def test_common_inputs_shrink_the_error(self):
        matrix = 0.2 * np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
        one, other = (
            _on_host(lambda x, s=share: x + s * np.tanh(x @ matrix), num_test=2048)
            for share in (0, 1)
        )
        found = synbench.compare_scores(one, other)
        alone = np.hypot(one.standard_error, other.standard_error)
        np.testing.assert_array_less(found.standard_error, 0.7 * alone)
        np.testing.assert_allclose(found.difference, one.score - other.score)
        half_width = stats.norm.ppf(0.975) * found.standard_error
        np.testing.assert_allclose(found.upper, found.difference + half_width)
        np.testing.assert_allclose(found.lower, found.difference - half_width)
        jackknife, is_smooth = self._jackknife(one, other)
        self.assertGreater(is_smooth.sum(), 4)
        np.testing.assert_allclose(
            found.standard_error[0][is_smooth], jackknife[is_smooth], rtol=0.02
        )
        self_compared = synbench.compare_scores(one, one)
        np.testing.assert_array_equal(self_compared.standard_error, 0)

    def _jackknife(self, one, other):
        """Leaves out groups of 128 of 2,048 test inputs, one of one scale at a time.

        Also says at which thresholds no accuracy is near, where areas have a kink.
        """
        thresholds = np.array(one.thresholds)

        def terms(sums):  # [..., t], of each scale
            z, v = sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 1]
            return v[..., None] * np.maximum(z[..., None] - thresholds, 0)

        groups = [found.sums[:, 0] for found in (one, other)]  # [s, 16, 4]
        rests = [g.sum(axis=1, keepdims=True) - g for g in groups]
        change = terms(rests[0]) - terms(rests[1])
        variance = (15 * change.var(axis=1)).sum(axis=0)
        raw = synbench.curve_area(one.raw_accuracy[0], one.raw_bound[0])
        accuracy = np.concatenate([one.accuracy[0], other.accuracy[0]])
        gaps = abs(accuracy[:, None] - thresholds)
        return np.sqrt(variance) / (len(groups[0]) * raw), gaps.min(axis=0) > 0.015

    def test_refuses_other_inputs(self):
        one = _plain()
        fewer = dataclasses.replace(one, task=one.task | {"num_test": 256})
        with self.assertRaisesRegex(ValueError, "num_test is 512 and 256"):
            synbench.compare_scores(one, fewer)
        other = dataclasses.replace(one, thresholds=(*one.thresholds[:-1], 0.97))
        with self.assertRaisesRegex(ValueError, "thresholds"):
            synbench.compare_scores(one, other)
        alone = dataclasses.replace(one, sums=one.sums[:, :, :1])
        with self.assertRaisesRegex(ValueError, "num_test > 128"):
            synbench.compare_scores(alone, alone)

    def test_json_keeps_everything(self):
        one = _plain()
        again = synbench.SynBenchResult.from_json(one.to_json())
        for field in dataclasses.fields(one):
            old, new = (getattr(r, field.name) for r in (one, again))
            if isinstance(old, np.ndarray):
                np.testing.assert_array_equal(new, old)
            else:
                self.assertEqual(new, old)
        with self.assertRaisesRegex(ValueError, "score"):
            synbench.SynBenchResult.from_json("{}")


class BadFeaturesTest(parameterized.TestCase):
    """On the host, where the representations share one compiled program."""

    def test_nan_names_scale_and_batch(self):
        def feature_fn(x):
            x[3] = np.nan
            return x

        with self.assertRaisesRegex(ValueError, "scale 0.5, training batch 0"):
            _on_host(feature_fn)

    def test_wrong_batch_size(self):
        with self.assertRaisesRegex(ValueError, r"features \[256, p\]"):
            _on_host(lambda x: x[:-1])
        with self.assertRaisesRegex(ValueError, r"features \[256, p\]"):
            _on_host(lambda x: x[:, 0])

    def test_constant_features_score_zero_with_the_reason(self):
        with pytest.warns(UserWarning, match="constant"):
            found = _on_host(np.ones_like)
        np.testing.assert_array_equal(found.score, 0)
        self.assertIn("constant", found.notes[0])
        found.to_json()

    def test_too_few_inputs_without_shrinkage(self):
        with (
            pytest.warns(UserWarning, match="ceiling of the score is 0"),
            pytest.warns(UserWarning, match="directions without noise"),
        ):
            found = _on_host(num_train=8, batch_size=16)
        self.assertEqual(found.ceiling.max(), 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shrunk = _on_host(num_train=8, batch_size=16, shrinkage="oas")
        self.assertGreater(shrunk.score[0, 0], found.score[0, 0])
        self.assertTrue(np.all((shrunk.shrinkage > 0) & (shrunk.shrinkage <= 1)))

    def test_dropped_directions_are_reported(self):
        def feature_fn(x):
            return np.concatenate([x[:, :7], np.ones((len(x), 1))], axis=1)

        found = _on_host(feature_fn)
        np.testing.assert_array_equal(found.rank, 7)

    @parameterized.parameters(
        ({"batch_size": 20}, "batch_size"),
        ({"thresholds": (1.0,)}, "thresholds"),
        ({"thresholds": ()}, r"thresholds \[t\], one or more, got \(\)"),
        ({"thresholds": (0.3,)}, r"thresholds above 0.5, .* got \(0.3,\)"),
        ({"prior": 0.9}, "thresholds above 0.9, the accuracy of always"),
        ({"prior": 0.7, "thresholds": (0.7,), "reference": True}, "above 0.7, "),
        ({"scales": _FEW, "thresholds": (0.9987,) * 9}, "thresholds"),
    )
    def test_refuses(self, options, text):
        with self.assertRaisesRegex(ValueError, text):
            _score(**options)


class SettingsTest(absltest.TestCase):
    def test_half_of_the_features_scores_below_all(self):
        """With unequal classes, above the accuracy of a constant."""
        options = {"prior": 0.9, "thresholds": (0.92, 0.95), "num_test": 1024}
        half, full = (_on_host(lambda x, p=p: x[:, :p], **options) for p in (4, 8))
        error = half.standard_error + full.standard_error
        np.testing.assert_array_less(half.score + 2 * error, full.score)
        np.testing.assert_array_less(abs(full.score - 1), 0.1)


class ReferenceTest(absltest.TestCase):
    def test_conventions_of_the_public_script(self):
        found = _on_host(reference=True, relative_epsilons=(0.0, 0.5), prior=0.45)
        task = found.task
        self.assertEqual((task["mode"], task["cut"]), ("grid", 1e-6))
        self.assertTrue(task["batch_means"])
        self.assertFalse(task["is_prior_known"])
        plain = _at_two_radii()  # rules, not inputs, take 1/2 for the prior
        np.testing.assert_array_equal(found.raw_accuracy, plain.raw_accuracy)
        np.testing.assert_array_less(abs(found.score - plain.score), 0.2)


if __name__ == "__main__":
    absltest.main()
