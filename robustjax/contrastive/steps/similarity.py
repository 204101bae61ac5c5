"""The steps of a contrastive loss: similarity, weights and reduction.

    s(a, b) = <a, b> / (|a| |b| t),   weighted loss = w_i loss_i,   value = mean over i,

with the temperature t; the steps between them are in `negatives` and `positives`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.contrastive.batch import Batch, Pairs, pair_up

KINDS = ("similarity", "negatives", "debias", "positives", "weights", "reduction")
Weights = str | Callable[[jax.Array], jax.Array] | ArrayLike
_Mean = Callable[[jax.Array], jax.Array]


class Transform(NamedTuple):
    """One step of a loss; `compose` gives it what its kind needs.

    Kinds in their order, with what a step maps to what: "similarity", a `Batch` to
    `Pairs`; "negatives", `Pairs` to a `NegativeEstimate`; "debias", `Pairs` and a
    `NegativeEstimate` to a `NegativeEstimate`; "positives", `Pairs` and log masses
    `[n]` to losses `[n]`; "weights" and "reduction", losses `[n]` and a function that
    takes the mean over anchors of all devices to weighted losses, and to the value.
    """

    kind: str
    apply: Callable[..., Any]


def similarity(
    temperature: ArrayLike, *, normalize: bool = True, block_size: int | None = None
) -> Transform:
    """Logits: cosines divided by a temperature. [device].

    Args:
        temperature: t > 0; logits are a.b / t, and the loss is NaN where 1 / t
            overflows (t below 3e-39 in float32).
        normalize: give all embeddings length 1 first; without it they are expected to
            have it, as debiasing relies on cosines >= -1.
        block_size: shared negatives at a time, so that memory is linear in the number
            of anchors; None: one array of anchors by negatives.

    Returns:
        A `Transform`.

    Raises:
        ValueError: if the temperature is not positive.

    Example:
        >>> from robustjax.contrastive import compose
        >>> views = jnp.array([[[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])
        >>> loss_fn = jax.jit(lambda t: compose(similarity(t))(views)[0])
        >>> print(f"t = 0.1: {loss_fn(0.1):.3f}, t = 1: {loss_fn(1.0):.3f}")
        t = 0.1: 0.069, t = 1: 0.759

    Reference: Chen et al. (2020), ICML, arXiv 2002.05709; blocks are ours.
    """
    _validate.positive(temperature=temperature)
    if block_size is not None:
        _validate.integer(1, block_size=block_size)

    def pairs(batch: Batch) -> Pairs:
        return pair_up(
            batch, temperature=temperature, normalize=normalize, block_size=block_size
        )

    return Transform("similarity", pairs)


def weighted(weights: Weights) -> Transform:
    """Multiplies losses of anchors by weights without gradient. [device].

    Args:
        weights: "uniform", 1 each; "loss_ratio", a loss by the mean of all losses; a
            function of losses `[n]`; or numbers `[n]`.

    Returns:
        A `Transform`.

    Raises:
        ValueError: for another name.

    Example:
        >>> from robustjax.contrastive import compose
        >>> views = jnp.array([[[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])
        >>> chain = similarity(0.5), weighted("loss_ratio")
        >>> print(f"{jax.jit(compose(*chain))(views)[0]:.3f}")  # "uniform": 0.528
        0.598

    Reference: ours; that IntNaCl weighs by "loss_ratio" is not verified.
    """
    if isinstance(weights, str):
        _validate.one_of(("uniform", "loss_ratio"), weights=weights)

    def apply(losses: jax.Array, mean: _Mean) -> jax.Array:
        if isinstance(weights, str):
            found = jnp.ones_like(losses)
            if weights == "loss_ratio":
                middle = mean(losses)  # 0 where all pairs are solved
                found = jnp.where(middle > 0, losses / middle, found)
        else:
            found = jnp.asarray(weights(losses) if callable(weights) else weights)
        if found.shape != losses.shape:
            raise ValueError(
                f"Expected weights {losses.shape}, got shape {found.shape}."
            )
        return jax.lax.stop_gradient(found) * losses

    return Transform("weights", apply)


def mean() -> Transform:
    """Takes the mean over anchors of all devices under an axis name; the default.

    [device]

    Returns:
        A `Transform`.

    Example:
        >>> from robustjax.contrastive import compose
        >>> views = jnp.array([[[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])
        >>> print(f"{jax.jit(compose(similarity(0.5), mean()))(views)[0]:.3f}")
        0.528
    """
    return Transform("reduction", lambda losses, mean: mean(losses))


def per_anchor() -> Transform:
    """Returns losses `[n]` without reduction, of one device under an axis name.

    [device]

    Returns:
        A `Transform`.

    Example:
        >>> from robustjax.contrastive import compose
        >>> views = jnp.array([[[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])
        >>> losses, _ = jax.jit(compose(similarity(0.5), per_anchor()))(views)
        >>> print(jax.device_get(losses).round(3))
        [0.46  0.339 0.46  0.85 ]
    """
    return Transform("reduction", lambda losses, _: losses)
