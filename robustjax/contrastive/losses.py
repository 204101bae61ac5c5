"""Losses of the literature by name: each is a chain of `compose`.

With positive logits s_j of an anchor, j <= m, and the mass N G of its N negatives,

    loss = -log(sum_j exp(s_j) / (sum_j exp(s_j) + N G)),   averaged over anchors,

    nt_xent, nca    N G = sum_k exp(s_k)
    debiased        N G less the share of negatives that are positives, `debias`
    hard_negative   the same, with negatives weighted by `hard`
    mix_nca         positives with a probability, `soft_target`, `clean_plus_soft`
    adversarial, int_cl, int_nacl    clean loss + adversarial_weight * mean of w * loss
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.contrastive.adversarial_views import IntegratedAux, integrate
from robustjax.contrastive.batch import Batch, from_arrays
from robustjax.contrastive.composition import LossAux, compose
from robustjax.contrastive.steps.negatives import debias, hard
from robustjax.contrastive.steps.positives import clean_plus_soft, soft_target
from robustjax.contrastive.steps.similarity import (
    Transform,
    Weights,
    similarity,
    weighted,
)

FORMS = {"soft_target": soft_target, "clean_plus_soft": clean_plus_soft}
Estimator = Sequence[Transform]


def nt_xent(
    views: ArrayLike,
    *,
    temperature: ArrayLike = 0.5,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, LossAux]:
    """SimCLR's loss: normalised temperature-scaled cross-entropy of two views.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        views: `[2, n, d]` embeddings, n >= 2; row i of both is the same image.
        temperature: > 0.
        block_size: negatives at a time, for memory linear in n; None: all at once.
        axis_name: of a mesh axis over which images are spread, inside of `shard_map`.

    Returns:
        The mean over 2 n anchors, each with 2 n - 2 negatives, and `LossAux`.

    Raises:
        ValueError: if there are not two views, less than two images, or the temperature
            is not positive.

    Example:
        >>> views = jnp.stack([jnp.eye(2), jnp.eye(2)])
        >>> loss, _ = jax.jit(nt_xent)(views, temperature=0.5)
        >>> print(f"{loss:.4f}")
        0.2395

    Reference: Chen et al. (2020), ICML, arXiv 2002.05709, Eq. 1.
    """
    chain = compose(similarity(temperature, block_size=block_size), axis_name=axis_name)
    return chain(_two(views))


def debiased(
    views: ArrayLike,
    *,
    temperature: ArrayLike = 0.5,
    tau_plus: ArrayLike = 0.1,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, LossAux]:
    """The debiased loss of two views: negatives less their share of positives.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        views: as in `nt_xent`.
        temperature: > 0.
        tau_plus: prior in [0, 1) that a negative is a positive.
        block_size: as in `nt_xent`.
        axis_name: as in `nt_xent`.

    Returns:
        The mean over anchors, and `LossAux`.

    Raises:
        ValueError: as `nt_xent`, and if tau_plus is outside of [0, 1).

    Example:
        >>> views = jax.random.normal(jax.random.key(0), (2, 8, 4))
        >>> one, other = (jax.jit(fn)(views)[0] for fn in (debiased, nt_xent))
        >>> bool(one < other)
        True

    Reference: Chuang et al. (2020), NeurIPS, arXiv 2007.00224.
    """
    shared = similarity(temperature, block_size=block_size)
    return compose(shared, debias(tau_plus), axis_name=axis_name)(_two(views))


def hard_negative(
    views: ArrayLike,
    *,
    temperature: ArrayLike = 0.5,
    tau_plus: ArrayLike = 0.1,
    beta: ArrayLike = 1.0,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, LossAux]:
    """The debiased loss of two views with negatives weighted by their nearness.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        views: as in `nt_xent`.
        temperature: > 0.
        tau_plus: prior in [0, 1) that a negative is a positive.
        beta: hardness >= 0.
        block_size: as in `nt_xent`.
        axis_name: as in `nt_xent`.

    Returns:
        The mean over anchors, and `LossAux`.

    Raises:
        ValueError: as `debiased`, and if beta is negative.

    Example:
        >>> views = jax.random.normal(jax.random.key(0), (2, 8, 4))
        >>> plain, _ = jax.jit(debiased)(views)
        >>> loss, _ = jax.jit(hard_negative)(views, beta=0.0)
        >>> bool(abs(loss - plain) < 1e-6)
        True

    Reference: Robinson et al. (2021), ICLR, arXiv 2010.04592.
    """
    shared = similarity(temperature, block_size=block_size)
    chain = compose(shared, hard(beta), debias(tau_plus), axis_name=axis_name)
    return chain(_two(views))


def nca(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    temperature: ArrayLike = 0.5,
    estimator: Estimator = (),
    block_size: int | None = None,
) -> tuple[jax.Array, LossAux]:
    """Neighbourhood component analysis with several neighbours of each anchor.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        anchors: `[n, d]`.
        positives: `[m, n, d]`, the neighbours.
        negatives: `[n, k, d]` of each anchor, or `[k, d]` for all.
        mask: `[n, k]`, false for rows that are no negatives of an anchor.
        temperature: > 0.
        estimator: of the mass of negatives: `(hard(1.0), debias(0.1))`, or parts of it.
        block_size: as in `nt_xent`, for negatives `[k, d]`.

    Returns:
        The mean over anchors, and `LossAux`. m equal positives lower it by up to log m:
        values of different m are not comparable.

    Raises:
        ValueError: if shapes do not fit, a mask leaves an anchor without negatives, or
            the temperature is not positive.

    Example:
        >>> x = jnp.eye(4)
        >>> loss, _ = jax.jit(nca)(x, x[None], -x, temperature=1.0)
        >>> print(loss.round(4))
        0.806

    Reference: Goldberger et al. (2004), NeurIPS, with cosines; Ko et al. (2022), ICML,
        arXiv 2112.04468, see `sum_inside`.
    """
    batch = from_arrays(anchors, positives, negatives, mask=mask)
    return compose(similarity(temperature, block_size=block_size), *estimator)(batch)


def mix_nca(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    mixed: ArrayLike,
    mixing: ArrayLike = 0.9,
    form: str = "soft_target",
    mask: ArrayLike | None = None,
    temperature: ArrayLike = 0.5,
    estimator: Estimator = (),
    block_size: int | None = None,
) -> tuple[jax.Array, LossAux]:
    """`nca` with fractional neighbours: embeddings of mixed inputs.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        anchors: `[n, d]`.
        positives: `[m, n, d]`, of inputs that are not mixed.
        negatives: as in `nca`.
        mixed: `[m, n, d]` embeddings of mixing * positive input + (1 - mixing) *
            another image.
        mixing: in [0, 1].
        form: "soft_target" or "clean_plus_soft".
        mask: as in `nca`.
        temperature: > 0.
        estimator: as in `nca`.
        block_size: as in `nca`.

    Returns:
        The mean over anchors, and `LossAux`.

    Raises:
        ValueError: as `nca`, if mixed is not like positives, or mixing is outside of
            [0, 1].

    Example:
        >>> @jax.jit
        ... def both(x):
        ...     mixed_in = mix_nca(x, x[None], -x, mixed=x[None], mixing=1.0)
        ...     return mixed_in[0], nca(x, x[None], -x)[0]
        >>> mixed_in, plain = both(jax.random.normal(jax.random.key(0), (4, 3)))
        >>> bool(mixed_in == plain)
        True

    Reference: Ko et al. (2022), ICML, arXiv 2112.04468; both forms are ours, and which
        one is the paper's is not verified.
    """
    _validate.one_of(FORMS, form=form)
    batch = from_arrays(anchors, positives, negatives, mask=mask, mixed=mixed)
    shared = similarity(temperature, block_size=block_size)
    return compose(shared, *estimator, FORMS[form](mixing))(batch)


def adversarial(
    views: Batch | ArrayLike,
    adversarial_views: Batch | ArrayLike,
    *,
    temperature: ArrayLike = 0.5,
    adversarial_weight: ArrayLike = 1.0,
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, IntegratedAux]:
    """SimCLR's loss of two views, plus that of a view and its adversarial one.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        views: `[2, n, d]`.
        adversarial_views: `[2, n, d]`: one of the views, and the attacked one.
        temperature: > 0.
        adversarial_weight: of the second term, >= 0.
        block_size: as in `nt_xent`.
        axis_name: as in `nt_xent`.

    Returns:
        The sum, and `IntegratedAux`.

    Raises:
        ValueError: as `nt_xent`, and if the weight is negative.

    Example:
        >>> views = jax.random.normal(jax.random.key(0), (2, 8, 4))
        >>> loss, aux = jax.jit(adversarial)(views, views, adversarial_weight=0.5)
        >>> bool(abs(loss - 1.5 * aux.clean_loss) < 1e-6)
        True

    Reference: Ho and Vasconcelos (2020), NeurIPS, arXiv 2010.12050 (CLAE).
    """
    chain = compose(similarity(temperature, block_size=block_size), axis_name=axis_name)
    loss_fn = integrate(chain, chain, adversarial_weight=adversarial_weight)
    return loss_fn(_two(views), _two(adversarial_views))


def int_cl(
    views: Batch | ArrayLike,
    adversarial_views: Batch | ArrayLike,
    *,
    temperature: ArrayLike = 0.5,
    estimator: Estimator = (),
    adversarial_estimator: Estimator | None = None,
    adversarial_weight: ArrayLike = 1.0,
    weights: Weights = "uniform",
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, IntegratedAux]:
    """The integrated loss of one positive: any estimator, and an adversarial term.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        views: `[2, n, d]`.
        adversarial_views: `[2, n, d]`: one of the views, and the attacked one.
        temperature: > 0.
        estimator: of the mass of negatives, as in `nca`.
        adversarial_estimator: that of the adversarial term; None: the same.
        adversarial_weight: of the adversarial term, >= 0.
        weights: of its anchors, as in `weighted`.
        block_size: as in `nt_xent`.
        axis_name: as in `nt_xent`.

    Returns:
        The sum, and `IntegratedAux`.

    Raises:
        ValueError: as `adversarial`.

    Example:
        >>> views = jax.random.normal(jax.random.key(0), (2, 8, 4))
        >>> import functools
        >>> how = dict(estimator=(hard(1.0), debias(0.1)), weights="loss_ratio")
        >>> loss_fn = jax.jit(functools.partial(int_cl, **how))
        >>> loss_fn(views, views)[0].shape
        ()

    Reference: Ko et al. (2022), ICML, arXiv 2112.04468; its weights and which terms
        have which estimator are not verified.
    """
    return int_nacl(
        _two(views),
        _two(adversarial_views),
        temperature=temperature,
        estimator=estimator,
        adversarial_estimator=adversarial_estimator,
        adversarial_weight=adversarial_weight,
        weights=weights,
        block_size=block_size,
        axis_name=axis_name,
    )


def int_nacl(
    views: Batch | ArrayLike,
    adversarial_views: Batch | ArrayLike,
    *,
    mixing: ArrayLike | None = None,
    form: str = "soft_target",
    temperature: ArrayLike = 0.5,
    estimator: Estimator = (),
    adversarial_estimator: Estimator | None = None,
    adversarial_weight: ArrayLike = 1.0,
    weights: Weights = "uniform",
    block_size: int | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, IntegratedAux]:
    """The integrated loss: several or fractional neighbours, and an adversarial term.

    [device] Pure, jittable. Rows are normalised inside.

    Args:
        views: `[v, n, d]`, or a `Batch`; one with `mixed` embeddings where mixing is
            given.
        adversarial_views: `[2, n, d]`: one of the views, and the attacked one; or a
            `Batch`.
        mixing: of fractional neighbours, in [0, 1]; None: neighbours are whole.
        form: of fractional neighbours, as in `mix_nca`.
        temperature: > 0.
        estimator: of the mass of negatives, as in `nca`.
        adversarial_estimator: that of the adversarial term; None: the same.
        adversarial_weight: of the adversarial term, >= 0.
        weights: of its anchors, as in `weighted`.
        block_size: as in `nt_xent`.
        axis_name: as in `nt_xent`; batches are expected to be made with it.

    Returns:
        The sum, and `IntegratedAux`.

    Raises:
        ValueError: if shapes do not fit or a number is out of range.

    Example:
        >>> views = jax.random.normal(jax.random.key(0), (4, 8, 4))
        >>> import functools
        >>> estimator = hard(1.0), debias(0.1)
        >>> loss_fn = jax.jit(functools.partial(int_nacl, estimator=estimator))
        >>> loss_fn(views, views[:2])[0].shape
        ()

    Reference: Ko et al. (2022), ICML, arXiv 2112.04468; the loss of several positives,
        both forms of fractional ones and the weights are not verified.
    """
    _validate.one_of(FORMS, form=form)
    shared = similarity(temperature, block_size=block_size)
    neighbours = () if mixing is None else (FORMS[form](mixing),)
    other = estimator if adversarial_estimator is None else adversarial_estimator
    return integrate(
        compose(shared, *estimator, *neighbours, axis_name=axis_name),
        compose(shared, *other, weighted(weights), axis_name=axis_name),
        adversarial_weight=adversarial_weight,
    )(views, adversarial_views)


def _two(views: Batch | ArrayLike) -> Batch | jax.Array:
    """Views `[2, n, d]`, or a batch with one positive."""
    if isinstance(views, Batch):
        if len(views.positives) != 1:
            raise ValueError(f"Expected one positive, got {len(views.positives)}.")
        return views
    found = jnp.asarray(views)
    if found.ndim != 3 or len(found) != 2:
        raise ValueError(f"Expected views [2, n, d], got shape {found.shape}.")
    return found
