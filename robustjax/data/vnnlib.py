"""Properties of networks in VNN-LIB files, and lists of what is to be verified.

A property asks for a counterexample: an input of a box whose output is unsafe. The
format is SMT-LIB cut down to `declare-const` of the reals X_0, X_1, ... (inputs) and
Y_0, Y_1, ... (outputs), and to `assert` of linear inequalities under `and` and `or`.

Reference:
    Demarchi, Guidotti, Pulina and Tacchella (2023), Supporting Standardization of
    Neural Networks Verification with VNN-LIB and CoCoNet. FoMLAS 2023.
"""

import csv
import gzip
import itertools
import math
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_TOKEN = re.compile(r"[()]|[^\s()]+")
_VARIABLE = re.compile(r"[XY]_(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SIGNS = {"<=": 1.0, "<": 1.0, ">=": -1.0, ">": -1.0}  # of a - b in a - b <= 0
_MAX_CASES = 10_000  # an `and` of `or`s multiplies them
_MAX_DEPTH = 100
_CHAIN = itertools.chain.from_iterable
_ONE = ""  # stands for the constant among the variables of a linear expression


class Case(NamedTuple):
    """A box of inputs x, and the unsafe outputs: all y with rows @ y + offsets <= 0."""

    lower: np.ndarray  # [num_inputs] float64
    upper: np.ndarray  # [num_inputs] float64
    rows: np.ndarray  # [m, num_outputs] float64
    offsets: np.ndarray  # [m] float64


class Property(NamedTuple):
    """Violated by an x in the box of any case whose output is unsafe for that case."""

    cases: tuple[Case, ...]
    num_inputs: int
    num_outputs: int


class Instance(NamedTuple):
    """What a verifier is asked: a network, a property, and how many seconds it has."""

    onnx: pathlib.Path
    vnnlib: pathlib.Path
    timeout: float


def read_vnnlib(path: str | os.PathLike[str]) -> Property:
    """Reads a property; the file may be gzipped.

    [host] Decimals become the nearest float64. Strict inequalities are read as if they
    allowed equality: that no counterexample exists then holds for the file as well, but
    one with equality is none of the file. Cases with an empty box are left out.

    Args:
        path: the file; gzip is recognised by its content, not by its name.

    Returns:
        The cases, one for each way to pick a branch of every `or`; their boxes may be
        equal.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming file, line and expression, if the file is damaged, if an
            inequality is not linear, holds inputs and outputs or several inputs, or if
            an input of a case is not bounded.

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
        declared, disjunction = _read(_forms(_text(path)))
    except _RefusedError as error:
        raise ValueError(f"{path}:{error}") from None
    counts = _counts(path, declared)
    cases = [_case(path, conjunction, counts) for conjunction in disjunction]
    kept = tuple(case for case in cases if np.all(case.lower <= case.upper))
    if not kept:
        raise ValueError(f"{path}: expected a case whose box is not empty.")
    return Property(kept, *counts)


def read_instances(path: str | os.PathLike[str]) -> list[Instance]:
    """Reads a list of instances: rows of network, property and seconds, no header.

    [host] Paths are relative to the folder of the list. Where a file is missing and its
    name with `.gz` is there, that is taken; files that are missing altogether stay in
    the list.

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
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), 1):
            cells = [cell.strip() for cell in row]
            if len(cells) == 3 and all(cells) and _NUMBER.fullmatch(cells[2]):
                network, query = (_existing(path.parent / name) for name in cells[:2])
                instances.append(Instance(network, query, float(cells[2])))
            elif any(cells):
                raise ValueError(
                    f"{path}:{number}: expected network, property and seconds, "
                    f"got {','.join(row)!r}."
                )
    return instances


class _Form(NamedTuple):
    """A parenthesised list and the line on which it starts."""

    line: int
    items: tuple["str | _Form", ...]

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.items))})"


class _Constraint(NamedTuple):
    """Terms + constant <= 0, the terms of one input or of outputs."""

    terms: dict[str, float]
    constant: float


_Conjunction = tuple[_Constraint, ...]


class _RefusedError(Exception):
    """Line and reason; the file's name is added later."""


def _refused(form: _Form, reason: str) -> _RefusedError:
    return _RefusedError(f"{form.line}: {reason}, got {form!s:.200}.")


def _text(path: pathlib.Path) -> str:
    raw = path.read_bytes()
    try:
        plain = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path}: expected a complete gzip file, got a damaged one ({error})."
        ) from error
    return plain.decode(errors="replace")


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or its gzipped form where only that is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def _forms(text: str) -> list[_Form]:
    """The commands of a file."""
    pending: list[tuple[int, list[str | _Form]]] = [(0, [])]  # not yet closed
    for number, line in enumerate(text.splitlines(), 1):
        for token in _TOKEN.findall(line.partition(";")[0]):
            if token == "(":
                pending.append((number, []))
            elif len(pending) == 1:
                raise _RefusedError(f"{number}: {token!r} stands outside of commands.")
            elif token == ")":
                start, items = pending.pop()
                pending[-1][1].append(_Form(start, tuple(items)))
            else:
                pending[-1][1].append(token)
            if len(pending) > _MAX_DEPTH:
                raise _RefusedError(f"{number}: more than {_MAX_DEPTH} open '('.")
    if len(pending) > 1:
        raise _RefusedError(f"{pending[-1][0]}: this '(' is not closed.")
    return [form for form in pending[0][1] if isinstance(form, _Form)]


