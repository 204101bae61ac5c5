"""The jax_verify package as a second engine for bounds.

Works with jax_verify 1.0, the only release on the package index, on JAX 0.10 and 0.12.
The head of its repository, which also calls itself 1.0, is laid out otherwise; it could
not be tested and raises an error. Nothing happens before a call, and JAX is never
changed.

"ibp" and "crown-ibp" are the methods of `robustjax.bounds` and give the same numbers.
"crown" is another: 1.0 carries the lines of CROWN forward from layer to layer, which is
equal for one hidden layer and looser for more (2.5 times on a 784-256-256-10 net).
"""

import functools
import importlib.metadata
import importlib.util
import math
import pathlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.bounds import boxes, ibp
from robustjax.bounds.jax_verify import compat
from robustjax.bounds.jax_verify.compat import Equation, Literal, Program, Var
from robustjax.bounds.operations import Interval, UnsupportedError

_VERSION = "1.0"
_METHODS = {  # from loose to tight: the name in jax_verify
    "ibp": "interval_bound_propagation",
    "crown-ibp": "crownibp_bound_propagation",
    "crown": "crown_bound_propagation",
}
_LOCK = threading.Lock()


def load() -> ModuleType:
    """The module `jax_verify`, able to run on current JAX.

    [host] For code that was written for jax_verify 1.0. The first call imports it,
    later ones return the same module. Bounds have a batch axis in front, and the
    function must keep it there, or what comes back is wrong: 1.0 does not check.

    Guarantee:
        `jax` and its modules are the same before and after: what 1.0 lacks today lives
        in its own modules. Its methods run on dense and convolutional ReLU nets;
        softplus is no longer recognised. The backward rules of
        `crownibp_bound_propagation` are ours: those of 1.0 are wrong where a constant
        is subtracted or two bounds are added. `sdp_verify` is left as it is.

    Returns:
        The module.

    Raises:
        ImportError: if jax_verify is missing, is not 1.0, or was imported before.

    Example:
        >>> fn, x = jax.nn.relu, jnp.ones((1, 1))
        >>> jv = load()
        >>> box = jv.IntervalBound(-x, x)
        >>> print(jv.interval_bound_propagation(fn, box).upper)
        [[1.]]
    """
    with _LOCK:
        _check_installed()
        return compat.import_package()


def bounds(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    method: str,
) -> Interval:
    """Bounds of a function on a box, computed by jax_verify.

    [device] Pure, jittable, vmappable over the box; map it over a batch. Every method
    gives the intersection with the cheaper ones. Matrix products and convolutions run
    in the highest precision.

    Guarantee:
        lower <= fn(x) <= upper for every x in the box, up to rounding of the dtype.
        An operation that jax_verify does not know is an error, never skipped.

    Args:
        fn: maps one example, an array, to an array, by dense layers, convolutions of
            one image, ReLU or a maximum with a constant, sums, reshapes, and scaling
            and shifting by constants.
        lower: lower corner of the box, of the shape of an example, finite.
        upper: upper corner.
        method: "ibp", "crown-ibp", or "crown", the forward form that 1.0 has.

    Returns:
        Lower and upper bounds of the shape of the output.

    Raises:
        ImportError: as `load`.
        NotImplementedError: if jax_verify has no such method.
        TypeError: if the function does not return one array.
        UnsupportedError: if it does not know an operation, which is named.
        ValueError: if shapes differ or the box is empty or not finite.

    Example:
        >>> x = jnp.ones(1)
        >>> print(*bounds(jax.nn.relu, -x, x, method="ibp"))
        [0.] [1.]
    """
    jax_verify = load()
    if method not in _METHODS:
        raise NotImplementedError(
            f"jax_verify {_VERSION} has no method {method!r}; it has: "
            f"{', '.join(_METHODS)}."
        )
    low, high = boxes.checked(lower, upper)
    program = _program(fn, low)
    shape, dtype = program.outvars[0].shape, jnp.result_type(float)
    box = jax_verify.IntervalBound(
        *(corner.reshape(1, -1).astype(dtype) for corner in (low, high))
    )
    names = tuple(_METHODS)
    found: list[Interval] = []
    for name in names[: names.index(method) + 1]:
        bound = getattr(jax_verify, _METHODS[name])(_batched(program), box)
        found.append((bound.lower.reshape(shape), bound.upper.reshape(shape)))
    return functools.reduce(ibp.intersect, found)


class _Batched(NamedTuple):
    """What depends on the input, with an axis of length one in front."""

    value: jax.Array


def _check_installed() -> None:
    spec = importlib.util.find_spec("jax_verify")
    if spec is None or spec.origin is None:
        raise ImportError(
            'jax_verify is not installed: pip install "robustjax[verify]".'
        )
    version = importlib.metadata.version("jax_verify")
    is_release = (pathlib.Path(spec.origin).parent / "src" / "fastlin.py").exists()
    if version != _VERSION or not is_release:
        layout = "" if is_release else " in the layout of its repository's head"
        raise ImportError(
            f"robustjax works with the release {_VERSION} of jax_verify, found "
            f"{version}{layout}."
        )


