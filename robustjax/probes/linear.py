"""Linear probes: ridge, logistic, and logistic against the worst shift of a feature.

With logits l(x) = W' x + b, the label k of x and the penalty c = l2 / 2 |W|^2,

    ridge:     mean of |l - onehot(k)|^2 / 2 + c,
    logistic:  mean of log sum_j exp(l_j) - l_k + c,
    robust:    mean of log sum_j exp(l_j + epsilon |w_k - w_j|_2) - l_k + c.
"""

import functools
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate

METHODS = ("lbfgs", "ridge")
_SLACK = 1e-5  # what smoothing of the norms adds to a logit at most


class LinearProbe(NamedTuple):
    """A linear classifier of features."""

    weight: jax.Array  # [p, k]
    bias: jax.Array  # [k]

    def logits(self, features: ArrayLike) -> jax.Array:
        """Logits `[..., k]` of features `[..., p]`. [device]."""
        found = _product(jnp.asarray(features), self.weight)
        return found + jnp.broadcast_to(self.bias, found.shape)


class ProbeFit(NamedTuple):
    """A probe and how its training ended."""

    probe: LinearProbe
    loss: jax.Array  # with its penalty, at the probe
    gradient_norm: jax.Array  # of the loss, in standardised features
    num_steps: jax.Array
    is_converged: jax.Array  # gradient_norm <= tolerance; always look at it under jit


def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    l2: ArrayLike = 1e-3,
    method: str = "lbfgs",
    epsilon: ArrayLike = 0.0,
    max_steps: int = 1000,
    tolerance: float | None = None,
) -> ProbeFit:
    """Trains a linear classifier on frozen features.

    [device] Pure, jittable, vmappable over l2 and epsilon. "lbfgs" minimises
    ``robust_loss + l2/2 |weight|^2``, which is convex; "ridge" solves in closed form
    half the mean squared error of one-hot labels plus ``l2/2 |weight|^2``. The bias is
    not penalised. "lbfgs" works in standardised features, which changes the path and
    not the minimum. In scikit-learn alpha = n l2 and C = 1 / (n l2), or 2 / (n l2) for
    two classes, which have one logit there.

    Edge cases:
        With l2 = 0, classes that can be separated have no minimum: the weights then
        depend on the tolerance. "ridge" takes the minimum-norm weights that reach the
        minimum error. Features that are not finite end unconverged. With epsilon > 0
        each norm is smoothed by 1e-5 / epsilon, so the loss is at most 1e-5 above its
        minimum for that.

    Args:
        features: `[n, p]`, any floating dtype; float32 at least is used.
        labels: `[n]`, integers in [0, num_classes); traced ones that are not are left
            out.
        num_classes: k, >= 2.
        l2: weight of the penalty, >= 0, in units of the features.
        method: "lbfgs" or "ridge".
        epsilon: l2 length of the shifts of a feature that the probe must withstand,
            >= 0; "lbfgs" only.
        max_steps: of L-BFGS, >= 1.
        tolerance: gradient norm at which it stops; default 1e-4 in float32 and 1e-7
            in float64.

    Returns:
        A `ProbeFit`. Where training did not converge it says so, and outside of jit it
        warns.

    Raises:
        ValueError: if an argument is out of range or shapes do not fit.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0], [4.0], [5.0]]), jnp.array([0, 0, 1, 1])
        >>> found = linear_probe(x, y, num_classes=2)
        >>> print(found.probe.logits(x).argmax(axis=-1), found.is_converged)
        [0 0 1 1] True

    Reference: the robust loss and its bound are ours.
    """
    _validate.one_of(METHODS, method=method)
    _validate.integer(2, num_classes=num_classes)
    _validate.integer(1, max_steps=max_steps)
    _validate.at_least(0, l2=l2, epsilon=epsilon)
    x, classes = _checked(features, labels, num_classes)
    known = _validate.concrete(epsilon)
    is_robust = known is None or bool((known > 0).any())
    if method == "ridge" and is_robust:
        raise ValueError(f"Expected epsilon = 0 for method='ridge', got {epsilon}.")
    if tolerance is None:
        tolerance = 1e-4 if x.dtype == jnp.float32 else 1e-7
    _validate.positive(tolerance=tolerance)
    numbers = _numbers(x.dtype, l2=l2, epsilon=epsilon, tolerance=tolerance)
    if method == "ridge":
        found = _ridge(x, classes, numbers[0], numbers[2], num_classes=num_classes)
    else:
        found = _lbfgs(
            x,
            classes,
            *numbers[:2],
            tolerance=numbers[2],
            max_steps=jnp.asarray(max_steps),
            num_classes=num_classes,
            is_robust=is_robust,
        )
    _warn_if_unfinished(found, tolerance)
    return found


