"""Certification of a smoothed classifier: select, estimate, bound, radius.

    A = argmax of num_selection votes,   p_A = lower bound from num_estimation others,
    R = sigma Phi^-1(p_A) or larger (order 1) if p_A > 1/2, else 0 and abstention.

`assembly` makes the certificate of the counts or moments that are sampled here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _callables
from robustjax.smoothing import assembly
from robustjax.smoothing.certificate import Certificate
from robustjax.smoothing.sampling import base_classifier, moments, streams, vote_counts
from robustjax.smoothing.settings import Settings, as_norms

_FEW_MISSES = 0.04  # in the selection samples: below it f - 1 varies less than f - 1/2


def certify(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    sigma: float,
    num_classes: int,
    num_selection: int = 100,
    num_estimation: int = 100_000,
    alpha: float = 1e-3,
    order: int = 0,
    norms: str | Sequence[str] = ("l2",),
    runner_up: str = "complement",
    simultaneous: bool = True,
    votes: str = "hard",
    form: str = "box",
    method: str = "tight",
    subspaces: Mapping[str, ArrayLike] | None = None,
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Certificate:
    """Certifies the prediction of the smoothed classifier around each example.

    [host] The smoothed classifier returns the class that `apply_fn` gives most often
    under N(x, sigma^2 I). Class A is selected on `num_selection` samples; on
    `num_estimation` fresh ones its probability gets the Clopper-Pearson lower bound
    p_lower, and the radius follows from `zeroth_order_radius`. With order=1 the same
    samples also bound the gradient of that probability (`gradient_norm_bounds`), and
    the radius is the larger of the zeroth-order and the first-order one
    (`norm_radius`), both under the one alpha.

    Guarantee:
        For each example, with probability at least 1 - alpha over the noise, the
        smoothed classifier predicts the returned class within the returned radius, in
        all `norms` at once if `simultaneous`, in each norm alone otherwise. It is a
        statement about the smoothed classifier, not about `apply_fn`, and in exact
        arithmetic: see "Sharp edges" in the documentation. Over m examples jointly,
        pass alpha / m. With votes="soft" the smoothed classifier is another one: it
        predicts the class with the largest mean softmax probability, and `predict` may
        disagree with it. form="unproven" adds an assumption, see `norm_radius`.

    Edge cases: an example abstains (-1, radius 0) where its bounds do not separate
    class A from the others, and where samples with non-finite logits win the selection.
    One whose sums are not finite abstains and is marked in `failed`.

    Args:
        key: random key of the whole run, `jax.random.key(seed)`.
        apply_fn: maps `[m, ...]` inputs in [0, 1] to `[m, num_classes]` logits; see
            `class_counts` on parameters.
        x: `[n, ...]` floats in [0, 1]. The center of the certified ball is x rounded to
            float32, which is what the classifier is given.
        sigma: noise level, in the units of x, positive.
        num_classes: number of classes, an integer >= 2.
        num_selection: samples that select class A, an integer >= 1.
        num_estimation: samples that bound its probability; see `min_num_estimation`.
        alpha: failure probability for each example, in (0, 1).
        order: 0, certify from class probabilities alone; 1, from gradients as well.
        norms: norms to certify, as in `zeroth_order_radius`; "subspace:NAME" is l2
            inside a subspace: red, green, blue, channel0, channel1, ..., or one of
            `subspaces`.
        runner_up: "complement" bounds every other class by 1 - p_lower; "bonferroni"
            bounds each by its own count, with alpha split over all of them, which is
            tighter where no class has a majority.
        simultaneous: whether the norms have to hold jointly. At order 0 they always do,
            since one event carries them all.
        votes: "hard", each sample votes for its largest logit; "soft", it votes with
            its softmax probabilities, whose mean is then what is certified.
        form: "box", "cells" or "unproven" first-order radii, as in `norm_radius`.
        method: "tight" or "reference" bounds, as in `gradient_norm_bounds`.
        subspaces: name -> mask of the shape of an example, or a projector, as in
            `subspace`.
        example_ids: `[n]` index of each example in its data set; default arange(n). The
            noise depends on it, so certify the same example in any batch alike.
        chunk_size: samples in one forward batch, a multiple of 128.
        mesh: devices that share the samples.

    Returns:
        A `Certificate`.

    Raises:
        ValueError: for arguments out of range, and for a `num_estimation` so small that
            no example could be certified; the text gives the smallest that could.

    Example:
        >>> import jax.numpy as jnp
        >>> apply_fn = lambda x: jnp.stack([x[:, 0], 1.0 - x[:, 0]], axis=-1)
        >>> certificate = certify(
        ...     jax.random.key(0), apply_fn, jnp.ones((1, 3)), sigma=0.25, num_classes=2
        ... )
        >>> certificate.prediction.tolist(), certificate.radius["l2"].round(3).tolist()
        ([0], [0.489])

    Reference:
        Cohen, Rosenfeld and Kolter (2019), ICML, arXiv 1902.02918, CERTIFY; Mohapatra
        et al. (2020), arXiv 2010.06651, for the first order. The "bonferroni" form,
        the "tight" bounds and the "cells" form are ours.
    """
    vote_counts.check_sigma(sigma)
    settings = Settings(
        sigma=noise_level(sigma),
        shape=np.shape(x)[1:],
        num_classes=num_classes,
        num_selection=num_selection,
        num_estimation=num_estimation,
        alpha=alpha,
        order=order,
        norms=as_norms(norms),
        runner_up=runner_up,
        simultaneous=simultaneous,
        votes=votes,
        form=form,
        method=method,
        masks=subspaces or {},
    )
    select_key, estimate_key = streams.split(key)
    fn = _callables.as_partial(apply_fn)

    def count(key: jax.Array, num_samples: int) -> jax.Array:
        return vote_counts.class_counts(
            key,
            fn,
            x,
            sigma=settings.sigma,
            num_samples=num_samples,
            num_classes=num_classes,
            example_ids=example_ids,
            chunk_size=chunk_size,
            mesh=mesh,
        )

    selected, baseline = select(count(select_key, num_selection), settings)
    if not settings.gradient_samples:
        counts = np.asarray(count(estimate_key, num_estimation))
        return assembly.from_counts(settings, counts, selected=selected)
    sums = moments.class_moments(
        estimate_key,
        fn,
        x,
        sigma=settings.sigma,
        num_samples=num_estimation,
        num_classes=num_classes,
        selected=selected,
        baseline=baseline,
        subspaces=tuple(settings.subspaces.values()),
        votes=votes,
        with_bets=settings.order == 1,
        example_ids=example_ids,
        chunk_size=chunk_size,
        mesh=mesh,
    )
    return assembly.from_moments(settings, jax.tree.map(np.asarray, sums))


def select(
    counts: Any, settings: Settings
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Class A and the control variate of each example, from selection counts. [host].

    Args:
        counts: `[n, k + 1]` of the selection samples.
        settings: what is asked for.

    Returns:
        The most frequent class `[n]`, and the constant `[n]` that is taken off f.
    """
    counts = np.asarray(counts)
    selected = np.argmax(counts, axis=-1).astype(np.int32)
    misses = 1 - np.max(counts, axis=-1, initial=0) / settings.num_selection
    is_one = (misses < _FEW_MISSES) & (settings.method == "tight")
    return selected, np.where(is_one, 1.0, 0.5).astype(np.float32)


def noise_level(sigma: float) -> float:
    """Minimum of sigma and its float32 rounding, which scales the noise. [host]."""
    return min(float(sigma), float(np.float32(sigma)))
