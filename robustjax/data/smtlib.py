"""The part of SMT-LIB that VNN-LIB files are written in, read with exact fractions.

A file declares reals and asserts linear inequalities under `and` and `or`. A list is
evaluated where its parenthesis closes, on a stack, so that depth costs no recursion:

    expression  ->  {variable: factor} with the constant under "",
    formula     ->  always and (case or case or ...), each a conjunction.

Reference:
    Barrett, Fontaine and Tinelli (2017), The SMT-LIB Standard, version 2.6.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

_TOKEN = re.compile(r';[^\n]*|\|[^|]*\||"[^"]*"|[()]|[^\s()|";]+|\S')
_VARIABLE = re.compile(r"[XY]_(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_LONGEST = 4000  # characters of a number
_RELATIONS = ("<=", "<", ">=", ">", "=")
_SKIPPED = ("set-logic", "set-info", "set-option", "get-model")
_ENDS = ("check-sat", "exit")
_MAX_CASES = 10_000  # of an `and` of several `or`s, which multiplies them
_CHAIN = itertools.chain.from_iterable
_ONE = ""  # stands for the constant among the variables of an expression


class Constraint(NamedTuple):
    """Terms + constant <= 0, or < 0; the terms of one input, or of outputs."""

    terms: dict[str, Fraction]  # not empty, no zeros
    constant: Fraction
    is_strict: bool


Conjunction = tuple[Constraint, ...]


class Formula(NamedTuple):
    """What always holds, together with any one of the cases."""

    always: Conjunction
    cases: list[Conjunction]


_Terms = dict[str, Fraction]
_Value = str | _Terms | Formula | tuple[()] | None  # None: an error where it is used


class _List(NamedTuple):
    """An open parenthesis and what stands behind it so far."""

    start: int  # in the text
    items: list[_Value]


class _RefusedError(Exception):
    """The reason; where is added later."""


def read(text: str) -> tuple[tuple[int, int], Formula]:
    """The numbers of inputs and outputs of a property, and what it asserts.

    Args:
        text: the content of a file.

    Returns:
        The numbers of X_i and Y_i, and the formula.

    Raises:
        ValueError: with line, reason and expression.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    script = _Script()
    pending: list[_List] = []  # lists that are not yet closed
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token[0] == ";":
            continue
        if token == "(":
            pending.append(_List(match.start(), []))
        elif not pending:
            raise _error(text, match.start(), f"{token!r} stands outside of commands")
        elif token != ")":
            pending[-1].items.append(token)
        else:
            start, items = pending.pop()
            try:
                if pending:
                    pending[-1].items.append(script.value(items))
                else:
                    script.command(items)
            except _RefusedError as error:
                form = " ".join(text[start : match.end()].split())
                raise _error(text, start, f"{error}, got {form:.200}") from None
    if pending:
        raise _error(text, pending[-1].start, "this '(' is not closed")
    return _counts(script.declared), script.asserted()


def _error(text: str, at: int, reason: str) -> ValueError:
    return ValueError(f"{text.count(chr(10), 0, at) + 1}: {reason}.")


def _counts(declared: set[str]) -> tuple[int, int]:
    """Numbers of inputs and outputs, each declared from zero on without a gap."""
    counts = {kind: sum(name[0] == kind for name in declared) for kind in "XY"}
    for kind, count in counts.items():
        wanted = {f"{kind}_{index}" for index in range(max(count, 1))}
        for name in sorted(wanted - declared):
            raise ValueError(f" {name} is not declared.")
    return counts["X"], counts["Y"]


class _Script:
    """Evaluates the lists of a file in the order in which they close."""

    def __init__(self) -> None:
        self.declared: set[str] = set()
        self._asserted: list[Formula] = []
        self._is_ended = False

    def asserted(self) -> Formula:
        """All assertions together."""
        try:
            return _all_of(self._asserted)
        except _RefusedError as error:
            raise ValueError(f"1: {error}, got (assert ...).") from None

    def command(self, items: Sequence[_Value]) -> None:
        """Takes note of a list that stands alone."""
        match items:
            case (str(head), *_) if head in _SKIPPED:
                pass
            case (str(head),) if head in _ENDS:
                self._is_ended = True
            case ("declare-const", str(name), "Real") | (
                "declare-fun",
                str(name),
                (),
                "Real",
            ) if _VARIABLE.fullmatch(name) and name not in self.declared:
                self.declared.add(name)
            case ("assert", formula) if not self._is_ended:
                self._asserted.append(_formula(formula, "an inequality"))
            case _:
                raise _RefusedError(
                    "expected an assertion, or to declare a new X_i or Y_i as Real"
                )

    def value(self, items: Sequence[_Value]) -> _Value:
        """The formula or expression that a list inside of another one stands for."""
        if not items:
            return ()
        head, *operands = items
        if head in ("and", "or"):
            formulas = [_formula(operand, "inequalities") for operand in operands]
            return _all_of(formulas) if head == "and" else _any_of(formulas)
        if head in _RELATIONS and len(operands) >= 2:
            sides = [self._terms(operand) for operand in operands]
            return _all_of(
                [_compared(head, *pair) for pair in itertools.pairwise(sides)]
            )
        if head in _OPERATORS and operands:
            return _OPERATORS[head]([self._terms(operand) for operand in operands])
        return None

    def _terms(self, part: _Value) -> _Terms:
        """An operand as factors of variables, and its constant."""
        if isinstance(part, dict):
            return part
        if not isinstance(part, str):
            raise _RefusedError("expected sums, differences and multiples")
        if part in self.declared:
            return {part: Fraction(1)}
        is_number = _NUMBER.fullmatch(part) and len(part) <= _LONGEST
        if is_number and math.isfinite(float(part)):
            return {_ONE: Fraction(part)}
        raise _RefusedError(f"{part!r} is no finite number and no declared variable")


