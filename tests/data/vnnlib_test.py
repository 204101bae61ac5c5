"""Tests for properties in VNN-LIB: written here, random ones, and VNN-COMP 2021's."""

import functools
import gzip
import math
import operator
import pathlib
import re
import tempfile
from fractions import Fraction

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import data
from tests import real_data

_DECLARED = """; two inputs, two outputs
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (<= X_0 0.5)) (assert (>= X_0 -1)) ; the box
(assert (and (<= -2e0 X_1) (> 3. X_1)))
"""
_RELATIONS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
_OPERATORS = _RELATIONS | {
    "+": lambda *values: sum(values),
    "-": lambda first, *others: first - sum(others) if others else -first,
    "*": lambda *values: math.prod(values),
    "and": lambda *values: np.logical_and.reduce(values),
    "or": lambda *values: np.logical_or.reduce(values),
}


class VnnlibTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def read(self, text, pack=bytes):
        path = self.folder / "net.vnnlib"
        path.write_bytes(pack(text.encode() if isinstance(text, str) else text))
        return data.read_vnnlib(str(path))

    @parameterized.parameters(bytes, gzip.compress)
    def test_box_and_polytope(self, pack):
        found = self.read(_DECLARED + "(assert (>= Y_0 Y_1))(assert (< Y_1 7))", pack)
        self.assertEqual((found.num_inputs, found.num_outputs), (2, 2))
        (case,) = found.cases
        for actual, expected in zip(
            case, ([-1, -2], [0.5, 3], [[-1, 1], [0, 1]], [0, -7]), strict=True
        ):
            np.testing.assert_array_equal(actual, expected)
            self.assertEqual(actual.dtype, np.float64)

    @parameterized.parameters(
        ("(<= Y_0 2)", [1, 0], -2),
        ("(>= Y_0 2)", [-1, 0], 2),
        ("(<= 2 Y_0)", [-1, 0], 2),
        ("(<= (+ Y_0 Y_1 1) (* 3 Y_1))", [1, -2], 1),
        ("(>= (- Y_0) (- Y_1 Y_0 0.5))", [0, 1], -0.5),
        ("(<= (* 2 (- Y_0 1) 0.5) (+ 1 2))", [1, 0], -4),
        ("(<= (- 2) (* -1 Y_1))", [0, 1], -2),
    )
    def test_linear_outputs(self, text, row, offset):
        (case,) = self.read(f"{_DECLARED}(assert {text})").cases
        np.testing.assert_array_equal(case.rows, [row])
        np.testing.assert_array_equal(case.offsets, [offset])

    def test_inputs_may_be_scaled_and_bounded_twice(self):
        text = (
            "(assert (<= (* 2 X_0) 0.5)) (assert (<= (- 1 X_1) 0))(assert (>= Y_0 0))"
        )
        (case,) = self.read(_DECLARED + text).cases
        np.testing.assert_array_equal(case.upper, [0.25, 3])
        np.testing.assert_array_equal(case.lower, [-1, 1])

    @pytest.mark.newest
    def test_every_branch_is_a_case(self):
        text = """(assert (or (and (<= X_0 0) (>= Y_0 1)) (>= Y_1 2)
            (or (and (>= X_0 0.25) (or (<= Y_0 3) (<= Y_0 4))))))"""
        cases = self.read(_DECLARED + text).cases
        self.assertEqual([case.upper[0] for case in cases], [0, 0.5, 0.5, 0.5])
        self.assertEqual([case.lower[0] for case in cases], [-1, -1, 0.25, 0.25])
        self.assertEqual(
            [case.offsets.tolist() for case in cases], [[1], [2], [-3], [-4]]
        )

    def test_cases_with_an_empty_box_are_left_out(self):
        text = "(assert (or (and (>= X_0 0.6) (>= Y_0 1)) (>= Y_1 2)))"
        (case,) = self.read(_DECLARED + text).cases
        np.testing.assert_array_equal(case.offsets, [2])

    @parameterized.parameters(
        ("false",),
        ("(<= 1 0)",),
        ("(<= 1 (* 0 Y_0))",),
        ("(< Y_0 Y_0)",),
        ("(or)",),
        ("(and (>= Y_0 1) false)",),
        ("(>= X_0 0.6)",),
        ("(< X_0 -1)",),
        ("(and (> X_0 0) (<= X_0 0))",),
        ("(and (<= X_0 0) (>= X_0 1e-400))",),
        ("(and (> (* 3 X_0) 1) (<= X_0 (/ 1 3)))",),
        ("(or (> X_1 3) (and (>= X_0 0.6) (>= Y_0 1)))",),
        (f"(and (<= X_0 0.1) (>= X_0 0.1{'0' * 40}1))",),
    )
    def test_nothing_satisfies_a_contradiction(self, text):
        found = self.read(f"{_DECLARED}(assert {text})")
        self.assertEqual((found.cases, found.inner), ((), ()))
        self.assertEqual((found.num_inputs, found.num_outputs), (2, 2))

    @parameterized.parameters(
        ("(<= 0 (* 0 Y_0))", 0),
        ("(and (>= X_0 0.1) (<= X_0 (/ 1 10)))", 0),
        ("(and (>= (* 3 X_0) 1) (<= X_0 (/ 1 3)))", 0),
        (f"(and (>= X_0 0.1) (<= X_0 0.1{'0' * 40}1))", 0),
        (f"(and (> X_0 0.1) (< X_0 0.1{'0' * 40}1))", 0),
        ("(and (> X_0 0) (< X_0 1e-400))", 0),
        ("(and (>= Y_0 1) (<= Y_0 0))", 2),
    )
    def test_little_or_unknown_is_not_nothing(self, text, num_rows):
        """Points, boxes between two float64, and outputs, which are not compared."""
        found = self.read(f"{_DECLARED}(assert {text})")
        (case,) = found.cases
        self.assertTrue(np.all(case.lower <= case.upper))
        self.assertLen(case.offsets, num_rows)

    @parameterized.named_parameters(
        ("fun", lambda t: re.sub("const (.*?) Real", r"fun \1 () Real", t)),
        ("mark", lambda t: "\ufeff" + t),
        ("old_lines", lambda t: t.replace("\n", "\r")),
        ("utf16", lambda t: t.encode("utf-16")),
        (
            "commands",
            lambda t: (
                "(set-logic QF_LRA) (set-info :source |; a (half|) \n"
                f'(set-option :a "b) ;"){t}(check-sat)\n(get-model) (exit)'
            ),
        ),
        ("zero", lambda t: t + "(assert (<= (* 0 X_0) 1000)) (assert (<= Y_0 Y_0))"),
        ("constants", lambda t: t + "(assert (or false (and true (>= 0 (* Y_1 0)))))"),
        ("dropped", lambda t: t + "(assert (or (< Y_0 Y_0) (and) (and (= 1 2) true)))"),
        (
            "quotient",
            lambda t: t.replace("-2e0", "(/ (- 6) 3)").replace("3.", "(/ 6 2)"),
        ),
        ("chain", lambda t: t + "(assert (<= -1 X_0 (/ 1 2) 0.7))"),
    )
    def test_spellings_of_the_same_property(self, respell):
        text = respell(_DECLARED + "(assert (>= Y_0 Y_1))\n")
        expected = self.read(_DECLARED + "(assert (>= Y_0 Y_1))")
        found = self.read(text)
        np.testing.assert_equal(found, expected)

    def test_equations_are_two_inequalities(self):
        text = "(assert (= X_0 (/ 1 4)))(assert (= Y_0 (* 2 Y_1) 3))"
        (case,) = self.read(_DECLARED + text).cases
        self.assertEqual([case.lower[0], case.upper[0]], [0.25, 0.25])
        np.testing.assert_array_equal(case.rows, [[1, -2], [-1, 2], [0, 2], [0, -2]])
        np.testing.assert_array_equal(case.offsets, [0, 0, -3, 3])

    @parameterized.parameters(0, 1, 2)
    def test_decimals_are_rounded_to_the_safe_side(self, seed):
        """By fractions: outer cases hold the property, which holds the inner ones."""
        rng = np.random.default_rng(seed)
        lower, upper, *factors = (f"{v:.{seed + 1}f}" for v in (-0.1, 1.3, 0.7, -1.1))
        limit = f"{rng.normal():.17g}"
        text = (
            f"(assert (> X_0 {lower} (- 5)))(assert (<= (/ X_0 3) {upper}))"
            "(assert (<= X_1 0.3)) (assert (< 0.1 X_1))"
            f"(assert (< (+ (* {factors[0]} Y_0) (* Y_1 {factors[1]})) {limit}))"
        )
        names = "".join(
            f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1")
        )
        found = self.read(names + text)
        (outer,), (inner,) = found.cases, found.inner
        exact = [
            (Fraction(lower), 3 * Fraction(upper)),
            (Fraction("0.1"), Fraction("0.3")),
        ]
        for i, (low, high) in enumerate(exact):
            near = _neighbours(float(low)) + _neighbours(float(high))
            inside = [x for x in near if low < Fraction(x) <= high]
            self.assertEqual((inner.lower[i], inner.upper[i]), (inside[0], inside[-1]))
            self.assertLessEqual(Fraction(outer.lower[i]), low)
            self.assertGreaterEqual(Fraction(outer.upper[i]), high)
            self.assertGreater(Fraction(np.nextafter(outer.lower[i], 9)), low)
            self.assertLess(Fraction(np.nextafter(outer.upper[i], -9)), high)
        num_between = 0
        for _ in range(20):
            other = float(rng.normal())
            side = Fraction(factors[1]) * Fraction(other) - Fraction(limit)
            for y in _neighbours(float(-side / Fraction(factors[0]))):
                is_unsafe = Fraction(factors[0]) * Fraction(y) + side < 0
                sides = [_exact_side(case, [y, other]) for case in (outer, inner)]
                self.assertLessEqual(is_unsafe, sides[0] <= 0)
                self.assertLessEqual(sides[1] <= 0, is_unsafe)
                num_between += sides[0] <= 0 < sides[1]
        self.assertLess(num_between, 60)  # of 180: the two are not far apart

    def test_a_limit_that_is_no_float64_leaves_nothing_inside(self):
        found = self.read(_DECLARED + "(assert (= X_0 0.1)) (assert (= X_1 0.5))")
        (outer,), (inner,) = found.cases, found.inner
        self.assertEqual(outer.lower[0], np.nextafter(outer.upper[0], 0))
        self.assertLess(Fraction(outer.lower[0]), Fraction("0.1"))
        self.assertGreater(inner.lower[0], inner.upper[0])
        self.assertEqual([v[1] for v in (*outer[:2], *inner[:2])], [0.5] * 4)

    def test_strict_limits_are_told_apart(self):
        found = self.read(_DECLARED + "(assert (> Y_0 1)) (assert (>= Y_1 1))")
        (outer,), (inner,) = found.cases, found.inner
        np.testing.assert_array_equal(outer.offsets, [1, 1])
        np.testing.assert_array_equal(inner.offsets, [np.nextafter(1, 2), 1])
        self.assertEqual((outer.upper[1], inner.upper[1]), (3, np.nextafter(3, 0)))

    def test_many_cases_share_their_box(self):
        branches = " ".join(f"(and (>= Y_0 {i}))" for i in range(4000))
        cases = self.read(f"{_DECLARED}(assert (or {branches}))").cases
        self.assertEqual([case.offsets[0] for case in cases], [*range(4000)])
        self.assertEqual(len({id(case.upper) for case in cases}), 1)

    def test_depth_is_no_limit(self):
        depth = 2_000  # far more than Python's frames
        nested = "".join(f"(or (>= Y_0 {i}) " for i in range(depth))
        text = f"{_DECLARED}(assert {nested}(<= Y_1 0){')' * depth})"
        self.assertLen(self.read(text).cases, depth + 1)

    def test_no_condition_on_the_output_is_an_empty_polytope(self):
        (case,) = self.read(_DECLARED).cases
        self.assertEqual((case.rows.shape, case.offsets.shape), ((0, 2), (0,)))

    def test_random_formulas_agree_with_their_evaluation(self):
        """30 formulas at 300 points each; some boxes are empty, most are not."""
        names = ("X_0", "X_1", "Y_0", "Y_1")
        head = "".join(f"(declare-const {name} Real)\n" for name in names)
        bounds = [
            (r, f"X_{i}", v) for i in range(2) for r, v in (("<=", 2), (">=", -2))
        ]
        num_empty = num_unsafe = 0
        for seed in range(30):
            rng = np.random.default_rng(seed)
            formula = ("and", *bounds, *(_formula(rng, 3) for _ in range(2)))
            points = rng.uniform(-2.5, 2.5, (300, 4))
            expected = _evaluate(formula, dict(zip(names, points.T, strict=True)))
            cases = self.read(f"{head}(assert {_text(formula)})").cases
            num_empty += not cases
            actual = np.zeros(300, bool)
            for case in cases:
                actual |= _holds(case, points[:, :2], points[:, 2:])
            np.testing.assert_array_equal(actual, expected, err_msg=f"seed {seed}")
            num_unsafe += np.any(expected)
        self.assertBetween(num_empty, 1, 15)
        self.assertGreater(num_unsafe, 10)

    @parameterized.named_parameters(
        ("mixed", "(assert\n(<= X_0 Y_0))", r"7: .* of outputs only.*\(<= X_0 Y_0\)"),
        (
            "two_inputs",
            "(assert (<= X_0 X_1))",
            "6: expected an inequality of one input",
        ),
        ("not_linear", "(assert (<= (* Y_0 Y_1) 1))", "6: .* multiples"),
        ("quotient", "(assert (<= (/ 2 Y_0) 1))", "6: .* divide by numbers"),
        ("divided_by_0", "(assert (<= (/ Y_0 (- 1 1)) 1))", "6: .* divide by numbers"),
        ("nothing", "(assert (<= () 1))", "6: .* multiples"),
        ("undeclared", "(assert (<= Y_2 1))", "6: 'Y_2' is no finite number"),
        ("infinite", "(assert (<= Y_0 1e999))", "6: '1e999' is no finite"),
        ("nan", "(assert (<= Y_0 nan))", "6: 'nan' is no finite"),
        ("huge", "(assert (<= Y_0 1e99999))", "6: '1e99999' is no finite"),
        ("one", "(assert (<= Y_0))", "6: expected an inequality <=, >=, <, > or"),
        ("outputs_in_or", "(assert (or true (<= Y_0 false)))", "6: 'false' is no"),
        ("implication", "(assert (=> (<= Y_0 1) (<= Y_1 1)))", "6: .*, got .*=>"),
        ("atom", "(assert (or Y_0))", "6: expected inequalities, got .or Y_0."),
        ("empty", "(assert ())", "6: expected an inequality"),
        ("command", "(push 1)", "6: expected an assertion, .* got .push 1."),
        ("after", "(check-sat)(assert (<= Y_0 1))", "6: expected an assertion, .*Y_0"),
        ("argument", "(declare-fun Y_2 (Real) Real)", "6: .* a new X_i or Y_i"),
        ("quote", '(assert (<= Y_0 "1))', "6: '\"' is no finite number"),
        ("twice", "(declare-const Y_0 Real)", "6: .* a new X_i or Y_i"),
        ("integer", "(declare-const Y_2 Int)", "6: .* as Real"),
        ("name", "(declare-const Z_0 Real)", "6: .* got .declare-const Z_0 Real"),
        ("gap", "(declare-const X_3 Real)", " X_2 is not declared"),
        ("unbounded", "(declare-const X_2 Real)", " a case has no lower bound of X_2"),
        ("open", "(assert (or\n(<= Y_0 1)", "6: this '.' is not closed"),
        ("closed", "(assert (<= Y_0 1)))", "6: '.' stands outside"),
        ("outside", "assert", "6: 'assert' stands outside"),
        (
            "too_many_cases",
            "(assert (and " + "(or (<= Y_0 1) (<= Y_1 1))" * 40 + "))",
            "6: expected at most 10000 cases",
        ),
        (
            "in_all",
            "(assert (or (<= Y_0 1) (<= Y_1 1)))" * 40,
            "1: .* most 10000 cases",
        ),
    )
    def test_errors_name_file_line_and_expression(self, text, message):
        with self.assertRaisesRegex(ValueError, rf"net\.vnnlib:{message}"):
            self.read(_DECLARED + text)

    def test_numbers_beyond_the_range_of_float64(self):
        text = "(assert (<= (* 1e308 1e10 Y_0) 1e308))(assert (<= Y_1 (* 1e308 1e10)))"
        found = self.read(_DECLARED + text)
        np.testing.assert_allclose(found.cases[0].offsets, [-1e-10, -np.inf], 1e-15)
        self.assertEqual(found.inner[0].offsets[1], -np.finfo(np.float64).max)

    @parameterized.parameters(("", "X_0"), ("(declare-const X_0 Real)", "Y_0"))
    def test_inputs_and_outputs_are_needed(self, text, name):
        with self.assertRaisesRegex(ValueError, f"net.vnnlib: {name} is not declared"):
            self.read(text)

    def test_damaged_gzip_is_named(self):
        with self.assertRaisesRegex(ValueError, "net.vnnlib: .*complete gzip"):
            self.read(_DECLARED, lambda raw: gzip.compress(raw)[:-9])

    def test_instances(self):
        (self.folder / "packed.vnnlib.gz").touch()
        (self.folder / "both.vnnlib").touch()
        (self.folder / "both.vnnlib.gz").touch()
        path = self.folder / "instances.csv"
        path.write_text(
            "a.onnx,packed.vnnlib,60\r\n\r\n./b.onnx, both.vnnlib ,1e2\nc,sub/d,0.5"
        )
        first, second, third = data.read_instances(path)
        self.assertEqual(first.onnx, self.folder / "a.onnx")
        self.assertEqual(first.vnnlib, self.folder / "packed.vnnlib.gz")
        self.assertEqual(
            second, (self.folder / "b.onnx", self.folder / "both.vnnlib", 100)
        )
        self.assertEqual(third, (self.folder / "c", self.folder / "sub" / "d", 0.5))

    def test_a_list_may_have_a_mark_and_no_seconds(self):
        path = self.folder / "instances.csv"
        path.write_text("\ufeffa.onnx,b.vnnlib\nc,d,\n", encoding="utf-8")
        for found, names in zip(data.read_instances(path), ("ab", "cd"), strict=True):
            self.assertEqual([found.onnx.name[0], found.vnnlib.name[0]], list(names))
            self.assertEqual((found.onnx.parent, found.timeout), (self.folder, None))

    @parameterized.parameters("a.onnx", "a,b,c", ",b,3", "a,b,3,4", "a,b,nan", "a,b,-1")
    def test_bad_instances_are_named(self, row):
        path = self.folder / "instances.csv"
        path.write_text(f"a,b,3\n{row}\n")
        with self.assertRaisesRegex(ValueError, f"instances.csv:2: .* got '{row}'"):
            data.read_instances(path)


