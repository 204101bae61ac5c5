"""Radii under attack: explicit classifiers whose probabilities are known exactly.

Every classifier is constant on the cells of a grid, so its probability, its gradient
and its probability at any perturbation are sums of products of normal distributions.
"""

import functools
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worst_cases
from absl.testing import absltest, parameterized
from scipy import special
from worst_cases import CellClassifier, components

from robustjax import norms, smoothing
from robustjax.smoothing import first_order_radius
from robustjax.smoothing.radii import ball_cover, first_order
from robustjax.smoothing.radii.dual import HOST, Constraints
from robustjax.smoothing.radii.general_moments import (
    worst_case_probability,
    worst_case_radius,
)

_BATCH = 64  # the smallest batch that the host compiles


def _longest(p):
    return np.exp(-0.5 * special.ndtri(p) ** 2) / np.sqrt(2 * np.pi)


def _corners(seed: int, count: int):
    """p, parallel and perpendicular components with many in the corners."""
    rng = np.random.default_rng(seed)

    def pick(*choices):
        return np.choose(rng.integers(0, len(choices), count), choices)

    p = pick(
        1 - 10 ** rng.uniform(-7, -0.31, count),
        rng.uniform(0.5, 0.999, count),
        0.5 + 10 ** rng.uniform(-5, -1, count),
    )
    rho = pick(
        1 - 10 ** rng.uniform(-5, -1, count),
        rng.uniform(0, 1, count),
        10 ** rng.uniform(-6, 0, count),
    )
    theta = pick(
        10 ** rng.uniform(-7, 0, count),
        np.pi / 2 - 10 ** rng.uniform(-7, 0, count),
        rng.uniform(0, np.pi / 2, count),
        rng.uniform(0, np.pi, count),
    )
    return p, *components(p, rho, theta)


def _plane_classifiers(seed: int, count: int) -> list[CellClassifier]:
    rng = np.random.default_rng(seed)
    found: list[CellClassifier] = []
    while len(found) < count:
        d = rng.normal(size=2)
        s, t, w = rng.normal(scale=0.4), rng.uniform(-0.5, 2), rng.uniform(0.5, 3)
        r, a, b, c = rng.uniform(0.3, 3), *rng.uniform(0, 4, 3)
        region = [
            lambda x, y, d=d, t=t: d[0] * x + d[1] * y < t,  # half-space
            lambda x, y, d=d, w=w: np.abs(d[0] * x + d[1] * y) < w,  # slab
            lambda x, y, d=d, s=s, t=t: d[0] * x + d[1] * y + s * x * x < t,
            lambda x, y, w=w: (x - 0.3) ** 2 + y**2 < 4 * w,
            lambda x, y, r=r, a=a, b=b, c=c: (
                np.exp(r * x - r * r / 2) < a * x + b * y + c  # a worst case
            ),
            lambda x, y, t=t: rng.random(x.shape) < special.ndtr(t - x),
        ][len(found) % 6]
        f = CellClassifier.of(region, num_cells=60, dim=2)
        if 0.51 < f.moments()[0] < 0.9999:
            found.append(f)
    return found


def _space_classifiers(seed: int, count: int) -> list[CellClassifier]:
    rng = np.random.default_rng(seed)
    found: list[CellClassifier] = []
    while len(found) < count:
        d, t = rng.normal(size=3), rng.uniform(0, 2)
        d[rng.integers(3)] *= 0.1
        bend = rng.normal(scale=0.2, size=3) * (len(found) % 3 > 0)

        def region(*z, d=d, t=t, bend=bend):
            return (
                sum(w * x + s * x * x for w, s, x in zip(d, bend, z, strict=True)) < t
            )

        f = CellClassifier.of(region, num_cells=24, dim=3)
        if 0.55 < f.moments()[0] < 0.999:
            found.append(f)
    return found


class PlaneTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_no_direction_breaks_a_radius(self):
        self._attack("box")

    @pytest.mark.slow
    def test_no_direction_breaks_an_exact_radius(self):
        self._attack("unproven")

    def _attack(self, form):
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        directions = np.stack([np.cos(angles), np.sin(angles)], -1)
        classifiers = _plane_classifiers(seed=0, count=24)
        p, m = (
            np.array(v) for v in zip(*(f.moments() for f in classifiers), strict=True)
        )
        parallel = m @ directions.T
        across = np.abs(np.stack([-m[:, 1], m[:, 0]], axis=1) @ directions.T)
        with mock.patch.object(first_order, "_BATCHES", (_BATCH,)):
            radii = first_order_radius(p[:, None], parallel, across, form=form)
        radii = np.minimum(radii, 9.0)
        margins = [
            f.probability(share * r * u) - 0.5
            for f, own in zip(classifiers, radii, strict=True)
            for r, u in zip(own, directions, strict=True)
            for share in (1.0, 0.7)
        ]
        self.assertGreater(np.min(margins), -1e-9)
        self.assertLess(np.min(margins), 0.01)  # the attack comes close
        self.assertGreater(np.median(radii.max(axis=1) - special.ndtri(p)), 0.1)

    def test_weaker_bounds_never_enlarge_the_box(self):
        rng = np.random.default_rng(1)
        num = _BATCH // 2
        known = np.array(_corners(11, num))
        slack = rng.uniform(0, 0.02, (3, num)) * rng.integers(0, 2, (3, num))
        radii = first_order_radius(*np.concatenate([known, known - slack], axis=1))
        np.testing.assert_array_less(radii[num:], radii[:num] + 1e-6)

    def test_half_spaces_seen_from_behind(self):
        given = components(0.9, 1.0, np.array([1.6, 2.5]))
        known = Constraints(np.full(2, 0.1), *given)
        found = first_order._half_space_radius(known, HOST)
        np.testing.assert_array_equal(found, np.inf)

    def test_angle_and_radius(self):
        """R rises with the angle, R cos(angle) falls, strictly, and R gains on l2."""
        self._assert_strict(*_grid_radii("box"))

    @pytest.mark.slow
    def test_angle_and_radius_in_the_exact_form_which_is_never_below_box(self):
        p, theta, box = _grid_radii("box")
        *_, exact = _grid_radii("unproven")
        self._assert_strict(p, theta, exact)
        np.testing.assert_array_less(box, exact + 1e-7)
        self.assertGreater(np.max(exact - box), 0.1)

    def _assert_strict(self, p, theta, radius):
        self.assertGreater(np.diff(radius).min(), 1e-8)
        self.assertLess(np.diff(radius * np.cos(theta)).max(), -1e-8)
        np.testing.assert_array_less(special.ndtri(p) + 1e-6 + 0 * radius, radius)


def _grid_radii(form):
    """Five p and rho, by twelve angles, in one batch: p, angles and radii `[5, 12]`."""
    p = np.array([0.55, 0.6, 0.9, 0.99, 0.99999])[:, None]
    rho = np.array([0.3, 0.9, 0.5, 0.9, 0.99])[:, None]
    theta = np.linspace(0, np.pi / 2, 12)[None]
    return p, theta, first_order_radius(p, *components(p, rho, theta), form=form)


