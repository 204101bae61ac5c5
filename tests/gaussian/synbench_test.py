"""The score: the noted fixture, ceilings, errors that cover, streams, bad input."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import gaussian
from robustjax.gaussian import rules, score, uncertainty
from robustjax.gaussian.task import Task

_KEY = jax.random.key(0)
_FEW = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def _flat(x):
    return x.reshape(len(x), -1)


def _score(feature_fn=_flat, shape=(8,), **options):
    options = {"scales": _FEW, "num_train": 512, "num_test": 512} | options
    return gaussian.synbench(_KEY, feature_fn, shape, **options)


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
        found = rules.host(rules.moments_of, *train)
        made = rules.rules_of(found, task)
        terms = np.asarray(rules.host(rules.test_terms, *test, made))
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


class CeilingTest(parameterized.TestCase):
    @parameterized.parameters((1.0, 24), (0.9, 24), (0.9, 64), (0.6, 64))
    def test_a_gaussian_representation_scores_its_ceiling(self, share, num_features):
        """Noise, drawn from the inputs, is added so that a share of signal is left."""
        blur = np.sqrt(1 / share**2 - 1)

        def feature_fn(x):
            number = jax.lax.bitcast_convert_type(x.sum(), jnp.uint32)
            key = jax.random.fold_in(jax.random.key(7), number)
            return x + jax.random.normal(key, x.shape) * blur

        shape = (num_features,)
        found = _score(feature_fn, shape, num_train=2048, num_test=2048)
        expected = gaussian.finite_sample_ceiling(
            num_features, 2048, scales=_FEW, thresholds=gaussian.THRESHOLDS,
            kept_signal=share,
        )  # fmt: skip
        keep = expected > 0.05
        gap = abs(found.score[0] - expected)[keep]
        np.testing.assert_array_less(gap, 3 * found.standard_error[0][keep])
        if share == 1:
            np.testing.assert_allclose(found.ceiling, expected, rtol=1e-12)

    def test_identity_at_192_features(self):
        with pytest.warns(UserWarning, match="perfect representation would score"):
            found = _score(shape=(192,), num_train=2048, num_test=2048)
        gap = abs(found.score[0] - found.ceiling)[:7]
        np.testing.assert_array_less(gap, 3 * found.standard_error[0][:7])
        self.assertLess(found.ceiling.max(), 0.97)
        np.testing.assert_allclose(found.score_to_ceiling, found.score / found.ceiling)


class StandardErrorTest(parameterized.TestCase):
    def test_covers_the_test_noise(self):
        """2,000 redraws of the test inputs of one set of rules, p = 4."""
        scales = np.array([0.8, 1.4, 2.0])
        thresholds = np.array([0.6, 0.8])
        rng = np.random.default_rng(0)
        task = Task((4,), scales=tuple(scales), num_train=256, num_test=2048)
        used, truth = [], []
        for s in scales:
            y = np.arange(256) % 2
            x = rng.normal(size=(256, 4)) + np.where(y, s, -s)[:, None] * 0.5
            own = rules.host(rules.moments_of, x, y)
            made = rules.rules_of(own, task)
            w, c = np.asarray(made.weight)[:, 0], np.asarray(made.center)
            used.append((w, c, float(made.unit[0])))
            signs = np.array([1, -1])[:, None]
            k = signs[:, 0] * ((signs * s * 0.5 * np.ones(4) - c) @ w)
            r = k / np.linalg.norm(w)
            z = stats.norm.cdf(r).mean()
            v = (r * stats.norm.cdf(r) + stats.norm.pdf(r)).mean()
            truth.append((z, v * np.linalg.norm(w) / used[-1][2]))
        z, v = np.array(truth).T
        expected = gaussian.curve_area(z, v / z, thresholds=thresholds)
        sums = np.zeros((3, 2000, 1, 4))
        for i, (s, (w, c, unit)) in enumerate(zip(scales, used, strict=True)):
            y = rng.random((2000, 2048)) < 0.5
            signs = np.where(y, 1, -1)
            noise = rng.normal(size=y.shape) * np.linalg.norm(w)
            u = signs * (noise + (signs * s * 0.5 * w.sum() - c @ w)) / unit
            is_correct = u > 0
            sums[i, :, 0, 0] = 2048
            sums[i, :, 0, 1] = is_correct.sum(axis=1)
            sums[i, :, 0, 2] = (u * is_correct).sum(axis=1)
            sums[i, :, 0, 3] = (u**2 * is_correct).sum(axis=1)
        accuracy, bound = score.curves(sums, task)
        areas = gaussian.curve_area(accuracy, bound, thresholds=thresholds)
        errors = uncertainty.standard_error(sums, thresholds, np.ones((1, 2)))
        covered = np.mean(abs(areas - expected[None]) <= 1.96 * errors, axis=0)
        np.testing.assert_array_less(abs(covered - 0.95), 0.02)


class StreamTest(parameterized.TestCase):
    def test_batch_size_changes_nothing(self):
        one = _score(batch_size=256, relative_epsilons=(0.0, 0.4))
        other = _score(batch_size=48, relative_epsilons=(0.0, 0.4))
        np.testing.assert_allclose(other.score, one.score, rtol=1e-9)
        np.testing.assert_allclose(other.sums, one.sums, rtol=1e-6)

    def test_devices_change_nothing(self):
        mesh = jax.make_mesh((4,), ("batch",))
        found = _score(mesh=mesh)
        np.testing.assert_allclose(found.score, _score().score, rtol=1e-6)

    def test_host_functions_give_the_same(self):
        """As a model of another framework: NumPy in and out, channels first."""

        def torch_like(x):
            self.assertIsInstance(x, np.ndarray)
            channels_first = np.ascontiguousarray(np.transpose(x, (0, 3, 1, 2)))
            return channels_first.reshape(len(x), -1)[:, ::-1]

        host = _score(torch_like, (2, 2, 3), is_on_host=True)
        traced = _score(
            lambda x: jnp.transpose(x, (0, 3, 1, 2)).reshape(len(x), -1)[:, ::-1],
            (2, 2, 3),
        )
        np.testing.assert_allclose(host.score, traced.score, rtol=1e-9)

    def test_host_functions_are_told_to_say_so(self):
        with self.assertRaisesRegex(TypeError, "is_on_host=True"):
            _score(lambda x: np.asarray(x).reshape(len(x), -1))

    def test_one_compilation_for_all_scales(self):
        traces = []

        def feature_fn(x):
            traces.append(x.shape)
            return x

        _score(feature_fn)
        self.assertLen(traces, 1)

    def test_progress_and_parts(self):
        seen = []
        whole = _score(progress=seen.append)
        self.assertEqual(seen, list(range(len(_FEW))))
        task = Task((8,), scales=_FEW, num_train=512, num_test=512)
        parts = [gaussian.measure_scale(_KEY, _flat, task, index=i) for i in seen]
        again = gaussian.score_of_scales(_KEY, task, parts)
        np.testing.assert_array_equal(again.score, whole.score)

    def test_inputs_do_not_depend_on_the_other_scales(self):
        few, one = _score(), _score(scales=(2.0,), thresholds=(0.7,))
        np.testing.assert_array_equal(one.accuracy[:, 0], few.accuracy[:, 3])


class InvarianceTest(parameterized.TestCase):
    def test_affine_maps_of_features_change_nothing_at_epsilon_zero(self):
        matrix = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)
        moved = _score(lambda x: x @ matrix + 3.0)
        np.testing.assert_allclose(moved.score, _score().score, rtol=1e-4)

    def test_rotations_change_nothing_at_any_epsilon(self):
        matrix = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
        matrix = jnp.asarray(matrix, jnp.float32)
        options = {"relative_epsilons": (0.0, 0.5)}
        moved = _score(lambda x: x @ matrix, **options)
        np.testing.assert_allclose(moved.score, _score(**options).score, rtol=1e-4)

    def test_priors_and_noise_levels_have_their_own_raw_curves(self):
        """The score of the inputs themselves is their ceiling, whatever the task."""
        for options in (
            {"prior": 0.3},
            {"variances": 4.0},
            {"variances": np.linspace(0.5, 2, 8), "relative_epsilons": (0.0, 0.3)},
        ):
            found = _score(thresholds=(0.75,), num_train=4096, num_test=4096, **options)
            gap = abs(found.score - 1)
            np.testing.assert_array_less(gap, 4 * found.standard_error + 0.01)

    def test_a_direction_of_little_noise_is_told_from_brightness(self):
        direction = np.zeros(8)
        direction[0] = 2.0
        found = _score(lambda x: x[:, 1:], direction=direction)
        np.testing.assert_array_less(found.score, 0.05)


class BestEpsilonTest(absltest.TestCase):
    def test_white_noise_wants_all_the_regularisation_there_is(self):
        """The ideal rule is the difference of the means, which a ridge goes to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few inputs a feature
            found = _score(shape=(100,), relative_epsilons=(0.0, 0.4, 0.8))
        np.testing.assert_array_equal(found.best_epsilon[:, :6], 0.8)
        self.assertEqual(found.best_epsilon.shape, (2, len(found.thresholds)))
        self.assertTrue(np.all(found.half_score < found.score))
        self.assertTrue(np.all(np.isnan(_score().half_score)))


