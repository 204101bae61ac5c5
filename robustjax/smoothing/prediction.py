"""Prediction of the smoothed classifier, with abstention.

With A the class of most votes c_A, and c_B those of the strongest other class,

    prediction = A if min(1, 2 P[Binomial(c_A + c_B, 1/2) >= c_A]) <= alpha, else -1.
"""

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate
from robustjax.smoothing.confidence import binomial
from robustjax.smoothing.sampling import base_classifier, streams, vote_counts
from robustjax.smoothing.sampling.vote_counts import ABSTAIN


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
    smallest = binomial.min_num_prediction(alpha=alpha)
    if num_samples < smallest:
        raise ValueError(
            f"Expected num_samples >= {smallest}, the smallest number that can ever "
            f"predict at {alpha=}, got {num_samples}."
        )
    device_counts = vote_counts.class_counts(
        jax.random.fold_in(key, streams.PREDICT),
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
    p_value = binomial.binomial_test_p_value(*vote_counts.votes_of(counts, top))
    is_certain = (p_value <= alpha) & (top < num_classes)
    return np.where(is_certain, top, ABSTAIN).astype(np.int32)
