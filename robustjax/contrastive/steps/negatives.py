"""The mass of the negatives in a denominator: plain, hard, debiased.

With negative logits s_k of an anchor, k <= N, the mean p of exp(s) over its positives
and weights w_k = exp(beta s_k),

    plain:   N G = sum_k exp(s_k),                                  (1)
    hard:    N G = sum_k w_k exp(s_k) / mean_k w_k,                 (2)
    debias:  N G = max((R - N tau p) / (1 - tau), N exp(-1 / t)),   (3)

where R is the mass so far.

All is computed from logarithms, so that float32 serves at temperature .005.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.contrastive.batch import Pairs
from robustjax.contrastive.negative_sums import RowSums, row_sums
from robustjax.contrastive.steps.similarity import Transform


class NegativeEstimate(NamedTuple):
    """What the negatives of each anchor weigh."""

    log_mass: jax.Array  # [n], log(N G)
    is_clamped: jax.Array  # [n], whether it is the floor
    sums: RowSums


def plain() -> Transform:
    """Leaves negatives unweighted, the default: N G = sum_k exp(s_k). [device].

    Returns:
        A `Transform`.

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> views = jnp.array([[[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])
        >>> loss, aux = jax.jit(compose(similarity(0.5), plain()))(views)
        >>> print(f"{loss:.3f}, {aux.effective_negatives:.2f} effective negatives")
        0.528, 1.78 effective negatives

    Reference: Chen et al. (2020), ICML, arXiv 2002.05709.
    """

    def mass(pairs: Pairs) -> NegativeEstimate:
        return _unclamped(row_sums(pairs))  # (1)

    return Transform("negatives", mass)


def hard(beta: ArrayLike) -> Transform:
    """Weights negatives by exp(beta s), so that nearer ones count more.

    [device] N G = sum_k w_k exp(s_k) / mean_k w_k, w_k = exp(beta s_k). Weights carry
    gradients.

    Args:
        beta: hardness >= 0; 0 leaves negatives as they are, and with a large one only
            the nearest negative counts, N exp(max_k s_k). An array that JAX traces may
            be annealed without a new compilation.

    Returns:
        A `Transform`.

    Raises:
        ValueError: if beta is negative or not finite.

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> views = jnp.array([[[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])
        >>> loss_fn = jax.jit(lambda b: compose(similarity(0.5), hard(b))(views)[0])
        >>> print(f"beta = 0: {loss_fn(0.0):.3f}, beta = 10: {loss_fn(10.0):.3f}")
        beta = 0: 0.528, beta = 10: 0.618

    Reference: Robinson et al. (2021), ICLR, arXiv 2010.04592, as its public code.
    """
    _validate.at_least(0, beta=beta)

    def mass(pairs: Pairs) -> NegativeEstimate:
        return _unclamped(row_sums(pairs, beta=beta))  # (2)

    return Transform("negatives", mass)


def debias(tau_plus: ArrayLike) -> Transform:
    """Subtracts the expected share of false negatives from the mass of negatives.

    [device] With R the mass so far, N of them, and p the mean of exp(s) over positives,
    N G = max((R - N tau p) / (1 - tau), N exp(-1 / t)): at the floor, the minimum for
    unit embeddings, no gradient goes through negatives. How often that is so
    is `LossAux.clamped_fraction`.

    Args:
        tau_plus: prior in [0, 1) that a negative is a positive, about 1 / classes; 0
            changes nothing.

    Returns:
        A `Transform`.

    Raises:
        ValueError: if tau_plus is outside of [0, 1).

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> views = jnp.array([[[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]]])
        >>> loss, aux = jax.jit(compose(similarity(0.5), debias(0.1)))(views)
        >>> print(f"{loss:.3f}, {aux.clamped_fraction:.0%} at the floor")
        0.434, 0% at the floor

    Reference: Chuang et al. (2020), NeurIPS, arXiv 2007.00224, as its public code; more
        than one positive and the log domain are ours.
    """
    _validate.half_open(0, 1, tau_plus=tau_plus)
    known = _validate.concrete(tau_plus)

    def debiased(pairs: Pairs, mass: NegativeEstimate) -> NegativeEstimate:
        if known is not None and not known.any():
            return mass
        tau, log_number = jnp.asarray(tau_plus), jnp.log(mass.sums.num_negatives)
        log_p = _log_mean_exp(pairs.positive_logits)
        x = log_number + jnp.log(tau) + log_p - mass.log_mass  # log(N tau p / R)
        safe = jnp.where(x >= 0, -1.0, x)  # log has no derivative where it is unused
        less = mass.log_mass + jnp.log(-jnp.expm1(safe)) - jnp.log1p(-tau)
        floor = log_number - 1 / pairs.temperature
        is_clamped = (x >= 0) | (less <= floor)
        return NegativeEstimate(  # (3)
            jnp.where(is_clamped, floor, less), is_clamped, mass.sums
        )

    return Transform("debias", debiased)


def _unclamped(sums: RowSums) -> NegativeEstimate:
    return NegativeEstimate(sums.log_mass, jnp.zeros_like(sums.log_mass, bool), sums)


def _log_mean_exp(logits: jax.Array) -> jax.Array:
    """`[n]` of `[m, n]`."""
    return jax.nn.logsumexp(logits, axis=0) - math.log(len(logits))
