"""The cell form of a ball's radius: between box and exact, and proved."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from robustjax import smoothing
from robustjax.smoothing import cells


def _gradient(p, rho, theta):
    length = rho * stats.norm.pdf(stats.norm.ppf(p))
    return length * np.cos(theta), length


class CellsTest(parameterized.TestCase):
    def test_noted_case(self):
        exposed, length = _gradient(0.9, 0.98, 1.2)
        radius = cells.cell_radius(0.9, exposed, length)
        self.assertBetween(radius, 2.11046, 2.12106 + 1e-6)

    @pytest.mark.slow
    def test_lies_between_box_and_exact(self):
        p = np.array([0.6, 0.9, 0.99, 0.999])[:, None]
        exposed, length = _gradient(p, 0.98, np.array([[0.6, 1.0, 1.4]]))
        rest = np.sqrt(length**2 - exposed**2)
        box = smoothing.first_order_radius(p, -exposed, rest)
        exact = smoothing.first_order_radius(p, -exposed, rest, form="exact")
        radius = cells.cell_radius(p, exposed, length)
        self.assertTrue(np.all(radius >= box))
        self.assertTrue(np.all(radius <= exact + 1e-7))
        self.assertGreater(np.max(radius / box), 1.01)

    def test_more_cells_prove_more(self):
        exposed, length = _gradient(0.999, 0.98, 0.9)
        few, many = (
            cells.cell_radius(0.999, exposed, length, max_cells=n) for n in (2, 32)
        )
        self.assertGreaterEqual(many, few)

    def test_without_a_gain_it_is_the_box(self):
        radius = cells.cell_radius([0.9, 0.4, np.nan], 0.1, 0.05)
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
            cells.cell_radius(**arguments)


if __name__ == "__main__":
    absltest.main()