class CompareTest(parameterized.TestCase):
    def test_common_inputs_shrink_the_error(self):
        matrix = jnp.asarray(0.2 * np.random.default_rng(0).normal(size=(8, 8)))
        one = _score(num_test=2048)
        other = _score(
            lambda x: x + jnp.tanh(x @ matrix.astype(x.dtype)), num_test=2048
        )
        found = gaussian.compare_scores(one, other)
        alone = np.hypot(one.standard_error, other.standard_error)
        np.testing.assert_array_less(found.standard_error, 0.7 * alone)
        np.testing.assert_allclose(found.difference, one.score - other.score)
        np.testing.assert_array_less(found.lower, found.upper)
        self_compared = gaussian.compare_scores(one, one)
        np.testing.assert_array_equal(self_compared.standard_error, 0)

    def test_refuses_other_inputs(self):
        one = _score()
        with self.assertRaisesRegex(ValueError, "num_test"):
            gaussian.compare_scores(one, _score(num_test=256))
        with self.assertRaisesRegex(ValueError, "thresholds"):
            gaussian.compare_scores(one, _score(thresholds=(0.7,)))

    def test_json_keeps_everything(self):
        one = _score()
        again = gaussian.SynBenchResult.from_json(one.to_json())
        for field in dataclasses.fields(one):
            old, new = (getattr(r, field.name) for r in (one, again))
            if isinstance(old, np.ndarray):
                np.testing.assert_array_equal(new, old)
            else:
                self.assertEqual(new, old)
        with self.assertRaisesRegex(ValueError, "score"):
            gaussian.SynBenchResult.from_json("{}")


