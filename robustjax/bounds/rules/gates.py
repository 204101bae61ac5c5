"""Products of x and a gate of the same x: SiLU and GELU, however they are written.

Planes for a product forget that both factors move together. So a result that is a
polynomial p of one earlier value x, or a gate c0 + c1 g(p(x)), carries its formula, and

    a x logistic(b x),   a x erfc(b x),   a c (1 + erf(b x)) x,   a c (1 + tanh(p(x))) x

become functions of single numbers with lines of their own. With z = x or -x, so that
the gate rises, they are multiples of z g(z), which dips once below zero and then rises.
"""

import fractions
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import _validate
from robustjax.bounds.operations import Bounded, Elementwise, Formula
from robustjax.bounds.rules import sigmoidal

_DEGREE = 3
_TANH_RATIO = 0.044715 * math.pi / 2  # q / p^3 of GELU's p x + q x^3


class _Shape(NamedTuple):
    """z g(z): where it is least, and where it bends."""

    least: float
    bends: tuple[float, ...]


# z logistic(z), z Phi(z), and z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2.
_SILU = _Shape(-1.2784645427610738, (-2.3993572805154677, 2.3993572805154677))
_GELU = _Shape(-0.7517915246935645, (-math.sqrt(2), math.sqrt(2)))
_TANH_GELU = _Shape(-0.7524614220710163, (-1.4185040087908284, 1.4185040087908284))


class Product(NamedTuple):
    """weight * f(y), or weight * f(-y)."""

    f: Elementwise
    y: Bounded
    is_turned: bool
    weight: float


def of(argument: Any) -> Formula | None:
    """The formula of an argument; that of x itself where none is known. [host]."""
    if isinstance(argument, Bounded):
        return argument.formula or Formula(argument.value, (0.0, 1.0))
    known = _validate.concrete(argument)
    if known is None or not known.size or not np.all(known == known.flat[0]):
        return None
    return Formula(None, (float(known.flat[0]),))


def scaled(result: Bounded, factors: Sequence[Any]) -> Bounded:
    """A product of a formula and a number, or of two polynomials. [host]."""
    first, second = map(of, factors)
    if first is None or second is None or not _are_alike(result, factors):
        return result
    if first.gate and second.gate:
        return result
    if second.gate:
        first, second = second, first
    if first.gate:
        if len(second.polynomial) > 1:
            return result
        (c,) = second.polynomial
        return _with(
            result, first._replace(ends=(c * first.ends[0], c * first.ends[1]))
        )
    product = np.convolve(first.polynomial, second.polynomial)
    return _of_polynomial(result, first, second, product)


def added(result: Bounded, terms: Sequence[Any], *, sign: float = 1.0) -> Bounded:
    """A sum of a formula and a number, or of two polynomials. [host]."""
    first, second = map(of, terms)
    if first is None or second is None or not _are_alike(result, terms):
        return result
    if sign < 0:
        second = _times(second, -1.0)
    if second.gate:
        first, second = second, first
    if first.gate:
        if second.gate or len(second.polynomial) > 1:
            return result
        c0, c1 = first.ends
        return _with(result, first._replace(ends=(c0 + second.polynomial[0], c1)))
    size = max(len(first.polynomial), len(second.polynomial))
    terms_of = [
        np.pad(formula.polynomial, (0, size - len(formula.polynomial)))
        for formula in (first, second)
    ]
    return _of_polynomial(result, first, second, terms_of[0] + terms_of[1])


def negated(result: Bounded, argument: Bounded) -> Bounded:
    """The negative of a formula. [host]."""
    formula = of(argument)
    assert formula is not None
    return _with(result, _times(formula, -1.0))


def powered(result: Bounded, argument: Bounded, *, power: int) -> Bounded:
    """A power of a polynomial. [host]."""
    formula = of(argument)
    if formula is None or formula.gate or power < 1:
        return result
    degree = power * (len(formula.polynomial) - 1)
    if degree > _DEGREE:
        return result
    product = np.ones(1)
    for _ in range(power):
        product = np.convolve(product, formula.polynomial)
    return _of_polynomial(result, formula, formula, product)


def gated(result: Bounded, argument: Bounded, *, gate: str) -> Bounded:
    """tanh, erf, erfc or logistic of a polynomial. [host]."""
    formula = of(argument)
    if formula is None or formula.gate:
        return result
    return _with(result, formula._replace(gate=gate, ends=(0.0, 1.0)))


