"""Contrastive losses as chains of transforms.

    value = mean over anchors i of w_i l(s_i+, N G_i),

the logits s+ from `similarity`, N G from `negatives`, l from `positives`, and w from
`weighted`; all but the first have defaults.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax.contrastive.batch import Batch, Pairs, from_views
from robustjax.contrastive.steps.negatives import NegativeEstimate, plain
from robustjax.contrastive.steps.positives import sum_inside
from robustjax.contrastive.steps.similarity import KINDS, Transform, mean, weighted


class LossAux(NamedTuple):
    """Diagnostics of a loss: numbers without gradient, over all devices."""

    clamped_fraction: jax.Array  # of anchors whose debiased negatives met the floor
    positive_cosine: jax.Array  # mean
    negative_cosine: jax.Array  # mean over anchors of the mean
    effective_negatives: jax.Array  # mean of Kish's number
    invalid_fraction: jax.Array  # of anchors whose loss is not finite


Loss = Callable[[Batch | ArrayLike], tuple[jax.Array, LossAux]]


def compose(*transforms: Transform, axis_name: str | None = None) -> Loss:
    """A loss from its steps, in the order of their kinds.

    [device] Kinds are similarity, negatives (`plain`, `hard`), debias, positives
    (`sum_inside`, `mean_of_logs`, `supcon`, `soft_target`, `clean_plus_soft`), weights
    (`weighted`) and reduction (`mean`, `per_anchor`). All but similarity may be left
    out: then negatives are plain, positives are summed inside, and the mean is taken.

    Args:
        *transforms: at most one of a kind.
        axis_name: of a mesh axis over which images are spread, where the loss is used
            inside of `shard_map`: negatives of all devices count, and so does the mean.

    Returns:
        A function of a `Batch`, or of views `[v, n, d]` as in `from_views`, which
        returns the loss and `LossAux`. Pure; may be jitted, vmapped and differentiated.
        Embeddings that are not finite make the loss NaN.

    Raises:
        ValueError: if steps are out of order, missing or twice there.

    Example:
        >>> from robustjax.contrastive import debias, hard, similarity
        >>> loss_fn = compose(similarity(0.5), hard(beta=1.0), debias(tau_plus=0.1))
        >>> views = jax.random.normal(jax.random.key(0), (2, 8, 4))
        >>> loss, aux = jax.jit(loss_fn)(views)
        >>> loss.shape, bool(0 <= aux.clamped_fraction <= 1)
        ((), True)

    Reference: ours; steps name theirs.
    """
    kinds = [transform.kind for transform in transforms]
    if kinds != [kind for kind in KINDS if kind in kinds] or "similarity" not in kinds:
        raise ValueError(
            f"Expected a similarity, then at most one step of each kind in the order "
            f"{', '.join(KINDS[1:])}; got {', '.join(kinds) or 'nothing'}."
        )
    steps = {step.kind: step.apply for step in (*_defaults(), *transforms)}

    def over_anchors(x: jax.Array) -> jax.Array:
        own = jnp.mean(x)
        return own if axis_name is None else jax.lax.pmean(own, axis_name)

    def loss_fn(batch: Batch | ArrayLike) -> tuple[jax.Array, LossAux]:
        if not isinstance(batch, Batch):
            batch = from_views(batch, axis_name=axis_name)
        pairs: Pairs = steps["similarity"](batch)
        mass: NegativeEstimate = steps["debias"](pairs, steps["negatives"](pairs))
        losses = steps["positives"](pairs, mass.log_mass)
        weighed = steps["weights"](losses, over_anchors)
        chex.assert_shape([mass.log_mass, losses, weighed], (len(batch.anchors),))
        value = steps["reduction"](weighed, over_anchors)
        return value, _watched(pairs, mass, losses, over_anchors)

    return loss_fn


def _defaults() -> tuple[Transform, ...]:
    unchanged = Transform("debias", lambda pairs, mass: mass)
    return plain(), unchanged, sum_inside(), weighted("uniform"), mean()


def _watched(
    pairs: Pairs,
    mass: NegativeEstimate,
    losses: jax.Array,
    over_anchors: Callable[[jax.Array], jax.Array],
) -> LossAux:

    def fraction(is_so: jax.Array) -> jax.Array:
        return over_anchors(is_so.astype(losses.dtype))

    return jax.lax.stop_gradient(
        LossAux(
            clamped_fraction=fraction(mass.is_clamped),
            positive_cosine=over_anchors(pairs.positive_logits) * pairs.temperature,
            negative_cosine=over_anchors(mass.sums.mean),
            effective_negatives=over_anchors(mass.sums.effective),
            invalid_fraction=fraction(~jnp.isfinite(losses)),
        )
    )
