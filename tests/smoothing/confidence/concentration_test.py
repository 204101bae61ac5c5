"""Scalar deviation bounds against quadrature, the worst cases and simulation."""

import itertools

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import integrate, optimize, stats

from robustjax.smoothing.confidence import concentration
from robustjax.smoothing.sampling import noise_blocks

_PDF = stats.norm.pdf


def _mean(function, *breaks):
    """E function(w) for w ~ N(0, 1), by quadrature between the breaks."""
    points = sorted({-12.0, -3.0, 0.0, 3.0, 12.0, *np.clip(breaks, -12, 12).tolist()})
    return sum(
        integrate.quad(lambda w: function(w) * _PDF(w), a, b, epsabs=0, epsrel=1e-12)[0]
        for a, b in itertools.pairwise(points)
    )


def _gain(tilt, w):
    return np.expm1(tilt * w) - tilt * w


def _worst_misses(tilt, q):
    """Two values with equal gain, outside of which a share q of N(0, 1) lies."""

    def roots(level):
        least = -(level + 2) / tilt
        low = optimize.brentq(lambda w: _gain(tilt, w) - level, least, 0, xtol=1e-14)
        high = optimize.brentq(lambda w: _gain(tilt, w) - level, 0, 20, xtol=1e-14)
        return low, high

    def excess(log_level):
        low, high = roots(np.exp(log_level))
        return stats.norm.cdf(low) + stats.norm.sf(high) - q

    return roots(np.exp(optimize.brentq(excess, -40, np.log(_gain(tilt, 9.0)))))


class SubgaussianTest(parameterized.TestCase):
    @parameterized.parameters(
        *np.geomspace(0.003, 0.5, 40).tolist(), 0.50001, 1.0, 2.0, 3.0, 4.3, 5.0, 8.0
    )
    def test_constant_exceeds_every_extremal_outcome_and_hardly(self, tilt):
        # s = sign(w) / 2 beyond t and -sign(w) / 2 within is the worst (see the docs).
        w = np.linspace(0, 14, 14_001)
        weight = np.full(w.size, w[1])
        weight[[0, -1]] /= 2
        density = weight * _PDF(w)
        plus, minus = np.exp(tilt * w / 2) * density, np.exp(-tilt * w / 2) * density
        # Cumulated from 0 to t, s = -1/2 for w > 0; the negative half-line mirrors it.
        flipped = np.cumsum(minus - plus)
        total = 2 * (plus.sum() + flipped)
        mean = np.sum(w * density) - 2 * np.cumsum(w * density)
        ratio = 2 * (np.log(total) - tilt * mean) / tilt**2
        negative = 2 * (minus.sum() - flipped)
        mirrored = 2 * (np.log(negative) + tilt * mean) / tilt**2
        worst = max(ratio.max(), mirrored.max())
        constant = float(concentration.subgaussian_constant(tilt))
        self.assertLessEqual(worst, constant)
        if tilt <= 0.5:
            self.assertLess(constant - worst, 0.003)
        elif tilt == 4.3:
            self.assertAlmostEqual(worst, 0.40218, delta=2e-5)

    @pytest.mark.newest
    def test_constant_exceeds_random_outcomes(self):
        rng = np.random.default_rng(0)
        w = np.linspace(-10, 10, 2001)
        density = _PDF(w) * (w[1] - w[0])
        edges = np.sort(rng.normal(size=(500, 4)), axis=1)
        step = np.sum(w > edges[..., None], axis=1) % 2 - 0.5
        smooth = rng.uniform(-0.5, 0.5, size=(500, 1)) * np.sin(w * edges[:, :1])
        for s in (step, smooth):
            mean = (s * w) @ density
            for tilt in (0.02, 0.1, 0.5, -0.3):
                log_mgf = np.log(np.exp(tilt * s * w) @ density) - tilt * mean
                constant = float(concentration.subgaussian_constant(abs(tilt)))
                self.assertLessEqual((2 * log_mgf / tilt**2).max(), constant)

    def test_constant_increases(self):
        values = concentration.subgaussian_constant(np.linspace(0, 3, 1000))
        self.assertTrue((np.diff(values) >= 0).all())


