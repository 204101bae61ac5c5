"""The e-values behind bounds of lengths have a mean of at most 1 at the truth."""

import itertools

import jax
import numpy as np
import pytest
from absl.testing import absltest
from simulated_moments import Experiment, interval

from robustjax.smoothing.confidence import concentration, moment_sums, tight_bounds

_RUNS = 2400


class EvidenceTest(absltest.TestCase):
    @pytest.mark.newest
    def test_mean_at_the_truth(self):
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


if __name__ == "__main__":
    absltest.main()