def _formula(part: _Value, expected: str) -> Formula:
    """An operand of `and`, `or` and `assert`."""
    if isinstance(part, Formula):
        return part
    if part in ("true", "false"):
        return _constant(part == "true")
    if not isinstance(part, str):
        expected = "an inequality <=, >=, <, > or an equation = of expressions"
    raise _RefusedError(f"expected {expected}")


def _constant(is_true: bool) -> Formula:
    return Formula((), [()] if is_true else [])


def _all_of(formulas: Sequence[Formula]) -> Formula:
    """Every way to pick one case of each."""
    always = tuple(_CHAIN(formula.always for formula in formulas))
    branches = [formula.cases for formula in formulas if formula.cases != [()]]
    if len(branches) == 1:
        return Formula(always, branches[0])
    if math.prod(map(len, branches)) > _MAX_CASES:
        raise _RefusedError(f"expected at most {_MAX_CASES} cases")
    return Formula(always, [tuple(_CHAIN(p)) for p in itertools.product(*branches)])


def _any_of(formulas: Sequence[Formula]) -> Formula:
    """The cases of all."""
    if len(formulas) == 1:
        return formulas[0]
    cases: list[Conjunction] = []
    for always, own in formulas:
        cases += [(*always, *case) for case in own] if always else own
    return Formula((), cases)


def _compared(relation: str, first: _Terms, second: _Terms) -> Formula:
    """One or two inequalities, everything on the left side."""
    if relation == "=":
        return _all_of([_compared("<=", first, second), _compared(">=", first, second)])
    sign = 1 if relation[0] == "<" else -1
    terms = _sum((first, second), (sign, -sign))
    constant = terms.pop(_ONE, Fraction(0))
    terms = {name: factor for name, factor in terms.items() if factor}
    is_strict = len(relation) == 1
    if not terms:
        return _constant(constant < 0 or (constant == 0 and not is_strict))
    kinds = {name[0] for name in terms}
    if kinds != {"Y"} and not (kinds == {"X"} and len(terms) == 1):
        raise _RefusedError("expected an inequality of one input, or of outputs only")
    return Formula((Constraint(terms, constant, is_strict),), [()])


def _sum(terms: Sequence[Mapping[str, Fraction]], factors: Sequence[int]) -> _Terms:
    total: _Terms = {}
    for term, factor in zip(terms, factors, strict=True):
        for name, value in term.items():
            total[name] = total.get(name, 0) + factor * value
    return total


def _difference(terms: Sequence[_Terms]) -> _Terms:
    return _sum(terms, [1] + [-1] * (len(terms) - 1) if terms[1:] else [-1])


def _multiple(terms: Sequence[_Terms]) -> _Terms:
    """A product in which at most one factor is no number."""
    factor, rest = Fraction(1), None
    for term in terms:
        if term.keys() <= {_ONE}:
            factor *= term.get(_ONE, 0)
        elif rest is None:
            rest = term
        else:
            raise _RefusedError("expected sums, differences and multiples")
    return {n: factor * v for n, v in (rest or {_ONE: Fraction(1)}).items()}


def _quotient(terms: Sequence[_Terms]) -> _Terms:
    """Something divided by numbers."""
    inverses: list[_Terms] = []
    for term in terms[1:]:
        if not (term.keys() == {_ONE} and term[_ONE]):
            raise _RefusedError("expected to divide by numbers that are not zero")
        inverses.append({_ONE: 1 / term[_ONE]})
    return _multiple([terms[0], *inverses])


_OPERATORS: dict[str, Callable[[Sequence[_Terms]], _Terms]] = {
    "+": lambda terms: _sum(terms, [1] * len(terms)),
    "-": _difference,
    "*": _multiple,
    "/": _quotient,
}
