"""Bounds of lengths against a brute-force search for lengths that are not rejected."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax.smoothing.confidence import e_values
from robustjax.smoothing.confidence.e_values import IDLE_SHARE, Evidence, Lengths


def _evidence(rng, *, is_bet, centre, spread, n):
    """A mixture of e-values of a number near `centre`, with an idle share."""
    tilt = np.sqrt(2 * 8 / n) / spread * np.array([0.5, 1.0, 1.6])
    if is_bet:
        x = np.clip(rng.normal(-centre, spread, size=n), -4, 4)
        tilt = np.minimum(tilt, 0.2)
        observed = np.array([np.log1p(a * x).sum() for a in tilt])
    else:
        observed = -n * (tilt * centre + spread**2 * tilt**2 / 2)
    intercept = np.append(observed + np.log((1 - IDLE_SHARE) / 3), np.log(IDLE_SHARE))
    return Evidence(
        intercept[None], np.append(tilt, 0.0)[None], np.array([float(n)]), is_bet
    )


def _problem(seed, *, sign, is_bet, length, truth, n=3000):
    rng = np.random.default_rng(seed)
    spread = 0.45
    known = _evidence(rng, is_bet=is_bet, centre=sign * truth, spread=spread, n=n)
    unknown = _evidence(rng, is_bet=False, centre=0.0, spread=spread, n=n)
    return Lengths(
        sign=np.array([sign]),
        estimate=np.array([length]),
        known=known,
        known_slack=np.array([1e-4]),
        unknown=unknown,
        unknown_slack=np.array([2e-4]),
        largest=np.array([0.39]),
        log_level=np.array([6.0]),
    )


def _value(evidence, b):
    """The logarithm of the e-value at any number of candidates, term by term."""
    b = np.asarray(b)[..., None]
    tilt, n = evidence.tilt[0], evidence.num_samples[0]
    growth = -np.log1p(-tilt * b) if evidence.is_bet else tilt * b
    exponent = evidence.intercept[0] + n * growth
    largest = exponent.max(axis=-1)
    return largest + np.log(np.exp(exponent - largest[..., None]).sum(axis=-1))


def _accepted(problem):
    """On a grid of lengths, whether any component makes the product small."""
    r = np.linspace(1e-4, problem.largest[0], 500)
    c = np.linspace(-0.4, 0.4, 801)
    sign, length = problem.sign[0], problem.estimate[0]
    known = _value(problem.known, sign * c - problem.known_slack[0])
    b = sign * (r[:, None] - length * c / r[:, None])
    unknown = _value(problem.unknown, b - problem.unknown_slack[0])
    return r, (known + unknown < problem.log_level[0]).any(axis=1)


class SolveTest(parameterized.TestCase):
    @parameterized.product(
        sign=(1.0, -1.0),
        is_bet=(False, True),
        # Length of Y and component of m along it: little noise, much noise, no signal,
        # and halves that disagree, so that only negative components are left.
        setting=((0.21, 0.2), (0.5, 0.08), (0.12, 0.0), (0.05, 0.04), (0.005, -0.04)),
    )
    def test_bound_is_the_edge_of_the_lengths_that_are_not_rejected(
        self, sign, is_bet, setting
    ):
        length, truth = setting
        problem = _problem(0, sign=sign, is_bet=is_bet, length=length, truth=truth)
        bound = float(e_values.solve(problem)[0])
        r, accepted = _accepted(problem)
        step = r[1] - r[0]
        if sign > 0:
            edge = r[accepted].max() if accepted.any() else 0.0
            self.assertGreaterEqual(bound, edge - 1e-9)
            # Only the case of a negative component is loose, by the idle share.
            idle = _idle_edge(problem, r)
            self.assertLessEqual(bound, max(edge, idle) + 2 * step)
        else:
            edge = r[accepted].min() if accepted.any() else problem.largest[0]
            self.assertLessEqual(bound, edge + 1e-9)
            known = _value(problem.known, -problem.known_slack[0])
            is_clear = known + np.log(IDLE_SHARE) >= problem.log_level[0]
            self.assertGreaterEqual(bound, edge - 2 * step if is_clear else 0.0)

    @pytest.mark.newest
    def test_settings_are_not_trivial(self):
        lower = _problem(0, sign=-1.0, is_bet=True, length=0.21, truth=0.2)
        self.assertGreater(e_values.solve(lower)[0], 0.15)
        upper = _problem(0, sign=1.0, is_bet=True, length=0.21, truth=0.2)
        self.assertLess(e_values.solve(upper)[0], 0.25)

    def test_rows_are_independent_and_a_stricter_level_is_wider(self):
        for sign in (1.0, -1.0):
            one = _problem(1, sign=sign, is_bet=True, length=0.3, truth=0.2)
            strict = one._replace(log_level=one.log_level + 3)
            both = Lengths(
                *(
                    np.concatenate([a, b])
                    if isinstance(a, np.ndarray)
                    else Evidence(
                        *(
                            np.concatenate([x, y])
                            for x, y in zip(a[:3], b[:3], strict=True)
                        ),
                        a.is_bet,
                    )
                    for a, b in zip(one, strict, strict=True)
                )
            )
            found = e_values.solve(both)
            self.assertEqual(found[0], e_values.solve(one)[0])
            self.assertEqual(found[1], e_values.solve(strict)[0])
            self.assertGreater(sign * (found[1] - found[0]), 0)

    def test_no_direction_and_no_evidence(self):
        problem = _problem(2, sign=1.0, is_bet=False, length=0.0, truth=0.0)
        upper = float(e_values.solve(problem)[0])
        self.assertGreater(upper, 0.0)
        self.assertLess(upper, 0.39)  # noise along the unknown direction is limited
        lower = problem._replace(sign=-problem.sign)
        self.assertEqual(float(e_values.solve(lower)[0]), 0.0)


class EvidenceTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_slope_is_the_derivative(self, is_bet):
        rng = np.random.default_rng(3)
        evidence = _evidence(rng, is_bet=is_bet, centre=0.1, spread=0.4, n=500)
        for b in (-0.3, 0.0, 0.12, 0.4):
            value, slope = evidence.at(np.array([b]))
            self.assertAlmostEqual(value[0], float(_value(evidence, b)), places=9)
            step = 1e-6
            difference = _value(evidence, b + step) - _value(evidence, b - step)
            np.testing.assert_allclose(
                slope[0], difference / (2 * step), rtol=1e-5, atol=1e-6
            )


def _idle_edge(problem, r):
    """The largest length that the unknown direction's e-value alone does not reject."""
    alone = _value(problem.unknown, r - problem.unknown_slack[0]) + np.log(IDLE_SHARE)
    return r[alone < problem.log_level[0]].max()


if __name__ == "__main__":
    absltest.main()