def _neighbours(value):
    """A float64 and the four next to it on each side, in order."""
    below, above = [value], [value]
    for _ in range(4):
        below.insert(0, float(np.nextafter(below[0], -np.inf)))
        above.append(float(np.nextafter(above[-1], np.inf)))
    return below[:-1] + above


def _exact_side(case, y):
    (row,), (offset,) = case.rows, case.offsets
    terms = [Fraction(a) * Fraction(b) for a, b in zip(row, y, strict=True)]
    return sum(terms) + Fraction(offset)


def _number(rng):
    return float(np.round(rng.normal(), 3)) or 1.0


def _output(rng, depth):
    """A linear expression of outputs."""
    kind = rng.integers(4 if depth else 2)
    if kind < 2:
        return ("*", _number(rng), f"Y_{kind}")
    parts = [_output(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    return (("+", _number(rng), *parts), ("-", *parts))[kind - 2]


def _formula(rng, depth):
    """Nested tuples: an `and` or `or` of formulas, or an inequality."""
    kind = rng.integers(4 if depth else 2)
    relation = str(rng.choice(list(_RELATIONS)))
    if kind == 0:
        scaled = ("*", f"X_{rng.integers(2)}", _number(rng))
        return (relation, ("+", scaled, _number(rng)), _number(rng))
    if kind == 1:
        return (relation, _output(rng, 2), ("+", _output(rng, 1), _number(rng)))
    parts = [_formula(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    return (("and", "or")[kind - 2], *parts)


def _text(part):
    return f"({' '.join(map(_text, part))})" if isinstance(part, tuple) else str(part)


def _evaluate(part, values):
    if not isinstance(part, tuple):
        return values.get(part, part)
    return _OPERATORS[part[0]](*(_evaluate(operand, values) for operand in part[1:]))


def _holds(case, x, y):
    in_box = np.all((case.lower <= x) & (x <= case.upper), axis=1)
    return in_box & np.all(y @ case.rows.T + case.offsets <= 0, axis=1)


@functools.cache
def _mnistfc(image, epsilon):
    folder = real_data.folder("vnncomp2021") / "mnistfc"
    return data.read_vnnlib(folder / f"prop_{image}_{epsilon}.vnnlib.gz")


class RealPropertiesTest(absltest.TestCase):
    def test_mnistfc(self):
        """All with the smaller box, which the next test needs, some with the other."""
        folder = real_data.folder("vnncomp2021") / "mnistfc"
        for image, epsilon in [(i, 0.03) for i in range(15)] + [(0, 0.05), (14, 0.05)]:
            raw = (folder / f"prop_{image}_{epsilon}.vnnlib.gz").read_bytes()
            label = int(re.search(rb"label: (\d)", gzip.decompress(raw))[1])
            found = _mnistfc(image, epsilon)
            self.assertEqual((found.num_inputs, found.num_outputs), (784, 10))
            expected = np.eye(10)[label] - np.delete(np.eye(10), label, 0)
            np.testing.assert_array_equal(
                np.concatenate([c.rows for c in found.cases]), expected
            )
            for case in found.cases:
                np.testing.assert_array_equal(case.offsets, [0])
                np.testing.assert_array_equal(case[:2], found.cases[0][:2])
            lower, upper = found.cases[0][:2]
            self.assertTrue(np.all((lower >= 0) & (upper <= 1)))
            inside = (lower > 0) & (upper < 1)
            np.testing.assert_allclose((upper - lower)[inside], 2 * epsilon, rtol=1e-6)
            self.assertBetween((upper - lower).min(), epsilon - 1e-6, epsilon + 1e-6)

    def test_boxes_of_mnistfc_hold_images_of_their_class(self):
        real_data.folder("vnncomp2021")
        mnist = data.load("mnist", data_dir=real_data.folder("mnist").parent)
        flat = mnist.images.reshape(-1, 784)
        for image in range(15):
            case = _mnistfc(image, 0.03).cases[0]
            centre = 0.5 * (case.lower + case.upper)
            near = np.abs(flat[:, 300:500] - centre[300:500].astype(np.float32))
            some = flat[near.max(axis=1) < 0.1].astype(np.float64)  # half width 0.03
            labels = mnist.labels[near.max(axis=1) < 0.1]
            inside = np.all((some >= case.lower) & (some <= case.upper), axis=1)
            self.assertEqual(labels[inside].tolist(), [case.rows[0].argmax()])


if __name__ == "__main__":
    absltest.main()
