"""Radii of balls: which perturbations they cover, by explicit classifiers; the cells.

The cell form is between box and exact, and proved.
"""

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import norms, smoothing
from robustjax.smoothing import first_order_radius
from robustjax.smoothing.radii import ball_cover, norm_balls


def _gradient(p, rho, theta):
    """Exposed part and length of a gradient, rho of the longest there is."""
    length = rho * stats.norm.pdf(stats.norm.ppf(p))
    return length * np.cos(theta), length


def _assert_safe_for_half_spaces(norm, form, *, count):
    """The true radius of a half-space is its distance in the norm."""
    rng = np.random.default_rng(0)
    dim = 5
    normal = rng.normal(size=(count, dim))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    distance = rng.uniform(0.1, 3.0, count)
    p, length = stats.norm.cdf(distance), stats.norm.pdf(distance)
    if norm == "subspace:a":
        dual = np.linalg.norm(normal[:, :2], axis=1)
        rest = length * np.linalg.norm(normal[:, 2:], axis=1)
    else:
        order = norms.dual_exponent(norms.exponent(norm))
        dual, rest = np.linalg.norm(normal, ord=order, axis=1), length
    radius = smoothing.norm_radius(
        p, length * dual, rest, norm=norm, dim=dim, form=form
    )
    assert np.all(radius <= distance / dual * (1 + 1e-12))
    least = distance / norms.l2_circumradius(norm, dim)
    assert np.all(radius >= least * (1 - 1e-9))
    if norm in ("l1", "subspace:a"):
        assert np.median(radius / least) > 1.05


class BallTest(parameterized.TestCase):
    @parameterized.parameters("l1", "l2", "linf", "l3", "subspace:a")
    def test_half_spaces_are_safe_in_the_ball(self, norm):
        _assert_safe_for_half_spaces(norm, "box", count=20)

    def test_half_spaces_are_safe_in_the_ball_by_cells(self):
        with mock.patch.object(ball_cover, "_BATCHES", (32,)):  # one program
            _assert_safe_for_half_spaces("l1", "cells", count=3)
            _assert_safe_for_half_spaces("linf", "cells", count=3)
        _assert_safe_for_half_spaces("subspace:a", "cells", count=20)  # it is the box

    @pytest.mark.slow
    def test_half_spaces_are_safe_in_all_balls_by_cells(self):
        for norm in ("l1", "l2", "linf", "l3"):
            _assert_safe_for_half_spaces(norm, "cells", count=20)

    @pytest.mark.newest
    def test_norms_expose_their_share_of_the_gradient(self):
        p, upper, lower, dim = 0.9, 0.8, 0.16, 400
        exposed = upper / 20
        rest = np.sqrt(lower**2 - exposed**2)
        expected = first_order_radius(p, -exposed, rest) / 20
        actual = smoothing.norm_radius(p, upper, lower, norm="linf", dim=dim)
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        subspace = smoothing.norm_radius(p, 0.05, 0.1, norm="subspace:x")
        self.assertEqual(subspace, first_order_radius(p, -0.05, 0.1))

    def test_forms_are_ordered(self):
        exposed, length = _gradient(0.9, 0.98, 1.2)
        box, in_cells = (
            smoothing.norm_radius(0.9, exposed, length, norm="l1", form=form)
            for form in ("box", "cells")
        )
        exact = 2.12106  # noted
        self.assertAlmostEqual(box, 2.06218, delta=1e-5)
        self.assertBetween(in_cells, 2.11046, exact + 1e-6)

    def test_exact_is_that_of_the_direction(self):
        with mock.patch.object(norm_balls, "first_order_radius") as radius:
            radius.return_value = np.array([3.0])
            actual = smoothing.norm_radius(
                [0.9], [0.8], [0.16], norm="linf", dim=400, sigma=2.0, form="unproven"
            )
        (p, parallel, rest), options = radius.call_args
        np.testing.assert_allclose(actual, 3.0 / 20)
        np.testing.assert_allclose(parallel, [-0.04])
        np.testing.assert_allclose(np.hypot(parallel, rest), [0.16])
        self.assertEqual((p, options), ([0.9], dict(sigma=2.0, form="unproven")))

    @pytest.mark.slow
    def test_exact_is_the_noted_one(self):
        exposed, length = _gradient(0.9, 0.98, 1.2)
        exact = smoothing.norm_radius(0.9, exposed, length, norm="l1", form="unproven")
        self.assertAlmostEqual(exact, 2.12106, delta=1e-5)

    def test_bounds_that_tell_nothing_give_the_zeroth_order(self):
        radius = smoothing.norm_radius([0.9, 0.4], [np.inf, 0.1], [0.0, 0.1], norm="l1")
        np.testing.assert_allclose(
            radius, [stats.norm.ppf(0.9), 0.0], rtol=1e-9, atol=0
        )

    def test_refuses(self):
        with self.assertRaisesRegex(ValueError, "form"):
            smoothing.norm_radius(0.9, 0.1, 0.1, norm="l1", form="ball")
        with self.assertRaisesRegex(ValueError, "dim"):
            smoothing.norm_radius(0.9, 0.1, 0.1, norm="linf")
        with self.assertRaisesRegex(ValueError, "l0"):
            smoothing.norm_radius(0.9, 0.1, 0.1, norm="l0")
        with self.assertRaisesRegex(ValueError, "cells"):
            smoothing.norm_radius(jnp.array(0.9), 0.1, 0.1, norm="l1", form="cells")


class CellsTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_lies_between_box_and_exact(self):
        p = np.array([0.6, 0.9, 0.99, 0.999])[:, None]
        exposed, length = _gradient(p, 0.98, np.array([[0.6, 1.0, 1.4]]))
        rest = np.sqrt(length**2 - exposed**2)
        box = smoothing.first_order_radius(p, -exposed, rest)
        exact = smoothing.first_order_radius(p, -exposed, rest, form="unproven")
        radius = ball_cover.cell_radius(p, exposed, length)
        self.assertTrue(np.all(radius >= box))
        self.assertTrue(np.all(radius <= exact + 1e-7))
        self.assertGreater(np.max(radius / box), 1.01)

    def test_more_cells_prove_more(self):
        exposed, length = _gradient(0.999, 0.98, 0.9)
        few, many = (
            ball_cover.cell_radius(0.999, exposed, length, max_cells=n) for n in (2, 32)
        )
        self.assertGreater(many, few)

    def test_without_a_gain_it_is_the_box(self):
        radius = ball_cover.cell_radius([0.9, 0.4, np.nan], 0.1, 0.05)
        box = smoothing.first_order_radius(0.9, -0.1, 0.0)
        np.testing.assert_allclose(radius, [box, 0.0, 0.0], rtol=1e-12)

    @parameterized.parameters(
        (dict(exposed=-0.1), ValueError, "exposed"),
        (dict(max_cells=0), ValueError, "max_cells"),
        (dict(max_cells=1.5), TypeError, "max_cells"),
        (dict(sigma=-1.0), ValueError, "sigma"),
    )
    def test_refuses(self, changes, error, text):
        arguments = dict(p_lower=0.9, exposed=0.1, length_lower=0.15) | changes
        with self.assertRaisesRegex(error, text):
            ball_cover.cell_radius(**arguments)


if __name__ == "__main__":
    absltest.main()
