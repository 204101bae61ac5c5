"""Standard errors and intervals of differences against redrawn test inputs."""

import types

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import synbench
from robustjax.synbench import score, uncertainty
from robustjax.synbench.task import Task

_THRESHOLDS = np.array([0.6, 0.8, 0.9])
_MODES = (("exact", False), ("grid", False), ("grid", True))


def _sums(u):
    """Sums of groups of 128, `[r, g, 4]`, of margins in units of the mean `[r, n]`."""
    terms = np.stack([np.ones_like(u), u > 0, u * (u > 0), u**2 * (u > 0)], axis=-1)
    short = -u.shape[1] % 128
    terms = np.pad(terms, ((0, 0), (0, short), (0, 0)))
    return terms.reshape(len(u), -1, 128, 4).sum(axis=2)


def _redraws(signals, num_test, *, num=300):
    """Sums `[s, r, g, 4]` of two representations that share most of their noise."""
    rng, pairs = np.random.default_rng(0), []
    for signal in signals:
        noise, own = rng.normal(size=(2, num, num_test))
        other = 0.8 * noise + 0.6 * own
        pairs.append((_sums(1 + noise / signal), _sums(1 + other / (0.9 * signal))))
    return [np.stack(sums) for sums in zip(*pairs, strict=True)]


def _scored(sums, task):
    """Results as far as errors need them, one for each redraw as for a radius."""
    accuracy, bound = score.curves(sums, task)
    areas = synbench.curve_area(accuracy, bound, thresholds=_THRESHOLDS, mode=task.mode)
    return types.SimpleNamespace(
        sums=sums,
        bound=bound,
        score=areas,
        task=task.facts(),
        raw_accuracy=np.ones((1, 1)),
        raw_bound=np.ones((1, 1)),
        thresholds=tuple(_THRESHOLDS),
    )


class RedrawTest(parameterized.TestCase):
    @parameterized.parameters(
        ((0.5, 1.0, 2.0, 3.0), 256),
        ((0.5, 1.0, 2.0, 3.0), 300),  # a batch of 44
        ((0.2533, 0.8416, 1.2816, 1.6449), 2048),  # at the kinks
    )
    def test_errors_are_the_spread_of_the_score(self, signals, num_test):
        one, other = _redraws(signals, num_test)
        for mode, batch_means in _MODES:
            task = Task(
                (5,), scales=signals, num_test=num_test, mode=mode,
                batch_means=batch_means,
            )  # fmt: skip
            found, against = _scored(one, task), _scored(other, task)
            errors = uncertainty.standard_error(
                one, _THRESHOLDS, np.ones((1, 3)), mode=mode, batch_means=batch_means
            )
            self._agree(errors, found.score, (mode, batch_means))
            compared = synbench.compare_scores(found, against)
            unit = synbench.curve_area([1.0], [1.0], thresholds=_THRESHOLDS, mode=mode)
            difference = (found.score - against.score) / unit
            self._agree(compared.standard_error, difference, (mode, batch_means))

    def _agree(self, errors, values, case):
        ratio = np.sqrt(np.mean(errors**2, axis=0)) / values.std(axis=0)
        np.testing.assert_array_less(abs(ratio - 1), 0.2, err_msg=str((case, ratio)))


class FewInputsTest(parameterized.TestCase):
    def _errors(self, *scales, mode="exact"):
        """Of scales that are the margins of their test inputs."""
        sums = np.stack([_sums(np.array([u])) for u in scales])
        return uncertainty.standard_error(
            sums, _THRESHOLDS, np.ones((1, 3)), mode=mode
        )[0]

    @parameterized.parameters("exact", "grid")
    def test_one_number_has_no_spread(self, mode):
        for scales in ([[1.5]], [[-0.5]], [[1.5, -0.5]], [[1.0, 1.2], [1.5, -0.5]]):
            errors = self._errors(*scales, mode=mode)
            np.testing.assert_array_equal(errors, np.full(3, np.nan), str(scales))

    @parameterized.parameters("exact", "grid")
    def test_a_scale_that_cannot_count_takes_nothing_away(self, mode):
        """One correct input of 2,000, and none of them."""
        rng = np.random.default_rng(0)
        some, single = 1 + rng.normal(size=2000), np.r_[1.0, -np.ones(1999)]
        both = self._errors(some, single, mode=mode)
        none = self._errors(some, -np.ones(2000), mode=mode)
        np.testing.assert_allclose(2 * both, self._errors(some, mode=mode), rtol=1e-12)
        np.testing.assert_array_equal(both, none)
        self.assertTrue(np.all(both[:2] > 0))


class RunTest(absltest.TestCase):
    @pytest.mark.newest
    @pytest.mark.slow
    def test_the_grid_is_as_uncertain_as_the_area(self):
        """Scores are nearly the same numbers, and so are their errors."""

        def score_with(mode, num_features):
            return synbench.synbench(
                jax.random.key(0),
                lambda x: x[:, :num_features],
                (8,),
                scales=(0.5, 1.0, 1.5, 2.0),
                thresholds=(0.6, 0.7, 0.8),
                num_train=256,
                num_test=256,
                mode=mode,
                is_on_host=True,
            )

        with jax.enable_x64(False):
            exact, grid = (
                [score_with(mode, p) for p in (8, 4)] for mode in ("exact", "grid")
            )
        np.testing.assert_allclose(
            grid[0].standard_error, exact[0].standard_error, rtol=0.15
        )
        errors = [synbench.compare_scores(*r).standard_error for r in (grid, exact)]
        np.testing.assert_allclose(errors[0], errors[1], rtol=0.25)
        np.testing.assert_allclose(grid[0].ceiling, exact[0].ceiling, atol=0.02)
        self.assertGreater(abs(grid[0].ceiling - exact[0].ceiling).max(), 1e-5)


if __name__ == "__main__":
    absltest.main()