class BallTest(parameterized.TestCase):
    """Balls in space, with the true norms of the gradient."""

    def _directions(self, norm, count=60):
        rng = np.random.default_rng(5)
        corners = np.array(list(itertools.product((-1, 0, 1), repeat=3)), float)
        corners = corners[np.any(corners != 0, axis=1)]
        points = np.concatenate([corners, rng.normal(size=(count, 3))])
        if norm.startswith("subspace"):
            points = points * [1.0, 1.0, 0.0]
            points = points[np.any(points != 0, axis=1)]
        order = 2 if norm.startswith("subspace") else norms.exponent(norm)
        return points / np.linalg.norm(points, ord=order, axis=1, keepdims=True)

    @parameterized.product(norm=("l1", "l2", "linf", "l4", "subspace:a"))
    def test_no_perturbation_of_the_ball_breaks_it(self, norm):
        self._attack(norm, "box", count=12)

    @pytest.mark.slow
    def test_no_perturbation_of_the_ball_breaks_the_cells(self):
        for norm in ("l1", "linf", "l4"):
            self._attack(norm, "cells", count=12)

    def _attack(self, norm, form, count):
        directions = self._directions(norm)
        classifiers = _space_classifiers(seed=2, count=count)
        p, m = (
            np.array(v) for v in zip(*(f.moments() for f in classifiers), strict=True)
        )
        if norm.startswith("subspace"):
            dual, rest = np.linalg.norm(m[:, :2], axis=1), np.abs(m[:, 2])
        else:
            order = norms.dual_exponent(norms.exponent(norm))
            dual, rest = (np.linalg.norm(m, ord=k, axis=1) for k in (order, 2))
        radii = smoothing.norm_radius(p, dual, rest, norm=norm, dim=3, form=form)
        least = special.ndtri(p) / norms.l2_circumradius(norm, 3)
        margins = [
            f.probability(share * radius * u) - 0.5
            for f, radius in zip(classifiers, radii, strict=True)
            for u in directions
            for share in (1.0, 0.6)
        ]
        self.assertGreater(np.min(margins), -1e-9)
        self.assertLess(np.min(margins), 0.05)  # the attack comes close
        self.assertTrue(np.all(radii >= least))
        self.assertGreater(np.max(radii / least), 1.02)

    @pytest.mark.slow
    def test_every_gradient_that_the_cells_cover_keeps_the_class(self):
        """At the radius, the exact dual optimum over the whole range of m1."""
        exposed, length = 0.0623, 0.1719
        radius = float(ball_cover.cell_radius(0.9, exposed, length))
        box = first_order_radius(0.9, -exposed, np.sqrt(length**2 - exposed**2))
        self.assertGreater(radius, box + 0.05)
        values = [
            worst_cases.worst_value((0.1, m1, np.sqrt(length**2 - m1**2)), radius)
            for m1 in np.linspace(-exposed, exposed, 15)
        ]
        self.assertGreater(min(values), 0.5)
        self.assertLess(min(values), 0.501)


class FloatTest(parameterized.TestCase):
    """JAX arrays against the host, on the same numbers, also in the corners."""

    @parameterized.parameters(("box", 2**13), ("unproven", 2**11))
    @pytest.mark.slow
    def test_many(self, form, count):
        """No exception: in less than 3 of so many cases, with a confidence of 95 %."""
        self._compare(4, count, form)

    def _compare(self, seed, count, form):
        given = [np.float32(v) for v in _corners(seed, count)]
        single = first_order_radius(*(jnp.asarray(v) for v in given), form=form)
        self.assertEqual(single.dtype, jnp.float32)
        single = np.asarray(single, np.float64)
        p, m1, m2 = (np.float64(v) for v in given)
        double = first_order_radius(p, m1, m2, form=form)
        self.assertFalse(np.any(np.isnan(single) | np.isnan(double)))
        # Rounding to float32 makes some gradients longer than any can be. There every
        # radius is sound, and which one is found says nothing.
        is_possible = np.hypot(m1, m2) < _longest(np.minimum(p, 1 - 1e-16)) * (1 - 1e-8)
        self.assertGreater(np.mean(is_possible), 0.8)
        excess = (single - double)[is_possible & np.isfinite(double)]
        self.assertLessEqual(excess.max(), 0.0)
        self.assertGreater(np.median(excess), -2e-3)

    @pytest.mark.slow
    def test_float64_arrays_agree_with_the_host(self):
        p, m1, m2 = _corners(6, _BATCH)
        given = (p, 0.999 * m1, 0.999 * m2)
        with jax.enable_x64(True):
            device = np.asarray(first_order_radius(*(jnp.asarray(v) for v in given)))
        host = first_order_radius(*given)
        np.testing.assert_array_less(device, host + 1e-9)
        # Nearer to 1/2 the wider margin of the device is much of what D exceeds it by.
        is_clear = p > 0.501
        self.assertGreater(np.mean(is_clear), 0.6)
        np.testing.assert_allclose(device[is_clear], host[is_clear], rtol=0, atol=1e-6)


