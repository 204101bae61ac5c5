"""Batches of embeddings: anchors, their positives and negatives, and logits.

    s+_ji = <anchor_i, positive_ji> / t   after all rows have been given length 1,

t being the temperature; the logits of negatives are in `negative_sums`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jax.typing import ArrayLike

from robustjax import _validate


class Batch(NamedTuple):
    """Embeddings, and who is whose negative: ids differ and the mask is true."""

    anchors: jax.Array  # [n, d]
    positives: jax.Array  # [m, n, d]
    negatives: jax.Array  # [k, d], shared, or [n, k, d], of each anchor
    anchor_ids: jax.Array | None = None  # [n], of the images, with those of negatives
    negative_ids: jax.Array | None = None  # [k]
    mask: jax.Array | None = None  # [n, k], true for negatives
    mixed: jax.Array | None = None  # [m, n, d], of inputs between positive and negative


class Pairs(NamedTuple):
    """Anchors with all others, at a temperature."""

    batch: Batch  # normalised
    temperature: ArrayLike
    positive_logits: jax.Array  # [m, n], float32 at least
    block_size: int | None = None  # shared negatives at a time; None: all at once


def from_views(
    views: ArrayLike,
    *,
    num_anchor_views: int | None = None,
    mixed: ArrayLike | None = None,
    axis_name: str | None = None,
) -> Batch:
    """Views of images: those of the same image attract, those of others repel.

    [device] Row i of view v is anchor v n + i. Its positives are all other views of
    image i, its negatives the rows of other images in the views that hold anchors.
    Under `shard_map`, rows of all devices along the named axis are negatives.

    Args:
        views: `[v, n, d]` embeddings, v >= 2.
        num_anchor_views: how many views hold anchors and negatives, the others being
            positives only; None: all.
        mixed: `[v - 1, anchors, d]` embeddings of mixed inputs, for soft targets.
        axis_name: of a mesh axis over which images are spread, inside of `shard_map`.

    Returns:
        A `Batch` of anchors with v - 1 positives.

    Raises:
        ValueError: if there are less than two views or less than two images.

    Example:
        >>> from_views(jnp.zeros((2, 4, 8))).positives.shape
        (1, 8, 8)

    Reference: Chen et al. (2020), ICML, arXiv 2002.05709, for two views; more views and
    fewer anchors are ours.
    """
    views = _floats(views)
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"Expected views [2 or more, n, d], got shape {views.shape}.")
    num_views, num_images, _ = views.shape
    used = num_views if num_anchor_views is None else num_anchor_views
    _validate.integer(1, num_anchor_views=used)
    if used > num_views:
        raise ValueError(f"Expected num_anchor_views <= {num_views}, got {used}.")
    ids = jnp.arange(num_images)
    pool, pool_ids = views[:used], ids
    if axis_name is not None:
        ids = ids + jax.lax.axis_index(axis_name) * num_images
        pool = jax.lax.all_gather(pool, axis_name, axis=1, tiled=True)
        pool_ids = jax.lax.all_gather(ids, axis_name, axis=0, tiled=True)
    if pool.shape[1] < 2:
        raise ValueError(
            "A batch of one image has no negatives: expected views [v, n, d] with "
            f"n >= 2, got shape {views.shape}."
        )
    others = [jnp.roll(views, -shift, axis=0)[:used] for shift in range(1, num_views)]
    positives = rearrange(others, "other v n d -> other (v n) d")
    return Batch(
        anchors=rearrange(views[:used], "v n d -> (v n) d"),
        positives=positives,
        negatives=rearrange(pool, "v n d -> (v n) d"),
        anchor_ids=repeat(ids, "n -> (v n)", v=used),
        negative_ids=repeat(pool_ids, "n -> (v n)", v=used),
        mixed=_checked_mixed(mixed, positives),
    )


def from_arrays(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    mixed: ArrayLike | None = None,
) -> Batch:
    """Anchors with positives and negatives of any origin.

    [device]

    Args:
        anchors: `[n, d]` embeddings.
        positives: `[m, n, d]`, or `[n, d]` for one of each anchor.
        negatives: `[n, k, d]` of each anchor, or `[k, d]` for all.
        mask: `[n, k]`, true for the negatives of an anchor; None: all rows are.
        mixed: like positives: embeddings of mixed inputs, for soft targets.

    Returns:
        A `Batch`.

    Raises:
        ValueError: if shapes do not fit, or a mask leaves an anchor without negatives;
            a mask that JAX traces makes the loss NaN then.

    Example:
        >>> found = from_arrays(jnp.ones((4, 8)), jnp.ones((2, 4, 8)), jnp.ones((9, 8)))
        >>> found.negatives.shape
        (9, 8)
    """
    x, y, z = (_floats(v) for v in (anchors, positives, negatives))
    y = y[None] if y.ndim == 2 else y
    is_paired = x.ndim == 2 and y.ndim == 3 and y.shape[1:] == x.shape
    is_shared = z.ndim == 2 and z.shape[-1:] == x.shape[-1:]
    is_own = z.ndim == 3 and (len(z), z.shape[-1]) == x.shape
    is_empty = 0 in (len(x), len(y), z.shape[-2])
    if not is_paired or not (is_shared or is_own) or is_empty:
        raise ValueError(
            "Expected anchors [n, d], positives [m, n, d] and negatives [n, k, d] or "
            f"[k, d], got {x.shape}, {y.shape} and {z.shape}."
        )
    is_negative = None
    if mask is not None:
        shape = (len(x), z.shape[-2])
        if jnp.shape(mask) != shape:
            raise ValueError(f"Expected mask {shape}, got shape {jnp.shape(mask)}.")
        known = _validate.concrete(mask)
        if known is not None and not known.any(axis=1).all():
            row = int((~known.any(axis=1)).argmax())
            raise ValueError(f"The mask leaves anchor {row} without negatives.")
        is_negative = jnp.asarray(mask, bool)
    return Batch(x, y, z, mask=is_negative, mixed=_checked_mixed(mixed, y))


def _checked_mixed(mixed: ArrayLike | None, positives: jax.Array) -> jax.Array | None:
    if mixed is None:
        return None
    found = _floats(mixed)
    found = found[None] if found.ndim == 2 else found
    if found.shape != positives.shape:
        raise ValueError(
            f"Expected mixed like positives {positives.shape}, got {found.shape}."
        )
    return found


def pair_up(
    batch: Batch,
    *,
    temperature: ArrayLike,
    normalize: bool = True,
    block_size: int | None = None,
) -> Pairs:
    """Embeddings of length 1, and the logits of positives. [device].

    Lengths are taken in float32 at least. Rows of zeros stay zeros, with finite
    derivatives.
    """
    if normalize:
        batch = batch._replace(
            anchors=_unit(batch.anchors),
            positives=_unit(batch.positives),
            negatives=_unit(batch.negatives),
            mixed=None if batch.mixed is None else _unit(batch.mixed),
        )
    logits = _paired(batch.anchors, batch.positives) / temperature
    return Pairs(batch, temperature, logits, block_size)


def mixed_logits(pairs: Pairs) -> jax.Array:
    """`[m, n]`, of anchors with mixed inputs. [device]."""
    if pairs.batch.mixed is None:
        raise ValueError(
            "Soft targets need embeddings of mixed inputs: "
            "from_views(..., mixed=...) or from_arrays(..., mixed=...)."
        )
    return _paired(pairs.batch.anchors, pairs.batch.mixed) / pairs.temperature


def _paired(x: jax.Array, y: jax.Array) -> jax.Array:
    """`[m, n]` products of rows `[n, d]` with `[m, n, d]`."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.sum(x[None].astype(wide) * y.astype(wide), axis=-1)


def _unit(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide), axis=-1, keepdims=True))
    wide = wide / jnp.where(largest > 0, largest, 1)
    square = jnp.sum(wide**2, axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.where(square > 0, square, 1))).astype(x.dtype)


def _floats(x: ArrayLike) -> jax.Array:
    """Embeddings as floats, which integers have no unit vectors for."""
    found = jnp.asarray(x)
    return found if jnp.issubdtype(found.dtype, jnp.floating) else found.astype(float)
