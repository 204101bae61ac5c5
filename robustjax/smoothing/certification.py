"""Certification and prediction of a smoothed classifier: the complete protocols."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate
from robustjax.norms import l2_circumradius
from robustjax.smoothing import base_classifier, confidence, radius, sampling

ABSTAIN = -1
# Streams of the user's key. Selection and estimation must not share noise.
SELECT, ESTIMATE, PREDICT = 0, 1, 3  # 2 is reserved for pilot samples


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """Certified radii of n examples with the evidence they rest on. [host].

    Arrays are NumPy; probabilities and radii are float64. For each example and under
    its own budget `alpha`: with probability at least 1 - alpha over the noise, the
    smoothed classifier predicts `prediction` at every point nearer than the radius, or
    the example abstains.
    """

    prediction: NDArray[np.int32]  # [n], -1 where it abstains
    radius: dict[str, NDArray[np.float64]]  # norm -> [n], input units, 0 if abstaining
    p_lower: NDArray[np.float64]  # [n], lower bound of the selected class
    count: NDArray[np.int32]  # [n], estimation samples won by the selected class
    num_samples: int  # estimation samples of each example
    alpha: float  # failure probability for each example
    sigma: float  # as asked for, or its float32 rounding where that is less
    simultaneous: bool  # whether all norms hold jointly at alpha
    num_invalid: NDArray[np.int32]  # [n], estimation samples with non-finite logits
    p_upper: NDArray[np.float64]  # [n], upper bound of every other class
    runner_up_count: NDArray[np.int32]  # [n], samples of the strongest other class
    runner_up: str  # how p_upper was bounded
    selected: NDArray[np.int32]  # [n], class chosen on the selection samples
    counts: NDArray[np.int32]  # [n, k + 1], estimation counts, the last one invalid
    num_selection: int
    order: int


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
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Certificate:
    """Certifies the prediction of the smoothed classifier around each example.

    [host] The smoothed classifier returns the class that `apply_fn` gives most often
    under N(x, sigma^2 I). Class A is selected on `num_selection` samples; on
    `num_estimation` fresh ones its probability gets the Clopper-Pearson lower bound
    p_lower, and the radius follows from `zeroth_order_radius`.

    Guarantee:
        For each example, with probability at least 1 - alpha over the noise, the
        smoothed classifier predicts the returned class within the returned radius, in
        all `norms` at once. It is a statement about the smoothed classifier, not about
        `apply_fn`, and in exact arithmetic: see "Sharp edges" in the documentation.
        Over m examples jointly, pass alpha / m.

    Edge cases: an example abstains (-1, radius 0) where its bounds do not separate
    class A from the others, and where samples with non-finite logits win the selection.

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
        order: 0, certify from class probabilities alone.
        norms: norms to certify, as in `zeroth_order_radius`.
        runner_up: "complement" bounds every other class by 1 - p_lower; "bonferroni"
            bounds each by its own count, with alpha split over all of them, which is
            tighter where no class has a majority.
        simultaneous: whether the norms have to hold jointly. At order 0 they always do,
            since one event carries them all.
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
        Cohen, Rosenfeld and Kolter (2019), ICML, arXiv 1902.02918, CERTIFY. The
        "bonferroni" form is ours.
    """
    norms = (norms,) if isinstance(norms, str) else tuple(norms)
    sampling.check_sigma(sigma)
    sigma = _noise_level(sigma)
    check_arguments(
        num_classes=num_classes,
        num_selection=num_selection,
        num_estimation=num_estimation,
        alpha=alpha,
        order=order,
        norms=norms,
        dim=math.prod(np.shape(x)[1:]),
        runner_up=runner_up,
    )
    count = functools.partial(
        sampling.class_counts,
        apply_fn=base_classifier.as_partial(apply_fn),
        x=x,
        sigma=sigma,
        num_classes=num_classes,
        example_ids=example_ids,
        chunk_size=chunk_size,
        mesh=mesh,
    )
    select_key, estimate_key = (jax.random.fold_in(key, s) for s in (SELECT, ESTIMATE))
    selection = np.asarray(count(select_key, num_samples=num_selection))
    counts = np.asarray(count(estimate_key, num_samples=num_estimation))

    selected = np.argmax(selection, axis=-1).astype(np.int32)
    votes, runner_up_votes = _votes(counts, selected)
    p_lower, p_upper = confidence.class_probability_bounds(
        votes,
        runner_up_votes,
        num_estimation,
        alpha=alpha,
        num_classes=num_classes,
        runner_up=runner_up,
    )
    is_certified = (p_lower > p_upper) & (selected < num_classes)
    radii = {
        norm: np.where(
            is_certified,
            radius.zeroth_order_radius(
                p_lower,
                sigma=sigma,
                p_upper=None if runner_up == "complement" else p_upper,
                norm=norm,
                dim=math.prod(np.shape(x)[1:]),
            ),
            0.0,
        )
        for norm in norms
    }
    return Certificate(
        prediction=np.where(is_certified, selected, ABSTAIN).astype(np.int32),
        radius=radii,
        p_lower=p_lower,
        count=votes,
        num_samples=num_estimation,
        alpha=alpha,
        sigma=sigma,
        simultaneous=True,  # at order 0 one event carries all norms
        num_invalid=counts[:, -1],
        p_upper=p_upper,
        runner_up_count=runner_up_votes,
        runner_up=runner_up,
        selected=selected,
        counts=counts,
        num_selection=num_selection,
        order=order,
    )


def predict(
    key: jax.Array,
    apply_fn: base_classifier.ApplyFn,
    x: ArrayLike,
    *,
    sigma: float,
    num_classes: int,
    num_samples: int = 1000,
    alpha: float = 1e-3,
    example_ids: ArrayLike | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> NDArray[np.int32]:
    """Predicts the class of the smoothed classifier, or abstains.

    [host] The class with the most votes is returned if the two-sided binomial test of
    its votes against those of the strongest other class rejects equality at alpha.

    Guarantee:
        For each example, a class other than that of the smoothed classifier is returned
        with probability at most alpha over the noise.

    Args:
        key: random key, `jax.random.key(seed)`; its own stream is used, so the noise
            differs from that of `certify` under the same key.
        apply_fn: maps `[m, ...]` inputs in [0, 1] to `[m, num_classes]` logits.
        x: `[n, ...]` floats in [0, 1].
        sigma: noise level, in the units of x, positive.
        num_classes: number of classes, an integer >= 2.
        num_samples: noise samples of each example.
        alpha: failure probability for each example, in (0, 1).
        example_ids: `[n]` index of each example in its data set; default arange(n).
        chunk_size: samples in one forward batch, a multiple of 128.
        mesh: devices that share the samples.

    Returns:
        int32 labels `[n]`; -1 where it abstains, also if invalid samples win.

    Raises:
        ValueError: for arguments out of range, and if `num_samples` is too small to
            ever predict; the text gives the smallest number that could.

    Example:
        >>> import jax.numpy as jnp
        >>> apply_fn = lambda x: jnp.stack([x[:, 0], 1.0 - x[:, 0]], axis=-1)
        >>> x = jnp.array([[1.0], [0.0], [0.5]])
        >>> predict(
        ...     jax.random.key(0), apply_fn, x, sigma=0.25, num_classes=2
        ... ).tolist()
        [0, 1, -1]

    Reference:
        Cohen, Rosenfeld and Kolter (2019), ICML, arXiv 1902.02918, PREDICT.
    """
    _validate.integer(1, num_samples=num_samples)
    smallest = confidence.min_num_prediction(alpha=alpha)
    if num_samples < smallest:
        raise ValueError(
            f"Expected num_samples >= {smallest}, the smallest number that can ever "
            f"predict at {alpha=}, got {num_samples}."
        )
    device_counts = sampling.class_counts(
        jax.random.fold_in(key, PREDICT),
        apply_fn,
        x,
        sigma=sigma,
        num_samples=num_samples,
        num_classes=num_classes,
        example_ids=example_ids,
        chunk_size=chunk_size,
        mesh=mesh,
    )
    counts = np.asarray(device_counts)
    top = np.argmax(counts, axis=-1).astype(np.int32)
    p_value = confidence.binomial_test_p_value(*_votes(counts, top))
    is_certain = (p_value <= alpha) & (top < num_classes)
    return np.where(is_certain, top, ABSTAIN).astype(np.int32)


def check_arguments(
    *,
    num_classes: int,
    num_selection: int,
    num_estimation: int,
    alpha: float,
    order: int,
    norms: Sequence[str],
    dim: int,
    runner_up: str,
) -> None:
    """Raises ValueError where `certify` would refuse its arguments; see there.

    [host] Scripts call it before they load or train anything.

    Args:
        num_classes: number of classes.
        num_selection: selection samples.
        num_estimation: estimation samples.
        alpha: failure probability.
        order: order of the certificate.
        norms: norms to certify.
        dim: number of input coordinates.
        runner_up: form of the bound on the other classes.

    Raises:
        ValueError: for the first argument that is out of range.
    """
    _validate.integer(1, num_selection=num_selection, num_estimation=num_estimation)
    smallest = confidence.min_num_estimation(
        alpha=alpha, num_classes=num_classes, runner_up=runner_up
    )
    if max(num_selection, num_estimation) >= 2**31:
        raise ValueError(
            f"Expected num_selection and num_estimation < 2**31, got {num_selection} "
            f"and {num_estimation}."
        )
    if num_estimation < smallest:
        raise ValueError(
            f"Expected num_estimation >= {smallest}, the smallest number that can ever "
            f"certify at {alpha=}, got {num_estimation}."
        )
    if order != 0:
        raise ValueError(f"Expected order=0, got {order}.")
    if not norms:
        raise ValueError("Expected at least one norm, got none.")
    if len(set(norms)) < len(norms):
        raise ValueError(f"Expected distinct norms, got {', '.join(norms)}.")
    for norm in norms:
        l2_circumradius(norm, dim)


def _noise_level(sigma: float) -> float:
    """The least of sigma and its float32 rounding, which scales the noise."""
    return min(float(sigma), float(np.float32(sigma)))


def _votes(
    counts: NDArray[np.int32], selected: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Votes `[n]` of the selected class and of the strongest other column."""
    is_selected = np.arange(counts.shape[-1]) == selected[:, None]
    votes = np.max(np.where(is_selected, counts, 0), axis=-1, initial=0)
    others = np.max(np.where(is_selected, 0, counts), axis=-1, initial=0)
    return votes, others
