"""Layer normalisation, RMS normalisation and division by a length.

For n numbers with mean m and mean square deviation v, and any epsilon >= 0,

    |x_i - m| / sqrt(v + epsilon) <= sqrt(n - 1),   |x_i| / sqrt(mean(x^2)) <= sqrt(n),

which products of intervals do not know. So a result carries what it is of x, from its
mean on, step by step. And mean(x^2) - m^2, of which intervals forget that both terms
are of the same x, is computed as the mean of (x_i - m)^2.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import _validate
from robustjax.bounds import operations
from robustjax.bounds.operations import About, Add, Affine, Bounded, Interval, Narrowed

_SQUARES = {"centred": "centred squares", "": "squares", "mean": "square of mean"}
_MEANS = {"total": "mean", "total centred squares": "variance",
          "total squares": "mean square"}  # fmt: skip
_ROOTS = {"variance": "deviation", "mean square": "size"}


def summed(result: Bounded, x: Bounded, axes: Sequence[int]) -> Bounded:
    """A sum along axes. [host]."""
    about, along = x.about, tuple(sorted(axes))
    if about is not None and about.kind in ("centred squares", "squares"):
        if about.kind == "squares" or about.axes == along:
            return _with(result, about, f"total {about.kind}", axes=along)
        return result
    return result._replace(about=About("total", x.value, along, x.shape))


def multiplied(add: Add, result: Bounded, factors: Sequence[Any]) -> Bounded:
    """A product with constants, or of a deviation and an inverse size. [host]."""
    if all(isinstance(f, Bounded) for f in factors):
        return _normalised(add, result, factors)
    (x,) = (f for f in factors if isinstance(f, Bounded))
    (constant,) = (f for f in factors if not isinstance(f, Bounded))
    about = x.about
    if about is None:
        return result
    known = _validate.concrete(constant)
    if about.kind in _MEANS and known is not None and known.size == 1:
        count = math.prod(about.shape[axis] for axis in about.axes)
        if math.isclose(float(known.reshape(())) * count, 1.0, rel_tol=1e-6):
            return _with(result, about, _MEANS[about.kind])
    if about.kind.startswith("inverse") and about.factor is None:
        return result._replace(about=about._replace(factor=constant))
    return result


def divided(add: Add, result: Bounded, factors: Sequence[Any]) -> Bounded:
    """A quotient of two bounded values. [host]."""
    x, y = factors
    about = y.about if isinstance(x, Bounded) and isinstance(y, Bounded) else None
    if about is None or about.kind not in _ROOTS.values():
        return result
    inverse = _with(y, about, f"inverse {about.kind}")
    return _normalised(add, result, [x, inverse])


def centred(result: Bounded, terms: Sequence[Any]) -> Bounded:
    """A difference of x and its mean. [host]."""
    x, mean = terms
    if not (isinstance(x, Bounded) and isinstance(mean, Bounded)):
        return result
    about = mean.about
    is_mean = about is not None and about.kind == "mean" and about.value == x.value
    if not is_mean or result.shape != x.shape or result.about is not None:
        return result
    assert about is not None
    return _with(result, about, "centred")


def squared(result: Bounded, x: Bounded) -> Bounded:
    """A square. [host]."""
    about = x.about
    if about is not None and about.kind in _SQUARES:
        return _with(result, about, _SQUARES[about.kind])
    return result._replace(about=About("squares", x.value, (), x.shape))


def variance(add: Add, terms: Sequence[Any]) -> Bounded | None:
    """mean(x^2) - mean(x)^2 as the mean of squares around the mean; None for others.

    [host]
    """
    square, other = (t.about if isinstance(t, Bounded) else None for t in terms)
    if square is None or other is None:
        return None
    if (square.kind, other.kind) != ("mean square", "square of mean"):
        return None
    if square.value != other.value or square.axes != other.axes:
        return None
    axes, shape = square.axes, terms[0].shape

    def centre(x: jax.Array) -> jax.Array:
        return x - jnp.mean(x, axis=axes, keepdims=True)

    def centre_radius(r: jax.Array) -> jax.Array:
        count = math.prod(square.shape[axis] for axis in axes)
        return r * (1 - 2 / count) + jnp.mean(r, axis=axes, keepdims=True)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=axes).reshape(shape)

    x = Bounded(square.value, square.shape, terms[0].dtype)
    around = add(Affine(centre, centre_radius, is_linear=True), [x])
    squares = add(operations.for_name("square"), [around])
    found = add(Affine(mean, mean, is_linear=True, signs=(1,)), [squares])
    return _with(found, square, "variance")


def added(result: Bounded, terms: Sequence[Any]) -> Bounded:
    """A variance and a number that is not negative. [host]."""
    x, epsilon = terms if isinstance(terms[0], Bounded) else terms[::-1]
    if isinstance(epsilon, Bounded) or x.about is None or x.about.kind not in _ROOTS:
        return result
    known = _validate.concrete(epsilon)
    if known is None or np.any(known < 0):
        return result
    return result._replace(about=x.about)


def rooted(result: Bounded, x: Bounded, *, is_inverse: bool) -> Bounded:
    """A square root, or its inverse. [host]."""
    if x.about is None or x.about.kind not in _ROOTS:
        return result
    name = _ROOTS[x.about.kind]
    return _with(result, x.about, f"inverse {name}" if is_inverse else name)


def is_never_negative(x: Bounded) -> bool:
    """Whether a maximum with zero changes nothing. [host]."""
    return x.about is not None and x.about.kind in _ROOTS


def _normalised(add: Add, result: Bounded, factors: Sequence[Bounded]) -> Bounded:
    for x, inverse in (factors, factors[::-1]):
        about = inverse.about
        if about is None or result.shape != about.shape:
            continue
        count = math.prod(about.shape[axis] for axis in about.axes)
        is_centred = (
            x.about is not None
            and x.about.kind == "centred"
            and (x.about.value, x.about.axes) == (about.value, about.axes)
        )
        if about.kind == "inverse deviation" and is_centred:
            most = math.sqrt(count - 1)
        elif about.kind == "inverse size" and x.value == about.value:
            most = math.sqrt(count)
        else:
            continue
        return add(_within(most, about.factor, result.shape), [result, result])
    return result


def _within(most: float, factor: Any, shape: tuple[int, ...]) -> Narrowed:
    def bounds(of_result: Interval) -> Interval:
        size = jnp.asarray(1.0 if factor is None else factor, of_result[0].dtype)
        limits = jnp.finfo(of_result[0].dtype)
        high = most * (1 + 32 * limits.eps) * jnp.abs(jnp.broadcast_to(size, shape))
        return -high, high

    return Narrowed(bounds)


def _with(
    result: Bounded, about: About, kind: str, *, axes: tuple[int, ...] | None = None
) -> Bounded:
    along = about.axes if axes is None else axes
    return result._replace(about=about._replace(kind=kind, axes=along, factor=None))
