"""Log-sum-exps over the negatives of each anchor: at once, or in blocks.

Every loss of this package needs one number of the negatives of anchor i, its log mass

    log(N sum_k q_k exp(s_k)),   q_k proportional to exp(beta s_k),   (1)

with s_k = c_k / t, cosines c_k and their number N; without beta it is log sum_k
exp(s_k). Exponents are taken relative to the largest cosine, so a large beta or a small
temperature t loses no digits. The derivative in s_k is

    p_k + beta (p_k - q_k),   p_k proportional to q_k exp(s_k),       (2)

where p_k - q_k is not computed as a difference. In blocks no array of anchors by
negatives exists, neither in the forward pass nor in the derivative, which is computed
again from the embeddings.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax.contrastive.batch import Pairs


class RowSums(NamedTuple):
    """Sums over the negatives of each anchor; NaN for an anchor without negatives."""

    log_mass: jax.Array  # [n]
    num_negatives: jax.Array  # [n]
    mean: jax.Array  # [n], of cosines; carries no gradient
    effective: jax.Array  # [n], Kish's number of negatives; carries no gradient


class _Exponents(NamedTuple):
    """Factors of cosines, `[n]`, and whose weights they are."""

    step: jax.Array  # 1 / t, of exp(s)
    tilt: jax.Array | None  # beta / t, of the weights; None: equal weights


class _Parts(NamedTuple):
    """Sums over one block, with exponents relative to its largest cosine."""

    peak: jax.Array  # [n], the largest cosine, 0 where there are no negatives
    heavy: jax.Array  # [n], log sum exp((tilt + step) (c - peak))
    light: jax.Array  # [n], log sum exp(tilt (c - peak))
    squares: jax.Array  # [n], log sum exp(2 (tilt + step) (c - peak))
    num_negatives: jax.Array  # [n]
    total: jax.Array  # [n], of cosines


class _Block(NamedTuple):
    """Some negatives."""

    rows: jax.Array  # [k, d] or [n, k, d]
    ids: jax.Array | None  # [k]
    mask: jax.Array | None  # [n, k]
    is_padding: jax.Array | None  # [k]


def row_sums(pairs: Pairs, *, beta: ArrayLike | None = None) -> RowSums:
    """Sums over the negatives of every anchor.

    [device]

    Args:
        pairs: of `pair_up`; with a block size for negatives `[k, d]`. Negatives
            `[n, k, d]` are larger than their logits, and always taken at once.
        beta: negatives have weights exp(beta s), beta >= 0; None: equal weights.

    Returns:
        `RowSums`, float32 at least.
    """
    batch, size = pairs.batch, pairs.block_size
    each = jnp.ones_like(pairs.positive_logits[0])
    exponents = _Exponents(
        each / pairs.temperature,
        None if beta is None else _finite(each * beta / pairs.temperature),
    )
    block = _Block(batch.negatives, batch.negative_ids, batch.mask, None)
    if batch.negatives.ndim == 3 or size is None or size >= len(batch.negatives):
        return _at_once(batch.anchors, block, exponents, batch.anchor_ids)
    return _in_blocks(batch.anchors, _split(block, size), exponents, batch.anchor_ids)


def _finite(tilt: jax.Array) -> jax.Array:
    """Where beta / t overflows, the nearest negative has all the weight anyway."""
    return jnp.minimum(tilt, jnp.finfo(tilt.dtype).max / 8)


def _at_once(
    anchors: jax.Array, block: _Block, exponents: _Exponents, ids: jax.Array | None
) -> RowSums:
    cosines = _products(anchors, block.rows)
    is_negative = _is_negative(cosines, block, ids)
    number = is_negative.sum(axis=1).astype(cosines.dtype)
    peak, gaps = _gaps(cosines, is_negative)
    weights = is_negative.astype(cosines.dtype)
    if exponents.tilt is not None:
        own = jnp.where(is_negative, exponents.tilt[:, None] * gaps, -jnp.inf)
        own = jnp.where(number[:, None] > 0, own, 0)
        weights = number[:, None] * jax.nn.softmax(own, axis=1)
    terms = weights * jnp.exp(exponents.step[:, None] * gaps)
    # (1)
    log_mass = exponents.step * peak + jnp.log(_or_nan(terms.sum(axis=1), number))
    shares = jax.lax.stop_gradient(terms)
    total = jnp.where(is_negative, jax.lax.stop_gradient(cosines), 0).sum(axis=1)
    effective = shares.sum(axis=1) ** 2 / (shares**2).sum(axis=1)
    return RowSums(log_mass, number, total / number, effective)


def _gaps(cosines: jax.Array, is_negative: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest cosine of a negative, and how far others are below it; 0 of none."""
    known = jax.lax.stop_gradient(cosines)
    peak = jnp.max(jnp.where(is_negative, known, -jnp.inf), axis=1)
    peak = jnp.where(is_negative.any(axis=1), peak, 0)
    return peak, jnp.where(is_negative, cosines - peak[:, None], 0)