def robust_loss(
    probe: LinearProbe,
    features: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
) -> jax.Array:
    """Mean cross-entropy of a probe when every feature may be shifted by epsilon.

    [device] Pure, jittable, differentiable; where two classes have equal weights the
    derivative of their distance is taken as 0. The cross-entropy of the logits
    ``l_j + epsilon |w_k - w_j|``, k being the label: no shift lifts l_j - l_k by more.

    Guarantee:
        Not below the mean of the worst cases over shifts of l2 length <= epsilon, up to
        rounding, and equal to it for two classes. Convex in the probe.

    Args:
        probe: of k classes.
        features: `[n, p]`.
        labels: `[n]`, integers in [0, k); traced ones that are not are left out.
        epsilon: length of the shifts, >= 0.

    Returns:
        A number; NaN without samples.

    Raises:
        ValueError: if shapes do not fit, or a concrete value is out of range.

    Example:
        >>> probe = LinearProbe(jnp.array([[0.0, 1.0]]), jnp.zeros(2))
        >>> x, y = jnp.array([[1.0]]), jnp.array([1])
        >>> losses = [robust_loss(probe, x, y, epsilon=e) for e in (0.0, 1.0)]
        >>> print(*(round(float(loss), 4) for loss in losses))
        0.3133 0.6931

    Reference: ours.
    """
    _validate.at_least(0, epsilon=epsilon)
    weight, bias = jnp.asarray(probe.weight), jnp.asarray(probe.bias)
    x, classes = _checked(features, labels, len(bias))
    if weight.shape != (x.shape[1], len(bias)):
        raise ValueError(
            f"Expected weight [p, k] for features {x.shape} and bias {bias.shape}, got "
            f"{weight.shape}."
        )
    (length,) = _numbers(x.dtype, epsilon=epsilon)
    lifts = length * _distances(weight.T, None)
    return _robust_loss(LinearProbe(weight, bias), x, classes, lifts)


@jax.jit
def _robust_loss(
    probe: LinearProbe,
    features: jax.Array,
    labels: jax.Array,
    lifts: jax.Array | None,
) -> jax.Array:
    """Loss of logits that are lifted by the row of the label in `[k, k]` lifts."""
    is_own = labels[:, None] == jnp.arange(len(probe.bias))[None]
    is_counted = is_own.any(axis=1)
    logits = probe.logits(jnp.where(is_counted[:, None], features, 0))
    if lifts is not None:
        logits = logits + lifts[labels]
    own = jnp.sum(jnp.where(is_own, logits, 0), axis=1)
    losses = jax.nn.logsumexp(logits, axis=1) - own
    return jnp.sum(jnp.where(is_counted, losses, 0)) / is_counted.sum()


@jax.jit
def _distances(rows: jax.Array, slack: jax.Array | None) -> jax.Array:
    """`[k, k]` l2 distances of k rows, one row at a time, so that none is squared off.

    With a slack they are smoothed upwards by at most as much.
    """
    added = 0 if slack is None else slack**2

    @jax.checkpoint  # else the gradient keeps all [k, k, p] differences
    def from_row(row: jax.Array) -> jax.Array:
        square = jnp.sum((rows - row[None]) ** 2, axis=1) + added
        is_apart = square > 0
        return jnp.where(is_apart, jnp.sqrt(jnp.where(is_apart, square, 1)), 0)

    distances = jax.lax.map(from_row, rows)
    return jnp.where(jnp.eye(len(rows), dtype=bool), 0, distances)


class _Scaled(NamedTuple):
    """Features around their mean and divided by a scale each."""

    features: jax.Array  # [n, p]; rows that do not count are 0
    is_counted: jax.Array  # [n]
    mean: jax.Array  # [p]
    scale: jax.Array  # [p]

    def unscaled(self, probe: LinearProbe) -> LinearProbe:
        """The probe of the features as they came."""
        weight = probe.weight / self.scale[:, None]
        return LinearProbe(weight, probe.bias - _product(self.mean, weight))


def _scaled(x: jax.Array, labels: jax.Array, l2: jax.Array, num_classes: int) -> Any:
    """The scale makes the curvature of loss and penalty together about equal."""
    is_counted = (labels >= 0) & (labels < num_classes)
    kept = jnp.where(is_counted[:, None], x, 0)
    count = jnp.maximum(is_counted.sum(), 1)
    mean = kept.sum(axis=0) / count
    centred = jnp.where(is_counted[:, None], x - mean[None], 0)
    square = (centred**2).sum(axis=0) / count + num_classes * l2
    scale = jnp.where(square == 0, 1, jnp.sqrt(jnp.where(square == 0, 1, square)))
    return _Scaled(centred / scale[None], is_counted, mean, scale)


