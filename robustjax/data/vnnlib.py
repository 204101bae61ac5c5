"""Properties of networks in VNN-LIB files, and lists of what is to be verified.

A property asks for a counterexample: an input of a box whose output is unsafe. The
format is SMT-LIB cut down to the reals X_0, X_1, ... (inputs) and Y_0, Y_1, ...
(outputs), and to `assert` of linear inequalities and equations under `and` and `or`.

All numbers of a file are read as fractions. What is asserted becomes a disjunction of
boxes with polytopes, which is then rounded to float64 twice: outward, for proofs that
no counterexample exists, and inward, for counterexamples.

Reference:
    Demarchi, Guidotti, Pulina and Tacchella (2023), Supporting Standardization of
    Neural Networks Verification with VNN-LIB and CoCoNet. FoMLAS 2023.
"""

import codecs
import copy
import csv
import gzip
import math
import os
import pathlib
import re
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from robustjax.data import smtlib

_SECONDS = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Case(NamedTuple):
    """A box of inputs x, and the unsafe outputs: all y with rows @ y + offsets <= 0."""

    lower: np.ndarray  # [num_inputs] float64
    upper: np.ndarray  # [num_inputs] float64
    rows: np.ndarray  # [m, num_outputs] float64
    offsets: np.ndarray  # [m] float64


class Property(NamedTuple):
    """Violated by an x in the box of any case whose output is unsafe for that case."""

    cases: tuple[Case, ...]  # rounded outward: they hold all counterexamples
    num_inputs: int
    num_outputs: int
    inner: tuple[Case, ...]  # the same rounded inward: they hold nothing else


class Instance(NamedTuple):
    """What a verifier is asked: a network, a property, and how many seconds it has."""

    onnx: pathlib.Path
    vnnlib: pathlib.Path
    timeout: float | None  # None where the list does not say


def read_vnnlib(path: str | os.PathLike[str]) -> Property:
    """Reads a property; the file may be gzipped.

    [host] Numbers are decimals, or quotients of them as in `(/ 1 4)`. Strict
    inequalities are distinguished in `inner`. The commands set-logic, set-info,
    set-option, check-sat, get-model and exit are skipped.

    Guarantee:
        `cases` hold every counterexample of the file in exact arithmetic: boxes are
        rounded outward and offsets down. `inner` hold counterexamples only: boxes and
        offsets are rounded the other way, and past the limit of a strict inequality. An
        inner box without a float64 has lower > upper. Rows are exact, scaled by a
        common denominator if need be. If even that gives no float64, the factors are
        the nearest ones; `bounds.verify_cases` covers their rounding.

    Args:
        path: the file; gzip is recognised by its content, not by its name. The text is
            UTF-8, or UTF-16 with a byte order mark.

    Returns:
        The cases, one for each way to pick a branch of every `or`. Those whose limits
        of inputs contradict each other in exact arithmetic, or in which a comparison of
        numbers is false, are left out; if none remains, no input satisfies the
        property, whatever the network. Equal boxes may be the same arrays, so do not
        change them in place.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and expression, if the file is damaged, if an
            inequality is not linear, holds inputs and outputs or several inputs, or
            if an input of a case is not bounded.

    Example:
        >>> import tempfile
        >>> text = b"(declare-const X_0 Real) (declare-const Y_0 Real)"
        >>> text += b"(assert (and (>= X_0 -1) (<= X_0 1) (>= Y_0 100)))"
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(text), file.flush()
        ...     (case,) = read_vnnlib(file.name).cases
        >>> case.lower, case.upper, case.rows, case.offsets
        (array([-1.]), array([1.]), array([[-1.]]), array([100.]))
    """
    path = pathlib.Path(path)
    try:
        counts, formula = smtlib.read(_text(path))
        outer, inner = _rounded(formula, *counts)
    except ValueError as error:
        raise ValueError(f"{path}:{error}") from None
    return Property(outer, *counts, inner)


def read_instances(path: str | os.PathLike[str]) -> list[Instance]:
    """Reads a list of instances: rows of network, property and seconds, no header.

    [host] Paths are relative to the folder of the list. Where a file is missing and its
    name with `.gz` is there, that is taken; files that are missing altogether, and
    paths that name no file, stay in the list. The seconds may be left out.

    Args:
        path: the CSV file, as in `*_instances.csv` of VNN-COMP.

    Returns:
        The instances in the order of the rows.

    Raises:
        FileNotFoundError: if there is no such list.
        ValueError: naming file and line of a row of another form.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(b"net.onnx,prop_0.vnnlib,120"), file.flush()
        ...     read_instances(file.name)[0].timeout
        120.0
    """
    path = pathlib.Path(path)
    instances = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), 1):
            cells = [cell.strip() for cell in row]
            seconds = cells[2] if len(cells) == 3 else ""
            are_there = len(cells) in (2, 3) and all(cells[:2])
            if are_there and (not seconds or _SECONDS.fullmatch(seconds)):
                network, query = (_existing(path.parent / name) for name in cells[:2])
                timeout = float(seconds) if seconds else None
                instances.append(Instance(network, query, timeout))
            elif any(cells):
                raise ValueError(
                    f"{path}:{number}: expected network, property and seconds, "
                    f"got {','.join(row)!r}."
                )
    return instances


