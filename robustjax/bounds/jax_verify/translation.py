"""Programs in the words of jax_verify: affine operations and ReLU.

What it lacks is written by what it has,

    max(x, y) = max(x - y, 0) + y,      min(x, y) = -max(-x, -y),
    |x| = max(x, 0) + max(-x, 0),       max(x, c) = x + max(c - x, 0).

All of this is exact. The last form is that of constants far below zero, from which the
first would be rounded.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robustjax import _validate
from robustjax.bounds.jax_verify.programs import Equation, Literal, Program, Var
from robustjax.bounds.operations import UnsupportedError

Rules = Mapping[str, Callable[..., Any]]
_LOWEST = -8.0  # constant from which x - c + c keeps six digits of numbers near one
_OF_SEVERAL = ("add", "max", "min", "sub", "concatenate", "select_n", "stack")


class Batched(NamedTuple):
    """What depends on the input, with an axis of length one in front."""

    value: jax.Array


def batched(program: Program, rules: Rules) -> Callable[[jax.Array], jax.Array]:
    """A program as a function from `[1, d]` to `[1, k]` that jax_verify can read.

    It keeps axis 0 in front of everything: jax_verify 1.0 takes axis 0 of any array for
    the batch, whatever became of it.

    Args:
        program: from one array to one array.
        rules: by the name of a primitive: a function of the equation and its operands,
            arrays or `Batched`. Others are `RULES`.
    """
    table = {**RULES, **rules}

    def run(x: jax.Array) -> jax.Array:
        (start,) = program.invars
        known: dict[Any, Any] = {start: Batched(lax.reshape(x, (1, *start.shape)))}

        def read(atom: Var | Literal) -> Any:
            return atom.val if isinstance(atom, Literal) else known[atom]

        for equation in program.eqns:
            results = _apply(table, equation, [read(atom) for atom in equation.invars])
            known |= zip(equation.outvars, results, strict=True)
        output = read(program.outvars[0])
        if isinstance(output, Batched):
            return lax.reshape(output.value, (1, output.value.size))
        constant = jnp.reshape(jnp.asarray(output, x.dtype), (1, -1))
        return x @ jnp.zeros((x.size, constant.size), x.dtype) + constant

    return run


def _unsupported(equation: Equation, case: str = "") -> UnsupportedError:
    """The error for an operation without a rule, which it names."""
    return UnsupportedError(
        f"jax_verify cannot carry bounds through {equation.primitive.name!r}{case}; "
        "robustjax.bounds may have a rule for it."
    )


def elementwise(function: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    """The rule of a function of one number that jax_verify knows. [host]."""
    return lambda _, x: function(x.value)


def interval_abs(_: Equation, x: Batched) -> jax.Array:
    """The absolute value in a form whose intervals are exact. [device]."""
    return lax.max(_relu(x.value), _relu(_negative(x.value)))


def interval_max(equation: Equation, first: Any, second: Any) -> jax.Array:
    """The maximum where jax_verify knows it of two bounds. [device]."""
    return lax.max(_full(first, equation), _full(second, equation))


def interval_min(equation: Equation, first: Any, second: Any) -> jax.Array:
    """The minimum where jax_verify knows the maximum of two bounds. [device]."""
    low, high = (_negative(_full(v, equation)) for v in (first, second))
    return _negative(lax.max(low, high))


def _apply(table: Rules, equation: Equation, values: list[Any]) -> list[Any]:
    primitive = equation.primitive
    num_bounded = sum(isinstance(value, Batched) for value in values)
    if not num_bounded:
        return _of_constants(equation, values)
    if primitive.name not in table:
        raise _unsupported(equation)
    if num_bounded > 1 and primitive.name not in _OF_SEVERAL:
        raise _unsupported(equation, " of two values that depend on the input")
    found = table[primitive.name](equation, *values)
    return list(map(Batched, found if isinstance(found, list) else [found]))


def _of_constants(equation: Equation, values: list[Any]) -> list[Any]:
    """Casts of known numbers stay known: a maximum with zero is ReLU."""
    primitive, params = equation.primitive, equation.params
    known = _validate.concrete(values[0]) if values else None
    if primitive.name == "convert_element_type" and known is not None:
        return [known.astype(params["new_dtype"])]
    results = primitive.bind(*values, **params)
    return list(results) if primitive.multiple_results else [results]


def _full(value: Any, equation: Equation) -> jax.Array:
    """A value of the shape of the result."""
    if isinstance(value, Batched):
        return jnp.broadcast_to(value.value, (1, *equation.outvars[0].shape))
    constant = jnp.asarray(value, jnp.result_type(float))
    return jnp.broadcast_to(constant, (1, *equation.outvars[0].shape))


def _binary(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def rule(equation: Equation, first: Any, second: Any) -> jax.Array:
        return function(_full(first, equation), _full(second, equation))

    return rule


def _div(equation: Equation, first: Any, second: Any) -> jax.Array:
    if isinstance(second, Batched):
        raise _unsupported(equation, " by a value that depends on the input")
    return lax.div(first.value, _full(second, equation))


def _neg(_: Equation, x: Batched) -> jax.Array:
    return _negative(x.value)


def _negative(x: jax.Array) -> jax.Array:
    """As a product: jax_verify 1.0 has no rule for negation."""
    return lax.mul(x, lax.full_like(x, -1.0))


def _relu(x: jax.Array) -> jax.Array:
    return lax.max(x, 0.0)


def _abs(_: Equation, x: Batched) -> jax.Array:
    return lax.add(_relu(x.value), _relu(_negative(x.value)))


def _max(equation: Equation, first: Any, second: Any) -> jax.Array:
    if isinstance(first, Batched) and isinstance(second, Batched):
        other = second.value
        return lax.add(_relu(lax.sub(first.value, other)), other)
    x, c = (first, second) if isinstance(first, Batched) else (second, first)
    return _above(x.value, _full(c, equation), _validate.concrete(c))


def _above(x: jax.Array, floor: jax.Array, known: np.ndarray | None) -> jax.Array:
    """max(x, c) with a constant, in the form that rounds least."""
    if known is not None and not known.any():
        return _relu(x)
    near = lax.add(_relu(lax.sub(x, floor)), floor)
    if known is not None and (known >= _LOWEST).all():
        return near
    far = lax.add(x, _relu(lax.sub(floor, x)))
    return lax.select_n(floor >= _LOWEST, far, near)


def _min(equation: Equation, first: Any, second: Any) -> jax.Array:
    return _negative(_max(equation, *map(_turned, (first, second))))


def _turned(value: Any) -> Any:
    if isinstance(value, Batched):
        return Batched(_negative(value.value))
    known = _validate.concrete(value)
    return lax.neg(value) if known is None else -known


def _clamp(equation: Equation, low: Any, x: Any, high: Any) -> jax.Array:
    if not isinstance(x, Batched):
        raise _unsupported(equation, " with limits that depend on the input")
    return _min(equation, Batched(_max(equation, x, low)), high)


def _reshape(equation: Equation, x: Batched, *_: Any) -> jax.Array:
    """All that keeps the numbers and their order; casts between floats round."""
    (result,) = equation.outvars
    if not jnp.issubdtype(result.aval.dtype, jnp.floating):
        raise _unsupported(equation, f" to {result.aval.dtype}")
    return lax.reshape(x.value, (1, *result.shape))


def _broadcast(equation: Equation, x: Batched) -> Any:
    (result,) = equation.outvars
    is_reshape = math.prod(result.shape) == x.value.size
    return (_reshape if is_reshape else _moved)(equation, x)


def _moved(equation: Equation, *values: Any) -> Any:
    """Operations that move, repeat or add values, under the axis in front."""
    if not isinstance(values[0], Batched):
        raise _unsupported(equation, " of a constant by what depends on the input")
    inner = [v.value if isinstance(v, Batched) else v for v in values]
    axes = [0 if isinstance(v, Batched) else None for v in values]
    bind = functools.partial(equation.primitive.bind, **equation.params)
    return jax.vmap(bind, in_axes=axes)(*inner)


def _select(equation: Equation, which: Any, *cases: Any) -> Any:
    if isinstance(which, Batched):
        raise _unsupported(equation, " by a value that depends on the input")
    pick = jnp.broadcast_to(jnp.asarray(which), (1, *equation.outvars[0].shape))
    return lax.select_n(pick, *[_full(case, equation) for case in cases])


def _joined(equation: Equation, *values: Any) -> jax.Array:
    parts = [_lifted(value) for value in values]
    return lax.concatenate(parts, equation.params["dimension"] + 1)


def _stacked(equation: Equation, *values: Any) -> jax.Array:
    axis = equation.params["axis"] + 1
    parts = [lax.expand_dims(_lifted(value), (axis,)) for value in values]
    return lax.concatenate(parts, axis)


def _lifted(value: Any) -> jax.Array:
    if isinstance(value, Batched):
        return value.value
    return jnp.asarray(value, jnp.result_type(float))[None]


def _split(equation: Equation, x: Batched) -> list[jax.Array]:
    axis, sizes = equation.params["axis"] + 1, equation.params["sizes"]
    ends = np.cumsum(sizes)
    return [
        lax.slice_in_dim(x.value, end - size, end, axis=axis)
        for size, end in zip(sizes, ends.tolist(), strict=True)
    ]


def _dot_general(equation: Equation, first: Any, second: Any) -> jax.Array:
    """With the axis in front as one of the batch: the order of the others stays."""
    contracting, batch = equation.params["dimension_numbers"]
    left, right = map(_behind, contracting)
    left_batch, right_batch = map(_behind, batch)
    numbers = ((left, right), ((0, *left_batch), (0, *right_batch)))
    return lax.dot_general(
        _lifted(first), _lifted(second), numbers, precision=lax.Precision.HIGHEST
    )


def _behind(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis + 1 for axis in axes)


def _convolution(equation: Equation, image: Any, kernel: Any) -> jax.Array:
    params, (result,) = equation.params, equation.outvars
    numbers = params["dimension_numbers"]
    if isinstance(kernel, Batched):
        raise _unsupported(equation, " with a kernel that depends on the input")
    is_single = numbers.lhs_spec[0] == numbers.out_spec[0] == 0
    if not is_single or result.shape[0] != 1 or params["batch_group_count"] != 1:
        raise _unsupported(equation, " of other than one image with its axis in front")
    found = lax.conv_general_dilated(
        lax.reshape(image.value, image.value.shape[1:]),
        jnp.asarray(kernel, image.value.dtype),
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=numbers,
        feature_group_count=params["feature_group_count"],
        precision=lax.Precision.HIGHEST,
    )
    return lax.reshape(found, (1, *result.shape))


RULES: Rules = {
    "abs": _abs,
    "add": _binary(lax.add),
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _joined,
    "conv_general_dilated": _convolution,
    "convert_element_type": _reshape,
    "copy": _reshape,
    "cumsum": _moved,
    "div": _div,
    "dot_general": _dot_general,
    "dynamic_slice": _moved,
    "gather": _moved,
    "max": _max,
    "min": _min,
    "mul": _binary(lax.mul),
    "neg": _neg,
    "pad": _moved,
    "reduce_sum": _moved,
    "reshape": _moved,
    "rev": _moved,
    "select_n": _select,
    "slice": _moved,
    "split": _split,
    "squeeze": _moved,
    "stack": _stacked,
    "sub": _binary(lax.sub),
    "transpose": _moved,
}