class TiltCostTest(parameterized.TestCase):
    @parameterized.product(q=(1e-6, 1e-3, 0.01, 0.1, 0.5), index=(5, 60, 110, 150, 185))
    def test_cost_is_the_worst_case_and_no_less(self, q, index):
        tilt = concentration.TILTS[index]
        low, high = _worst_misses(tilt, q)
        worst = _mean(
            lambda w: np.where((w < low) | (w > high), _gain(tilt, w), 0), low, high
        )
        cost = float(concentration.tilt_costs(q)[index])
        self.assertGreaterEqual(cost, worst * (1 - 1e-10))
        self.assertLessEqual(cost, worst * (1 + 1e-3))
        # What the cost is for: the log of a moment generating function, either sign.
        for sign in (1, -1):
            a = sign * tilt
            mgf = _mean(
                lambda w, a=a: np.where((w < low) | (w > high), np.expm1(a * w), 0),
                low,
                high,
            )
            mean = stats.norm.pdf(high) - stats.norm.pdf(low)
            self.assertLessEqual(np.log1p(mgf) - a * mean, cost * (1 + 1e-10))

    def test_cost_holds_for_soft_outcomes(self):
        rng = np.random.default_rng(1)
        w = np.linspace(-10, 10, 4001)
        density = _PDF(w) * (w[1] - w[0])
        shift, slope = rng.normal(size=(2, 300, 1)) * 3
        e = 1 / (1 + np.exp(-slope * w - shift))
        e *= rng.uniform(size=(300, 1))
        costs = concentration.tilt_costs(e @ density)
        for index in range(0, 180, 20):
            for tilt in (concentration.TILTS[index], -concentration.TILTS[index]):
                log_mgf = np.log1p((e * np.expm1(tilt * w)) @ density)
                self.assertTrue(
                    (
                        log_mgf - tilt * (e * w) @ density <= costs[:, index] + 1e-13
                    ).all()
                )

    def test_cost_increases_in_q_and_takes_a_baseline_for_each(self):
        q = np.concatenate([[0.0], np.geomspace(1e-12, 1, 400)])
        costs = concentration.tilt_costs(q)
        self.assertTrue((np.diff(costs, axis=0) >= 0).all())
        self.assertTrue((costs >= 0).all())
        mixed = concentration.tilt_costs([0.01, 0.01], baseline=[1.0, 0.5])
        half = (
            concentration.subgaussian_constant(concentration.TILTS)
            * concentration.TILTS**2
            / 2
        )
        np.testing.assert_array_equal(mixed[1], half)
        np.testing.assert_array_equal(mixed[0], concentration.tilt_costs(0.01))


class ScalarWidthTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.001, 0.00155188), (0.01, 0.00390755), (0.1, 0.00889541)
    )
    def test_matches_published_values(self, q, published):
        width = float(concentration.scalar_width(q, 100_000, log_level=np.log(8000)))
        self.assertLessEqual(width, published)
        self.assertGreater(width, published * 0.995)

    def test_baseline_half_is_the_subgaussian_width(self):
        for n, log_level in ((1000, 3.0), (100_000, 9.0), (4_000_000, 12.0)):
            tilt = np.sqrt(8 * log_level / n)
            constant = float(concentration.subgaussian_constant(tilt))
            closed = np.sqrt(2 * constant * log_level / n)
            width = concentration.scalar_width(
                0.3, n, log_level=log_level, baseline=0.5
            )
            self.assertLess(abs(width / closed - 1), 1e-3)

    def test_increases_in_q_and_decreases_in_samples(self):
        q = np.geomspace(1e-9, 1, 500)
        width = concentration.scalar_width(q, 10_000, log_level=7.0)
        self.assertTrue((np.diff(width) > 0).all())
        n = np.geomspace(10, 1e8, 100)
        width = concentration.scalar_width(0.01, n, log_level=7.0)
        self.assertTrue((np.diff(width) < 0).all())

    @parameterized.parameters(1, -1)
    def test_worst_misses_are_covered_and_half_the_width_is_not(self, sign):
        q, n, log_level, runs = 0.02, 5000, 3.0, 20_000
        width = float(concentration.scalar_width(q, n, log_level=log_level))
        t = stats.norm.isf(q / 2)
        rng = np.random.default_rng(2)
        num = rng.binomial(n, q, size=runs)
        w = stats.norm.isf(rng.uniform(size=num.sum()) * q / 2)
        w *= rng.choice([-1, 1], size=w.size)
        self.assertGreaterEqual(np.abs(w).min(), t)
        run = np.repeat(np.arange(runs), num)
        error = sign * np.bincount(run, weights=w, minlength=runs) / n  # mean 0
        level = np.exp(-log_level)
        self.assertLessEqual(np.mean(error > width), level)
        slack = 3 * np.sqrt(level / runs)
        self.assertGreater(np.mean(error > width / 2), level + slack)


class EmpiricalWidthTest(parameterized.TestCase):
    @parameterized.parameters((300, 0.05), (3000, 0.01), (30_000, 0.003))
    def test_the_bets_reach_the_level_at_the_width(self, n, q):
        """The wealth of the bets themselves, of which the width has a lower bound."""
        rng = np.random.default_rng(3)
        log_level = 6.0
        x = -np.where(rng.uniform(size=n) < q, rng.normal(size=n), 0)
        width = float(
            concentration.empirical_width([np.sum(x**2)], n, log_level=log_level)[0]
        )
        scales = np.sqrt(2 * log_level / (n * np.geomspace(0.35, 2e-4, 8)))
        bets = np.minimum(scales, 0.9 / noise_blocks.MAX_NOISE)
        for values in (x, -x):
            mean = values.mean() + width  # a mean that is this far above the sample's
            wealth = [
                np.sum(np.log1p(-a * values)) - n * np.log1p(-a * mean) for a in bets
            ]
            reached = np.logaddexp.reduce(wealth) - np.log(len(bets))
            self.assertGreaterEqual(reached, log_level - 1e-9)

    def test_covers_and_a_third_of_the_width_does_not(self):
        runs, n, q, log_level = 20_000, 20_000, 0.02, 3.0
        rng = np.random.default_rng(4)
        num = rng.binomial(n, q, size=runs)
        sums = rng.normal(size=runs) * np.sqrt(num)
        squares = sums**2 / num + rng.chisquare(num - 1)
        width = concentration.empirical_width(
            squares[:, None], np.full(runs, n), log_level=log_level
        )[:, 0]
        level = np.exp(-log_level)
        self.assertLessEqual(np.mean(sums / n > width), level)
        slack = 3 * np.sqrt(level / runs)
        self.assertGreater(np.mean(sums / n > width / 3), level + slack)

    def test_comes_near_the_normal_width_and_increases(self):
        n, log_level = 1_000_000, 9.0
        variance = np.geomspace(0.01, 0.3, 200)
        width = concentration.empirical_width(n * variance, n, log_level=log_level)
        normal = np.sqrt(2 * variance * log_level / n)
        self.assertTrue((width > normal).all())
        self.assertLess((width / normal).max(), 1.25)
        self.assertTrue((np.diff(width) > 0).all())

    def test_many_examples_at_once(self):
        squares = np.random.default_rng(5).uniform(1, 100, size=(3, 4))
        n = np.array([1000, 5000, 20_000])
        together = concentration.empirical_width(squares, n, log_level=7.0)
        for i in range(3):
            alone = concentration.empirical_width(squares[i], n[i], log_level=7.0)
            np.testing.assert_allclose(together[i], alone, rtol=1e-14)


if __name__ == "__main__":
    absltest.main()