def _text(path: pathlib.Path) -> str:
    raw = path.read_bytes()
    try:
        plain = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f" expected a complete gzip file, got a damaged one ({error})."
        ) from error
    encoding = "utf-16" if plain.startswith(_UTF16) else "utf-8-sig"
    return plain.decode(encoding, errors="replace")


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or its gzipped form where only that is there."""
    packed = path.parent / f"{path.name}.gz"  # of "." the name is empty
    return packed if _is_file(packed) and not _is_file(path) else path


def _is_file(path: pathlib.Path) -> bool:
    """Whether a file is there; False for a name that no file can have."""
    try:
        return path.is_file()
    except OSError:
        return False


def _rounded(
    formula: smtlib.Formula, num_inputs: int, num_outputs: int
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """The cases that can be satisfied, rounded outward and inward."""
    always = _parted(formula.always)
    whole = _Box(num_inputs).cut(always[0])
    outer, inner = [], []
    for conjunction in formula.cases:
        limits, inequalities = _parted(conjunction)
        box = whole.cut(limits)
        if box.is_empty:
            continue
        box.check_bounded()
        rows, down, up = _polytope([*always[1], *inequalities], num_outputs)
        outer.append(Case(*box.outer, rows, down))
        inner.append(Case(*box.inner, rows, up))
    return tuple(outer), tuple(inner)


def _parted(
    constraints: smtlib.Conjunction,
) -> tuple[list[smtlib.Constraint], list[smtlib.Constraint]]:
    """Those of inputs and those of outputs."""
    parts: dict[str, list[smtlib.Constraint]] = {"X": [], "Y": []}
    for constraint in constraints:
        parts[next(iter(constraint.terms))[0]].append(constraint)
    return parts["X"], parts["Y"]


class _Box:
    """Limits of inputs: exact ones, and what they are in float64.

    Those from above are kept as limits of -x from below: row 0 is of x, row 1 of -x.
    """

    def __init__(self, num_inputs: int) -> None:
        self.is_empty = False
        self._limits: dict[tuple[int, int], tuple[Fraction, bool]] = {}  # value, strict
        self._outer = np.full((2, num_inputs), -np.inf)
        self._inner = np.full((2, num_inputs), -np.inf)
        self._set_sides()

    def cut(self, constraints: Sequence[smtlib.Constraint]) -> "_Box":
        """The part in which constraints of single inputs hold."""
        if not constraints:
            return self
        part = copy.copy(self)
        part._limits = dict(self._limits)
        part._outer, part._inner = self._outer.copy(), self._inner.copy()
        for terms, constant, is_strict in constraints:
            ((name, factor),) = terms.items()
            value = constant / abs(factor)
            part._limit(int(factor > 0), int(name[2:]), value, is_strict)
        part._set_sides()
        return part

    def check_bounded(self) -> None:
        """Raises ValueError if an input has no limit on a side."""
        for side, row in zip(("lower", "upper"), self._outer, strict=True):
            if np.isinf(row).any():
                name = f"X_{np.isinf(row).argmax()}"
                raise ValueError(f" a case has no {side} bound of {name}.")

    def _set_sides(self) -> None:
        """Lower and upper sides, the same arrays for all cases with this box.

        The corners of the smallest float64 box that contains this one, and the minimum
        and maximum float64 inside it, crossed if the box contains no float64.
        """
        self.outer = self._outer[0], 0.0 - self._outer[1]
        self.inner = self._inner[0], 0.0 - self._inner[1]

    def _limit(self, side: int, index: int, value: Fraction, is_strict: bool) -> None:
        """x, or -x, is at least a value."""
        limit = max((value, is_strict), self._limits.get((side, index), (value, False)))
        self._limits[side, index] = limit
        self._outer[side, index] = _at_most(limit[0])
        self._inner[side, index] = _at_least(*limit)
        other = self._limits.get((1 - side, index))
        if other is not None:
            gap = -limit[0] - other[0]
            self.is_empty |= gap < 0 or (gap == 0 and (limit[1] or other[1]))


def _polytope(
    inequalities: Sequence[smtlib.Constraint], num_outputs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the outputs, and their offsets rounded down and up."""
    rows = np.zeros((len(inequalities), num_outputs))
    down, up = np.zeros(len(inequalities)), np.zeros(len(inequalities))
    for at, (terms, constant, is_strict) in enumerate(inequalities):
        scale = _scale(list(terms.values()))
        for name, factor in terms.items():
            rows[at, int(name[2:])] = _nearest(scale * factor)
        down[at] = _at_most(scale * constant)
        up[at] = _at_least(scale * constant, is_strict)
    return rows, down, up


def _scale(factors: Sequence[Fraction]) -> Fraction:
    """Makes factors whole numbers where they are no float64, but are so as these."""
    if _are_floats(factors):
        return Fraction(1)
    scale = Fraction(
        math.lcm(*(factor.denominator for factor in factors)),
        math.gcd(*(factor.numerator for factor in factors)),
    )
    return scale if _are_floats([scale * f for f in factors]) else Fraction(1)


def _are_floats(numbers: Sequence[Fraction]) -> bool:
    return all(_nearest(number) == number for number in numbers)


def _nearest(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _at_most(number: Fraction) -> float:
    """The largest float64 that is not above a number."""
    near = _nearest(number)
    return near if near <= number else math.nextafter(near, -math.inf)


def _at_least(number: Fraction, is_strict: bool) -> float:
    """Smallest float64 >= a number; > it if strict."""
    near = _nearest(number)
    is_past = near > number if is_strict else near >= number
    return near if is_past else math.nextafter(near, math.inf)
