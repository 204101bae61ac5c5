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


class Pass(NamedTuple):
    """How far a backward pass has come."""

    rows: dict[int, jax.Array]  # of values whose nodes are still to be gone through
    sizes: dict[int, jax.Array]  # where rows are sums, the sums of absolute terms
    bias: jax.Array  # [rows, cells], of the constants so far
    bias_size: jax.Array  # as bias, of their absolute values


def begun(seeds: Mapping[int, jax.Array]) -> Pass:
    """A pass that starts from rows of some values. [device]."""
    rows = next(iter(seeds.values()))
    none = jnp.zeros((len(rows), 1), rows.dtype)
    return Pass(dict(seeds), {}, none, none)


def joined(done: Pass, value: int, rows: jax.Array) -> Pass:
    """A pass with more rows of a value, to be added to those it has. [device]."""
    pending, sizes = dict(done.rows), dict(done.sizes)
    if value in pending:
        sizes[value] = sizes.get(value, jnp.abs(pending[value])) + jnp.abs(rows)
        rows = pending[value] + rows
    pending[value] = rows
    return done._replace(rows=pending, sizes=sizes)


def through(
    graph: Graph,
    at: int,
    done: Pass,
    *,
    known: Mapping[int, Interval],
    lines: Mapping[int, Lines],
    mixes: Mapping[int, jax.Array],
    total: Total,
) -> Pass:
    """A pass that has gone back through the node of a value. [device].

    Args:
        graph: from `tracing.trace`.
        at: the value; passes go from later ones to earlier ones.
        done: the pass so far; as it is where it has no rows of the value.
        known: as for `lower_form`.
        lines: as for `lower_form`.
        mixes: as for `lower_form`.
        total: as for `lower_form`.

    Returns:
        The pass, with rows of the inputs of the node in place of those of the value.
    """
    if at not in done.rows:
        return done
    node = graph.nodes[at - 1]
    pending, sizes = dict(done.rows), dict(done.sizes)
    rows, size = pending.pop(at), sizes.pop(at, None)
    parts, numbers = _back(node, rows, known, mix=mixes.get(at), lines=lines.get(at))
    biases = [] if numbers is None else [total(at, numbers)]
    if node.unit:
        slack = node.rounding * _slack(node, rows, parts, numbers, known)
        if size is not None:
            slack += _of_additions(graph, at, size, known[at])
        biases.append(-total(at, slack))
    done = Pass(
        pending,
        sizes,
        sum(biases, start=done.bias),
        sum(map(jnp.abs, biases), start=done.bias_size),
    )
    for parent, part in zip(node.inputs, parts, strict=True):
        if part is not None:
            done = joined(done, parent, part)
    return done


def ended(
    graph: Graph, done: Pass, *, known: Mapping[int, Interval], total: Total
) -> LinearForm:
    """The form that a pass which came to the input has found. [device]."""
    bias = done.bias
    if graph.unit:
        size, biases = done.bias_size, 2 * len(graph.nodes) + 1
        if 0 in done.sizes:
            slack = total(0, _of_additions(graph, 0, done.sizes[0], known[0]))
            bias, size = bias - slack, size + slack
        bias = bias - 2 * graph.unit * (biases + 1) * size
    none = jnp.zeros((len(bias), *graph.shape), bias.dtype)
    return LinearForm(done.rows.get(0, none), bias, graph.rounding)


def lower_form(
    graph: Graph,
    rows: jax.Array,
    value: int,
    *,
    known: Mapping[int, Interval],
    lines: Mapping[int, Lines] | None = None,
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
        lines: of results of elementwise functions, where they are known,
            as `start_lines` gives them; others are computed.
        mixes: for results of elementwise functions without lines and of products,
            where in [0, 1] their free lines lie, `[rows, *shape of the value]`;
            default: as `start_mix`.
        total: how the numbers of a row are summed.

    Returns:
        The form.
    """
    done = begun({value: rows})
    for at in range(value, 0, -1):
        done = through(
            graph, at, done,
            known=known, lines=lines or {}, mixes=mixes or {}, total=total,
        )  # fmt: skip
    return ended(graph, done, known=known, total=total)


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
    graph: Graph, value: int, sizes: jax.Array, interval_of: Interval
) -> jax.Array:
    """What the rounding of sums of rows may do, of values that are used more often."""
    count = 1 + sum(node.inputs.count(value) for node in graph.nodes)
    unit = max(graph.unit, graph.nodes[value - 1].unit if value else 0.0)
    return 2 * count * unit * _times(sizes, ibp.size_of(interval_of)[None])


def _times(rows: jax.Array, sizes: jax.Array) -> jax.Array:
    """Absolute values; a zero coefficient silences what is not bounded."""
    return jnp.where(rows == 0, 0.0, jnp.abs(rows) * sizes)


def _back(
    node: Node,
    rows: jax.Array,
    known: Mapping[int, Interval],
    *,
    mix: jax.Array | None,
    lines: Lines | None,
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
    if isinstance(operation, Product) and are_floats:
        factors = [_in_rows(known[value]) for value in node.inputs]
        return _back_product(rows, *factors, mix=_mix(node, known, mix))
    if isinstance(operation, Elementwise) and operation.lines and are_floats:
        lines = lines or _lines(node, known, mix=mix)
        return _back_elementwise(rows, lines, is_finite=operation.is_finite)
    low, high = ibp.through(node, known)
    return [None] * len(node.inputs), _constant(rows, low[None], high[None])


def start_lines(
    node: Node, known: Mapping[int, Interval], *, mix: jax.Array | None = None
) -> Lines | None:
    """Lines of a node; None where it has none. [device].

    Args:
        node: of a graph.
        known: bounds of its inputs.
        mix: where its free lines lie; default: as `start_mix`.

    Returns:
        Slopes and offsets `[1, *shape of its result]`.
    """
    operation = node.operation
    if not isinstance(operation, Elementwise) or operation.lines is None:
        return None
    if not jnp.issubdtype(known[node.inputs[0]][0].dtype, jnp.floating):
        return None
    return _lines(node, known, mix=mix)


def _lines(
    node: Node, known: Mapping[int, Interval], *, mix: jax.Array | None
) -> Lines:
    operation, interval_of = node.operation, _in_rows(known[node.inputs[0]])
    assert isinstance(operation, Elementwise)
    assert operation.lines is not None
    lines = operation.lines(*interval_of, _mix(node, known, mix))
    return _known_lines(lines, interval_of)


def _mix(node: Node, known: Mapping[int, Interval], mix: jax.Array | None) -> jax.Array:
    found = start_mix(node, known) if mix is None else mix
    assert found is not None
    return found


def _in_rows(interval_of: Interval) -> Interval:
    return interval_of[0][None], interval_of[1][None]


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
        Numbers in [0, 1], `[1, *shape of its result]`.
    """
    if isinstance(node.operation, Product):
        return jnp.full((1, *node.shape), 0.5, known[node.inputs[0]][0].dtype)
    if isinstance(node.operation, Elementwise) and node.operation.lines is not None:
        return node.operation.start(*known[node.inputs[0]])[None]
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
