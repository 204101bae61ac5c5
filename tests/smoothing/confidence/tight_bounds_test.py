"""Bounds of lengths and of l1 norms hold as often as their levels say."""

import itertools

import jax
import numpy as np
import pytest
from absl.testing import absltest
from simulated_moments import Experiment, interval

from robustjax.smoothing.confidence import concentration, moment_sums, tight_bounds

_RUNS = 2400


class EvidenceTest(absltest.TestCase):
    """The e-values behind bounds of lengths."""

    @pytest.mark.newest
    def test_they_have_a_mean_of_at_most_one_at_the_truth(self):
        settings = (interval(-0.8, 1.2), 0.5, 200), (interval(-1.7, 2.0), 1.0, 300)
        for setting, with_bets in itertools.product(settings, (False, True)):
            with self.subTest(setting, with_bets=with_bets):
                self._check(*setting, with_bets)

    def _check(self, classifier, baseline, num_half, with_bets):
        case = Experiment(classifier, 12, num_half, baseline, with_bets)
        rng = np.random.default_rng(0)  # by parts: each needs an array of all samples
        parts = [case.moments(rng, num_runs=_RUNS // 8) for _ in range(8)]
        moments = jax.tree.map(lambda *a: np.concatenate(a), *parts)
        moments = moments._replace(sum_squares=0 * moments.sum_squares)  # no rounding
        host = moment_sums.from_device(moments, votes="hard")
        q = np.full(_RUNS, 1 - classifier.p)
        m = case.gradient
        r, length = np.linalg.norm(m), np.linalg.norm(host.y, axis=1)
        along = host.y @ m / length
        for sign, log_level in itertools.product((1.0, -1.0), (2.0, 4.0)):
            lengths = tight_bounds.length_problem(
                host,
                concentration.tilt_costs(q, baseline=baseline),
                largest=np.full(_RUNS, 0.39),
                sign=sign,
                direction=0,
                project=lambda v: v,
                log_level=log_level,
            )
            error = sign * (m - host.y) @ m / r
            np.testing.assert_allclose(length * along + sign * r * error, r**2)
            known = np.exp(lengths.known.at(sign * along)[0])
            unknown = np.exp(lengths.unknown.at(error)[0])
            for value in (known, unknown, known * unknown):
                slack = 3 * value.std() / np.sqrt(_RUNS)
                self.assertLessEqual(value.mean(), 1 + slack)
            if baseline == 0.5 and not with_bets:  # near the worst case, light tails
                self.assertGreater(known.mean(), 0.6)
                self.assertGreater(unknown.mean(), 0.6)


class L1Test(absltest.TestCase):
    def test_the_upper_bound_holds_for_a_gradient_along_the_diagonal(self):
        """There |m|_1 is sqrt(d) times the length of m, whose mean has width w.

        A bound of |A|_1 + w in place of |A|_1 + sqrt(d) w fails where the mean is w / 4
        below: in more than a fifth of all runs, while .05 are allowed.
        """
        num_runs = 2000
        case = Experiment(
            interval(-1.0, np.inf), 16, 500, 0.5, with_bets=False, is_dense=True
        )
        truth = np.abs(case.gradient).sum()
        np.testing.assert_allclose(truth, 4 * np.linalg.norm(case.gradient))
        moments = case.moments(np.random.default_rng(0), num_runs=num_runs)
        host = moment_sums.from_device(moments, votes="hard")
        found = tight_bounds.norm_bounds(
            host,
            p_lower=np.full(num_runs, case.classifier.p),
            largest=np.full(num_runs, 0.4),
            levels={"l1_upper": 0.05},
            subspaces={},
        )["l1_upper"]
        observed = np.abs(host.mean).sum(axis=1)
        self.assertGreater(np.mean(observed + (found - observed) / 4 < truth), 0.2)
        self.assertLess(np.mean(found < truth), 0.05)


if __name__ == "__main__":
    absltest.main()