def _read(forms: Iterable[_Form]) -> tuple[set[str], list[_Conjunction]]:
    """The declared variables, and what is asserted as a disjunction."""
    declared: set[str] = set()
    asserted = []
    for form in forms:
        match form.items:
            case ("declare-const", str(name), "Real") if (
                _VARIABLE.fullmatch(name) and name not in declared
            ):
                declared.add(name)
            case ("assert", _Form() as formula):
                asserted.append(_cases(formula, declared))
            case _:
                reason = "expected an assertion, or to declare a new X_i or Y_i as Real"
                raise _refused(form, reason)
    return declared, _all_of(asserted, _Form(1, ("assert", "...")))


def _cases(form: _Form, declared: set[str]) -> list[_Conjunction]:
    """A formula as a disjunction of conjunctions."""
    head, *parts = form.items or ("",)
    if head not in ("and", "or"):
        return [(_constraint(form, declared),)]
    branches = []
    for part in parts:
        if not isinstance(part, _Form):
            raise _refused(form, "expected inequalities")
        branches.append(_cases(part, declared))
    return _all_of(branches, form) if head == "and" else [*_CHAIN(branches)]


def _all_of(branches: Sequence[list[_Conjunction]], form: _Form) -> list[_Conjunction]:
    """Every way to pick one conjunction of each."""
    if math.prod(map(len, branches)) > _MAX_CASES:
        raise _refused(form, f"expected at most {_MAX_CASES} cases")
    return [tuple(_CHAIN(picked)) for picked in itertools.product(*branches)]


def _constraint(form: _Form, declared: set[str]) -> _Constraint:
    """An inequality, everything on its left side."""
    if len(form.items) != 3 or form.items[0] not in _SIGNS:
        raise _refused(form, "expected an inequality <=, >=, < or > of two expressions")
    sign = _SIGNS[str(form.items[0])]
    sides = [_linear(side, form, declared) for side in form.items[1:]]
    terms = _sum(sides, (sign, -sign))
    constant = terms.pop(_ONE, 0.0)
    terms = {name: factor for name, factor in terms.items() if factor}
    kinds = {name[0] for name in terms}
    if kinds != {"Y"} and not (kinds == {"X"} and len(terms) == 1):
        raise _refused(form, "expected an inequality of one input, or of outputs only")
    return _Constraint(terms, constant)


def _linear(part: str | _Form, form: _Form, declared: set[str]) -> dict[str, float]:
    """Factors of the variables in an expression, and its constant."""
    if isinstance(part, str):
        if part in declared:
            return {part: 1.0}
        if _NUMBER.fullmatch(part) and math.isfinite(float(part)):
            return {_ONE: float(part)}
        raise _refused(form, f"{part!r} is no finite number and no declared variable")
    operator, *operands = part.items or ("",)
    terms = [_linear(operand, form, declared) for operand in operands]
    if operator == "+":
        return _sum(terms, [1.0] * len(terms))
    if operator == "-" and terms:
        return _sum(terms, [1.0] + [-1.0] * (len(terms) - 1) if terms[1:] else [-1.0])
    variable = [term for term in terms if term.keys() != {_ONE}]
    if operator == "*" and len(variable) <= 1:
        factor = math.prod(term[_ONE] for term in terms if term not in variable)
        return _sum(variable or [{_ONE: 1.0}], [factor])
    raise _refused(form, "expected sums, differences and multiples")


def _sum(
    terms: Sequence[Mapping[str, float]], factors: Sequence[float]
) -> dict[str, float]:
    total: dict[str, float] = {}
    for term, factor in zip(terms, factors, strict=True):
        for name, value in term.items():
            total[name] = total.get(name, 0.0) + factor * value
    return total


def _counts(path: pathlib.Path, declared: set[str]) -> tuple[int, int]:
    """Numbers of inputs and outputs, each declared from zero on without a gap."""
    counts = {kind: sum(name[0] == kind for name in declared) for kind in "XY"}
    for kind, count in counts.items():
        wanted = {f"{kind}_{index}" for index in range(max(count, 1))}
        for name in sorted(wanted - declared):
            raise ValueError(f"{path}: {name} is not declared.")
    return counts["X"], counts["Y"]


def _case(
    path: pathlib.Path, constraints: _Conjunction, counts: tuple[int, int]
) -> Case:
    """The box of the inputs and the polytope of the outputs."""
    lower, upper = np.full(counts[0], -np.inf), np.full(counts[0], np.inf)
    rows, offsets = [], []
    for terms, constant in constraints:
        indices = [int(name[2:]) for name in terms]
        factors = list(terms.values())
        if any(name[0] == "Y" for name in terms):
            rows.append(np.zeros(counts[1]))
            rows[-1][indices] = factors
            offsets.append(constant)
            continue
        (index,), limit = indices, 0.0 - constant / factors[0]
        if factors[0] > 0:
            upper[index] = min(upper[index], limit)
        else:
            lower[index] = max(lower[index], limit)
    for side, bound in (("lower", lower), ("upper", upper)):
        if np.isinf(bound).any():
            name = f"X_{np.isinf(bound).argmax()}"
            raise ValueError(f"{path}: a case has no {side} bound of {name}.")
    shape = (len(rows), counts[1])
    return Case(lower, upper, np.reshape(rows, shape), np.asarray(offsets, np.float64))
