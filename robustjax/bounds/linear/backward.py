"""Linear bounds: backward through the nodes of a graph, from rows to the input.

Only lower bounds rows . value >= weight . x + bias are carried; an upper bound is a
lower bound of the negative rows. With a+ = max(a, 0) and a- = min(a, 0), a row a goes
back through z = J x + b, and through z = f(x) between two lines, by

    a . (J x + b) = (J' a) . x + a . b,
    a . f(x) >= (a+ s + a- t) . x + a+ . o + a- . q   if s x + o <= f(x) <= t x + q,

and at the input, in the box with centre c and radius r,

    weight . x >= weight . c - |weight| . r.

Products take McCormick's planes instead of lines.

Reference:
    Zhang, Weng, Chen, Hsieh and Daniel (2018), Efficient Neural Network Robustness
    Certification with General Activation Functions (CROWN), arXiv 1811.00866; Xu et al.
    (2020), Automatic Perturbation Analysis for Scalable Certified Robustness and
    Beyond, arXiv 2002.12920, for graphs. One-sided rows and rules by `jax.vjp` are
    ours.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustjax.bounds import ibp
from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.operations import (
    Affine,
    Contraction,
    Elementwise,
    Interval,
    Lines,
    Narrowed,
    Product,
)

Total = Callable[[int, jax.Array], jax.Array]
"""(value, numbers [rows, *shape of the value]) -> their sums, [rows, cells]."""


class LinearForm(NamedTuple):
    """weight . x + bias, a row each, with the sums taken by cells."""

    weight: jax.Array  # [rows, *shape of the input]
    bias: jax.Array  # [rows, cells]
    rounding: float = 0.0  # of sums of weights times inputs, relative; to be set off


def whole(value: int, numbers: jax.Array) -> jax.Array:
    """The sum of all numbers of a row, one cell. [device]."""
    del value
    return jnp.sum(numbers.reshape(len(numbers), -1), axis=1, keepdims=True)


def lower_form(
    graph: Graph,
    rows: jax.Array,
    value: int,
    *,
    known: Mapping[int, Interval],
    mixes: Mapping[int, jax.Array] | None = None,
    total: Total = whole,
) -> LinearForm:
    """A linear function of the input below rows . value, for all inputs in the box.

    [device]

    Args:
        graph: from `tracing.trace`.
        rows: `[rows, *shape of the value]`.
        value: which value the rows multiply.
        known: valid bounds of the inputs of all nodes up to the value.
        mixes: for results of elementwise functions and products, where in [0, 1] their
            free lines lie, `[rows, *shape of the value]`; default: as `start_mix`.
        total: how the numbers of a row are summed.

    Returns:
        The form.
    """
    mixes = mixes or {}
    pending: dict[int, jax.Array] = {value: rows}
    added: dict[int, tuple[int, jax.Array]] = {}  # parts of rows, and their sizes
    biases = []
    for at in range(value, 0, -1):
        if at not in pending:
            continue
        node = graph.nodes[at - 1]
        coefficients = pending.pop(at)
        parts, numbers = _back(node, coefficients, known, mixes.get(at))
        if numbers is not None:
            biases.append(total(at, numbers))
        if node.unit:
            slack = node.rounding * _slack(node, coefficients, parts, numbers, known)
            if at in added:
                slack += _of_additions(*added[at], known[at], node.unit)
            biases.append(-total(at, slack))
        for parent, part in zip(node.inputs, parts, strict=True):
            if part is None:
                continue
            if parent not in pending:
                pending[parent] = part
                continue
            count, sizes = added.get(parent, (1, jnp.abs(pending[parent])))
            added[parent] = count + 1, sizes + jnp.abs(part)
            pending[parent] = pending[parent] + part
    if graph.unit:
        if 0 in added:
            biases.append(-total(0, _of_additions(*added[0], known[0], graph.unit)))
        sizes = sum((jnp.abs(bias) for bias in biases), start=jnp.zeros(()))
        biases.append(-2 * graph.unit * (len(biases) + 1) * sizes)
    weight = pending.get(0, jnp.zeros((len(rows), *graph.shape), rows.dtype))
    none = jnp.zeros((len(rows), 1), rows.dtype)
    return LinearForm(weight, sum(biases, start=none), graph.rounding)


def least(form: LinearForm, box: Interval, *, total: Total = whole) -> jax.Array:
    """Minimum of each row over the box, [rows, cells]. [device]."""
    centre, radius = 0.5 * (box[0] + box[1])[None], 0.5 * (box[1] - box[0])[None]
    if form.rounding:
        radius = radius + form.rounding * ibp.size_of(box)[None]
    return total(0, form.weight * centre - jnp.abs(form.weight) * radius) + form.bias


def _slack(
    node: Node,
    rows: jax.Array,
    parts: list[Any],
    numbers: jax.Array | None,
    known: Mapping[int, Interval],
) -> jax.Array:
    """What the roundings of a step back may add up to, relative to those of its node.

    [rows, *shape of the value]. For rows @ (J z + b), the sums of absolute values; for
    a line, slope z and offset, and z itself where slopes are differences (tanh).
    """
    sizes = [ibp.size_of(known[value])[None] for value in node.inputs]
    operation = node.operation
    if isinstance(operation, Affine) and parts[0] is not None:
        terms = ibp.size_of_terms(node, [known[v] for v in node.inputs])
        return _times(rows, terms[None])
    slack = jnp.zeros_like(rows) if numbers is None else jnp.abs(numbers)
    if isinstance(operation, Narrowed) or parts[0] is None:
        return slack
    if isinstance(operation, Contraction):
        least = ibp.least_size(rows.dtype)
        terms = operation.point(*(size[0] for size in sizes))[None]
        return slack + _times(rows, 4 * terms + least)
    if isinstance(operation, Product):
        least = ibp.least_size(rows.dtype)
        return slack + _times(rows, 4 * sizes[0] * sizes[1] + least)
    return slack + _times(parts[0], sizes[0]) + _times(rows, sizes[0])


def _of_additions(
    count: int, sizes: jax.Array, interval_of: Interval, unit: float
) -> jax.Array:
    """What the rounding of sums of rows may do, of values that are used more often."""
    return 2 * count * unit * _times(sizes, ibp.size_of(interval_of)[None])


def _times(rows: jax.Array, sizes: jax.Array) -> jax.Array:
    """Absolute values; a zero coefficient silences what is not bounded."""
    return jnp.where(rows == 0, 0.0, jnp.abs(rows) * sizes)


def _back(
    node: Node,
    rows: jax.Array,
    known: Mapping[int, Interval],
    mix: jax.Array | None,
) -> tuple[list[Any], jax.Array | None]:
    """Rows of the inputs of a node, and numbers whose sum is the constant that remains.

    None stands for zeros; the numbers are of the shape of the rows.
    """
    operation = node.operation
    if isinstance(operation, Narrowed):
        return [rows, *[None] * (len(node.inputs) - 1)], None
    are_floats = all(
        jnp.issubdtype(known[value][0].dtype, jnp.floating) for value in node.inputs
    )  # rows do not go back through counts and truth values
    if isinstance(operation, Affine) and are_floats:
        return _back_affine(node, rows, known)
    if isinstance(operation, Contraction):
        return _back_contraction(rows, operation, *(known[v] for v in node.inputs))
    start = start_mix(node, known) if are_floats else None
    if start is None:
        low, high = ibp.through(node, known)
        return [None] * len(node.inputs), _constant(rows, low[None], high[None])
    free = start[None] if mix is None else mix
    intervals = [
        (lower[None], upper[None])
        for lower, upper in (known[value] for value in node.inputs)
    ]
    if isinstance(operation, Product):
        return _back_product(rows, *intervals, mix=free)
    assert isinstance(operation, Elementwise)
    assert operation.lines is not None
    lines = _known_lines(operation.lines(*intervals[0], free), intervals[0])
    return _back_elementwise(rows, lines, is_finite=operation.is_finite)


def _known_lines(lines: Lines, interval_of: Interval) -> Lines:
    """Lines, or none where nothing is known of what they are taken of."""
    unknown = ibp.is_unknown(interval_of)
    return Lines(
        jnp.where(unknown, 0.0, lines.lower_slope),
        jnp.where(unknown, -jnp.inf, lines.lower_offset),
        jnp.where(unknown, 0.0, lines.upper_slope),
        jnp.where(unknown, jnp.inf, lines.upper_offset),
    )


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
) -> tuple[list[jax.Array], jax.Array | None]:
    operation: Any = node.operation
    zeros = [jnp.zeros_like(known[value][0]) for value in node.inputs]
    offset, transpose = jax.vjp(operation.point, *zeros)
    rows = rows.astype(offset.dtype)  # narrower than x for truth values as float32
    parts = list(jax.vmap(transpose)(rows))
    return parts, None if operation.is_linear else rows * offset[None]


def _back_elementwise(
    rows: jax.Array, lines: Lines, *, is_finite: bool
) -> tuple[list[jax.Array], jax.Array]:
    above, below = _signs(rows)
    part = above * lines.lower_slope + below * lines.upper_slope
    offsets = lines.lower_offset, lines.upper_offset
    if not is_finite:
        return [part], _constant(rows, *offsets)
    # Apart from the above: a CPU is four times slower at both in one loop.
    above, below = _signs(jax.lax.optimization_barrier(rows))
    return [part], above * offsets[0] + below * offsets[1]


def _back_product(
    rows: jax.Array, first: Interval, second: Interval, *, mix: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """McCormick's planes: two below and two above, mixed."""
    (a, b), (c, d) = first, second  # a <= x <= b, c <= y <= d
    above, below = _signs(rows)

    def mixed(one: jax.Array, other: jax.Array) -> jax.Array:
        return mix * one + (1 - mix) * other

    # x y >= c x + a y - a c and d x + b y - b d; x y <= d x + a y - a d and c x + b y
    # - b c.
    of_first = above * mixed(c, d) + below * mixed(d, c)
    of_second = (above + below) * mixed(a, b)
    low, high = mixed(-a * c, -b * d), mixed(-a * d, -b * c)
    return [of_first, of_second], _constant(rows, low, high)


def _back_contraction(
    rows: jax.Array, operation: Contraction, first: Interval, second: Interval
) -> tuple[list[jax.Array], jax.Array]:
    """The planes of every product, halfway between, summed up."""
    copies = operation.spread
    x, y = (
        (copy(low)[None], copy(high)[None])
        for copy, (low, high) in zip(copies, (first, second), strict=True)
    )
    transposed = jax.linear_transpose(operation.total, x[0][0].astype(rows.dtype))
    (of_products,) = jax.vmap(transposed)(rows)
    mix = jnp.full_like(x[0], 0.5)
    parts, numbers = _back_product(of_products, x, y, mix=mix)
    back = [
        jax.vmap(jax.linear_transpose(copy, low))(part)[0]
        for copy, (low, _), part in zip(copies, (first, second), parts, strict=True)
    ]
    return back, jax.vmap(operation.total)(numbers)


def _constant(rows: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Rows times offsets; a zero coefficient silences an infinite offset."""
    above, below = _signs(rows)
    low = jnp.where(above > 0, low, 0.0)
    high = jnp.where(below < 0, high, 0.0)
    return above * low + below * high


def _signs(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.maximum(rows, 0.0), jnp.minimum(rows, 0.0)
