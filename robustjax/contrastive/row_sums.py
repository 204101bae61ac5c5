"""Log-sum-exps over the negatives of each anchor: at once, or in blocks.

Every loss of this package knows its negatives by log sum_k exp(c s_ik) for one or two
numbers c, alone. In blocks no array of anchors by negatives exists, neither in the
forward pass nor in the derivative, which is c exp(c s_ik - log sum) and is computed
again from the embeddings.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax.contrastive.logits import Pairs


class RowSums(NamedTuple):
    """What is summed over the negatives of each anchor; NaN where there are none."""

    log_sums: jax.Array  # [s, n]: log sum_k exp(c s), for each number c
    num_negatives: jax.Array  # [n]
    mean: jax.Array  # [n], of cosines; carries no gradient
    effective: jax.Array  # [n], Kish's number of negatives; carries no gradient


class _Parts(NamedTuple):
    """Sums over some of the negatives."""

    log_sums: jax.Array  # [s, n], -inf where there are none
    log_squares: jax.Array  # [n], log sum exp(2 c s) of the first c
    num_negatives: jax.Array  # [n]
    total: jax.Array  # [n], of cosines


class _Block(NamedTuple):
    """Some negatives."""

    rows: jax.Array  # [k, d] or [n, k, d]
    ids: jax.Array | None  # [k]
    mask: jax.Array | None  # [n, k]
    is_padding: jax.Array | None  # [k]


def row_sums(pairs: Pairs, *scales: ArrayLike) -> RowSums:
    """Sums over the negatives of every anchor, for each number c.

    [device]

    Args:
        pairs: of `pair_up`; with a block size for negatives `[k, d]`. Negatives
            `[n, k, d]` are larger than their logits, and always taken at once.
        *scales: the numbers c; the first also weighs the effective number.

    Returns:
        `RowSums`, float32 at least.
    """
    batch, size = pairs.batch, pairs.block_size
    each = jnp.ones_like(pairs.positive_logits[0])
    sharpness = jnp.stack([each * c / pairs.temperature for c in scales])
    block = _Block(batch.negatives, batch.negative_ids, batch.mask, None)
    if batch.negatives.ndim == 3 or size is None or size >= len(batch.negatives):
        return _finished(_sums(batch.anchors, block, sharpness, batch.anchor_ids))
    blocks = _split(block, size)
    parts = _sums_of_blocks(batch.anchors, blocks, sharpness, batch.anchor_ids)
    return _finished(parts)


def _finished(parts: _Parts) -> RowSums:
    log_sums = jnp.where(parts.num_negatives > 0, parts.log_sums, jnp.nan)
    squares, number, total = jax.lax.stop_gradient(parts[1:])
    effective = jnp.exp(2 * jax.lax.stop_gradient(log_sums[0]) - squares)
    return RowSums(log_sums, number, total / number, effective)


def _sums(
    anchors: jax.Array, block: _Block, sharpness: jax.Array, ids: jax.Array | None
) -> _Parts:
    """Of one block."""
    cosines = _products(anchors, block.rows)
    is_negative = _is_negative(cosines, block, ids)
    log_sums = [_masked_lse(c[:, None] * cosines, is_negative) for c in sharpness]
    squares = jax.lax.stop_gradient(2 * sharpness[0][:, None] * cosines)
    return _Parts(
        jnp.stack(log_sums),
        _masked_lse(squares, is_negative),
        is_negative.sum(axis=1).astype(cosines.dtype),
        jnp.where(is_negative, cosines, 0).sum(axis=1),
    )


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


@jax.custom_vjp
def _sums_of_blocks(
    anchors: jax.Array, blocks: _Block, sharpness: jax.Array, ids: jax.Array | None
) -> _Parts:
    parts = jax.lax.map(lambda block: _sums(anchors, block, sharpness, ids), blocks)
    return _Parts(
        jax.nn.logsumexp(parts.log_sums, axis=0),
        jax.nn.logsumexp(parts.log_squares, axis=0),
        parts.num_negatives.sum(axis=0),
        parts.total.sum(axis=0),
    )


_Saved = tuple[jax.Array, _Block, jax.Array, jax.Array | None, jax.Array]


def _forward(
    anchors: jax.Array, blocks: _Block, sharpness: jax.Array, ids: jax.Array | None
) -> tuple[_Parts, _Saved]:
    parts = _sums_of_blocks(anchors, blocks, sharpness, ids)
    return parts, (anchors, blocks, sharpness, ids, parts.log_sums)


def _backward(saved: _Saved, cotangents: _Parts) -> tuple[Any, ...]:
    """From d log_sum / d cosine_k = c exp(c cosine_k - log_sum), block by block."""
    anchors, blocks, sharpness, ids, log_sums = saved

    def step(so_far: tuple[Any, Any], block: _Block) -> tuple[Any, jax.Array]:
        cosines = _products(anchors, block.rows)
        is_negative = _is_negative(cosines, block, ids)
        slopes, by_sharpness = jnp.zeros_like(cosines), []
        for c, log_sum, weight in zip(
            sharpness, log_sums, cotangents.log_sums, strict=True
        ):
            exponents = c[:, None] * cosines - log_sum[:, None]
            shares = weight[:, None] * jnp.exp(
                jnp.where(is_negative, exponents, -jnp.inf)
            )
            slopes += c[:, None] * shares
            by_sharpness.append(jnp.sum(shares * cosines, axis=1))
        slopes = slopes.astype(anchors.dtype)
        own = (_products(slopes, block.rows.T), jnp.stack(by_sharpness))
        by_rows = _products(slopes.T, anchors.T).astype(anchors.dtype)
        return jax.tree.map(jnp.add, so_far, own), by_rows

    wide = jnp.zeros_like(anchors, sharpness.dtype)
    start = (wide, jnp.zeros_like(sharpness))
    (by_anchors, by_sharpness), by_rows = jax.lax.scan(step, start, blocks)
    by_blocks = _Block(by_rows, None, None, None)
    return by_anchors.astype(anchors.dtype), by_blocks, by_sharpness, None


_sums_of_blocks.defvjp(_forward, _backward)


def _masked_lse(values: jax.Array, is_there: jax.Array) -> jax.Array:
    """Log sum exp over the last axis; -inf where nothing is there, without NaN."""
    is_some = is_there.any(axis=-1)
    safe = jnp.where(is_there, values, -jnp.inf)
    safe = jnp.where(is_some[..., None], safe, 0)
    return jnp.where(is_some, jax.nn.logsumexp(safe, axis=-1), -jnp.inf)


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[n, k]` of rows `[n, d]` with `[k, d]` or `[n, k, d]`, added in float32."""
    form = "nd,kd->nk" if y.ndim == 2 else "nd,nkd->nk"
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum(form, x, y, precision="highest", preferred_element_type=wide)
