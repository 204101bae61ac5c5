"""The failure probabilities of all bounds add up to alpha."""

from fractions import Fraction

import pytest
from absl.testing import absltest, parameterized

from robustjax.smoothing.confidence import budget

_NORMS = ("l2", "l1", "linf", "l1.5", "l3", "subspace:red", "subspace:blue")

# Bounds that a radius in each norm rests on, written down from the geometry.
_NEEDED = {
    "l2": {"l2_upper"},
    "l2.0": {"l2_upper"},
    "l1": {"linf_upper", "l2_lower"},
    "l1.5": {"l2_upper", "linf_upper", "l2_lower"},
    "l3": {"l1_upper", "l2_upper", "l2_lower"},
    "linf": {"l1_upper", "l2_upper", "l2_lower"},
    "subspace:red": {"subspace_upper:red", "complement_lower:red"},
}


class BudgetTest(parameterized.TestCase):
    @parameterized.parameters(*_NEEDED.items())
    def test_needed_bounds(self, norm, bounds):
        self.assertEqual(set(budget.needed_bounds([norm])), bounds)

    def test_norms_share_bounds(self):
        needed = budget.needed_bounds(_NORMS)
        self.assertLen(set(needed), len(needed))
        self.assertLen(needed, 8)  # 2 of l2, 1 each of linf and l1, 2 of each subspace
        self.assertEqual(budget.needed_bounds([]), ())

    @parameterized.product(method=budget.METHODS, simultaneous=(True, False))
    def test_events_add_up_to_alpha_exactly(self, method, simultaneous):
        alpha = Fraction(1, 1000)
        found = budget.events(
            _NORMS, alpha=alpha, simultaneous=simultaneous, method=method
        )
        self.assertEqual(tuple(found), _NORMS)
        for norm, share in found.items():
            self.assertEqual(share.probability, alpha / 2)
            self.assertEqual(share.probability + sum(share.gradient.values()), alpha)
            self.assertContainsSubset(budget.needed_bounds([norm]), share.gradient)

    @pytest.mark.newest
    def test_simultaneous_radii_rest_on_one_budget(self):
        together = budget.events(_NORMS, alpha=Fraction(1, 10))
        self.assertLen({id(share) for share in together.values()}, 1)
        self.assertEqual(together["l2"].gradient["l2_upper"], Fraction(1, 160))
        alone = budget.events(_NORMS, alpha=Fraction(1, 10), simultaneous=False)
        self.assertEqual(alone["l2"].gradient, {"l2_upper": Fraction(1, 20)})

    def test_reference_shares_by_events(self):
        share = budget.split(
            ["l2_lower", "linf_upper"], alpha=Fraction(1, 10), method="reference"
        )
        self.assertEqual(share.gradient["l2_lower"], Fraction(1, 30))  # two events
        self.assertEqual(share.gradient["linf_upper"], Fraction(1, 60))

    @parameterized.parameters("l0.5", "red", "subspace", "subspace:", "", "inf", "lp")
    def test_unknown_norms_are_refused(self, norm):
        with self.assertRaisesRegex(ValueError, "norm|subspace"):
            budget.needed_bounds([norm])

    def test_unknown_method_is_refused(self):
        with self.assertRaisesRegex(ValueError, "method 'loose'"):
            budget.split(["l2_upper"], alpha=0.1, method="loose")


if __name__ == "__main__":
    absltest.main()
