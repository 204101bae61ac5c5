"""The table of the documentation: complete, and what is measured."""

import pathlib
import re

import pytest
from absl.testing import absltest, parameterized

from benchmarks import tightness
from robustjax.bounds import operations

_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "bounds.md"
_ROW = re.compile(r"^\| `(\w+)` \| (-?\d+)% \| (-?\d+)% \|$", re.M)
# Exact for what is affine in the bounded input, tested as such in engine_test.
_AFFINE = {
    "add", "add_any", "broadcast_in_dim", "concatenate", "conv_general_dilated",
    "convert_element_type", "copy", "cumsum", "dynamic_slice", "dynamic_update_slice",
    "gather", "name", "neg", "optimization_barrier", "pad", "reduce_sum",
    "reduce_window_sum", "reshape", "rev", "scatter", "scatter-add", "scatter-mul",
    "scatter-sub", "scatter_add", "scatter_mul", "scatter_sub", "sharding_constraint",
    "slice", "split", "squeeze", "stack", "stop_gradient", "sub", "tile", "transpose",
    "unstack",
}  # fmt: skip


def _table() -> dict[str, tuple[int, int]]:
    text = _PAGE.read_text(encoding="utf-8")
    return {name: (int(a), int(b)) for name, a, b in _ROW.findall(text)}


class TightnessTest(parameterized.TestCase):
    def test_every_primitive_has_a_row_or_is_affine(self):
        self.assertEqual(set(_table()), set(tightness.CASES))
        self.assertLessEqual(
            set(operations.primitives()), set(tightness.CASES) | _AFFINE
        )

    @pytest.mark.newest
    def test_a_row_is_what_is_measured(self):
        self._check("tanh")

    @parameterized.parameters(*tightness.CASES)
    @pytest.mark.slow
    def test_all_rows_are_what_is_measured(self, name):
        self._check(name)

    def _check(self, name):
        found = tightness.excess(name)
        for own, stated in zip(found.values(), _table()[name], strict=True):
            self.assertAlmostEqual(100 * own, stated, delta=1)
            self.assertGreater(own, -1e-9)  # no bound is inside of the range


if __name__ == "__main__":
    absltest.main()
