"""Other scores of a representation, from the moments that SynBench collects.

    RankMe  = exp(-sum_i q_i log q_i),   q_i = s_i / sum_j s_j + epsilon,         (1)
    LogME   = mean over classes of max over (a, b) of log p(labels | a, b) / n,   (2)
    H-score = trace(pinv(cov(f)) cov(E[f | y])),                                  (3)

with the singular values s_i of the features, and in LogME weights N(0, 1 / a) and noise
N(0, 1 / b). All read `FeatureMoments` of any number of classes, so features may come in
batches, through `merge_moments`, and are never kept. Samples whose label is no class
are in none of them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import as_floats, float64_for_numbers
from robustjax.synbench.moments import FeatureMoments, feature_moments

_Numbers = jax.Array | np.ndarray
_State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
_MAX_STEPS = 200  # of the fixed point; ten are common, and the best step counts


def rank_me(moments: FeatureMoments, *, epsilon: float = 1e-7) -> _Numbers:
    """RankMe: the effective rank of the features, without their labels.

    [host] for NumPy moments (and JAX ones in float64), which are computed in float64,
    and [device] (pure, jittable, vmappable) for other JAX arrays. The exponential of
    the entropy of the singular values of the uncentred `[n, p]` features, each divided
    by their sum, plus epsilon.

    Edge cases:
        ============================  ==============================================
        Input                         Result
        ============================  ==============================================
        features all 0, no samples    0
        features all the same         1, and what epsilon adds
        singular values < 2e-7        counted as 0 (p = 200; 5e-3 in float32): they
        of the largest                are roots of eigenvalues of X'X
        anything not finite           NaN
        ============================  ==============================================

    Args:
        moments: of the features.
        epsilon: added to each share, >= 0. The 1e-7 of the paper adds up to about
            1.6e-6 per dimension to the logarithm of the score.

    Returns:
        A number between 0 and min(n, p), apart from epsilon.

    Raises:
        ValueError: if shapes do not fit or epsilon is negative.

    Example:
        >>> x, y = np.eye(4)[[0, 1, 2, 3] * 5], np.arange(20) % 2
        >>> print(rank_me(numpy_moments(x, y)).round(4))
        4.0

    Reference: Garrido, Balestriero, Najman and LeCun (2023), ICML, arXiv 2210.02885.
    """
    _validate.at_least(0, epsilon=epsilon)
    return _rank_me_of(*_checked(moments), epsilon)


def log_me(moments: FeatureMoments) -> _Numbers:
    """LogME: mean log evidence of linear models of the labels, per sample.

    [host] for NumPy moments (and JAX ones in float64), which are computed in float64,
    and [device] (pure, jittable, vmappable) for other JAX arrays. For each class its
    one-hot labels are a linear map of the features, with weights N(0, 1 / alpha), and
    noise N(0, 1 / beta); alpha and beta come from the fixed point that starts at 1, 1.
    Uncentred, as in the paper: it is no function of features up to a shift.

    Guarantee:
        Never above the largest evidence, up to rounding: it is that of the best step,
        also where the fixed point has not come to rest.

    Edge cases:
        A class without samples is left out of the mean. Directions that are 0 up to
        rounding count as 0. Features that are 0 leave the evidence of the noise alone.
        Labels that the features fit exactly have no finite evidence: residuals below
        rounding of the labels count as rounding, so the number is large and arbitrary.

    Args:
        moments: of the features and labels.

    Returns:
        A number; larger is better. NaN without samples.

    Raises:
        ValueError: if shapes do not fit.

    Example:
        >>> x, y = np.array([[1.0], [1.2], [-1.0], [-0.9]]), np.array([1, 1, 0, 0])
        >>> print(log_me(numpy_moments(x, y)).round(4))
        -1.0032

    Reference: You, Liu, Wang and Long (2021), ICML, arXiv 2102.11005.
    """
    return _log_me_of(*_checked(moments))


def h_score(moments: FeatureMoments) -> _Numbers:
    """H-score: how much of the variance of the features the classes explain.

    [host] for NumPy moments (and JAX ones in float64), which are computed in float64,
    and [device] (pure, jittable, vmappable) for other JAX arrays. The trace of
    pinv(cov(f)) cov(E[f | y]); it is the same for all invertible affine maps of the
    features, and grows with their number: n well above p is needed to compare models.

    Edge cases:
        Directions without variance, up to rounding, count as absent (pseudo-inverse of
        the correlation matrix): constant features, fewer than two classes with samples
        and no samples give 0. As many directions as samples give c - 1, whatever the
        features are.

    Args:
        moments: of the features and labels.

    Returns:
        A number in [0, min(c - 1, p)], up to rounding.

    Raises:
        ValueError: if shapes do not fit.

    Example:
        >>> x, y = np.array([[1.0], [3.0], [-1.0], [-3.0]]), np.array([1, 1, 0, 0])
        >>> print(h_score(numpy_moments(x, y)).round(4))
        0.8

    Reference: Bao, Li, Huang, Zhang, Zheng, Zamir and Guibas (2019), ICIP.
    """
    return _h_score_of(*_checked(moments))


def numpy_moments(
    features: ArrayLike, labels: ArrayLike, *, num_classes: int = 2
) -> FeatureMoments:
    """The same as `feature_moments`, in float64 on the host.

    [host] Whatever the x64 flag and the dtype of the features are.

    Args:
        features: `[n, p]`.
        labels: `[n]`, integers in [0, num_classes); others are not counted.
        num_classes: how many classes, >= 2.

    Returns:
        `FeatureMoments` of NumPy arrays.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> print(numpy_moments([[0.0], [2.0], [5.0]], [0, 0, 1]).mean[:, 0])
        [1. 5.]

    Reference: elementary.
    """
    return _moments(
        np.asarray(features, np.float64), np.asarray(labels), num_classes=num_classes
    )


@float64_for_numbers
@functools.partial(jax.jit, static_argnames="num_classes")
def _moments(
    features: jax.Array, labels: jax.Array, *, num_classes: int
) -> FeatureMoments:
    return feature_moments(features, labels, num_classes=num_classes)


def _checked(moments: FeatureMoments) -> FeatureMoments:
    """Moments of matching shapes; JAX arrays of float64 as NumPy arrays."""
    count, mean, scatter = map(np.shape, moments)
    if len(mean) != 2 or mean[1] == 0 or count != mean[:1] or scatter != mean[1:] * 2:
        raise ValueError(
            "Expected moments with counts [c], mean [c, p] and scatter [p, p], got "
            f"{count}, {mean} and {scatter}."
        )
    is_double = [getattr(v, "dtype", None) == "float64" for v in moments]
    if all(is_double):  # of the host, as rules are made of
        values = [_validate.concrete(v) for v in moments]
        if all(v is not None for v in values):
            return FeatureMoments(*values)  # type: ignore[arg-type]
    return moments


def _one_dtype(*values: ArrayLike) -> list[jax.Array]:
    arrays = [as_floats(value)[0] for value in values]
    return [array.astype(jnp.result_type(*arrays)) for array in arrays]


@float64_for_numbers
def _rank_me_of(
    count: ArrayLike, mean: ArrayLike, scatter: ArrayLike, epsilon: float
) -> jax.Array:
    arrays = _one_dtype(count, mean, scatter)
    return _rank_me(*arrays, jnp.asarray(epsilon, arrays[0].dtype))


@float64_for_numbers
def _log_me_of(count: ArrayLike, mean: ArrayLike, scatter: ArrayLike) -> jax.Array:
    return _log_me(*_one_dtype(count, mean, scatter))


@float64_for_numbers
def _h_score_of(count: ArrayLike, mean: ArrayLike, scatter: ArrayLike) -> jax.Array:
    return _h_score(*_one_dtype(count, mean, scatter))


def _gram(count: jax.Array, mean: jax.Array, scatter: jax.Array) -> jax.Array:
    """X'X, of the features around zero."""
    return scatter + jnp.matmul(mean.T * count[None], mean, precision="highest")


