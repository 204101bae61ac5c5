"""Radii of balls: which perturbations they cover, by explicit classifiers."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import norms, smoothing
from robustjax.smoothing import first_order_radius


class BallTest(parameterized.TestCase):
    @parameterized.product(
        norm=("l1", "l2", "linf", "l3", "subspace:a"), form=("box", "cells")
    )
    def test_half_spaces_are_safe_in_the_ball(self, norm, form):
        """The true radius of a half-space is its distance in the norm."""
        rng = np.random.default_rng(0)
        dim = 5
        normal = rng.normal(size=(20, dim))
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        distance = rng.uniform(0.1, 3.0, 20)
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
        self.assertTrue(np.all(radius <= distance / dual * (1 + 1e-12)))
        least = distance / norms.l2_circumradius(norm, dim)
        self.assertTrue(np.all(radius >= least * (1 - 1e-9)))
        if norm in ("l1", "subspace:a"):
            self.assertGreater(np.median(radius / least), 1.05)

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
        length = 0.98 * stats.norm.pdf(stats.norm.ppf(0.9))
        exposed = length * np.cos(1.2)
        box, cells, exact = (
            smoothing.norm_radius(0.9, exposed, length, norm="l1", form=form)
            for form in ("box", "cells", "exact")
        )
        self.assertAlmostEqual(box, 2.06218, delta=1e-5)
        self.assertGreater(cells, 2.11)
        self.assertAlmostEqual(exact, 2.12106, delta=1e-5)
        self.assertLessEqual(cells, exact + 1e-9)

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


if __name__ == "__main__":
    absltest.main()
