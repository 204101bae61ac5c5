"""The robust rule against a conic solver, as the public script solves for it."""

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import synbench

_rule = jax.jit(synbench.robust_bayes)


class ConicSolverTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_worst_shift_and_rule(self):
        for case in ((3, 0.1), (3, 0.8), (30, 0.2), (30, 0.9)):
            with self.subTest(case):
                self._check(*case)

    def _check(self, num_features, share):
        cvxpy = pytest.importorskip("cvxpy")  # slow to import: not at collection
        rng = np.random.default_rng(num_features)
        root = rng.normal(size=(num_features, num_features))
        covariance = root @ root.T / num_features + 0.05 * np.eye(num_features)
        mean = rng.normal(size=num_features)
        epsilon = share * np.linalg.norm(mean)
        whitener = np.linalg.inv(np.linalg.cholesky(covariance))

        shift = cvxpy.Variable(num_features)
        problem = cvxpy.Problem(
            cvxpy.Minimize(cvxpy.norm(whitener @ (mean - shift))),
            [cvxpy.norm(shift) <= epsilon],
        )
        limits = ("tol_gap_abs", "tol_gap_rel", "tol_feas")
        problem.solve(solver=cvxpy.CLARABEL, **dict.fromkeys(limits, 1e-10))

        with jax.enable_x64(True):
            rule = jax.device_get(_rule(mean, covariance, epsilon=epsilon))
        own_shift = rule.weight / rule.multiplier
        # the solver's gap of 1e-10 in the objective leaves its root in the shift
        np.testing.assert_allclose(own_shift, shift.value, atol=1e-4 * epsilon)
        self.assertLessEqual(rule.robust_signal, problem.value * (1 + 1e-8))
        np.testing.assert_allclose(rule.robust_signal, problem.value, rtol=1e-7)


if __name__ == "__main__":
    absltest.main()
