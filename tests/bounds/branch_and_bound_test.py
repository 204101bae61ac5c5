"""Unsafe outputs: found, excluded, or neither, against brute force."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds
from tests import compilations


def _network(x):
    rng = np.random.default_rng(0)
    x = jax.nn.relu(x @ rng.normal(size=(2, 12)) + rng.normal(size=12))
    return x @ rng.normal(size=(12, 3))


_one_value = jax.jit(_network)
_BOX = np.array([-1.0, -1.0]), np.array([1.0, 1.0])


_BOXES = (
    _BOX,
    (np.array([-1.0, -0.5]), np.array([0.0, 1.0])),
    (_BOX[0], 0.5 * _BOX[1]),
)


def _affine(x):
    return x[:1] + 2 * x[1:]


@functools.cache
def _grid():
    return np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), -1).reshape(-1, 2)


@functools.cache
def _grid_values():
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(_network, out_axes=1))(_grid()))


class ExcludeTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        jax.config.update("jax_numpy_rank_promotion", "allow")
        self.addCleanup(jax.config.update, "jax_numpy_rank_promotion", "raise")
        self.values = _grid_values()

    @parameterized.parameters(0, 1, 2)
    def test_decides_thresholds_near_the_true_extreme(self, output):
        """y_k >= t: unsafe just below the largest y_k, excluded just above it.

        Said three times, so that all tests share the programs for three inequalities.
        """
        rows = np.repeat(-np.eye(3)[[output]], 3, axis=0)
        largest = self.values[output].max()
        for gap, status in ((-0.02, "sat"), (0.02, "unsat")):
            found = bounds.verify_property(
                _network, *_BOX, rows=rows, offsets=3 * [largest + gap], max_boxes=3000
            )
            self.assertEqual(found.status, status)
            if found.x is not None:
                with jax.enable_x64(True):
                    value = float(_one_value(found.x)[output])
                self.assertGreater(value, largest + gap)
                self.assertTrue(np.all(np.abs(found.x) <= 1))

    def test_all_inequalities_have_to_hold(self):
        rng = np.random.default_rng(1)
        seen = set()
        for _ in range(12):
            rows, offsets = rng.normal(size=(3, 3)), rng.normal(size=3)
            sides = rows @ self.values + offsets[:, None]
            worst = sides.max(axis=0).min()
            if abs(worst) < 0.05:
                continue
            found = bounds.verify_property(
                _network, *_BOX, rows=rows, offsets=offsets, max_boxes=3000
            )
            self.assertEqual(found.status, "sat" if worst < 0 else "unsat")
            seen.add(found.status)
        self.assertEqual(seen, {"sat", "unsat"})

    def test_any_of_many_cases_is_enough(self):
        """80 polytopes in 3 boxes against the grid: all safe ones, and one unsafe."""
        rng = np.random.default_rng(2)
        inside = [
            self.values.compress(
                np.all((a <= _grid()) & (_grid() <= b), axis=1), axis=1
            )
            for a, b in _BOXES
        ]
        cases, worst = [], []
        for number in range(80):
            box, m = number % 3, number % 4
            rows, offsets = rng.normal(size=(m, 3)), rng.normal(size=m) + 2
            sides = rows @ inside[box] + offsets[:, None]
            least = sides.max(axis=0).min() if m else -1.0
            if abs(least) > 0.2:
                cases.append((*_BOXES[box], rows, offsets))
                worst.append(least)
        are_unsafe = np.asarray(worst) < 0
        safe = [
            case for case, is_bad in zip(cases, are_unsafe, strict=True) if not is_bad
        ]
        self.assertBetween(len(safe), 15, 60)
        found = bounds.verify_cases(_network, safe, max_boxes=3000)
        self.assertEqual((found.status, found.open_cases), ("unsat", ()))
        for at in np.flatnonzero(are_unsafe)[::20]:
            found = bounds.verify_cases(_network, [*safe, cases[at]], max_boxes=3000)
            self.assertEqual((found.status, found.open_cases), ("sat", (len(safe),)))
            low, high, rows, offsets = cases[at]
            self.assertTrue(np.all((low <= found.x) & (found.x <= high)))
            with jax.enable_x64(True):
                y = np.asarray(_one_value(found.x))
            self.assertTrue(np.all(rows @ y + offsets <= 0))

    def test_other_cases_compile_nothing(self):
        rows = np.repeat(-np.eye(3)[[0]], 3, axis=0)
        bounds.verify_cases(_network, 2 * [(*_BOX, rows, 3 * [50.0])])
        bounds.verify_cases(_network, 2 * [(*_BOX, rows, 3 * [0.0])], max_boxes=40)
        many = [(*_BOX, np.eye(3)[:1] + i, [50.0 + i]) for i in range(12)]
        with compilations.counted() as compiled:
            found = bounds.verify_cases(_network, many, max_boxes=40)
        self.assertEqual(found.status, "unsat")
        self.assertEmpty(compiled)

    @parameterized.named_parameters(
        ("centre", [-1.0, -1.0], [1.0, 1.0], [[1.0], [-1.0]], [0.0, 0.0], [0.0, 0.0]),
        ("corner", [0.0, 0.0], [0.1, 0.7], [[-1.0]], [0.1 + 2 * 0.7], [0.1, 0.7]),
        ("point", [0.5, 0.25], [0.5, 0.25], [[1.0]], [-1.0], [0.5, 0.25]),
        ("face", [0.3, -1.0], [0.3, 0.0], [[-1.0]], [0.3], [0.3, 0.0]),
    )
    def test_equality_is_unsafe(self, low, high, rows, offsets, expected):
        rows, offsets = np.resize(rows, (2, 1)), np.resize(offsets, 2)
        found = bounds.verify_property(_affine, low, high, rows=rows, offsets=offsets)
        self.assertEqual((found.status, found.num_bounded), ("sat", 1))
        np.testing.assert_array_equal(found.x, expected)
        safe = offsets + 1e-9 * (rows[:, 0] == rows[0, 0])  # no equality any more
        found = bounds.verify_property(_affine, low, high, rows=rows, offsets=safe)
        self.assertEqual(
            found.status, "unsat" if len({*rows[:, 0]}) == 1 else "unknown"
        )

    def test_boxes_without_a_float_inside_are_not_halved_for_ever(self):
        low = np.array([0.1, 0.1])
        high = np.nextafter(low, 1)  # x + 2 y > .3 is true, and within rounding of it
        found = bounds.verify_property(
            _affine, low, high, rows=2 * [[1.0]], offsets=2 * [-0.3 + 1e-16],
            max_boxes=1000,
        )  # fmt: skip
        self.assertEqual(found.status, "unknown")
        self.assertLess(found.num_bounded, 10)

    def test_confirm_decides_what_is_sat(self):
        asked = []

        def confirm(case, x):
            asked.append((case, float(x.sum())))
            return np.zeros(2) if len(asked) == 3 else None

        cases = [(*_BOX, 2 * [[1.0]], 2 * [offset]) for offset in (9.0, 1.0, -1.0)]
        found = bounds.verify_cases(_affine, cases, max_boxes=9, confirm=confirm)
        self.assertEqual((found.status, found.open_cases), ("sat", (asked[2][0],)))
        np.testing.assert_array_equal(found.x, [0, 0])
        self.assertEqual({case for case, _ in asked} - {1, 2}, set())

    def test_unsat_holds_in_exact_arithmetic(self):
        """Affine functions of large weights, whose least value fractions give."""
        high = np.random.default_rng(9).uniform(0.1, 1, 2)
        num_tight = 0
        for seed in range(40):
            rng = np.random.default_rng(seed)
            rows = np.round(rng.normal(size=(1, 1)) * 1e9, 2)
            slopes = [Fraction(rows[0, 0]) * weight for weight in (1, 2)]
            least = sum(
                min(0, a * Fraction(b)) for a, b in zip(slopes, high, strict=True)
            )
            limit = float(-least)
            for offset in (np.nextafter(limit, -np.inf), limit, limit * (1 + 1e-12)):
                found = bounds.verify_property(
                    _affine, np.zeros(2), high, rows=np.repeat(rows, 2, axis=0),
                    offsets=2 * [offset],
                )  # fmt: skip
                if found.status == "unsat":
                    self.assertGreater(least + Fraction(offset), 0)
                    num_tight += 1
        self.assertGreaterEqual(num_tight, 10)

    @pytest.mark.newest
    def test_stops_without_an_answer(self):
        rows = np.repeat(-np.eye(3)[[0]], 3, axis=0)
        offsets = 3 * [self.values[0].max() + 1e-4]
        for options in ({"max_boxes": 3}, {"max_boxes": 3000, "time_limit": 0.0}):
            found = bounds.verify_property(
                _network, *_BOX, rows=rows, offsets=offsets, **options
            )
            self.assertEqual((found.status, found.x), ("unknown", None))
            self.assertLessEqual(found.num_bounded, 3)

    def test_nan_is_never_excluded(self):
        found = bounds.verify_property(
            jnp.log, np.array([-1.0]), np.array([1.0]), rows=[[1.0]],
            offsets=[100.0], max_boxes=20,
        )  # fmt: skip
        self.assertEqual(found.status, "unknown")

    @parameterized.parameters(
        ({"rows": [1.0], "offsets": [0.0]}, "rows"),
        ({"rows": [[1.0, 0, 0]], "offsets": [0.0, 1.0]}, "offsets"),
        ({"rows": [[1.0, 0]], "offsets": [0.0]}, r"of shape \(3,\), got k = 2"),
        ({"rows": [[1.0, 0, np.nan]], "offsets": [0.0]}, "finite rows"),
        ({"rows": [[1.0, 0, 0]], "offsets": [np.inf]}, "finite rows"),
        ({"rows": [[1.0, 0, 0]], "offsets": [0.0], "method": "lp"}, "method"),
        ({"rows": [[1.0, 0, 0]], "offsets": [0.0], "max_boxes": 0}, "max_boxes"),
    )
    def test_options(self, options, text):
        with self.assertRaisesRegex(ValueError, text):
            bounds.verify_property(_network, *_BOX, **options)

    def test_cases_have_to_be_alike(self):
        one = (*_BOX, [[1.0, 0, 0]], [0.0])
        other = (np.zeros(3), np.ones(3), [[1.0, 0, 0]], [0.0])
        for cases, text in (
            ([], "one case or more, got none"),
            ([one, other], r"of one shape .* got \[\(2,\), \(3,\)\] and \[3\]"),
            ([one, (*_BOX, [[1.0, 0]], [0.0])], r"rows of one length, .* and \[2, 3\]"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                bounds.verify_cases(_network, cases)


if __name__ == "__main__":
    absltest.main()
