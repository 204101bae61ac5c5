"""Rules of primitives that are affine in what is bounded.

For z = J x + b and x with centre c and radius r,

    J c + b - |J| r <= z <= J c + b + |J| r,

where |J| r is the same primitive with the absolute value of its constants, and zero in
place of constants that are added.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import _validate
from robustjax.bounds import contractions, operations
from robustjax.bounds.operations import Add, Affine, Bounded
from robustjax.bounds.rules import gates, normalizing, shares

_MOVES = (
    "broadcast_in_dim", "copy", "cumsum", "dynamic_slice",
    "reduce_sum", "reduce_window_sum", "reshape", "rev", "slice", "squeeze",
    "tile", "transpose",
)  # fmt: skip
_SUMS = ("cumsum", "reduce_sum", "reduce_window_sum")
_NOTHING = ("stop_gradient", "name", "sharding_constraint")
_JOINS = ("concatenate", "dynamic_update_slice", "pad", "stack")
# Which arguments of a join are put together; default: all. Others say where.
_JOINED = {"select_n": slice(1, None), "dynamic_update_slice": slice(2)}
_LINEAR = ("dot_general", "conv_general_dilated")


def _filled(
    bind: Callable[..., Any], arguments: Sequence[Any], constant: Callable[[Any], Any]
) -> Callable[..., jax.Array]:
    """The primitive as a function of its bounded arguments."""

    def call(*bounded: jax.Array) -> jax.Array:
        rest = iter(bounded)
        return bind(
            *(next(rest) if isinstance(a, Bounded) else constant(a) for a in arguments)
        )

    return call


def of_bounded(bind: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """A primitive as a function of those of its arguments that are bounded. [host]."""
    return _filled(bind, arguments, _same)


def _same(constant: Any) -> Any:
    return constant


def _zero(constant: Any) -> Any:
    return jnp.zeros_like(constant)


@operations.rule(*_MOVES)
def move(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Moves, copies or sums entries of an array at constant places. [host]."""
    if not isinstance(arguments[0], Bounded) or any(
        isinstance(a, Bounded) for a in arguments[1:]
    ):
        raise operations.UnsupportedError(
            "Bounds cannot follow indices that depend on the bounded input."
        )
    if bind.primitive.name in _SUMS:
        _check_counts(arguments[:1])
    moved = bind
    if "fill_value" in bind.params:  # what gather fills in has no width
        moved = bind._replace(params=dict(bind.params) | {"fill_value": 0})
    point, radius = (_filled(move, arguments, _same) for move in (bind, moved))
    affine = Affine(point, radius, is_linear=moved is bind, signs=(1,))
    result = add(affine, arguments)
    is_in_order = bind.params.get("dimensions") is None  # else reshape transposes
    if bind.primitive.name == "broadcast_in_dim" or (
        bind.primitive.name == "reshape" and is_in_order
    ):
        return shares.moved(result, arguments[0])
    if bind.primitive.name == "reduce_sum":
        axes = bind.params["axes"]
        found = shares.total(add, result, of=arguments[0], axes=axes)
        if found.about is None:
            return normalizing.summed(found, arguments[0], axes)
        return found
    return result


@operations.rule("split")
def _split(add: Add, bind: Any, arguments: Sequence[Any]) -> list[Bounded]:
    """Parts along an axis, a node each."""
    ends = np.cumsum(bind.params["sizes"]).tolist()
    return [
        _cut(
            add,
            arguments,
            jax.lax.slice_in_dim,
            start_index=end - size,
            limit_index=end,
            axis=bind.params["axis"],
        )
        for size, end in zip(bind.params["sizes"], ends, strict=True)
    ]


@operations.rule("unstack")
def _unstack(add: Add, bind: Any, arguments: Sequence[Any]) -> list[Bounded]:
    """Slices of an axis, a node each."""
    return slices(add, arguments[0], axis=bind.params["axis"])


def slices(add: Add, x: Bounded, *, axis: int) -> list[Bounded]:
    """The slices of an axis, which is left out. [host]."""
    return [
        _cut(add, [x], jax.lax.index_in_dim, index=k, axis=axis, keepdims=False)
        for k in range(x.shape[axis])
    ]


def stacked(add: Add, parts: Sequence[Any], *, axis: int) -> Any:
    """Arrays of one shape along a new axis, bounded ones and constants. [host]."""

    def stack(*arrays: Any) -> jax.Array:
        return jnp.stack(arrays, axis=axis)

    if not any(isinstance(part, Bounded) for part in parts):
        return stack(*parts)
    return _joined(add, stack, parts, slice(None))


def concatenated(add: Add, parts: Sequence[Bounded], *, axis: int) -> Bounded:
    """Arrays one behind the other along an axis. [host]."""

    def concatenate(*arrays: jax.Array) -> jax.Array:
        return jnp.concatenate(arrays, axis=axis)

    return _joined(add, concatenate, parts, slice(None))


