"""First-order radii: the noted table, closed forms, the solver, the proof, both worlds.

A batch costs the same however few of its rows are used: several tests share one.
"""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worst_cases
from absl.testing import absltest, parameterized
from scipy import stats
from worst_cases import components, inner_gradients, random_gradients

from robustjax import _precision, smoothing
from robustjax.smoothing.radii import dual, first_order, proof
from robustjax.smoothing.radii.dual import HOST, Constraints, Multipliers, dual_value

_NUM = 64  # the smaller batch that the host compiles
_TABLE = worst_cases.radius_table()
_FEW = _TABLE[5::12]  # for the exact form, which is dear
_QUANTILE, _DENSITY = stats.norm.ppf, stats.norm.pdf


def _edges():
    nan = np.nan
    p = [0.5, 0.3, nan, 0.9, 0.9, 1.0, 0.9]
    parallel = [-0.1, -0.1, -0.1, nan, -0.1, -0.1, -np.inf]
    perpendicular = [0.1, 0.1, 0.1, 0.1, nan, 0.1, np.inf]
    return np.array(p), np.array(parallel), np.array(perpendicular)


def _half_spaces():
    """Gradients as long as half-spaces have them."""
    p = np.array([0.6, 0.9, 0.99, 0.9999])
    return p, *components(p, 1.0, np.array([0.3, 1.4, 0.8, 0.3]))


def _almost_half_spaces():
    """As seen from behind, where a half-space is never met."""
    share = np.array([1 - 1e-6, 0.99995, 0.999])
    return np.full(3, 0.9), *components(0.9, share, 2.0)


def _single(known):
    """The same numbers after rounding to float32."""
    return [np.float64(np.float32(v)) for v in known]


def _in_table(rows):
    p, rho, theta, *radii = rows.T
    return (p, *components(p, rho, theta)), radii


def _along(p, length):
    """Gradients along the perturbation."""
    return np.asarray(p), -np.asarray(length), np.zeros(np.shape(p))


_LINE = [v.ravel() for v in np.meshgrid([0.6, 0.9, 0.99, 0.9999], [0.05, 0.5, 0.95])]
_LINE = (_LINE[0], _LINE[1] * _DENSITY(_QUANTILE(_LINE[0])))
_ONE = (np.array([0.9]), np.array([-0.05]), np.array([0.1]))
_BENT = (np.array([0.999]), *components(0.999, 0.98, np.array([0.9])))
_FOOLED = (np.array([0.99]), *components(0.99, 1.0, np.arcsin([0.9])))


def _cases(form):
    """What is asked of the one batch of each form."""
    half = _half_spaces()
    length = np.hypot(*half[1:])
    both = {"half_space": half, "edges": _edges()}
    if form == "unproven":
        return both | {
            "table": _in_table(_FEW)[0],
            "behind": _almost_half_spaces(),
            "random": inner_gradients(0, 5),
        }
    return both | {
        "line": _along(*_LINE),
        "along": _along(half[0], length),
        "shorter": _along(half[0], 0.999 * length),
        "fooled": _FOOLED,
        "one": _ONE,
        "bent": _BENT,
    }


@functools.cache
def _batch(form):
    """Radii of the cases by name, and what the solver proposed first."""
    cases, proposals = _cases(form), []

    def propose(*args, **kwargs):
        proposals.append(_PROPOSE(*args, **kwargs))
        return proposals[-1]

    known = [np.concatenate(v) for v in zip(*cases.values(), strict=True)]
    sizes = (known[0].size,) if form == "unproven" else (_NUM,)
    with (
        mock.patch.object(first_order, "_propose", propose),
        mock.patch.object(first_order, "_BATCHES", sizes),
    ):
        radii = smoothing.first_order_radius(*known, form=form)
    proposal = jax.tree.map(lambda v: np.asarray(v)[0], proposals[0])
    ends = np.cumsum([case[0].size for case in cases.values()])
    parts = {
        name: slice(end - case[0].size, end)
        for (name, case), end in zip(cases.items(), ends, strict=True)
    }
    return {
        name: (radii[part], jax.tree.map(lambda v, part=part: v[part], proposal))
        for name, part in parts.items()
    }


_PROPOSE = first_order._propose


def _proposed(p, parallel, perpendicular):
    """The solver's multipliers and radii in the box form."""
    known = Constraints(1 - p, parallel, perpendicular)
    padded = Constraints(*(np.pad(v, (0, _NUM - p.size), mode="edge") for v in known))
    with jax.enable_x64(True), jax.default_device(_precision.cpu()):
        proposal = first_order._propose(padded, free_parallel=False)
        multipliers, r = jax.tree.map(lambda v: np.asarray(v)[0, : p.size], proposal)
    return multipliers, r, known


class HostTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_noted_table(self):
        known, (_, box) = _in_table(_TABLE[np.isfinite(_TABLE[:, 4])])
        with mock.patch.object(first_order, "_BATCHES", (_NUM,)):  # two batches
            actual = smoothing.first_order_radius(*known)
        np.testing.assert_allclose(actual, box, rtol=0, atol=1.1e-6)

    def test_noted_table_in_the_exact_form(self):
        _, (exact, _) = _in_table(_FEW)
        actual = _batch("unproven")["table"][0]
        np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-6)

    @pytest.mark.slow
    def test_all_of_the_noted_table_in_the_exact_form(self):
        known, (exact, _) = _in_table(_TABLE)
        actual = smoothing.first_order_radius(*known, form="unproven")
        np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-6)

    def test_l2_is_the_interval_of_the_line(self):
        expected = [worst_cases.line_radius(*row) for row in zip(*_LINE, strict=True)]
        actual = _batch("box")["line"][0]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)

    def test_half_space(self):
        p, *parts = _half_spaces()
        exact = _batch("unproven")["half_space"][0]
        cosine = -parts[0] / np.hypot(*parts)
        np.testing.assert_allclose(exact, _QUANTILE(p) / cosine, rtol=1e-9)
        self.assertTrue(np.all(_batch("box")["half_space"][0] < exact - 1e-5))
        self.assertBetween(_batch("box")["fooled"][0][0], 3.0, 3.0054)
        along = _batch("box")["along"][0]
        np.testing.assert_allclose(along, _QUANTILE(p), rtol=0, atol=1e-12)
        self.assertTrue(np.all(_batch("box")["shorter"][0] > _QUANTILE(p) + 1e-6))

    @pytest.mark.slow
    def test_almost_a_half_space_is_none(self):
        radius = _batch("unproven")["behind"][0]
        self.assertTrue(np.all(np.isfinite(radius)))
        self.assertTrue(np.all(np.diff(radius) < 0))
        for share, world_radius in ((1.0, np.inf), (1 - 1e-12, 0.0), (0.99995, 0.0)):
            known = Constraints(
                np.array([0.1]), *(np.array([v]) for v in components(0.9, share, 2.0))
            )
            found = first_order._half_space_radius(known, HOST)
            np.testing.assert_array_equal(found, world_radius)

    @pytest.mark.slow
    def test_monotone(self):
        """In p, in the length of the gradient and in its angle."""
        p = np.array([0.55, 0.7, 0.9, 0.99, 0.9999])
        rho, theta = np.linspace(0.02, 0.99, 12), np.linspace(0.02, np.pi / 2, 12)
        grid = np.meshgrid(p, rho, theta, indexing="ij")
        parallel, perpendicular = components(*grid)
        radius = smoothing.first_order_radius(grid[0], parallel, perpendicular)
        self.assertGreater(np.diff(radius, axis=2).min(), -1e-7)
        ball = radius * np.cos(grid[2])  # what the angle leaves along the gradient
        self.assertLess(np.diff(ball, axis=2).max(), 1e-7)
        length = np.hypot(parallel, perpendicular)[..., 0]
        fixed = np.linspace(0.55, 0.9999, 60), np.full(60, -3e-4), np.full(60, 2e-4)
        known = map(np.append, _along(grid[0][..., 0], length), fixed)
        in_l2, fixed = np.split(smoothing.first_order_radius(*known), 2)
        self.assertLess(np.diff(in_l2.reshape(5, 12), axis=1).max(), 1e-9)
        self.assertGreater(np.diff(fixed).min(), 0)

    def _never_below(self, count, *names):
        rng = np.random.default_rng(5)
        n = 10 ** rng.integers(2, 7, count)
        k = rng.binomial(n, 1 - 10 ** rng.uniform(-5, -0.3, count))
        p_lower = smoothing.clopper_pearson_lower(k, n, alpha=0.0005)
        longest = _DENSITY(_QUANTILE(np.maximum(p_lower, 0.5)))
        length = longest * rng.uniform(0, 1.2, count)
        exposed = length * np.cos(rng.uniform(0, np.pi / 2, count))
        zeroth = smoothing.zeroth_order_radius(p_lower, sigma=1.0)
        self.assertGreater(np.mean(zeroth > 0), 0.5)
        part = count // len(names)
        for i, norm in enumerate(names):
            of = slice(i * part, (i + 1) * part)
            scale = 28.0 if norm == "linf" else 1.0
            radius = smoothing.norm_radius(
                p_lower[of], scale * exposed[of], length[of], norm=norm, dim=784
            )
            self.assertTrue(np.all(radius >= zeroth[of] / scale), norm)
            self.assertTrue(np.all(np.isfinite(radius)))

    def test_never_below_zeroth_order(self):
        self._never_below(2 * _NUM, "linf", "subspace:a")

    @pytest.mark.slow
    def test_never_below_zeroth_order_in_16_384_cases(self):
        """No exception: in less than 3 of 16,384 cases, with a confidence of 95 %."""
        self._never_below(2**14, "l2", "l1", "linf", "subspace:a")

    def test_edges(self):
        for form in ("box", "unproven"):
            self._assert_edges(_batch(form)["edges"][0])

    @pytest.mark.slow
    def test_edges_on_the_device(self):
        for form in ("box", "unproven"):
            self._assert_edges(_device(form)[:7])

    def _assert_edges(self, radius):
        np.testing.assert_array_equal(radius[:5], 0.0)
        self.assertTrue(np.all(radius[5:] > 1.0))
        self.assertFalse(np.isnan(radius).any())

    def test_positive_parallel_and_negative_perpendicular_read_as_zero(self):
        first, second, *expected = smoothing.first_order_radius(
            [0.9] * 4, [0.1, -0.05, 0.0, -0.05], [0.1, -0.3, 0.1, 0.0]
        )
        np.testing.assert_array_equal([first, second], expected)

    def test_shapes_units_and_the_x64_flag(self):
        known = np.array([[0.7], [0.9]]), np.array([[-0.1, -0.05, 0.0]]), 0.1
        radius = smoothing.first_order_radius(*known)
        self.assertEqual((radius.shape, radius.dtype), ((2, 3), np.float64))
        doubled = smoothing.first_order_radius(*known, sigma=2.0)
        np.testing.assert_array_equal(doubled, 2 * radius)
        with jax.enable_x64(not jax.config.jax_enable_x64):
            again = smoothing.first_order_radius(*known)
        np.testing.assert_array_equal(again, radius)
        self.assertEqual(smoothing.first_order_radius([], [], []).shape, (0,))

    @parameterized.parameters(
        (dict(form="ball"), "form"),
        (dict(sigma=0.0), "sigma"),
        (dict(p_lower=1.5), "p_lower"),
    )
    def test_refuses(self, changes, text):
        arguments = dict(p_lower=0.9, parallel=-0.1, perpendicular=0.1) | changes
        with self.assertRaisesRegex(ValueError, text):
            smoothing.first_order_radius(**arguments)