class BadFeaturesTest(parameterized.TestCase):
    def test_nan_names_scale_and_batch(self):
        with self.assertRaisesRegex(ValueError, "scale 0.5, training batch 0"):
            _score(lambda x: x.at[3].set(jnp.nan))

    def test_wrong_batch_size(self):
        with self.assertRaisesRegex(ValueError, r"features \[256, p\]"):
            _score(lambda x: x[:-1])
        with self.assertRaisesRegex(ValueError, r"features \[256, p\]"):
            _score(lambda x: x[:, 0])

    def test_constant_features_score_zero_with_the_reason(self):
        with pytest.warns(UserWarning, match="constant"):
            found = _score(lambda x: jnp.ones((len(x), 3)))
        np.testing.assert_array_equal(found.score, 0)
        self.assertIn("constant", found.notes[0])
        found.to_json()

    def test_too_few_inputs_without_shrinkage(self):
        with (
            pytest.warns(UserWarning, match="ceiling of the score is 0"),
            pytest.warns(UserWarning, match="directions without noise"),
        ):
            found = _score(shape=(40,), num_train=40)
        np.testing.assert_array_equal(found.ceiling, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shrunk = _score(shape=(40,), num_train=40, shrinkage="oas")
        self.assertGreater(shrunk.score[0, 0], found.score[0, 0])
        self.assertTrue(np.all((shrunk.shrinkage > 0) & (shrunk.shrinkage <= 1)))

    def test_dropped_directions_are_reported(self):
        def feature_fn(x):  # the class is written down without noise
            sign = jnp.sign(x.mean(axis=1, keepdims=True) - 0.5) * 0 + 1
            return jnp.concatenate([x, x[:, :1] * 0 + sign], axis=1)

        found = _score(feature_fn)
        np.testing.assert_array_equal(found.rank, 8)

    @parameterized.parameters(
        ({"relative_epsilons": (1.0,)}, "relative_epsilons"),
        ({"prior": 0.0}, "prior"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 1.0)}, "scales"),
        ({"scales": (-1.0,)}, "scales"),
        ({"num_train": 2}, "num_train"),
        ({"batch_size": 20}, "batch_size"),
        ({"shrinkage": 1.5}, "shrinkage"),
        ({"thresholds": (1.0,)}, "thresholds"),
        ({"scales": (0.1,), "thresholds": (0.9,)}, "thresholds"),
        ({"center": (0.1, 0.2)}, "center"),
        ({"direction": np.ones(3)}, "direction"),
    )
    def test_refuses(self, options, text):
        with self.assertRaisesRegex(ValueError, text):
            _score(**options)


class ReferenceTest(absltest.TestCase):
    def test_conventions_of_the_public_script(self):
        found = _score(
            reference=True, num_test=1024, relative_epsilons=(0.2,), prior=0.4
        )
        task = found.task
        self.assertEqual((task["mode"], task["cut"]), ("grid", 1e-6))
        self.assertTrue(task["batch_means"])
        self.assertFalse(task["is_prior_known"])
        plain = _score(num_test=1024, relative_epsilons=(0.2,))
        np.testing.assert_array_less(abs(found.score - plain.score), 0.2)


if __name__ == "__main__":
    absltest.main()
