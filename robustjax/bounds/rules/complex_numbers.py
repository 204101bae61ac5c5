"""Complex numbers as pairs of bounded values, for Fourier transforms.

Along an axis of length n the transform of x = a + i b is linear in both,

    Re = sum_j a_j cos(2 pi j k / n) + b_j sin(2 pi j k / n),
    Im = sum_j b_j cos(2 pi j k / n) - a_j sin(2 pi j k / n),

and is carried as two matrix products. Ours.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustjax.bounds import operations
from robustjax.bounds.operations import Add, Bounded
from robustjax.bounds.rules import affine

ByRule = Callable[[str, Sequence[Any]], Any]
_PARTWISE = (
    "add", "add_any", "broadcast_in_dim", "copy", "neg", "reduce_sum", "reshape", "rev",
    "slice", "squeeze", "stop_gradient", "sub", "transpose",
)  # fmt: skip
_LONGEST = 2048  # axis of a transform: it is a dense matrix


class Complex(NamedTuple):
    """A complex result, each part of which is bounded or constant."""

    real: Any
    imag: Any


def has_any(arguments: Sequence[Any]) -> bool:
    """Whether an argument is a pair. [host]."""
    return any(isinstance(a, Complex) for a in arguments)


def makes(equation: Any) -> bool:
    """Whether an equation of a jaxpr makes complex numbers of real ones. [host]."""
    return any(
        jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in equation.outvars
    )


def through(add: Add, bind: Any, arguments: Sequence[Any], *, by_rule: ByRule) -> Any:
    """The result of a primitive with complex arguments, or that makes some. [host].

    Args:
        add: appends an operation.
        bind: the primitive.
        arguments: pairs, bounded values and constants.
        by_rule: applies the primitive of a name, with the parameters of this one, to
            real arguments.

    Returns:
        A `Complex`, or a real value.

    Raises:
        UnsupportedError: if the primitive has no rule for them, names it.
    """
    name = bind.primitive.name
    pairs = [_pair(a) for a in arguments]
    if name in _PARTWISE:
        parts = zip(*pairs, strict=True)
        return Complex(*(by_rule(name, part) for part in parts))
    if name == "fft":
        return _transform(add, bind, arguments[0])
    if name not in _RULES:
        raise operations.UnsupportedError(
            f"Bounds cannot follow {name!r} of complex numbers."
        )
    return _RULES[name](add, *pairs)


def _pair(argument: Any) -> Complex:
    if isinstance(argument, Complex):
        return argument
    if isinstance(argument, Bounded):
        return Complex(argument, np.zeros(argument.shape, argument.dtype))
    return Complex(jnp.real(argument), jnp.imag(argument))


def _minus(add: Add, x: Any) -> Any:
    return affine.negate(add, jnp.negative, [x]) if isinstance(x, Bounded) else -x


def _plus(add: Add, x: Any, y: Any) -> Any:
    if not (isinstance(x, Bounded) or isinstance(y, Bounded)):
        return x + y
    return affine.plus(add, jnp.add, [x, y])


def _times(add: Add, x: Any, y: Any) -> Any:
    if not (isinstance(x, Bounded) or isinstance(y, Bounded)):
        return x * y
    return affine.multiply(add, jnp.multiply, [x, y])


def _product(add: Add, x: Complex, y: Complex) -> Complex:
    real = _plus(
        add,
        _times(add, x.real, y.real),
        _minus(add, _times(add, x.imag, y.imag)),
    )
    imag = _plus(add, _times(add, x.real, y.imag), _times(add, x.imag, y.real))
    return Complex(real, imag)


def _size(add: Add, x: Complex) -> Any:
    """sqrt(a^2 + b^2)."""
    root = operations.for_primitive("sqrt")
    assert root is not None
    squares = _plus(add, _times(add, x.real, x.real), _times(add, x.imag, x.imag))
    return root(add, None, [squares])


_RULES: dict[str, Callable[..., Any]] = {
    "real": lambda add, x: x.real,
    "imag": lambda add, x: x.imag,
    "complex": lambda add, real, imag: Complex(real.real, imag.real),
    "convert_element_type": lambda add, x: x,
    "conj": lambda add, x: Complex(x.real, _minus(add, x.imag)),
    "abs": _size,
    "mul": _product,
}


def _transform(add: Add, bind: Any, x: Any) -> Any:
    kind = jax.lax.FftType(int(bind.params["fft_type"])).name.lower()
    lengths = bind.params["fft_lengths"]
    if max(lengths) > _LONGEST:
        raise operations.UnsupportedError(
            f"Bounds are carried through transforms of at most {_LONGEST} numbers, got "
            f"{max(lengths)}."
        )
    pair = _pair(x)
    rank = len((x.real if isinstance(x, Complex) else x).shape)
    axes = [rank - len(lengths) + k for k in range(len(lengths))]
    is_inverse = kind in ("ifft", "irfft")
    for axis, length in zip(axes[:-1], lengths[:-1], strict=True):
        matrix = _matrix(length, is_inverse=is_inverse)
        pair = _along(add, pair, matrix, axis)
    matrix = _matrix(lengths[-1], is_inverse=is_inverse)
    if kind == "rfft":
        matrix = matrix[:, : lengths[-1] // 2 + 1]
    if kind == "irfft":
        return _along(add, pair, _of_half(lengths[-1]), axes[-1]).real
    return _along(add, pair, matrix, axes[-1])


def _matrix(length: int, *, is_inverse: bool) -> np.ndarray:
    """`[n, n]`, from entries to frequencies, or back."""
    places = np.arange(length)
    turns = np.outer(places, places) % length / length
    matrix = np.exp((2j if is_inverse else -2j) * np.pi * turns)
    return matrix / length if is_inverse else matrix


def _of_half(length: int) -> np.ndarray:
    """`[n // 2 + 1, n]`: the real inverse, of which the imaginary part is nothing.

    A frequency stands for its mirrored one as well.
    """
    half = _matrix(length, is_inverse=True)[: length // 2 + 1]
    counts = np.full(len(half), 2.0)
    counts[0] = 1.0
    if length % 2 == 0:
        counts[-1] = 1.0
    return counts[:, None] * half


def _along(add: Add, pair: Complex, matrix: np.ndarray, axis: int) -> Complex:
    """A product with a complex matrix along an axis."""
    cosines, sines = matrix.real, matrix.imag

    def part(weights: Sequence[np.ndarray]) -> Any:
        def applied(*parts: jax.Array, is_absolute: bool = False) -> jax.Array:
            terms = [
                jnp.moveaxis(
                    jnp.tensordot(
                        p,
                        jnp.asarray(np.abs(w) if is_absolute else w, p.dtype),
                        axes=(axis, 0),
                        precision=jax.lax.Precision.HIGHEST,
                    ),
                    -1,
                    axis,
                )
                for p, w in zip(parts, weights, strict=True)
            ]
            return sum(terms[1:], start=terms[0])

        return affine.linear(add, applied, list(pair))

    return Complex(part((cosines, -sines)), part((sines, cosines)))