@functools.cache
def _device(form):
    """Float32 radii of the edges, then of random cases; one program for each form."""
    random = random_gradients(_NUM - 7, seed=6, least=1e-6)
    known = [
        jnp.asarray(np.concatenate(v), jnp.float32)
        for v in zip(_edges(), random, strict=True)
    ]
    radius = smoothing.first_order_radius(*known, form=form)
    assert radius.dtype == jnp.float32
    return np.asarray(radius, np.float64)


class DeviceTest(parameterized.TestCase):
    def _assert_below(self, device, host):
        loss = host - device
        self.assertGreater(loss.min(), 0.0)
        self.assertLess(np.median(loss), 1e-3)

    def test_float32_is_never_above_float64(self):
        known = _single(random_gradients(_NUM - 7, seed=6, least=1e-6))
        self._assert_below(_device("box")[7:], smoothing.first_order_radius(*known))

    @pytest.mark.slow
    def test_float32_is_never_above_float64_in_8_192_cases(self):
        """No exception: in less than 3 of 8,192 cases, with a confidence of 95 %.

        The corners have as many in `soundness_test`.
        """
        known = _single(random_gradients(2**13, seed=7, least=1e-6))
        single = (jnp.asarray(v, jnp.float32) for v in known)
        device = np.asarray(smoothing.first_order_radius(*single), np.float64)
        self._assert_below(device, smoothing.first_order_radius(*known))

    @pytest.mark.slow
    def test_jit_and_vmap(self):
        known = [jnp.asarray(v, jnp.float32) for v in random_gradients(6)]
        expected = smoothing.first_order_radius(*known)
        together = jax.jit(jax.vmap(smoothing.first_order_radius))(*known)
        np.testing.assert_allclose(together, expected, rtol=1e-5)

    def test_compiles_once_for_a_size(self):
        sizes = first_order._propose._cache_size
        smoothing.first_order_radius(*random_gradients(30))
        before = sizes()
        smoothing.first_order_radius(*random_gradients(50, seed=9))
        self.assertEqual(sizes(), before)


