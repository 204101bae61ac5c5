"""The solver against certificates whose radius is known by construction."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from robustjax.smoothing import dual, first_order_radius, solver
from robustjax.smoothing.collinear import worst_interval
from robustjax.smoothing.dual import DEVICE, HOST, Constraints, Multipliers
from tests.smoothing import worst_cases

_NUM = 64  # the smallest batch that the host compiles


@functools.partial(jax.jit, static_argnames="free_parallel")
def _propose(known: Constraints, *, free_parallel: bool) -> solver.Proposal:
    interval = worst_interval(known.q, jnp.minimum(known.parallel, 0.0), DEVICE)
    return solver.solve(known, interval, free_parallel=free_parallel)


def _constructed(*, free_parallel: bool):
    """p, parallel, perpendicular and the exact radius of `_NUM` worst cases."""
    rng = np.random.default_rng(3)
    low = -1.0 if free_parallel else 0.05
    r = rng.uniform(0.1, 3.5, 4000)
    a = r * rng.uniform(low, 1.5, r.size) * np.exp(rng.uniform(0, 2, r.size))
    b = 10 ** rng.uniform(-0.7, 1.2, r.size)
    p, parallel, perpendicular, c = worst_cases.extremal_certificates(a, b, r).T
    fits = (p > 0.51) & (p < 0.99999) & (parallel < 0) & (c > 0)
    rows = np.flatnonzero(fits)[:_NUM]
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


class SolverTest(parameterized.TestCase):
    @parameterized.parameters("box", "exact")
    def test_finds_the_radius_of_constructed_worst_cases(self, form):
        p, parallel, perpendicular, r = _constructed(free_parallel=form == "exact")
        radius = first_order_radius(p, parallel, perpendicular, form=form)
        np.testing.assert_array_less(radius, r + 1e-9)  # never above the truth
        np.testing.assert_allclose(radius, r, rtol=0, atol=1e-7)
        self.assertGreater(np.ptp(r), 2.0)

    @parameterized.parameters(True, False)
    def test_proposal_is_stationary(self, free_parallel):
        p, parallel, perpendicular = _random_certificates(0, _NUM)
        with jax.enable_x64(True):
            known = Constraints(*(jnp.asarray(v) for v in (1 - p, parallel,
                                                           perpendicular)))  # fmt: skip
            multipliers, r = _propose(known, free_parallel=free_parallel)
            at = dual.dual_derivatives(multipliers, r, known, num_nodes=128)
            a, b, c, r, value, gradient = (
                np.asarray(v) for v in (*multipliers, r, at.value, at.gradient)
            )
        np.testing.assert_allclose(value, 0.5, atol=1e-8)
        scale = np.stack([1 + np.abs(a), b, c], axis=-1)
        is_held = ~free_parallel & (a == 0)
        np.testing.assert_array_less(gradient[is_held, 0], 1e-9)
        gradient[is_held, 0] = 0.0
        np.testing.assert_array_less(np.abs(gradient * scale), 1e-6)
        self.assertTrue(np.all((b > 0) & (c > 0)))
        if free_parallel:
            self.assertLess(a.min(), 0)
        else:
            self.assertTrue(np.all(a >= 0))
            self.assertBetween(is_held.sum(), 1, _NUM - 1)

    def test_random_multipliers_never_certify_more(self):
        """Near the best ones and far away; where D falls to 1/2, and beyond."""
        count, tries = 24, 400
        p, parallel, perpendicular = _random_certificates(1, count)
        best = first_order_radius(p, parallel, perpendicular)
        rng = np.random.default_rng(2)
        with jax.enable_x64(True):
            known = [np.pad(v, (0, _NUM - count), mode="edge")
                     for v in (1 - p, parallel, perpendicular)]  # fmt: skip
            proposal = _propose(Constraints(*known), free_parallel=False)
            found = np.stack([np.asarray(v) for v in proposal.multipliers])[:, :count]
        spread = rng.choice([1e-3, 0.03, 0.3, 2.0], size=(1, count, tries))
        factor = np.exp(spread * rng.normal(size=(3, count, tries)))
        factor[0] *= rng.random((count, tries)) > 0.1  # some with a = 0
        tried = (found[:, :, None] * factor + 1e-12).reshape(3, -1)
        shaped = Constraints(*(np.repeat(v[:count], tries) for v in known))
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