def _program(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> Program:
    program = compat.flat_program(jax.make_jaxpr(fn)(x))
    if len(program.outvars) != 1:
        raise TypeError(f"Expected fn to return one array, got {len(program.outvars)}.")
    return program


def _batched(program: Program) -> Callable[[jax.Array], jax.Array]:
    """A program as a function from `[1, d]` to `[1, k]` that jax_verify can read.

    It keeps axis 0 in front of everything: jax_verify takes axis 0 of any array for
    the batch, whatever became of it.
    """

    def run(x: jax.Array) -> jax.Array:
        (start,) = program.invars
        known: dict[Any, Any] = {start: _Batched(lax.reshape(x, (1, *start.shape)))}

        def read(atom: Var | Literal) -> Any:
            return atom.val if isinstance(atom, Literal) else known[atom]

        for equation in program.eqns:
            results = _apply(equation, [read(atom) for atom in equation.invars])
            known |= zip(equation.outvars, results, strict=True)
        output = read(program.outvars[0])
        if isinstance(output, _Batched):
            return lax.reshape(output.value, (1, output.value.size))
        constant = jnp.reshape(jnp.asarray(output, x.dtype), (1, -1))
        return x @ jnp.zeros((x.size, constant.size), x.dtype) + constant

    return run


def _apply(equation: Equation, values: list[Any]) -> list[Any]:
    primitive = equation.primitive
    num_bounded = sum(isinstance(value, _Batched) for value in values)
    if not num_bounded:
        results = primitive.bind(*values, **equation.params)
        return list(results) if primitive.multiple_results else [results]
    if primitive.name not in _RULES:
        raise _unsupported(equation)
    if num_bounded > 1 and primitive.name not in ("add", "sub"):
        raise _unsupported(equation, " of two values that depend on the input")
    return [_Batched(_RULES[primitive.name](equation, *values))]


def _unsupported(equation: Equation, case: str = "") -> UnsupportedError:
    return UnsupportedError(
        f"jax_verify {_VERSION} cannot carry bounds through "
        f"{equation.primitive.name!r}{case}; robustjax.bounds may have a rule for it."
    )


def _full(value: Any, equation: Equation) -> jax.Array:
    """A value of the shape of the result."""
    if isinstance(value, _Batched):
        return value.value
    constant = jnp.asarray(value, jnp.result_type(float))
    return jnp.broadcast_to(constant, (1, *equation.outvars[0].shape))


def _elementwise(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def rule(equation: Equation, first: Any, second: Any) -> jax.Array:
        return function(_full(first, equation), _full(second, equation))

    return rule


def _div(equation: Equation, first: Any, second: Any) -> jax.Array:
    if isinstance(second, _Batched):
        raise _unsupported(equation, " by a value that depends on the input")
    return lax.div(first.value, _full(second, equation))


def _neg(equation: Equation, x: _Batched) -> jax.Array:
    return lax.mul(x.value, _full(-1.0, equation))


def _max(equation: Equation, first: Any, second: Any) -> jax.Array:
    """max(x, c) = max(x - c, 0) + c: jax_verify knows the maximum with zero alone."""
    x, c = (first, second) if isinstance(first, _Batched) else (second, first)
    known = _validate.concrete(c)
    if known is not None and not known.any():
        return lax.max(x.value, 0.0)
    floor = _full(c, equation)
    return lax.add(lax.max(lax.sub(x.value, floor), 0.0), floor)


def _reduce_sum(equation: Equation, x: _Batched) -> jax.Array:
    return jnp.sum(x.value, axis=tuple(a + 1 for a in equation.params["axes"]))


def _reshape(equation: Equation, x: _Batched, *_: Any) -> jax.Array:
    """All that keeps the numbers and their order; casts between floats round."""
    (result,) = equation.outvars
    if equation.primitive.name == "reshape" and equation.params["dimensions"]:
        raise _unsupported(equation, " that moves axes")
    if math.prod(result.shape) != x.value.size:
        raise _unsupported(equation, " that repeats values")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise _unsupported(equation, f" to {result.dtype}")
    return lax.reshape(x.value, (1, *result.shape))


def _dot_general(equation: Equation, first: Any, second: Any) -> jax.Array:
    contracting, batch = equation.params["dimension_numbers"]
    is_first = isinstance(first, _Batched)
    x, matrix = (first.value, second) if is_first else (second.value, first)
    axes, other = contracting if is_first else contracting[::-1]
    num_free = x.ndim - 1 - len(axes), np.ndim(matrix) - len(other)
    if batch[0] or not (is_first or 0 in num_free):
        raise _unsupported(equation, " with axes in this order")
    numbers = ((tuple(a + 1 for a in axes), tuple(other)), ((), ()))
    return lax.dot_general(
        x, jnp.asarray(matrix, x.dtype), numbers, precision=lax.Precision.HIGHEST
    )


def _convolution(equation: Equation, image: Any, kernel: Any) -> jax.Array:
    params, (result,) = equation.params, equation.outvars
    numbers = params["dimension_numbers"]
    if isinstance(kernel, _Batched):
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


_RULES: dict[str, Callable[..., jax.Array]] = {
    "add": _elementwise(lax.add),
    "broadcast_in_dim": _reshape,
    "conv_general_dilated": _convolution,
    "convert_element_type": _reshape,
    "copy": _reshape,
    "div": _div,
    "dot_general": _dot_general,
    "max": _max,
    "mul": _elementwise(lax.mul),
    "neg": _neg,
    "reduce_sum": _reduce_sum,
    "reshape": _reshape,
    "squeeze": _reshape,
    "sub": _elementwise(lax.sub),
}