class ProofTest(absltest.TestCase):
    """The last step by itself, whatever the solver proposed."""

    def test_what_is_proved_has_a_dual_value_above_one_half(self):
        known = random_gradients(10, seed=3, least=1e-3)
        multipliers, r, known = _proposed(*known)
        best = first_order._prove(multipliers, r.copy(), known, free_parallel=False)
        for error in (0.0, 3e-7, 1e-3):  # proposals that are too long
            proved = first_order._prove(
                multipliers, r + error, known, free_parallel=False
            )
            value = dual_value(multipliers, proved, known, num_nodes=256, arrays=HOST)
            self.assertGreater(value.min(), 0.5 + 0.9e-9)
            np.testing.assert_array_less(proved, best + 1e-8)

    def test_box_takes_no_negative_multiplier_of_the_parallel_component(self):
        known = Constraints(1 - _BENT[0], *_BENT[1:])
        exact = np.array([-419.796126, 694.117674, 2547.142135])  # the best ones
        multipliers = Multipliers(*exact[:, None])
        free, held = (
            first_order._prove(
                multipliers, np.array([3.45]), known, free_parallel=is_free
            )[0]
            for is_free in (True, False)
        )
        box = _batch("box")["bent"][0][0]
        self.assertGreater(free, box + 0.1)
        self.assertLess(held, box + 1e-8)

    def test_float32_proves_with_a_margin_for_its_rounding(self):
        *proposal, known = _proposed(*inner_gradients(0, _NUM))
        single = jax.tree.map(jnp.float32, ((*proposal,), known))
        proved = jax.jit(proof.largest_on_device)(*single[0], single[1])
        proved = np.asarray(proved, float)
        (multipliers, _), known = jax.tree.map(np.float64, single)
        value = dual_value(multipliers, proved, known, num_nodes=192, arrays=HOST)
        self.assertTrue(np.all(proved > 0.01))
        self.assertBetween(value.min() - 0.5, 5e-5, 2e-4)

    def test_multipliers_that_are_not_finite_prove_nothing(self):
        bad = np.array([np.nan, np.inf, 1.0])
        known = Constraints(*(np.full(3, v) for v in (0.1, -0.05, 0.1)))  # as _ONE
        ones, r = np.ones(3), np.array([1.0, 1.0, np.nan])
        proved = first_order._prove(
            Multipliers(bad, ones, ones), r, known, free_parallel=False
        )
        self.assertTrue(np.all(proved <= _batch("box")["one"][0]))


class SolverTest(parameterized.TestCase):
    @parameterized.parameters("box", "unproven")
    @pytest.mark.slow
    def test_finds_the_radius_of_constructed_worst_cases(self, form):
        p, parallel, perpendicular, r = worst_cases.constructed_radii(
            _NUM, free_parallel=form == "unproven"
        )
        radius = smoothing.first_order_radius(p, parallel, perpendicular, form=form)
        np.testing.assert_array_less(radius, r + 1e-9)  # never above the truth
        np.testing.assert_allclose(radius, r, rtol=0, atol=1e-7)
        self.assertGreater(np.ptp(r), 1.5)

    @parameterized.parameters("box", "unproven")
    def test_proposal_is_stationary(self, form):
        """No direction in which the multipliers may move raises D, by differences."""
        if form == "box":
            multipliers, r, known = _proposed(*inner_gradients(0, _NUM))
        else:
            p, *parts = inner_gradients(0, 5)
            multipliers, r = _batch("unproven")["random"][1]
            known = Constraints(1 - p, *parts)
        a, b, c = multipliers

        def value(*changed):
            return dual_value(
                Multipliers(*changed), r, known, num_nodes=192, arrays=HOST
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
        count, tries = 24, 120
        p, parallel, perpendicular = inner_gradients(1, count)
        best = smoothing.first_order_radius(p, parallel, perpendicular)
        rng = np.random.default_rng(2)
        proposed, _, known = _proposed(p, parallel, perpendicular)
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
                Multipliers(*tried), r, shaped, num_nodes=48, arrays=HOST
            )
            error = np.abs(value - 0.5)
            largest = np.where(error < 1e-9, np.maximum(largest, r), largest)
            step = (value - 0.5) / np.maximum(-slope, 1e-2)
            r = np.clip(r + np.clip(step, -0.5, 0.5), 1e-3, 8.0)
        self.assertGreater(np.mean(largest > 0.1), 0.5)  # it is a real competition
        np.testing.assert_array_less(largest, limit + 2e-8)
        self.assertGreater(np.max(largest / limit), 1 - 1e-6)
        for further in (1e-6, 1e-3, 0.1, 1.0):
            value = dual_value(
                Multipliers(*tried), limit + further, shaped, num_nodes=48, arrays=HOST
            )
            self.assertLess(value.max(), 0.5)


if __name__ == "__main__":
    absltest.main()