def product(factors: Sequence[Bounded]) -> Product | None:
    """A product of y and a gate of y as a function of single numbers. [host].

    Args:
        factors: two bounded values, in any order.

    Returns:
        What it is of y, one of the factors; None for other products.
    """
    found = [_product_with(y, of(gate)) for y, gate in (factors, factors[::-1])]
    return next((each for each in found if each is not None), None)


def _product_with(y: Bounded, gate: Formula | None) -> Product | None:
    formula = of(y)
    if gate is None or formula is None or formula.gate or not gate.gate:
        return None
    if formula.value != gate.value:
        return None
    linear, cubic = _in_terms_of(gate.polynomial, formula.polynomial)
    if not linear:
        return None
    found = _shape_of(gate, abs(linear), abs(cubic))
    if found is None or (cubic and (cubic > 0) != (linear > 0)):
        return None
    f, weight, scale, shape = found
    is_turned = (linear < 0) != (gate.gate == "erfc")
    bends = tuple(bend / scale for bend in shape.bends)
    operation = Elementwise(
        f"x {gate.gate}(x)",
        f,
        sigmoidal.dipping(f, place=shape.least / scale),
        sigmoidal.bending_lines(f, bends=bends),
        is_finite=True,
    )
    return Product(operation, y, is_turned, -weight if is_turned else weight)


def _in_terms_of(
    gate: tuple[float, ...], of_y: tuple[float, ...]
) -> tuple[float, float]:
    """B and q with gate = b y + q y^3, zeros if it is no such polynomial of y."""
    exact = [fractions.Fraction(v) for v in gate]
    y = [fractions.Fraction(v) for v in of_y]
    if len(exact) == len(y) and any(y):
        k = max(range(len(y)), key=lambda k: abs(y[k]))
        if all(a * y[k] == b * exact[k] for a, b in zip(exact, y, strict=True)):
            return float(exact[k] / y[k]), 0.0
    if len(exact) == 4 and len(y) == 2 and not (exact[0] or exact[2] or y[0]):
        return float(exact[1] / y[1]), float(exact[3] / y[1] ** 3)
    return 0.0, 0.0


def _shape_of(
    gate: Formula, b: float, q: float
) -> tuple[Callable[[jax.Array], jax.Array], float, float, _Shape] | None:
    """Z g(z), what it is multiplied by, the scale of z, and the shape of it."""
    c0, c1 = gate.ends

    def normal(z: jax.Array) -> jax.Array:
        return 0.5 * z * jax.lax.erfc(-b * z)

    def bent_tanh(z: jax.Array) -> jax.Array:
        return 0.5 * z * (1 + jnp.tanh(z * (b + q * z * z)))

    if gate.gate == "logistic" and not c0 and not q:
        return lambda z: z * jax.nn.sigmoid(b * z), c1, b, _SILU
    if (gate.gate == "erfc" and not c0 and not q) or (
        gate.gate == "erf" and c0 == c1 and not q
    ):
        return normal, 2 * c1, math.sqrt(2) * b, _GELU
    if gate.gate == "tanh" and c0 == c1 and not q:
        return lambda z: z * jax.nn.sigmoid(2 * b * z), 2 * c1, 2 * b, _SILU
    is_gelu = math.isclose(q / b**3, _TANH_RATIO, rel_tol=1e-6)
    if gate.gate == "tanh" and c0 == c1 and is_gelu:
        return bent_tanh, 2 * c1, b / math.sqrt(2 / math.pi), _TANH_GELU
    return None


def _are_alike(result: Bounded, arguments: Sequence[Any]) -> bool:
    """Whether bounded arguments have the shape of the result."""
    return all(a.shape == result.shape for a in arguments if isinstance(a, Bounded))


def _times(formula: Formula, c: float) -> Formula:
    if formula.gate:
        return formula._replace(ends=(c * formula.ends[0], c * formula.ends[1]))
    return formula._replace(polynomial=tuple(c * v for v in formula.polynomial))


def _of_polynomial(
    result: Bounded, first: Formula, second: Formula, polynomial: np.ndarray
) -> Bounded:
    values = {f.value for f in (first, second) if f.value is not None}
    if len(values) != 1 or len(polynomial) > _DEGREE + 1:
        return result
    return _with(result, Formula(values.pop(), tuple(map(float, polynomial))))


def _with(result: Bounded, formula: Formula) -> Bounded:
    return result._replace(formula=formula)
