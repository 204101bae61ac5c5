"""The dual against adaptive quadrature, linear programs, explicit classifiers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worst_cases
from absl.testing import absltest, parameterized

from robustjax.smoothing.radii import dual
from robustjax.smoothing.radii.dual import DEVICE, HOST, Constraints, Multipliers

# p, rho, theta, r, V and dV/dr, from the method note.
_NOTED = (
    (0.8, 0.5, 0.7, 0.9, 0.5704852403),
    (0.95, 0.7, 1.0, 1.8, 0.5577324842),
    (0.6, 0.2, 0.3, 0.4, 0.5365629926),
)


def _rows(*columns):
    return tuple(np.broadcast_arrays(*(np.asarray(c, np.float64) for c in columns)))


def _host(multipliers, r, known, num_nodes=192):
    shaped = _rows(*multipliers, r, *known)
    return dual.dual_value(
        Multipliers(*shaped[:3]),
        shaped[3],
        Constraints(*shaped[4:]),
        num_nodes=num_nodes,
        arrays=HOST,
    )


def _known(p, rho, theta):
    return Constraints(1 - p, *worst_cases.components(p, rho, theta))


class ValueTest(parameterized.TestCase):
    def _random(self, count):
        rng = np.random.default_rng(0)
        a = np.where(rng.random(count) < 0.2, 0.0, 10 ** rng.uniform(-3, 1.5, count))
        b = np.concatenate([[1e-6, 1e-6, 50.0], 10 ** rng.uniform(-6, 1.5, count - 3)])
        c = 10 ** rng.uniform(-1, 2, count)
        known = Constraints(
            10 ** rng.uniform(-5, -0.31, count),
            -rng.uniform(0, 0.3, count),
            rng.uniform(0, 0.3, count),
        )
        return Multipliers(a, b, c), rng.uniform(0.05, 4.5, count), known

    def test_matches_adaptive_quadrature(self):
        multipliers, r, known = self._random(24)
        oracle = np.array(
            [
                worst_cases.dual_by_quadrature(m, length, k)
                for m, length, k in zip(
                    zip(*multipliers, strict=True),
                    r,
                    zip(*known, strict=True),
                    strict=True,
                )
            ]
        )
        fine = _host(multipliers, r, known)
        scale = 1 + sum(np.abs(v) for v in multipliers)
        np.testing.assert_array_less(np.abs(fine - oracle) / scale, 1e-9)
        # What the proof of a radius subtracts covers the error above the truth.
        coarse = _host(multipliers, r, known, num_nodes=128)
        np.testing.assert_array_less(fine - oracle, 1e-9 + 16 * np.abs(fine - coarse))
        self.assertGreater(np.ptp(oracle), 1.0)

    @pytest.mark.newest
    def test_both_worlds_agree(self):
        multipliers, r, known = self._random(200)
        host = _host(multipliers, r, known)
        scale = 1 + sum(np.abs(v) for v in multipliers)
        with jax.enable_x64(True):
            as_jax = functools.partial(jax.tree.map, jnp.asarray)
            arguments = [as_jax(v) for v in (multipliers, r, known)]
            value = functools.partial(dual.dual_value, num_nodes=192, arrays=DEVICE)
            device = np.asarray(jax.jit(value)(*arguments))
        np.testing.assert_array_less(np.abs(device - host) / scale, 1e-8)

    @parameterized.parameters(*_NOTED)
    def test_largest_value_is_the_noted_one(self, p, rho, theta, r, expected):
        value = worst_cases.worst_value(_known(p, rho, theta), r)
        np.testing.assert_allclose(value, expected, atol=2e-9)

    def test_noted_multipliers(self):
        known = _known(0.8, 0.5, 0.7)
        multipliers = (0.60069801, 0.17665986, 1.16168351)
        value = _host(multipliers, 0.9, known)
        np.testing.assert_allclose(value, 0.5704852403, atol=1e-10)
        shaped = _rows(*multipliers, 0.9, *known)
        _, slope = dual.dual_and_slope(
            Multipliers(*shaped[:3]),
            shaped[3],
            Constraints(*shaped[4:]),
            num_nodes=192,
            arrays=HOST,
        )
        np.testing.assert_allclose(slope, -0.36234526, atol=1e-8)


class DerivativesTest(absltest.TestCase):
    @pytest.mark.slow
    def test_derivatives_match_differences_of_quadrature(self):
        known = _known(0.9, 0.6, 0.8)
        at, r, step = np.array([0.7, 0.4, 1.6]), 1.1, 1e-4

        def oracle(change, dr=0.0):
            return worst_cases.dual_by_quadrature(at + change, r + dr, known)

        units = step * np.eye(3)
        gradient = [(oracle(u) - oracle(-u)) / (2 * step) for u in units]
        hessian = [
            [
                (oracle(u + v) - oracle(u - v) - oracle(v - u) + oracle(-u - v))
                / (4 * step**2)
                for v in units
            ]
            for u in units
        ]
        cross = [
            (oracle(u, step) - oracle(u, -step) - oracle(-u, step) + oracle(-u, -step))
            / (4 * step**2)
            for u in units
        ]
        none = np.zeros(3)
        slope = (oracle(none, step) - oracle(none, -step)) / (2 * step)
        with jax.enable_x64(True):
            result = dual.dual_derivatives(
                Multipliers(*(jnp.asarray([v]) for v in at)),
                jnp.asarray([r]),
                Constraints(*(jnp.asarray([v]) for v in known)),
                num_nodes=96,
            )
            result = jax.tree.map(np.asarray, result)
        np.testing.assert_allclose(result.value[0], oracle(none), atol=1e-10)
        np.testing.assert_allclose(result.gradient[0], gradient, atol=1e-7)
        np.testing.assert_allclose(result.slope[0], slope, atol=1e-7)
        np.testing.assert_allclose(result.hessian[0], hessian, atol=2e-6)
        np.testing.assert_allclose(result.cross[0], cross, atol=2e-6)
        self.assertGreater(np.abs(np.array(cross)).min(), 1e-3)

    def test_concave_in_the_multipliers(self):
        rng = np.random.default_rng(1)
        first, second = (10 ** rng.uniform(-2, 1, (3, 500)) for _ in range(2))
        known, r = _known(0.9, 0.6, 0.8), rng.uniform(0.2, 4, 500)
        middle = _host(tuple(0.5 * (first + second)), r, known)
        ends = [_host(tuple(x), r, known) for x in (first, second)]
        np.testing.assert_array_less(0.5 * (ends[0] + ends[1]), middle + 1e-9)


class WeakDualityTest(parameterized.TestCase):
    @parameterized.parameters(*_NOTED)
    def test_linear_program_is_above(self, p, rho, theta, r, expected):
        """Fewer classifiers compete in the program, and finer cells let more in."""
        m1, m2 = worst_cases.components(p, rho, theta)
        coarse, fine = (
            worst_cases.linear_program(p, m1, m2, r, num_cells=n) for n in (30, 70)
        )
        self.assertLess(expected, fine)
        self.assertLess(fine, coarse)
        self.assertLess(fine - expected, 1e-3)

    def test_no_multipliers_exceed_the_probability_of_a_classifier(self):
        """Also where the three constraints are only lower bounds."""
        rng = np.random.default_rng(2)
        margins = []
        for _ in range(12):
            direction, bend = rng.normal(size=2), rng.normal(scale=0.3)
            f = worst_cases.CellClassifier.of(
                lambda x, y, d=direction, s=bend: d[0] * x + d[1] * y + s * x * y < 1,
                num_cells=30,
                dim=2,
            )
            p, m = f.moments()
            r = rng.uniform(0.1, 3, 300)
            slack = rng.uniform(0, 0.05, (3, 300)) * rng.integers(0, 2, 300)
            known = Constraints(
                1 - p + slack[0], m[0] - slack[1], np.abs(m[1]) - slack[2]
            )
            scale = rng.choice([0.1, 1, 10], 300)
            multipliers = scale * 10 ** rng.uniform(-1, 1, (3, 300))
            value = _host(tuple(multipliers), r, known, num_nodes=96)
            truth = [f.probability((length, 0.0)) for length in r]
            margins.append(truth - value)
        margins = np.concatenate(margins)
        self.assertGreater(margins.min(), -1e-9)
        self.assertLess(margins.min(), 0.05)  # some multipliers come close


class LemmasTest(parameterized.TestCase):
    """The two lemmas that make one dual value a proof for a whole ball."""

    @parameterized.parameters((0.9, 0.6, -0.4), (0.7, 0.3, 0.1))
    def test_lengthening_orthogonally_to_the_gradient_lowers_the_worst_value(
        self, p, rho, alpha
    ):
        length = np.hypot(*worst_cases.components(p, rho, 0.0))
        values = []
        for beta in (0.2, 0.7, 1.4, 2.4):
            r = np.hypot(alpha, beta)
            known = Constraints(1 - p, length * alpha / r, length * beta / r)
            values.append(worst_cases.worst_value(known, r))
        self.assertLess(np.diff(values).max(), 1e-8)
        self.assertGreater(values[0] - values[-1], 0.05)

    @parameterized.parameters((0.9, 0.6, 0.5), (0.99, 0.98, 1.2))
    def test_box_value_decreases_in_the_length(self, p, rho, theta):
        lengths = np.linspace(0.1, 4.0, 4)
        values = [
            worst_cases.worst_value(_known(p, rho, theta), r, free_parallel=False)
            for r in lengths
        ]
        self.assertLess(np.diff(values).max(), 0)
        self.assertGreater(values[0], 0.5)
        self.assertLess(values[-1], 0.5)

    def test_exact_value_is_not_monotone_in_the_parallel_component(self):
        """Why the exact form does not cover a ball by one value, and the box does."""
        m1, m2 = worst_cases.components(0.999, 0.98, 0.9)
        exact = [
            worst_cases.worst_value(Constraints(0.001, share * m1, m2), 3.45)
            for share in (1.0, 0.9, 0.7)
        ]
        self.assertGreater(exact[0], exact[1] + 0.03)  # harmless m1 does more harm
        self.assertGreater(exact[1], exact[2] + 0.02)
        np.testing.assert_allclose(exact, [0.57793, 0.53322, 0.50906], atol=1e-5)
        box = worst_cases.worst_value(
            Constraints(0.001, m1, m2), 3.45, free_parallel=False
        )
        np.testing.assert_allclose(box, 0.50509, atol=1e-5)
        self.assertLess(box, min(exact))


if __name__ == "__main__":
    absltest.main()
