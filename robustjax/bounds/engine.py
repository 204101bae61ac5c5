"""Bounds of the output of any JAX function on a box."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.bounds import interval, linear, propagate
from robustjax.bounds.operations import Affine, Interval
from robustjax.bounds.propagate import Graph

METHODS = ("ibp", "crown-ibp", "crown", "alpha")
_LEARNING_RATE = 0.1  # of Adam, for numbers in [0, 1]


class Bounds(NamedTuple):
    """Elementwise bounds."""

    lower: jax.Array
    upper: jax.Array


class AffineBounds(NamedTuple):
    """Affine functions of the input below and above, for all inputs in the box."""

    lower_weight: jax.Array  # [rows, ...] as the input
    lower_bias: jax.Array  # [rows]
    upper_weight: jax.Array
    upper_bias: jax.Array


def interval_bounds(
    fn: Callable[[jax.Array], jax.Array], lower: ArrayLike, upper: ArrayLike
) -> Bounds:
    """Bounds of a function on a box by interval arithmetic.

    [device] Pure, jittable, vmappable over the box, differentiable.

    Guarantee:
        lower <= fn(x) <= upper for every x in the box, up to rounding of the dtype.

    Args:
        fn: maps one example, an array, to an array; any JAX function without control
            flow that depends on data.
        lower: lower corner of the box, of the shape of an example, finite.
        upper: upper corner.

    Returns:
        `Bounds` of the shape of the output.

    Raises:
        ValueError: if the box is empty or not finite, or shapes differ.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> bounds = interval_bounds(lambda x: x * (1 - x), jnp.zeros(1), jnp.ones(1))
        >>> print(bounds.lower, bounds.upper)
        [0.] [1.]

    Reference: Gowal et al. (2018), arXiv 1810.12715.
    """
    box = _box(lower, upper)
    graph = propagate.trace(fn, _struct(box))
    return Bounds(*interval.propagate(graph, box)[graph.output])


def linear_bounds(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    spec: ArrayLike | None = None,
    method: str = "crown",
    num_steps: int = 20,
) -> Bounds:
    """Bounds of a function on a box by linear relaxation.

    [device] Pure, jittable, vmappable over the box, differentiable. Every method gives
    the intersection with the cheaper ones, so "crown" is never looser than "crown-ibp",
    and that never looser than "ibp".

    Guarantee:
        lower <= spec @ fn(x) <= upper for every x in the box, up to rounding of the
        dtype.

    Args:
        fn: as in `interval_bounds`.
        lower: lower corner of the box.
        upper: upper corner.
        spec: `[s, k]`, rows that multiply the last axis of an output `[k]`, such as
            differences of logits; default: the output itself.
        method: "crown": linear bounds of every value inside; "crown-ibp": intervals
            inside, linear bounds of the output; "ibp": intervals alone; "alpha": as
            "crown", then the free lines of the output's pass are optimised.
        num_steps: of Adam, for "alpha".

    Returns:
        `Bounds` of the shape of the output, or `[s]` with a spec.

    Raises:
        ValueError: as `interval_bounds`, and for an unknown method or a spec of the
            wrong width.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> twice = lambda x: jnp.abs(x) + x  # intervals alone give [2, 4]
        >>> bounds = linear_bounds(lambda x: 4 - twice(x), jnp.ones(1), 2 * jnp.ones(1))
        >>> print(bounds.lower, bounds.upper)
        [0.] [2.]

    Reference: Zhang et al. (2018), arXiv 1811.00866; Xu et al. (2020), arXiv
        2002.12920.
    """
    _validate.one_of(METHODS, method=method)
    box = _box(lower, upper)
    graph = propagate.trace(_with_spec(fn, spec), _struct(box))
    known = _known(graph, box, method=method)
    if method == "ibp":
        return Bounds(*known[graph.output])
    if method == "alpha":
        return Bounds(*_optimised(graph, known, num_steps=num_steps))
    return Bounds(*_refined(graph, graph.output, known))


def affine_bounds(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
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
        `AffineBounds`, a row for each entry of the output, in C order.

    Raises:
        ValueError: as `linear_bounds`.
        UnsupportedError: if a primitive has no rule.

    Example:
        >>> found = affine_bounds(lambda x: 3 * x + 1, jnp.zeros(1), jnp.ones(1))
        >>> print(found.lower_weight, found.upper_bias)
        [[3.]] [1.]

    Reference: as `linear_bounds`.
    """
    _validate.one_of(METHODS[1:3], method=method)
    box = _box(lower, upper)
    graph = propagate.trace(_with_spec(fn, spec), _struct(box))
    known = _known(graph, box, method=method)
    form = _both_forms(graph, graph.output, known)
    half = len(form.bias) // 2
    return AffineBounds(
        form.weight[:half], form.bias[:half], -form.weight[half:], -form.bias[half:]
    )