def _or_nan(values: jax.Array, number: jax.Array) -> jax.Array:
    return jnp.where(number > 0, values, jnp.nan)


def _is_negative(cosines: jax.Array, block: _Block, ids: jax.Array | None) -> jax.Array:
    found = jnp.ones_like(cosines, bool)
    if ids is not None and block.ids is not None:
        found &= ids[:, None] != block.ids[None]
    if block.mask is not None:
        found &= block.mask
    return found if block.is_padding is None else found & ~block.is_padding[None]


def _split(block: _Block, size: int) -> _Block:
    """Into blocks along a new first axis, the last of which is filled up."""
    num = len(block.rows)
    padding = -num % size

    def split(x: jax.Array, axis: int) -> jax.Array:
        widths = [(0, padding if i == axis else 0) for i in range(x.ndim)]
        shape = (*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(jnp.pad(x, widths).reshape(shape), axis, 0)

    return _Block(
        rows=split(block.rows, 0),
        ids=None if block.ids is None else split(block.ids, 0),
        mask=None if block.mask is None else split(block.mask, 1),
        is_padding=(jnp.arange(num + padding) >= num).reshape(-1, size),
    )


def _sums(
    anchors: jax.Array, block: _Block, exponents: _Exponents, ids: jax.Array | None
) -> _Parts:
    """Sums of one block."""
    cosines = _products(anchors, block.rows)
    is_negative = _is_negative(cosines, block, ids)
    number = is_negative.sum(axis=1).astype(cosines.dtype)
    peak, gaps = _gaps(cosines, is_negative)

    def log_sum(factor: jax.Array) -> jax.Array:
        terms = jnp.exp(factor[:, None] * gaps)
        return jnp.log(jnp.where(is_negative, terms, 0).sum(axis=1))

    light, heavy = _factors(exponents)
    return _Parts(
        peak=peak,
        heavy=log_sum(heavy),
        light=log_sum(light),
        squares=log_sum(2 * heavy),
        num_negatives=number,
        total=jnp.where(is_negative, cosines, 0).sum(axis=1),
    )


def _factors(exponents: _Exponents) -> tuple[jax.Array, jax.Array]:
    """Exponents of the weights alone, and of the weights times exp(s)."""
    step, tilt = exponents
    return (jnp.zeros_like(step), step) if tilt is None else (tilt, tilt + step)


def _together(parts: _Parts, exponents: _Exponents) -> _Parts:
    """Sums of all blocks, from sums `[b, n]` of each."""
    is_some = parts.num_negatives > 0
    peak = jnp.max(jnp.where(is_some, parts.peak, -jnp.inf), axis=0)
    peak = jnp.where(is_some.any(axis=0), peak, 0)
    gaps = jnp.where(is_some, parts.peak - peak[None], 0)

    def log_sum(own: jax.Array, factor: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(own + factor[None] * gaps, axis=0)

    light, heavy = _factors(exponents)
    return _Parts(
        peak=peak,
        heavy=log_sum(parts.heavy, heavy),
        light=log_sum(parts.light, light),
        squares=log_sum(parts.squares, 2 * heavy),
        num_negatives=parts.num_negatives.sum(axis=0),
        total=parts.total.sum(axis=0),
    )


_Saved = tuple[jax.Array, _Block, _Exponents, jax.Array | None, _Parts]


@jax.custom_vjp
def _in_blocks(
    anchors: jax.Array, blocks: _Block, exponents: _Exponents, ids: jax.Array | None
) -> RowSums:
    return _forward(anchors, blocks, exponents, ids)[0]


def _forward(
    anchors: jax.Array, blocks: _Block, exponents: _Exponents, ids: jax.Array | None
) -> tuple[RowSums, _Saved]:
    parts = jax.lax.map(lambda block: _sums(anchors, block, exponents, ids), blocks)
    whole = _together(parts, exponents)
    number = whole.num_negatives
    log_mass = exponents.step * whole.peak + whole.heavy  # (1)
    if exponents.tilt is not None:
        log_mass += jnp.log(number) - whole.light
    found = RowSums(
        _or_nan(log_mass, number),
        number,
        whole.total / number,
        jnp.exp(2 * whole.heavy - whole.squares),
    )
    return found, (anchors, blocks, exponents, ids, whole)


def _backward(saved: _Saved, cotangents: RowSums) -> tuple[Any, ...]:
    """From step p_k + tilt (p_k - q_k), block by block."""
    anchors, blocks, exponents, ids, whole = saved
    weight = cotangents.log_mass[:, None]
    light, heavy = (factor[:, None] for factor in _factors(exponents))
    step = exponents.step[:, None]

    def add(so_far: tuple[Any, Any], block: _Block) -> tuple[Any, jax.Array]:
        cosines = _products(anchors, block.rows)
        is_negative = _is_negative(cosines, block, ids)
        gaps = jnp.where(is_negative, cosines - whole.peak[:, None], 0)

        def share(factor: jax.Array, log_sum: jax.Array) -> jax.Array:
            own = jnp.exp(factor * gaps - log_sum[:, None])
            return weight * jnp.where(is_negative, own, 0)

        near = share(heavy, whole.heavy)  # p_k
        slopes, by_exponents = step * near, [jnp.sum(near * cosines, axis=1)]
        if exponents.tilt is not None:
            log_ratio = step * gaps - (whole.heavy - whole.light)[:, None]
            nearer = share(light, whole.light) * jnp.expm1(log_ratio)  # p_k - q_k
            slopes += light * nearer  # (2)
            by_exponents.append(jnp.sum(nearer * gaps, axis=1))
        slopes = slopes.astype(anchors.dtype)
        own = _products(slopes, block.rows.T), jnp.stack(by_exponents)
        by_rows = _products(slopes.T, anchors.T).astype(anchors.dtype)
        return jax.tree.map(jnp.add, so_far, own), by_rows

    wide = jnp.zeros_like(anchors, exponents.step.dtype)
    start = wide, jnp.zeros_like(jnp.stack(jax.tree.leaves(exponents)))
    (by_anchors, by_exponents), by_rows = jax.lax.scan(add, start, blocks)
    by_blocks = _Block(by_rows, None, None, None)
    of_exponents = jax.tree.unflatten(jax.tree.structure(exponents), by_exponents)
    return by_anchors.astype(anchors.dtype), by_blocks, of_exponents, None


_in_blocks.defvjp(_forward, _backward)


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[n, k]` of rows `[n, d]` with `[k, d]` or `[n, k, d]`, added in float32."""
    form = "nd,kd->nk" if y.ndim == 2 else "nd,nkd->nk"
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(form, x, y, precision="highest", preferred_element_type=wide)