def _second_order(z):
    along = z[..., 0]
    return jnp.stack([jnp.ones_like(along), along, along**2 - 1], axis=-1)


def _with_curvature(z):
    along = z[..., 0]
    return jnp.stack([jnp.ones_like(along), along, z[..., 1], along**2 - 1], axis=-1)


def _pieces(ends):
    """Moments of f = 1 on (-inf, x1] and [x2, x3], and its probability at r."""
    x = np.array(ends)
    bell = np.exp(-0.5 * x * x) / np.sqrt(2 * np.pi)
    sign = np.array([1, -1, 1])
    moments = [
        float(np.sum(sign * special.ndtr(x))),
        float(-np.sum(sign * bell)),
        float(-np.sum(sign * x * bell)),
    ]
    return moments, lambda r: float(np.sum(sign * special.ndtr(x - r)))


class MomentsTest(parameterized.TestCase):
    """Second order in the direction of the perturbation."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @pytest.mark.slow
    def test_pieces_that_the_moments_determine(self):
        """A parabola meets the likelihood ratio in any three points, so f is the worst
        case of its own three moments at every distance."""
        moments, truth = _pieces((1.2, 1.9, 2.6))
        values = jnp.array(moments)
        find = functools.partial(worst_case_probability, _second_order, values)
        for r in (0.5, 1.1, 1.7):
            probability = float(find(r).probability)
            self.assertLessEqual(probability, truth(r) + 1e-12)
            np.testing.assert_allclose(probability, truth(r), atol=5e-4)
        radius = float(worst_case_radius(_second_order, values))
        exact = float(first_order_radius(moments[0], moments[1], 0.0, form="unproven"))
        self.assertGreater(radius, exact + 0.01)
        reached = truth(radius)
        self.assertBetween(reached, 0.5, 0.505)

    def test_linear_program_is_above(self):
        p, r, curvature = 0.9, 1.3, -0.1
        m1, m2 = components(p, 0.6, 0.8)
        program = functools.partial(
            worst_cases.linear_program, p, m1, m2, r, num_cells=40
        )
        plain, bound = program(), program(extra=curvature)
        worst = worst_case_probability(
            _with_curvature, jnp.array([p, m1, m2, curvature]), r, num_nodes=96
        )
        self.assertBetween(float(worst.probability), bound - 5e-3, bound)
        self.assertGreater(bound, plain + 1e-3)

    @pytest.mark.slow
    def test_margin_covers_the_quadrature(self):
        """The bound stays below the optimum and near it; vmap agrees with a loop."""
        known = [(0.8, 0.5, 0.7, 0.9), (0.95, 0.7, 1.0, 1.8), (0.6, 0.2, 0.3, 0.4)]
        exact = np.array([0.5704852403, 0.5577324842, 0.5365629926])
        values = jnp.array([(p, *components(p, rho, t)) for p, rho, t, _ in known])
        r = jnp.array([row[-1] for row in known])

        def first_order_moments(z):
            return jnp.stack([jnp.ones_like(z[..., 0]), z[..., 0], z[..., 1]], axis=-1)

        find = functools.partial(
            worst_case_probability, first_order_moments, num_nodes=256
        )
        together = np.asarray(jax.vmap(find)(values, r).probability)
        alone = [float(find(v, x).probability) for v, x in zip(values, r, strict=True)]
        np.testing.assert_allclose(together, alone, atol=1e-7)
        self.assertTrue(np.all(together <= exact))
        np.testing.assert_allclose(together, exact, atol=1e-4)


if __name__ == "__main__":
    absltest.main()