def single(apply_fn: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """A batched function as a function of one example.

    [device]

    Args:
        apply_fn: maps `[n, ...]` to `[n, ...]`.

    Returns:
        A function that maps `[...]` to `[...]`.

    Example:
        >>> single(lambda x: x + 1)(jnp.zeros(2)).shape
        (2,)
    """

    def one(x: jax.Array) -> jax.Array:
        return apply_fn(x[None])[0]

    return one


def _known(graph: Graph, box: Interval, *, method: str) -> dict[int, Interval]:
    """Valid bounds of all values, with "crown" those of nonlinear inputs by lines."""
    known = {0: box}
    is_exact = {0}  # intervals are, up to the first nonlinearity
    for index, node in enumerate(graph.nodes, start=1):
        if not isinstance(node.operation, Affine) and method in ("crown", "alpha"):
            for value in set(node.inputs) - is_exact:
                known[value] = _refined(graph, value, known)
                is_exact.add(value)  # as exact as it will be
        known[index] = interval.through(node, known)
        if isinstance(node.operation, Affine) and node.inputs == (0,):
            is_exact.add(index)
    return known


def _refined(graph: Graph, value: int, known: dict[int, Interval]) -> Interval:
    """Bounds of a value by linear forms, intersected with those that are known."""
    low = linear.least(_both_forms(graph, value, known), known[0])
    return interval.intersect(_two_sided(low, graph.shape_of(value)), known[value])


def _two_sided(low: jax.Array, shape: tuple[int, ...]) -> Interval:
    """Bounds from lower bounds of every entry, then of its negative."""
    half = len(low) // 2
    return low[:half].reshape(shape), -low[half:].reshape(shape)


def _optimised(graph: Graph, known: dict[int, Interval], *, num_steps: int) -> Interval:
    """Bounds of the output with lines that Adam moves; the best of each is kept."""
    import optax

    rows = _identity_rows(graph, graph.output, known)
    starts = {
        index: linear.start_mix(node, known)
        for index, node in enumerate(graph.nodes, start=1)
    }
    mixes = {
        index: jnp.broadcast_to(mix, (len(rows), *mix.shape))
        for index, mix in starts.items()
        if mix is not None
    }

    def bound(mixes: dict[int, jax.Array]) -> jax.Array:
        form = linear.lower_form(graph, rows, graph.output, known=known, mixes=mixes)
        return linear.least(form, known[0])

    def loss(mixes: dict[int, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low = bound(mixes)
        return -jnp.sum(jnp.where(jnp.isfinite(low), low, 0.0)), low

    optimizer = optax.adam(_LEARNING_RATE)

    def step(state: Any, _: Any) -> tuple[Any, None]:
        mixes, inner, best = state
        gradient, low = jax.grad(loss, has_aux=True)(mixes)
        gradient = jax.tree.map(jnp.nan_to_num, gradient)
        updates, inner = optimizer.update(gradient, inner)
        mixes = jax.tree.map(lambda m, u: jnp.clip(m + u, 0.0, 1.0), mixes, updates)
        return (mixes, inner, jnp.fmax(best, low)), None

    first = (mixes, optimizer.init(mixes), jnp.full(len(rows), -jnp.inf, rows.dtype))
    (mixes, _, best), _ = jax.lax.scan(step, first, length=num_steps)
    best = jnp.fmax(best, bound(mixes))
    found = _two_sided(best, graph.shape_of(graph.output))
    return interval.intersect(found, known[graph.output])


def _both_forms(
    graph: Graph, value: int, known: dict[int, Interval]
) -> linear.LinearForm:
    """Lower forms of every entry of a value, then of its negative."""
    rows = _identity_rows(graph, value, known)
    return linear.lower_form(graph, rows, value, known=known)


def _identity_rows(graph: Graph, value: int, known: dict[int, Interval]) -> jax.Array:
    shape = graph.shape_of(value)
    size = math.prod(shape)
    identity = jnp.eye(size, dtype=known[0][0].dtype).reshape(size, *shape)
    return jnp.concatenate([identity, -identity])


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


def _box(lower: ArrayLike, upper: ArrayLike) -> Interval:
    low, high = jnp.asarray(lower), jnp.asarray(upper)
    if low.shape != high.shape or low.dtype != high.dtype:
        raise ValueError(
            f"Expected lower and upper alike, got {low.dtype}{list(low.shape)} and "
            f"{high.dtype}{list(high.shape)}."
        )
    if not jnp.issubdtype(low.dtype, jnp.floating):
        raise ValueError(f"Expected a box of floats, got {low.dtype}.")
    known: list[Any] = [_validate.concrete(v) for v in (low, high)]
    if known[0] is not None and known[1] is not None:
        _check_box(*known)
    return low, high


def _check_box(lower: Any, upper: Any) -> None:
    for name, array in (("lower", lower), ("upper", upper)):
        if not np.isfinite(array).all():
            raise ValueError(f"Expected a finite box, got {name} with NaN or inf.")
    wrong = np.argwhere(lower > upper)
    if len(wrong):
        index = tuple(wrong[0].tolist())
        raise ValueError(
            f"Expected lower <= upper, got {lower[index]} > {upper[index]} at {index}."
        )
