"""From logits of positives and the mass of negatives to the loss of each anchor.

Three losses for several positives are in use; their values are comparable neither with
each other nor over numbers of positives.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.contrastive.batch import Pairs, mixed_logits
from robustjax.contrastive.steps.similarity import Transform


def sum_inside() -> Transform:
    """The default: -log(sum_j exp(s_j) / (sum_j exp(s_j) + N G)), as in NCA.

    [device]

    Returns:
        A `Transform`.

    Reference: Goldberger et al. (2004), NeurIPS, with cosines; that this is the loss of
        Ko et al. (2022), ICML, for several positives is not verified.
    """

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        together = jax.nn.logsumexp(pairs.positive_logits, axis=0)
        return jax.nn.softplus(log_mass - together)

    return Transform("positives", losses)


def mean_of_logs() -> Transform:
    """Mean over positives of -log(exp(s_j) / (exp(s_j) + N G)). [device].

    Returns:
        A `Transform`.

    Reference: several positives as in `optax.losses.ntxent`.
    """

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        return jax.nn.softplus(log_mass[None] - pairs.positive_logits).mean(axis=0)

    return Transform("positives", losses)


def supcon() -> Transform:
    """Mean over positives of -log(exp(s_j) / (sum_i exp(s_i) + N G)). [device].

    Returns:
        A `Transform`.

    Reference: Khosla et al. (2020), NeurIPS, arXiv 2004.11362, Eq. 2 ("out").
    """

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        together = jax.nn.logsumexp(pairs.positive_logits, axis=0)
        return jnp.logaddexp(together, log_mass) - pairs.positive_logits.mean(axis=0)

    return Transform("positives", losses)


def soft_target(mixing: ArrayLike) -> Transform:
    """Mixed inputs as neighbours with a probability: mean of the cross-entropies.

    [device] With u the logit of a mixed input, mixing * positive + (1 - mixing) *
    negative, its cross-entropy is
    mixing * log1p(N G / exp(u)) + (1 - mixing) * log1p(exp(u) / (N G)).

    Args:
        mixing: probability in [0, 1] that a mixed input is a neighbour, the share of
            the positive in it.

    Returns:
        A `Transform`; batches need `mixed` embeddings.

    Raises:
        ValueError: if mixing is outside of [0, 1].

    Reference: ours; one of two readings of fractional neighbours in Ko et al. (2022),
        which is not verified.
    """
    _validate.closed_interval(0, 1, mixing=mixing)

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        return _cross_entropies(pairs, log_mass, mixing).mean(axis=0)

    return Transform("positives", losses)


def clean_plus_soft(mixing: ArrayLike) -> Transform:
    """The first positive as it is, plus soft targets of the mixed inputs of the others.

    [device]

    Args:
        mixing: as in `soft_target`.

    Returns:
        A `Transform`; batches need `mixed` embeddings, the first of which is not read.
        With one positive the loss is that of `sum_inside`.

    Raises:
        ValueError: if mixing is outside of [0, 1].

    Reference: ours; one of two readings of fractional neighbours in Ko et al. (2022),
        which is not verified.
    """
    _validate.closed_interval(0, 1, mixing=mixing)

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        first = jax.nn.softplus(log_mass - pairs.positive_logits[0])
        if len(pairs.positive_logits) == 1:
            return first
        return first + _cross_entropies(pairs, log_mass, mixing)[1:].mean(axis=0)

    return Transform("positives", losses)


def _cross_entropies(pairs: Pairs, log_mass: jax.Array, mixing: ArrayLike) -> jax.Array:
    """`[m, n]`, of mixed inputs."""
    surplus = mixed_logits(pairs) - log_mass[None]
    share = jnp.asarray(mixing)
    is_near, is_far = jax.nn.softplus(-surplus), jax.nn.softplus(surplus)
    return share * is_near + (1 - share) * is_far