def _cut(
    add: Add, arguments: Sequence[Any], cut: Callable[..., jax.Array], **where: Any
) -> Bounded:
    part = functools.partial(cut, **where)
    return add(Affine(part, part, is_linear=True, signs=(1,)), arguments)


@operations.rule(*_NOTHING)
def _pass_on(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """Changes no number. No node: the derivative of some of these is zero."""
    return arguments[0]


@operations.rule("optimization_barrier")
def _pass_all(add: Add, bind: Any, arguments: Sequence[Any]) -> list[Any]:
    return list(arguments)


def convert(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """To a dtype that holds every number of the old one, or a float. [host]."""
    new = bind.params["new_dtype"] if bind.wide is None else bind.wide
    _check_is_wide(arguments[0].dtype, new)
    return move(add, bind, arguments)


def _check_is_wide(old: Any, new: Any) -> None:
    """Raises where a number of the old dtype, or a count, is rounded to the new one."""
    if jnp.issubdtype(old, jnp.integer) and jnp.issubdtype(new, jnp.signedinteger):
        return  # integers that are followed fit: see `integers.largest`
    is_real = not jnp.issubdtype(new, jnp.complexfloating)
    is_count = jnp.issubdtype(old, jnp.integer) and jnp.issubdtype(new, jnp.floating)
    too_few = is_count and jnp.finfo(new).nmant < 23  # counts.py has up to 2^24
    if jnp.promote_types(old, new) != new or too_few or not is_real:
        raise operations.UnsupportedError(
            f"Bounds cannot follow a conversion from {old} to {new}, which rounds."
        )


@operations.rule(*_JOINS)
def join(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """Puts entries of several arguments together; indices stay. [host]."""
    joined = _JOINED.get(bind.primitive.name, slice(None))
    return _joined(add, bind, arguments, joined)


def _joined(
    add: Add, bind: Callable[..., Any], arguments: Sequence[Any], joined: slice
) -> Bounded:
    places = [a for a in arguments if not any(a is b for b in arguments[joined])]
    if any(isinstance(a, Bounded) for a in places):
        raise operations.UnsupportedError(
            "Bounds cannot follow places that depend on the bounded input."
        )
    of_radius = list(arguments)
    of_radius[joined] = [
        a if isinstance(a, Bounded) else np.zeros(jnp.shape(a), jnp.result_type(a))
        for a in arguments[joined]
    ]
    signs = tuple(1 for a in arguments if isinstance(a, Bounded))
    point, radius = (_filled(bind, given, _same) for given in (arguments, of_radius))
    return add(Affine(point, radius, signs=signs), arguments)


def _check_counts(arguments: Sequence[Any]) -> None:
    """Raises for integers whose sums wrap around early: counts have 32 bits."""
    for argument in arguments:
        if not isinstance(argument, Bounded):
            continue
        dtype = jnp.dtype(argument.dtype)
        if dtype.kind == "u" or (dtype.kind == "i" and dtype.itemsize < 4):
            raise operations.UnsupportedError(f"Bounds cannot follow sums of {dtype}.")


def _is_alone(x: Any, zeros: Any) -> bool:
    """Whether a sum of x and zeros is x itself."""
    if not isinstance(x, Bounded) or isinstance(zeros, Bounded):
        return False
    known = _validate.concrete(zeros)
    if known is None or np.any(known):
        return False
    return np.broadcast_shapes(known.shape, x.shape) == x.shape


@operations.rule("add", "add_any")
def plus(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """A sum. [host]."""
    if _is_alone(arguments[0], arguments[1]):
        return arguments[0]
    if _is_alone(arguments[1], arguments[0]):
        return arguments[1]
    _check_counts(arguments)
    log_sum = shares.restored(add, arguments)
    if log_sum is not None:
        return log_sum
    affine = Affine(
        _filled(bind, arguments, _same),
        _filled(bind, arguments, _zero),
        is_linear=all(isinstance(a, Bounded) for a in arguments),
        signs=tuple(1 for a in arguments if isinstance(a, Bounded)),
    )
    found = gates.added(add(affine, arguments), arguments)
    return normalizing.added(found, arguments)


@operations.rule("sub")
def subtract(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """A difference. [host]."""
    if _is_alone(arguments[0], arguments[1]):
        return arguments[0]
    _check_counts(arguments)
    variance = normalizing.variance(add, arguments)
    if variance is not None:
        return variance
    affine = Affine(
        _filled(bind, arguments, _same),
        _filled(jnp.add, arguments, _zero),
        is_linear=all(isinstance(a, Bounded) for a in arguments),
        signs=tuple(
            s for s, a in zip((1, -1), arguments, strict=True) if isinstance(a, Bounded)
        ),
    )
    found = gates.added(add(affine, arguments), arguments, sign=-1.0)
    found = shares.difference(add, found, terms=arguments)
    return normalizing.centred(found, arguments)


@operations.rule("neg")
def negate(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """The negative. [host]."""
    _check_counts(arguments)
    found = add(Affine(bind, lambda r: r, is_linear=True, signs=(-1,)), arguments)
    return gates.negated(found, arguments[0])


@operations.rule(*_LINEAR)
def _linear(add: Add, bind: Any, arguments: Sequence[Any]) -> Bounded:
    """A product with a constant, or of two bounded factors."""
    check_floats(arguments)
    if all(isinstance(a, Bounded) for a in arguments):
        return add(contractions.of(_precise(bind), arguments), arguments)
    return add(_scaled(_precise(bind), arguments, signs=None), arguments)


def check_floats(arguments: Sequence[Any]) -> None:
    """Raises for integers, of which products and differences wrap around. [host]."""
    dtypes = [a.dtype if hasattr(a, "dtype") else np.result_type(a) for a in arguments]
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise operations.UnsupportedError(
            "Bounds cannot follow products, differences and maxima of integers."
        )


def linear(add: Add, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """A linear function of several arguments. [host].

    Args:
        add: appends an operation.
        function: of the arguments; with is_absolute=True, of numbers >= 0, the same
            with absolute values of its own numbers.
        arguments: bounded values and constants.
    """
    if not any(isinstance(a, Bounded) for a in arguments):
        return function(*arguments)
    absolute = functools.partial(function, is_absolute=True)
    return add(
        Affine(
            _filled(function, arguments, _same),
            _filled(absolute, arguments, _zero),
            is_linear=all(isinstance(a, Bounded) for a in arguments),
        ),
        arguments,
    )


def scaled(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """A product of one bounded argument and constants, entry by entry. [host]."""
    return gates.scaled(add(_scaled(bind, arguments), arguments), arguments)


def _scaled(
    bind: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    signs: tuple[int, ...] | None = (0,),
) -> Affine:
    """A product of one bounded argument and constants."""
    point, radius = (
        _filled(bind, arguments, constant) for constant in (_same, jnp.abs)
    )
    return Affine(point, radius, is_linear=True, signs=signs)


@operations.rule("mul")
def multiply(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    """A product, with a constant or of two bounded values. [host]."""
    check_floats(arguments)
    if all(isinstance(a, Bounded) for a in arguments):
        if arguments[0].value == arguments[1].value:
            square = add(operations.for_name("square"), arguments[:1])
            square = gates.powered(square, arguments[0], power=2)
            return normalizing.squared(square, arguments[0])
        curve = gates.product(arguments)
        if curve is not None:
            return _gated(add, curve)
        shape = jnp.broadcast_shapes(*(a.shape for a in arguments))
        spread_out = [spread(add, a, shape) for a in arguments]
        found = gates.scaled(add(operations.Product(bind), spread_out), arguments)
        return normalizing.multiplied(add, found, arguments)
    found = scaled(add, bind, arguments)
    return normalizing.multiplied(add, found, arguments)


def _gated(add: Add, found: gates.Product) -> Bounded:
    """A multiple of a function of y or -y."""
    z = negate(add, jnp.negative, [found.y]) if found.is_turned else found.y
    result = add(found.f, [z])
    if found.weight == 1:
        return result
    return scaled(add, jnp.multiply, [result, found.weight])


def spread(add: Add, argument: Bounded, shape: tuple[int, ...]) -> Bounded:
    """A scalar as an array of one value; other shapes stay. [host]."""
    if argument.shape == shape:
        return argument
    copies = functools.partial(jnp.broadcast_to, shape=shape)
    return add(Affine(copies, copies, is_linear=True, signs=(1,)), [argument])


@operations.rule("div")
def _divide(add: Add, bind: Callable[..., Any], arguments: Sequence[Any]) -> Bounded:
    numerator, denominator = arguments
    check_floats(arguments)
    if not isinstance(denominator, Bounded):
        found = add(_scaled(bind, arguments), arguments)
        known = _validate.concrete(denominator)
        if known is None or not np.all(known):
            return found
        factors = [numerator, 1 / known.astype(np.float64)]
        return normalizing.multiplied(add, gates.scaled(found, factors), factors)
    inverse = add(operations.for_name("reciprocal"), [denominator])
    found = multiply(add, jnp.multiply, [numerator, inverse])
    found = shares.quotient(add, found, terms=arguments)
    return normalizing.divided(add, found, arguments)


def _precise(bind: Any) -> Callable[..., Any]:
    """A matrix product or convolution in full precision: bounds depend on it."""
    return bind._replace(
        params=dict(bind.params)
        | {"precision": (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}
    )
