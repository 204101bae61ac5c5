"""Features that are constant within classes, repeated or linear dependent."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import synbench

_KEY, _DIM = jax.random.key(0), 8
# In the last two a sign of the sum is never wrong.
_SCALES = (0.5, 1.0, 1.5, 2.0, 4.0, 5.0)
_MAP = np.random.default_rng(0).normal(size=(_DIM, 5 * _DIM))


def _score(feature_fn, **options):
    options = {"scales": _SCALES, "num_train": 512, "num_test": 512} | options
    options = {"thresholds": (0.6, 0.8)} | options
    with warnings.catch_warnings(), jax.enable_x64(False):
        warnings.simplefilter("ignore")
        return synbench.synbench(_KEY, feature_fn, (_DIM,), is_on_host=True, **options)


def _is_bright(x):
    return x.mean(axis=1, keepdims=True) > 0.5


_SEPARATED = {
    "bit": lambda x: np.where(_is_bright(x), 1.0, -1.0),
    "hash": lambda x: np.where(_is_bright(x), [[0.1, 0.7, -3.0]], [[0.3, 0.1, 2.0]]),
    "saturated": lambda x: np.tanh(1e4 * (x.mean(axis=1, keepdims=True) - 0.5)) + 7,
    "bits and pixels": lambda x: np.concatenate([_is_bright(x) * [[0.1]], x], axis=1),
    "bits and others": lambda x: np.concatenate([_is_bright(x), x % 1, x**2], axis=1),
}
_SAME = {
    "copies": lambda x: np.tile(x, (1, 5)),
    "combinations": lambda x: x @ _MAP.astype(np.float32),
    "combinations in float64": lambda x: x @ _MAP,
    "constants": lambda x: np.concatenate([x, np.full((len(x), 32), 0.1, "f")], axis=1),
}


class SeparatedTest(parameterized.TestCase):
    @parameterized.parameters(*_SEPARATED)
    def test_a_right_bit_is_a_perfect_representation(self, name):
        """Of a direction that separates all training inputs; other noise is added."""
        found = _score(_SEPARATED[name], relative_epsilons=(0.0, 0.5))
        least = np.array([0.65, 0.8, 0.9, 0.95, 0.998, 0.998])
        np.testing.assert_array_less(least, found.accuracy[0])
        if name in ("bit", "hash", "saturated"):
            np.testing.assert_array_equal(found.accuracy[1], found.accuracy[0])
        np.testing.assert_allclose(found.bound[0, 4:], 1, atol=0.02)
        self.assertGreater(found.score[0].min(), 0.9)
        self.assertGreater(found.dropped_mean_fraction[5], 0.01)
        self.assertIn("without noise, on which rules rest", found.notes[-1])

    def test_the_public_script_leaves_them_out(self):
        found = _score(_SEPARATED["bit"], reference=True)
        np.testing.assert_array_equal(found.accuracy[0, 4:], 0)
        self.assertIn("which rules leave out", " ".join(found.notes))

    def test_constants_that_rounding_moves_are_nothing(self):
        def constants(x):
            return np.broadcast_to(np.array([[0.1, 0.7, 1e6]]), (len(x), 3))

        for feature_fn in (constants, lambda x: constants(x).astype(np.float32)):
            found = _score(feature_fn)
            np.testing.assert_array_equal(found.score, 0)
            np.testing.assert_array_equal(found.rank, 0)
            self.assertIn("constant", found.notes[-1])


class DependentTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_they_change_neither_score_nor_ceiling(self):
        plain = _score(lambda x: x)
        for name, feature_fn in _SAME.items():
            found = _score(feature_fn)
            np.testing.assert_array_equal(found.rank, plain.rank, err_msg=name)
            np.testing.assert_array_equal(found.ceiling, plain.ceiling)
            np.testing.assert_allclose(
                found.score_to_ceiling, plain.score_to_ceiling, atol=2e-3, err_msg=name
            )
            self.assertEqual(found.num_features, 5 * _DIM)

    def test_combinations_that_differ_by_rounding_have_their_own_ceiling(self):
        """Rounding of float32 around .1 is noise of its own: rank 40, one ratio."""
        combined = (_MAP * 1e-3).astype(np.float32)
        plain, found = (_score(f) for f in (lambda x: x, lambda x: 0.1 + x @ combined))
        np.testing.assert_array_equal(found.rank, 5 * _DIM)
        np.testing.assert_array_less(found.ceiling, plain.ceiling - 0.02)
        np.testing.assert_allclose(
            found.score_to_ceiling, plain.score_to_ceiling, atol=0.05
        )

    def test_ceilings_of_scales_with_other_ranks(self):
        """As bits of a code that are constant at some scales."""
        thresholds, scales = np.array([0.6, 0.8]), np.array([1.0, 2.0])
        sizes = np.array([[8, 8], [80, 80], [8, 80], [298, 298], [8, 298]])

        @jax.jit
        def every(sizes):
            ceiling = functools.partial(
                synbench.finite_sample_ceiling, num_train=300, thresholds=thresholds
            )
            both = jax.vmap(functools.partial(ceiling, scales=scales))(sizes)
            own = ceiling(sizes[0, :1], scales=scales[:1])
            return both, own, synbench.reference_curve(jnp.asarray(scales))

        with jax.enable_x64(True):
            ceilings, own, (accuracy, bound) = jax.device_get(every(sizes))
        low, high, mixed, none, one = ceilings
        areas = bound * np.maximum(accuracy - thresholds[:, None], 0)
        share = areas[:, 0] / areas.sum(axis=1)  # of the first scale in that of both
        np.testing.assert_allclose(one, share * own, rtol=1e-12)
        np.testing.assert_array_equal(none, 0)
        np.testing.assert_array_less(high, mixed)
        np.testing.assert_array_less(mixed, low)


if __name__ == "__main__":
    absltest.main()
