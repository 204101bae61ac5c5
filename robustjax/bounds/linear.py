"""Linear bounds: backward through the nodes of a graph, from rows to the input.

Only lower bounds rows . value >= weight . x + bias are carried; an upper bound is a
lower bound of the negative rows. A non-negative coefficient of a nonlinear result takes
the line below it, a negative one that above.

Reference:
    Zhang, Weng, Chen, Hsieh and Daniel (2018), Efficient Neural Network Robustness
    Certification with General Activation Functions (CROWN), arXiv 1811.00866; Xu et al.
    (2020), Automatic Perturbation Analysis for Scalable Certified Robustness and
    Beyond, arXiv 2002.12920, for graphs. One-sided rows and rules by `jax.vjp` are
    ours.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import interval
from robustjax.bounds.operations import (
    Affine,
    Elementwise,
    Interval,
    Lines,
    Product,
)
from robustjax.bounds.propagate import Graph, Node


class LinearForm(NamedTuple):
    """weight . x + bias, a row each."""

    weight: jax.Array  # [rows, *shape of the input]
    bias: jax.Array  # [rows]


def lower_form(
    graph: Graph,
    rows: jax.Array,
    value: int,
    *,
    known: Mapping[int, Interval],
    mixes: Mapping[int, jax.Array] | None = None,
) -> LinearForm:
    """A linear function of the input below rows . value, for all inputs in the box.

    [device]

    Args:
        graph: from `propagate.trace`.
        rows: `[rows, *shape of the value]`.
        value: which value the rows multiply.
        known: valid bounds of the inputs of all nodes up to the value.
        mixes: for results of elementwise functions and products, where in [0, 1] their
            free lines lie, `[rows, *shape of the value]`; default: as `start_mix`.

    Returns:
        The form.
    """
    mixes = mixes or {}
    pending: dict[int, jax.Array] = {value: rows}
    bias = jnp.zeros(len(rows), rows.dtype)
    for at in range(value, 0, -1):
        if at not in pending:
            continue
        node = graph.nodes[at - 1]
        coefficients = pending.pop(at)
        parts, more = _back(node, coefficients, known, mixes.get(at))
        bias += more
        for parent, part in zip(node.inputs, parts, strict=True):
            pending[parent] = pending[parent] + part if parent in pending else part
    shape = (len(rows), *graph.shape)
    return LinearForm(pending.get(0, jnp.zeros(shape, rows.dtype)), bias)


def least(form: LinearForm, box: Interval) -> jax.Array:
    """The least value of each row over the box. [device]."""
    centre, radius = 0.5 * (box[0] + box[1]), 0.5 * (box[1] - box[0])
    spread = _dot(jnp.abs(form.weight), radius)
    return _dot(form.weight, centre) - spread + form.bias


def _back(
    node: Node,
    rows: jax.Array,
    known: Mapping[int, Interval],
    mix: jax.Array | None,
) -> tuple[list[jax.Array], jax.Array]:
    """Rows of the inputs of a node, and the constant that remains."""
    operation = node.operation
    if isinstance(operation, Affine):
        return _back_affine(node, rows, known)
    start = start_mix(node, known)
    if start is None:
        bounds = interval.through(node, known)
        shapes = [known[value][0].shape for value in node.inputs]
        zeros = [jnp.zeros((len(rows), *shape), rows.dtype) for shape in shapes]
        return zeros, _constant(rows, *bounds)
    free = start[None] if mix is None else mix
    intervals = [
        (lower[None], upper[None])
        for lower, upper in (known[value] for value in node.inputs)
    ]
    if isinstance(operation, Product):
        return _back_product(rows, *intervals, mix=free)
    assert isinstance(operation, Elementwise)
    assert operation.lines is not None
    return _back_elementwise(rows, operation.lines(*intervals[0], free))


def start_mix(node: Node, known: Mapping[int, Interval]) -> jax.Array | None:
    """Where the free lines of a node lie at first; None where it has none. [device].

    Args:
        node: of a graph.
        known: bounds of its inputs.

    Returns:
        Numbers in [0, 1] of the shape of its result.
    """
    if isinstance(node.operation, Product):
        return jnp.full(node.shape, 0.5, known[node.inputs[0]][0].dtype)
    if isinstance(node.operation, Elementwise) and node.operation.lines is not None:
        return node.operation.start(*known[node.inputs[0]])
    return None


def _back_affine(
    node: Node, rows: jax.Array, known: Mapping[int, Interval]
) -> tuple[list[jax.Array], jax.Array]:
    operation: Any = node.operation
    zeros = [jnp.zeros_like(known[value][0]) for value in node.inputs]
    offset, transpose = jax.vjp(operation.point, *zeros)
    return list(jax.vmap(transpose)(rows)), _dot(rows, offset)


def _back_elementwise(
    rows: jax.Array, lines: Lines
) -> tuple[list[jax.Array], jax.Array]:
    above, below = jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)
    part = above * lines.lower_slope + below * lines.upper_slope
    return [part], _constant(rows, lines.lower_offset, lines.upper_offset)


def _back_product(
    rows: jax.Array, first: Interval, second: Interval, *, mix: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """McCormick's planes: two below and two above, mixed."""
    (a, b), (c, d) = first, second  # a <= x <= b, c <= y <= d
    above, below = jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)

    def mixed(one: jax.Array, other: jax.Array) -> jax.Array:
        return mix * one + (1 - mix) * other

    # x y >= c x + a y - a c and d x + b y - b d; x y <= d x + a y - a d and c x + b y
    # - b c.
    of_first = above * mixed(c, d) + below * mixed(d, c)
    of_second = (above + below) * mixed(a, b)
    low, high = mixed(-a * c, -b * d), mixed(-a * d, -b * c)
    return [of_first, of_second], _constant(rows, low, high)


def _constant(rows: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """What rows make of offsets; a zero coefficient silences an infinite offset."""
    above, below = jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)
    low = jnp.where(above > 0, low, 0.0)
    high = jnp.where(below < 0, high, 0.0)
    axes = tuple(range(1, rows.ndim))
    return jnp.sum(above * low + below * high, axis=axes)


def _dot(rows: jax.Array, values: jax.Array) -> jax.Array:
    flat = rows.reshape(len(rows), -1)
    return jnp.matmul(flat, values.reshape(-1), precision=jax.lax.Precision.HIGHEST)
