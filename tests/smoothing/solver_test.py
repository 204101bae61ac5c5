"""The solver against certificates whose radius is known by construction."""

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import _precision
from robustjax.smoothing import dual, first_order, first_order_radius
from robustjax.smoothing.dual import HOST, Constraints, Multipliers
from tests.smoothing import worst_cases

_NUM = 64  # the smallest batch that the host compiles


def _constructed(*, free_parallel: bool):
    """p, parallel, perpendicular and the exact radius of `_NUM` worst cases."""
    rng = np.random.default_rng(3)
    low = -1.0 if free_parallel else 0.02
    r = rng.uniform(0.05, 3.0, 1500)
    a = r * rng.uniform(low, 1.0, r.size) * np.exp(rng.uniform(0, 2, r.size))
    b = 10 ** rng.uniform(-1, 1.2, r.size)
    p, parallel, perpendicular, c = worst_cases.extremal_certificates(a, b, r).T
    longest, _ = worst_cases.components(p, 1.0, np.pi)
    fits = (p > 0.505) & (parallel < 0) & (c > 0) & (c < 99)
    rows = np.flatnonzero(fits & (perpendicular > 0.1 * longest))[:_NUM]
    assert rows.size == _NUM
    return p[rows], parallel[rows], perpendicular[rows], r[rows]


def _random_certificates(seed: int, count: int):
    rng = np.random.default_rng(seed)
    p, rho, theta = (
        rng.uniform(0.52, 0.9995, count),
        rng.uniform(0.05, 0.99, count),
        rng.uniform(0.05, 1.5, count),
    )
    return p, *worst_cases.components(p, rho, theta)


def _proposed(p, parallel, perpendicular, *, form):
    """The solver's multipliers and radii, in the batch size that the host compiles."""
    known = Constraints(1 - p, parallel, perpendicular)
    padded = Constraints(*(np.pad(v, (0, _NUM - p.size), mode="edge") for v in known))
    with jax.enable_x64(True), jax.default_device(_precision.cpu()):
        proposal = first_order._propose(padded, free_parallel=form == "exact")
        multipliers, r = jax.tree.map(lambda v: np.asarray(v)[0, : p.size], proposal)
    return multipliers, r, known


class SolverTest(parameterized.TestCase):
    @parameterized.parameters("box", "exact")
    @pytest.mark.slow
    def test_finds_the_radius_of_constructed_worst_cases(self, form):
        p, parallel, perpendicular, r = _constructed(free_parallel=form == "exact")
        radius = first_order_radius(p, parallel, perpendicular, form=form)
        np.testing.assert_array_less(radius, r + 1e-9)  # never above the truth
        np.testing.assert_allclose(radius, r, rtol=0, atol=1e-7)
        self.assertGreater(np.ptp(r), 1.5)

    @parameterized.parameters("box", "exact")
    def test_proposal_is_stationary(self, form):
        """No direction in which the multipliers may move raises D, by differences."""
        multipliers, r, known = _proposed(*_random_certificates(0, _NUM), form=form)
        a, b, c = multipliers

        def value(*changed):
            return dual.dual_value(
                Multipliers(*changed), r, known, num_nodes=192, world=HOST
            )

        np.testing.assert_allclose(value(a, b, c), 0.5, atol=1e-8)
        self.assertTrue(np.all((b > 0) & (c > 0)))
        step = 3e-5  # the differences below are good to 1e-5
        slope_b, slope_c = (
            (value(a, *up) - value(a, *down)) / (2 * step)
            for up, down in (
                ((b * (1 + step), c), (b * (1 - step), c)),
                ((b, c * (1 + step)), (b, c * (1 - step))),
            )
        )
        slope_a = (value(a + step, b, c) - value(a - step, b, c)) / (2 * step)
        np.testing.assert_allclose(slope_b, 0.0, atol=1e-5)
        np.testing.assert_allclose(slope_c, 0.0, atol=1e-5)
        is_held = (a < 1e-12) & (form == "box")
        np.testing.assert_allclose(slope_a[~is_held], 0.0, atol=1e-5)
        np.testing.assert_array_less(slope_a[is_held], 1e-5)
        if form == "box":
            self.assertTrue(np.all(a >= 0))
            self.assertBetween(is_held.sum(), 1, _NUM - 1)
        else:
            self.assertLess(a.min(), 0)

    def test_random_multipliers_never_certify_more(self):
        """Near the best ones and far away; where D falls to 1/2, and beyond."""
        count, tries = 24, 400
        p, parallel, perpendicular = _random_certificates(1, count)
        best = first_order_radius(p, parallel, perpendicular)
        rng = np.random.default_rng(2)
        proposed, _, known = _proposed(p, parallel, perpendicular, form="box")
        found = np.stack(proposed)
        spread = rng.choice([1e-3, 0.03, 0.3, 2.0], size=(1, count, tries))
        factor = np.exp(spread * rng.normal(size=(3, count, tries)))
        factor[0] *= rng.random((count, tries)) > 0.1  # some with a = 0
        tried = (found[:, :, None] * factor + 1e-12).reshape(3, -1)
        shaped = Constraints(*(np.repeat(v, tries) for v in known))
        limit = np.repeat(best, tries)
        r, largest = limit.copy(), np.zeros(limit.shape)
        for _ in range(7):  # Newton steps in r to where D = 1/2
            value, slope = dual.dual_and_slope(
                Multipliers(*tried), r, shaped, num_nodes=48, world=HOST
            )
            error = np.abs(value - 0.5)
            largest = np.where(error < 1e-9, np.maximum(largest, r), largest)
            step = (value - 0.5) / np.maximum(-slope, 1e-2)
            r = np.clip(r + np.clip(step, -0.5, 0.5), 1e-3, 8.0)
        self.assertGreater(np.mean(largest > 0.1), 0.5)  # it is a real competition
        np.testing.assert_array_less(largest, limit + 2e-8)
        self.assertGreater(np.max(largest / limit), 1 - 1e-6)
        for further in (1e-6, 1e-3, 0.03, 0.3, 1.0):
            value = dual.dual_value(
                Multipliers(*tried), limit + further, shaped, num_nodes=48, world=HOST
            )
            self.assertLess(value.max(), 0.5)


if __name__ == "__main__":
    absltest.main()
