"""From logits of positives and the mass of negatives to the loss of each anchor.

    sum_inside:    -log(sum_j exp(s_j) / (sum_j exp(s_j) + N G)),    (1)
    mean_of_logs:  mean_j -log(exp(s_j) / (exp(s_j) + N G)),         (2)
    supcon:        mean_j -log(exp(s_j) / (sum_i exp(s_i) + N G)),   (3)
    soft_target:   mean_j (c log(1 + N G / exp(u_j))
                           + (1 - c) log(1 + exp(u_j) / (N G))),     (4)

with the logits u_j of mixed inputs, neighbours with probability c. Values of the first
three are comparable neither with each other nor over numbers of positives.
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

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> one, other = [[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]
        >>> loss_fn = jax.jit(compose(similarity(0.5), sum_inside()))
        >>> print(f"{loss_fn(jnp.array([one, one, other]))[0]:.3f}")
        0.342

    Reference: Goldberger et al. (2004), NeurIPS, with cosines; that this is the loss of
        Ko et al. (2022), ICML, for several positives is not verified.
    """

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        together = jax.nn.logsumexp(pairs.positive_logits, axis=0)
        return jax.nn.softplus(log_mass - together)  # (1)

    return Transform("positives", losses)


def mean_of_logs() -> Transform:
    """Mean over positives of -log(exp(s_j) / (exp(s_j) + N G)). [device].

    Returns:
        A `Transform`.

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> one, other = [[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]
        >>> loss_fn = jax.jit(compose(similarity(0.5), mean_of_logs()))
        >>> print(f"{loss_fn(jnp.array([one, one, other]))[0]:.3f}")
        0.591

    Reference: several positives as in `optax.losses.ntxent`.
    """

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        # (2)
        return jax.nn.softplus(log_mass[None] - pairs.positive_logits).mean(axis=0)

    return Transform("positives", losses)


def supcon() -> Transform:
    """Mean over positives of -log(exp(s_j) / (sum_i exp(s_i) + N G)). [device].

    Returns:
        A `Transform`.

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> one, other = [[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]
        >>> loss_fn = jax.jit(compose(similarity(0.5), supcon()))
        >>> print(f"{loss_fn(jnp.array([one, one, other]))[0]:.3f}")
        1.042

    Reference: Khosla et al. (2020), NeurIPS, arXiv 2004.11362, Eq. 2 ("out").
    """

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        together = jax.nn.logsumexp(pairs.positive_logits, axis=0)
        # (3)
        return jnp.logaddexp(together, log_mass) - pairs.positive_logits.mean(axis=0)

    return Transform("positives", losses)


def soft_target(mixing: ArrayLike) -> Transform:
    """Treats mixed inputs as neighbours with a probability, by cross-entropies.

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

    Example:
        >>> from robustjax.contrastive import compose, from_arrays, similarity
        >>> near, far, mixed = jnp.array([[[1, 0]], [[0, 1]], [[0.9, 0.1]]])
        >>> batch = from_arrays(near, near, far, mixed=mixed)
        >>> loss_fn = jax.jit(compose(similarity(0.5), soft_target(0.9)))
        >>> print(f"{loss_fn(batch)[0]:.3f}")
        0.327

    Reference: ours; one of two readings of fractional neighbours in Ko et al. (2022),
        which is not verified.
    """
    _validate.closed_interval(0, 1, mixing=mixing)

    def losses(pairs: Pairs, log_mass: jax.Array) -> jax.Array:
        return _cross_entropies(pairs, log_mass, mixing).mean(axis=0)

    return Transform("positives", losses)


def clean_plus_soft(mixing: ArrayLike) -> Transform:
    """Adds soft targets of mixed inputs to the loss of the first, unmixed positive.

    [device]

    Args:
        mixing: as in `soft_target`.

    Returns:
        A `Transform`; batches need `mixed` embeddings, the first of which is not read.
        With one positive the loss is that of `sum_inside`.

    Raises:
        ValueError: if mixing is outside of [0, 1].

    Example:
        >>> from robustjax.contrastive import compose, from_arrays, similarity
        >>> near, far, mixed = jnp.array([[[1, 0]], [[0, 1]], [[0.9, 0.1]]])
        >>> pair = jnp.stack([near, near])
        >>> batch = from_arrays(near, pair, far, mixed=jnp.stack([near, mixed]))
        >>> loss_fn = jax.jit(compose(similarity(0.5), clean_plus_soft(0.9)))
        >>> print(f"{loss_fn(batch)[0]:.3f}")
        0.454

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
    return share * is_near + (1 - share) * is_far  # (4)
