"""Linear rules for two Gaussian classes: the best one against an l2 adversary.

Class 1 is N(c + m, S), class 0 N(c - m, S), and tau = P(y = 1). For l2 shifts up to eps

    z = argmin over |z| <= eps of (m - z)' S^-1 (m - z),
    w = S^-1 (m - z) = (S + I / lam)^-1 m,   lam z = w,                  (1)
    predict 1 where w' (x - c) > log((1 - tau) / tau) / 2.               (2)

With M = w'm, A = sqrt(w'Sw) = (w'm - eps |w|) / A and t = the offset / A,

    standard accuracy = tau Phi(M / A - t) + (1 - tau) Phi(M / A + t),   (3)
    robust accuracy   = tau Phi(A - t) + (1 - tau) Phi(A + t).           (4)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import as_floats, float64_for_numbers
from robustjax.synbench import spectrum
from robustjax.synbench.spectrum import Spectrum

_Numbers = jax.Array | np.ndarray


class LinearRule(NamedTuple):
    """Predict 1 where weight @ (x - center) > offset; each of the shape of epsilon."""

    weight: _Numbers  # [..., p]
    offset: _Numbers  # log((1 - prior) / prior) / 2; 0 where the multiplier is inf
    multiplier: _Numbers  # of the constraint; weight = multiplier * worst shift
    robust_accuracy: _Numbers  # against every shift up to epsilon
    standard_accuracy: _Numbers
    signal: _Numbers  # weight @ mean in noise standard deviations
    robust_signal: _Numbers  # what is left of it after the worst shift


@float64_for_numbers
def robust_bayes(
    mean: ArrayLike,
    covariance: ArrayLike,
    *,
    epsilon: ArrayLike,
    prior: ArrayLike = 0.5,
) -> LinearRule:
    """The rule with the largest accuracy against l2 shifts of the input.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays. Class 1 is N(center + mean, covariance),
    class 0 is N(center - mean, covariance). One eigendecomposition serves all epsilon.

    Guarantee:
        No classifier, linear or not, is more accurate on the pair when every input may
        be shifted by up to epsilon.

    Args:
        mean: `[p]`, half the difference of the class means.
        covariance: a number or `[p]` variances, or a `[p, p]` matrix; it may be
            singular. Eigenvalues of a matrix that is not diagonal are known up to a
            rounding of p times the machine epsilon of the largest: below it they count
            as that much noise, or are left out where the mean has no part.
        epsilon: length of the shifts, >= 0, in units of the mean; of any shape.
        prior: P(y = 1), in (0, 1); a number or of the shape of epsilon.

    Returns:
        A `LinearRule`. From epsilon = ``|mean|`` on the weight is 0 and the likelier
        class wins. Where the part of the mean without noise (variances that are 0) is
        longer than epsilon the accuracies are 1, the multiplier is inf, the offset 0
        and the weight is that part. Its root is found to rounding on every spectrum.
        Under jit NaN for NaN and for a matrix with a negative eigenvalue.

    Raises:
        ValueError: if a shape does not fit, a concrete value is out of range, or a
            concrete matrix is not finite, symmetric and positive semidefinite, up to
            rounding.

    Example:
        >>> rule = robust_bayes([1.0, 1.0], [1.0, 4.0], epsilon=0.5)
        >>> print(rule.robust_accuracy.round(6), rule.standard_accuracy.round(6))
        0.749483 0.863784

    Reference: Bhagoji, Cullina and Mittal (2019), NeurIPS; Dan, Wei and Ravikumar
        (2020), ICML. The ridge form of the weight and its root are ours;
        `docs/papers/synbench.md`, "Two Gaussians".
    """
    _validate.at_least(0, epsilon=epsilon)
    _validate.open_interval(0, 1, prior=prior)
    mean, covariance = _operands(mean, covariance)
    epsilon, prior = (jnp.asarray(v, mean.dtype) for v in (epsilon, prior))
    return _robust_bayes(mean, covariance, *jnp.broadcast_arrays(epsilon, prior))


@jax.jit
def _robust_bayes(
    mean: jax.Array, covariance: jax.Array, epsilon: jax.Array, prior: jax.Array
) -> LinearRule:
    own = spectrum.spectrum_of(covariance)

    def rule(epsilon: jax.Array, prior: jax.Array) -> LinearRule:
        return rule_of(own, mean, covariance, epsilon=epsilon, prior=prior)

    found = jax.vmap(rule)(epsilon.ravel(), prior.ravel())
    return jax.tree.map(lambda v: v.reshape(epsilon.shape + v.shape[1:]), found)


def rule_of(
    own: Spectrum,
    mean: jax.Array,
    covariance: jax.Array,
    *,
    epsilon: jax.Array,
    prior: jax.Array,
) -> LinearRule:
    """`robust_bayes` for one epsilon, of a covariance whose spectrum is known."""
    length = jnp.linalg.norm(mean)
    components = own.project(jax.lax.stop_gradient(mean))
    is_zero = own.values == 0
    hidden = jnp.linalg.norm(jnp.where(is_zero, components, 0))
    is_exact = own.rounding == 0
    rounding = 8 * len(mean) * jnp.finfo(mean.dtype).eps
    is_there = hidden > jnp.where(is_exact, 0, rounding * length)
    noise = jnp.where(is_zero & is_there, own.rounding, own.values)
    is_separable = is_exact & (epsilon < hidden * (1 - rounding))
    is_trivial = (epsilon >= length) | ~jnp.any((noise != 0) & (components != 0))
    is_trivial &= ~is_separable
    is_regular = ~is_separable & ~is_trivial

    epsilon = jnp.where(is_regular, epsilon, 0)
    weight, ridge = _ridge_rule(
        own._replace(values=jnp.where(jnp.all(noise == 0), 1, noise)),
        mean,
        covariance,
        epsilon=epsilon,
        is_used=~is_zero | is_there,
    )
    # A^2 = w'Sw = w'm - epsilon |w|; what S may hide below its rounding is noise
    square = _quadratic(covariance, weight)
    exact = jnp.sum(noise * own.project(jax.lax.stop_gradient(weight)) ** 2)
    square = square + jax.lax.stop_gradient(exact - square)
    variance = square + own.rounding * jnp.sum(weight**2)
    spread = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    offset = 0.5 * jnp.log((1 - prior) / prior)  # (2)
    signal = jnp.where(is_regular, weight @ mean / spread, 0)
    margin = jnp.where(is_regular, square / spread, 0)

    def either(
        regular: jax.Array, trivial: ArrayLike, separable: ArrayLike
    ) -> jax.Array:
        return jnp.where(is_regular, regular, jnp.where(is_trivial, trivial, separable))

    likelier = jnp.maximum(prior, 1 - prior)
    shift = offset / spread
    return LinearRule(
        weight=either(weight, 0.0, own.unproject(jnp.where(is_zero, components, 0))),
        offset=either(offset, offset, 0.0),
        multiplier=either(1 / ridge, 0.0, jnp.inf),
        robust_accuracy=either(_accuracy(margin, shift, prior), likelier, 1.0),
        standard_accuracy=either(_accuracy(signal, shift, prior), likelier, 1.0),
        signal=either(signal, 0.0, jnp.inf),
        robust_signal=either(margin, 0.0, jnp.inf),
    )


@float64_for_numbers
def linear_accuracy(
    weight: ArrayLike,
    mean: ArrayLike,
    covariance: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    offset: ArrayLike = 0.0,
    prior: ArrayLike = 0.5,
) -> _Numbers:
    """Accuracy of any linear rule on two Gaussian classes, against l2 shifts.

    [host] for numbers, which are computed in float64, and [device] (pure, jittable,
    vmappable, differentiable) for JAX arrays.

    Args:
        weight: `[p]`, not 0.
        mean: `[p]`, half the difference of the class means.
        covariance: a number, `[p]` variances or a `[p, p]` matrix.
        epsilon: length of the shifts, >= 0.
        offset: the rule predicts 1 where weight @ (x - center) > offset.
        prior: P(y = 1), in (0, 1).

    Returns:
        P(correct after the worst shift), of the shape of epsilon, offset and prior. A
        weight without noise decides by its sign; a boundary that is met counts as
        wrong. Noise that is rounding of a matrix, p times the machine epsilon of
        ``|w|' |S| |w|``, counts as noise.

    Raises:
        ValueError: as `robust_bayes`.

    Example:
        >>> print(linear_accuracy([1.0, 0.0], [1.0, 1.0], [1.0, 4.0]).round(4))
        0.8413

    Reference: elementary.
    """
    _validate.at_least(0, epsilon=epsilon)
    _validate.open_interval(0, 1, prior=prior)
    mean, covariance = _operands(mean, covariance)
    weight = jnp.asarray(weight, mean.dtype)
    epsilon, offset, prior = (
        jnp.asarray(v, mean.dtype) for v in (epsilon, offset, prior)
    )
    variance = jnp.maximum(_quadratic(covariance, weight), 0)
    if covariance.ndim == 2:
        rounding = len(weight) * jnp.finfo(weight.dtype).eps
        variance += rounding * _quadratic(jnp.abs(covariance), jnp.abs(weight))
    has_noise = variance > 0
    spread = jnp.sqrt(jnp.where(has_noise, variance, 1))
    left = (weight @ mean - epsilon * jnp.linalg.norm(weight)) / spread
    shift = offset / spread
    sure = prior * (left > shift) + (1 - prior) * (left > -shift)
    return jnp.where(has_noise, _accuracy(left, shift, prior), sure)


def _accuracy(signal: jax.Array, shift: jax.Array, prior: jax.Array) -> jax.Array:
    # (3) for the signal M / A, (4) for A
    return prior * ndtr(signal - shift) + (1 - prior) * ndtr(signal + shift)


def _operands(mean: ArrayLike, covariance: ArrayLike) -> list[jax.Array]:
    """A vector, and variances or a matrix that fit it, of one floating dtype."""
    vector, matrix = np.shape(mean), np.shape(covariance)
    if len(vector) != 1 or matrix not in ((), vector, vector * 2):
        raise ValueError(
            "Expected mean [p] and covariance as a number, [p] or [p, p], got shapes "
            f"{vector} and {matrix}."
        )
    if len(matrix) < 2:
        _validate.at_least(0, covariance=covariance)
    (mean,), (covariance,) = as_floats(mean), as_floats(covariance)
    dtype = jnp.result_type(mean, covariance)
    size = vector if matrix == () else matrix
    covariance = jnp.broadcast_to(covariance.astype(dtype), size)
    if covariance.ndim == 2:
        spectrum.check_matrix(covariance)  # in the dtype that is computed in
    return [mean.astype(dtype), covariance]


def _times(covariance: jax.Array, v: jax.Array) -> jax.Array:
    if covariance.ndim == 1:
        return covariance * v
    return jnp.matmul(covariance, v, precision="highest")


def _quadratic(covariance: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.dot(v, _times(covariance, v), precision="highest")


def _ridge_rule(
    own: Spectrum,
    mean: jax.Array,
    covariance: jax.Array,
    *,
    epsilon: jax.Array,
    is_used: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """W = (S + ridge I)^-1 m with |ridge w| = epsilon, and the ridge.

    It is taken over the used directions, `[p]` in the basis of the spectrum.

    The root is found without derivatives; one more Newton step, of size zero, carries
    those of the implicit function.
    """
    known = jax.lax.stop_gradient
    components = jnp.where(is_used, own.project(known(mean)), 0)
    ridge = spectrum.ridge_of(components, own.values, known(epsilon))
    total = own.values + ridge
    is_some = is_used & (total != 0)
    inverse = jnp.where(is_some, 1 / jnp.where(is_some, total, 1), 0)

    def solve(ridge: jax.Array) -> jax.Array:
        return jax.lax.custom_linear_solve(
            lambda v: _times(covariance, v) + ridge * v,
            mean,
            lambda _, b: own.unproject(inverse * own.project(b)),
            symmetric=True,
        )

    weight = solve(ridge)
    length = jnp.linalg.norm(weight)
    change = jnp.sum(known(own.project(weight)) ** 2 * own.values * inverse)
    excess = (ridge * length - epsilon) * known(length) / known(change)
    ridge = ridge - (excess - known(excess))
    return solve(ridge), ridge  # (1)