@functools.partial(jax.jit, static_argnames=("num_classes", "is_robust"))
def _lbfgs(
    x: jax.Array,
    labels: jax.Array,
    l2: jax.Array,
    epsilon: jax.Array,
    *,
    tolerance: jax.Array,
    max_steps: jax.Array,
    num_classes: int,
    is_robust: bool,
) -> ProbeFit:
    import optax

    own = _scaled(x, labels, l2, num_classes)
    slack = _SLACK / jnp.where(epsilon > 0, epsilon, 1)

    def loss(probe: LinearProbe) -> jax.Array:
        weight = probe.weight / own.scale[:, None]
        lifts = epsilon * _distances(weight.T, slack) if is_robust else None
        found = _robust_loss(probe, own.features, labels, lifts)
        return found + 0.5 * l2 * jnp.sum(weight**2)

    solver = optax.lbfgs()
    with_state = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        probe, state, count, _ = carry
        value, gradient = with_state(probe, state=state)
        updates, state = solver.update(
            gradient, state, probe, value=value, grad=gradient, value_fn=loss
        )
        probe = optax.apply_updates(probe, updates)
        norm = optax.tree.norm(optax.tree.get(state, "grad"))
        return probe, state, count + 1, norm

    start = LinearProbe(
        jnp.zeros((x.shape[1], num_classes), x.dtype), jnp.zeros(num_classes, x.dtype)
    )
    carry = (start, solver.init(start), jnp.asarray(0), jnp.asarray(jnp.inf, x.dtype))
    scaled, _, count, _ = jax.lax.while_loop(
        lambda c: (c[2] < max_steps) & (c[3] > tolerance), step, carry
    )
    value, gradient = jax.value_and_grad(loss)(scaled)  # at the probe that is returned
    norm = optax.tree.norm(gradient)
    return ProbeFit(own.unscaled(scaled), value, norm, count, norm <= tolerance)


@functools.partial(jax.jit, static_argnames="num_classes")
def _ridge(
    x: jax.Array,
    labels: jax.Array,
    l2: jax.Array,
    tolerance: jax.Array,
    *,
    num_classes: int,
) -> ProbeFit:
    own = _scaled(x, labels, l2, num_classes)
    count = jnp.maximum(own.is_counted.sum(), 1)
    targets = jax.nn.one_hot(labels, num_classes, dtype=x.dtype)
    bias = targets.sum(axis=0) / count
    left = jnp.where(own.is_counted[:, None], targets - bias[None], 0)
    # the minimum norm is that in the units of the features
    centred = own.features * own.scale[None]
    values, vectors = jnp.linalg.eigh(_product(centred.T, centred) / count)
    cut = len(values) * jnp.finfo(x.dtype).eps * values[-1]
    total = jnp.where(values > cut, values, 0) + l2
    is_there = total > cut  # else a moment that is rounding is divided by a tiny l2
    inverse = jnp.where(is_there, 1 / jnp.where(is_there, total, 1), 0)
    moment = _product(centred.T, left) / count
    weight = _product(vectors, inverse[:, None] * _product(vectors.T, moment))
    misfit = jnp.where(own.is_counted[:, None], _product(centred, weight) - left, 0)
    gradient = _product(centred.T, misfit) / count + l2 * weight
    norm = jnp.linalg.norm(gradient / own.scale[:, None])
    loss = 0.5 * jnp.sum(misfit**2) / count + 0.5 * l2 * jnp.sum(weight**2)
    probe = LinearProbe(weight, bias - _product(own.mean, weight))
    return ProbeFit(probe, loss, norm, jnp.asarray(1), norm <= tolerance)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def _checked(
    features: ArrayLike, labels: ArrayLike, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    x, classes = jnp.asarray(features), jnp.asarray(labels)
    if x.ndim != 2 or math.prod(x.shape) == 0 or classes.shape != x.shape[:1]:
        raise ValueError(
            f"Expected features [n, p] and labels [n], got {x.shape} and "
            f"{classes.shape}."
        )
    _validate.labels(num_classes, labels=labels)
    # a label of uint8 could not be compared with 256 classes
    return x.astype(jnp.result_type(x.dtype, jnp.float32)), classes.astype(jnp.int32)


def _numbers(dtype: jnp.dtype, **named: ArrayLike) -> list[jax.Array]:
    for name, value in named.items():
        if jnp.ndim(value) > 0:
            raise ValueError(
                f"Expected {name} to be one number, got shape {jnp.shape(value)}; "
                "jax.vmap takes several."
            )
    return [jnp.asarray(value, dtype) for value in named.values()]


def _warn_if_unfinished(found: ProbeFit, tolerance: float) -> None:
    is_converged = _validate.concrete(found.is_converged)
    if is_converged is None or is_converged.all():
        return
    warnings.warn(
        f"The probe stopped after {found.num_steps} steps at a gradient norm of "
        f"{found.gradient_norm}, above tolerance={tolerance}: take more max_steps or a "
        "larger l2.",
        stacklevel=3,
    )
