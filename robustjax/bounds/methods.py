"""Bounds of the output of any JAX function on a box.

    lower <= spec @ fn(x) <= upper,
    lower_weight . x + lower_bias <= spec @ fn(x) <= upper_weight . x + upper_bias,

each for all x in the box: the first by intervals or linear relaxation, the second by
linear relaxation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax.bounds import boxes, ibp, input_sets, jax_verify, tracing
from robustjax.bounds.input_sets import InputSet
from robustjax.bounds.linear import backward, crown
from robustjax.bounds.operations import Interval

ENGINES = ("robustjax", "jax_verify")
CASTS = ("cover", "ignore")
ROUNDING = ("ignore", "cover")
METHODS = ("ibp", "crown-ibp", "crown", "alpha", "alpha-all")


class Bounds(NamedTuple):
    """Elementwise bounds."""

    lower: jax.Array
    upper: jax.Array


class AffineBounds(NamedTuple):
    """Affine functions of the input below and above, for all inputs in the box."""

    lower_weight: Any  # [rows, ...] as the input
    lower_bias: jax.Array  # [rows]
    upper_weight: Any
    upper_bias: jax.Array


def interval_bounds(
    fn: Callable[[Any], jax.Array],
    lower: Any,
    upper: Any,
    *,
    engine: str = "robustjax",
) -> Bounds:
    """Bounds of a function on a box by interval arithmetic.

    [device] Pure, jittable, vmappable over the box, differentiable.

    Guarantee:
        lower <= fn(x) <= upper for every x in the box, up to rounding of the dtype.

    Args:
        fn: maps one example, an array or a tree of arrays, to an array; any JAX
            function without control flow that depends on data.
        lower: lower corner of the box, of the structure and shapes of an example,
            finite. A leaf that is one object in both corners, or known and equal, is
            exact: any array, such as weights that are not perturbed.
        upper: upper corner.
        engine: "robustjax", or "jax_verify", the package, with the extra `verify`.

    Returns:
        `Bounds` of the shape of the output.

    Raises:
        ValueError: if the box is empty or not finite, shapes differ, or the engine is
            unknown.
        UnsupportedError: if a primitive has no rule.
        ImportError: if jax_verify is not installed, or not of a version that is known.

    Example:
        >>> bounds = interval_bounds(lambda x: x * (1 - x), jnp.zeros(1), jnp.ones(1))
        >>> print(bounds.lower, bounds.upper)
        [0.] [1.]

    Reference: Gowal et al. (2018), arXiv 1810.12715.
    """
    _validate.one_of(ENGINES, engine=engine)
    layout, box = boxes.laid_out(lower, upper)
    of_array = layout.function(fn)
    if engine == "jax_verify":
        return Bounds(*jax_verify.bounds(of_array, *box, method="ibp"))
    graph = tracing.trace(of_array, _struct(box))
    return Bounds(*ibp.propagate(graph, box)[graph.output])


def linear_bounds(
    fn: Callable[[Any], jax.Array],
    lower: Any,
    upper: Any,
    *,
    spec: ArrayLike | None = None,
    input_set: InputSet = None,
    method: str = "crown",
    num_steps: int = 20,
    capacity: int | None = None,
    chunk_size: int | None = None,
    casts: str = "cover",
    rounding: str = "ignore",
    engine: str = "robustjax",
) -> Bounds:
    """Bounds of a function on a box by linear relaxation.

    [device] Pure, jittable, vmappable over the box, differentiable. Every method gives
    the intersection with the cheaper ones, so "crown" is never looser than "crown-ibp",
    and that never looser than "ibp".

    Guarantee:
        lower <= spec @ fn(x) <= upper for every x in the box, and in `input_set` if
        that is given, up to rounding of the dtype; with rounding="cover", of fn in
        exact arithmetic. Where fn may be NaN the bounds are -inf and inf.

    Args:
        fn: as in `interval_bounds`.
        lower: lower corner of the box.
        upper: upper corner.
        spec: `[s, k]`, rows that multiply the last axis of an output `[k]`, such as
            differences of logits; default: the output itself.
        input_set: a set in which the input lies, besides the box: `L2Ball`, `L1Ball`,
            `Polytope`, `AffineInputs` or `UnionOfBoxes`; intervals do not see it. Its
            arrays are as the input, or as the one leaf that is not exact; with several
            of them it is a ball whose centre is a tree.
        method: "crown": linear bounds of every value inside; "crown-ibp": intervals
            inside, linear bounds of the output; "ibp": intervals alone; "alpha": as
            "crown", then the free lines of the output's pass are optimised; "alpha-all"
            those of all passes, each step of which costs a "crown".
        num_steps: of Adam, for "alpha" and "alpha-all".
        capacity: maximum number of rows of each hidden value with linear bounds, those
            first whose intervals are widest and cross a breakpoint; the others keep
            their intervals, which is sound and cheaper. Default: all.
        chunk_size: number of rows in one backward pass, which bounds memory. Default:
            all at once. For dense networks under `vmap` on a CPU, 32 is several times
            faster.
        casts: "cover": what fn computes in narrower floats than those of the box may
            be rounded either way, once for each operation, with sums in float32 at
            least; "ignore" computes all in the dtype of the box, and the bounds hold
            for fn without conversions to narrower floats.
        rounding: "ignore" that of the bounds themselves; or "cover" it: bounds are
            moved outward by what the roundings of the dtype of the box can add up to, a
            multiple of the sums of absolute values, so in float64.
        engine: "robustjax", or "jax_verify", the package, with the extra `verify`.
            "crown" of its release is another method, see `robustjax.bounds.jax_verify`,
            that of its repository's head is backward as here; it has no
            "alpha", and takes neither input_set nor capacity nor chunk_size, and
            does not cover rounding.

    Returns:
        `Bounds` of the shape of the output, or `[s]` with a spec.

    Raises:
        ValueError: as `interval_bounds`, and for an unknown method or a spec of the
            wrong width.
        UnsupportedError: if a primitive has no rule.
        ImportError: as `interval_bounds`.
        NotImplementedError: if jax_verify has no such method.

    Example:
        >>> twice = lambda x: jnp.abs(x) + x  # intervals alone give [2, 4]
        >>> bound_fn = jax.jit(
        ...     lambda low, high: linear_bounds(lambda x: 4 - twice(x), low, high))
        >>> bounds = bound_fn(jnp.ones(1), jnp.full(1, 2.0))
        >>> print(bounds.lower, bounds.upper)
        [0.] [2.]

    Reference: Zhang et al. (2018), arXiv 1811.00866; Xu et al. (2020), arXiv
        2002.12920.
    """
    _validate.one_of(METHODS, method=method)
    _validate.one_of(ENGINES, engine=engine)
    _validate.one_of(CASTS, casts=casts)
    _validate.one_of(ROUNDING, rounding=rounding)
    _validate.integer(0, num_steps=num_steps)
    for name, number in (("capacity", capacity), ("chunk_size", chunk_size)):
        if number is not None:
            _validate.integer(1, **{name: number})
    layout, box = boxes.laid_out(lower, upper)
    specified = _with_spec(layout.function(fn), spec)
    input_set = input_sets.arranged(input_set, layout)
    if engine == "jax_verify":
        if input_set is not None or rounding != "ignore":
            raise ValueError(
                "Expected input_set=None and rounding='ignore' for engine jax_verify."
            )
        return Bounds(*jax_verify.bounds(specified, *box, method=method))
    graph = tracing.trace(
        specified,
        _struct(box),
        casts=casts,
        covers_rounding=rounding == "cover",
    )
    effort = crown.Effort(capacity, chunk_size)
    if method == "ibp":
        return Bounds(*ibp.propagate(graph, box)[graph.output])
    if method == "crown-ibp":
        relaxed = crown.intervals(graph, box)
        return Bounds(
            *crown.of_output(graph, relaxed, effort=effort, input_set=input_set)
        )
    known, _ = crown.inside(
        graph, box, effort=effort, input_set=input_set, has_output=True
    )
    if method in ("alpha", "alpha-all"):
        found = crown.optimised(
            graph,
            known,
            num_steps=num_steps,
            effort=effort,
            is_inside_free=method == "alpha-all",
            input_set=input_set,
        )
        return Bounds(*found)
    return Bounds(*known[graph.output])


def affine_bounds(
    fn: Callable[[Any], jax.Array],
    lower: Any,
    upper: Any,
    *,
    spec: ArrayLike | None = None,
    method: str = "crown",
) -> AffineBounds:
    """Affine functions of the input that bound a function on a box.

    [device] Pure, jittable, vmappable over the box, differentiable. For callers that
    split the box, or take another norm ball inside it.

    Guarantee:
        lower_weight . x + lower_bias <= spec @ fn(x) <= upper_weight . x + upper_bias
        for every x in the box, up to rounding of the dtype.

    Args:
        fn: as in `interval_bounds`.
        lower: lower corner of the box.
        upper: upper corner.
        spec: as in `linear_bounds`.
        method: "crown" or "crown-ibp".

    Returns:
        `AffineBounds`, a row for each entry of the output, in C order. For a tree of
        inputs the weights are trees of its structure, zero for leaves that are exact.

    Raises:
        ValueError: as `linear_bounds`.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> bound_fn = jax.jit(
        ...     lambda low, high: affine_bounds(lambda x: 3 * x + 1, low, high))
        >>> found = bound_fn(jnp.zeros(1), jnp.ones(1))
        >>> print(found.lower_weight, found.upper_bias)
        [[3.]] [1.]

    Reference: as `linear_bounds`.
    """
    _validate.one_of(METHODS[1:3], method=method)
    layout, box = boxes.laid_out(lower, upper)
    graph = tracing.trace(_with_spec(layout.function(fn), spec), _struct(box))
    if method == "crown":
        relaxed = crown.inside(graph, box, effort=crown.Effort())
    else:
        relaxed = crown.intervals(graph, box)
    rows = crown.both_signs(graph, box[0].dtype)
    form = backward.lower_form(
        graph, rows, graph.output, known=relaxed.known, lines=relaxed.lines
    )
    half, bias = len(rows) // 2, form.bias[:, 0]
    found = AffineBounds(
        form.weight[:half], bias[:half], -form.weight[half:], -bias[half:]
    )
    return found._replace(
        lower_weight=layout.weights(found.lower_weight),
        upper_weight=layout.weights(found.upper_weight),
    )


def single(apply_fn: Callable[[jax.Array], jax.Array]) -> Partial:
    """A batched function as a function of one example.

    [device]

    Args:
        apply_fn: maps `[n, ...]` to `[n, ...]`.

    Returns:
        A `jax.tree_util.Partial` that maps `[...]` to `[...]`: programs that were
        compiled for it are found again, and arrays of a `Partial` stay arguments.

    Example:
        >>> single(lambda x: x + 1)(jnp.zeros(2)).shape
        (2,)
    """
    return Partial(_first_row, _callables.as_partial(apply_fn))


def _first_row(apply_fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return apply_fn(x[None])[0]


def _with_spec(
    fn: Callable[[jax.Array], jax.Array], spec: ArrayLike | None
) -> Callable[[jax.Array], jax.Array]:
    if spec is None:
        return fn
    rows = jnp.asarray(spec)

    def specified(x: jax.Array) -> jax.Array:
        output = fn(x)
        if rows.ndim != 2 or output.ndim != 1 or rows.shape[1] != output.shape[0]:
            raise ValueError(
                f"Expected spec [s, k] for an output [k], got {rows.shape} and "
                f"{output.shape}."
            )
        return jnp.matmul(rows, output, precision=jax.lax.Precision.HIGHEST)

    return specified


def _struct(box: Interval) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(box[0].shape, box[0].dtype)