def _without_rounding(values: jax.Array) -> jax.Array:
    """Eigenvalues, with those that are rounding errors of the largest at 0."""
    cut = len(values) * jnp.finfo(values.dtype).eps * jnp.max(values)
    return jnp.where(values <= cut, 0, values)


@jax.jit
def _rank_me(
    count: jax.Array, mean: jax.Array, scatter: jax.Array, epsilon: jax.Array
) -> jax.Array:
    values = _without_rounding(jnp.linalg.eigvalsh(_gram(count, mean, scatter)))
    lengths = jnp.sqrt(values)[::-1]
    total = lengths.sum()
    share = lengths / jnp.where(total == 0, 1, total) + epsilon
    terms = share * jnp.log(jnp.where(share == 0, 1, share))
    is_there = jnp.arange(len(terms)) < count.sum()  # min(n, p) singular values
    entropy = -jnp.sum(jnp.where(is_there, terms, 0))
    return jnp.where(total == 0, 0, jnp.exp(entropy))  # (1)


@jax.jit
def _log_me(count: jax.Array, mean: jax.Array, scatter: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(_gram(count, mean, scatter))
    values = _without_rounding(values)
    is_there = values != 0
    safe = jnp.where(is_there, values, 1)
    targets = jnp.matmul(mean * count[:, None], vectors, precision="highest")  # y'X
    explained = jnp.where(is_there[None], targets**2 / safe[None], 0)
    rounding = jnp.finfo(values.dtype).eps * jnp.maximum(count, 1)
    left = jnp.maximum(count - explained.sum(axis=1), rounding)
    num_samples = count.sum()

    def best(explained: jax.Array, left: jax.Array) -> jax.Array:
        return _best_evidence(
            values, safe, explained, left=left, num_samples=num_samples
        )

    evidence = jax.vmap(best)(explained, left)
    is_class = count > 0
    total = jnp.sum(jnp.where(is_class, evidence, 0))
    return total / is_class.sum() / num_samples  # (2)


def _best_evidence(
    values: jax.Array,
    safe: jax.Array,
    explained: jax.Array,
    *,
    left: jax.Array,
    num_samples: jax.Array,
) -> jax.Array:
    """The largest log evidence of one class on the way of the fixed point.

    With the ratio lam = alpha / beta and shares s_i = d_i / (d_i + lam) of directions
    with eigenvalues d_i, the residual is left + sum_i explained_i (1 - s_i)^2, and
    alpha |weights|^2 + beta residual = beta (left + sum_i explained_i (1 - s_i)).
    """
    info = jnp.finfo(values.dtype)
    rank = jnp.sum(values != 0)

    def parts(lam: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        share = values / (values + lam)
        rest = jnp.where(values == 0, 0, lam / (values + lam))
        freedom = num_samples - rank + rest.sum()  # n - gamma
        return share, rest, jnp.maximum(freedom, info.tiny)

    def evidence(lam: jax.Array, beta: jax.Array) -> jax.Array:
        _, rest, _ = parts(lam)
        misfit = beta * (left + jnp.sum(explained * rest))
        spread = jnp.sum(jnp.log1p(values / lam))
        return 0.5 * (
            num_samples * jnp.log(beta / (2 * jnp.pi)) - spread - misfit
        )  # of the labels of all samples

    def step(state: _State) -> _State:
        lam, last, highest, _, count = state
        share, rest, freedom = parts(lam)
        residual = left + jnp.sum(explained * rest**2)
        length = jnp.sum(explained * share**2 / safe)
        beta = freedom / residual
        ratio = share.sum() / jnp.where(length > 0, length, 1) / beta
        lam = jnp.clip(
            jnp.where(length > 0, ratio, lam), jnp.sqrt(info.tiny), jnp.sqrt(info.max)
        )
        now = evidence(lam, beta)
        is_moving = jnp.abs(now - last) > 8 * info.eps * jnp.abs(now)
        return lam, now, jnp.maximum(highest, now), is_moving, count + 1

    one = jnp.ones((), values.dtype)
    start = evidence(one, one)
    state = (one, start, start, jnp.asarray(True), jnp.asarray(0))
    return jax.lax.while_loop(lambda s: s[3] & (s[4] < _MAX_STEPS), step, state)[2]


@jax.jit
def _h_score(count: jax.Array, mean: jax.Array, scatter: jax.Array) -> jax.Array:
    share = count / jnp.maximum(count.sum(), 1)
    middle = jnp.matmul(share, mean, precision="highest")
    centred = mean - middle[None]
    total = _gram(count, centred, scatter)
    variance = jnp.diagonal(total)
    # constant features are those whose variance is rounding of their square
    square = variance + count.sum() * middle**2
    cut = jnp.finfo(mean.dtype).eps ** 2 * count.sum() * square
    is_there = ~(variance <= cut)
    scale = jnp.where(is_there, 1 / jnp.sqrt(jnp.where(is_there, variance, 1)), 0)
    values, vectors = jnp.linalg.eigh(total * scale[:, None] * scale[None])
    values = _without_rounding(values)
    inverse = jnp.where(values == 0, 0, 1 / jnp.where(values == 0, 1, values))
    parts = jnp.matmul(centred * scale[None], vectors, precision="highest")
    return jnp.sum(count[:, None] * parts**2 * inverse[None])  # (3)
