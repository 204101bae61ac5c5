"""Adversarial attacks on classifiers: what a certificate is compared with.

An attack that fails proves nothing; one that succeeds is a counterexample, since every
result is evaluated again at the very input that is returned.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _callables, _validate

__all__ = ["AttackResult", "SmallestEpsilon", "fgsm", "pgd", "smallest_epsilon"]

NORMS = ("linf", "l2")
LOSSES = ("margin", "cross_entropy")
_ApplyFn = Callable[[jax.Array], jax.Array]


class AttackResult(NamedTuple):
    """The strongest input found for each example."""

    x: jax.Array  # [n, ...], inside the ball and the valid range
    margin: jax.Array  # [n], logit of the label minus the largest other one
    is_adversarial: (
        jax.Array
    )  # [n], whether another class wins, or logits are not finite


class SmallestEpsilon(NamedTuple):
    """The nearest adversarial inputs found; float64 on the host."""

    epsilon: np.ndarray  # [n], distance in the norm; inf where none was found
    x: np.ndarray  # [n, ...], at that distance; the example itself where none was found


def fgsm(
    apply_fn: _ApplyFn,
    x: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    loss: str = "cross_entropy",
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> AttackResult:
    """The fast gradient sign method: one step to a corner of the linf ball.

    [device] Pure, jittable.

    Args:
        apply_fn: maps `[n, ...]` inputs to `[n, k]` logits, row by row.
        x: `[n, ...]` inputs.
        labels: `[n]` classes to be lost.
        epsilon: radius of the ball, >= 0, a number or `[n]`.
        loss: "margin" or "cross_entropy".
        valid_range: least and largest value of an input.

    Returns:
        An `AttackResult`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> linear = lambda x: jnp.stack([x[:, 0], -x[:, 0] + 0.4], axis=-1)
        >>> found = fgsm(linear, jnp.array([[0.3]]), jnp.array([0]), epsilon=0.2)
        >>> print(found.x.round(3), found.is_adversarial)
        [[0.1]] [ True]

    Reference: Goodfellow, Shlens and Szegedy (2015), arXiv 1412.6572.
    """
    start, labels, radius = _checked(x, labels, epsilon, loss, valid_range)
    gradient = jax.grad(_total_loss)(start, apply_fn, labels, loss)
    moved = jnp.clip(start + radius * jnp.sign(gradient), *valid_range)
    return _evaluated(apply_fn, moved, labels)


def pgd(
    key: jax.Array,
    apply_fn: _ApplyFn,
    x: ArrayLike,
    *,
    labels: ArrayLike,
    epsilon: ArrayLike,
    norm: str = "linf",
    num_steps: int = 20,
    step_size: float | None = None,
    num_restarts: int = 1,
    loss: str = "margin",
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> AttackResult:
    """Projected gradient descent from random starts; the best iterate is kept.

    [device] Pure, jittable. All examples, starts one after another.

    Args:
        key: random key of the starts.
        apply_fn: maps `[n, ...]` inputs to `[n, k]` logits, row by row.
        x: `[n, ...]` inputs.
        labels: `[n]` classes to be lost.
        epsilon: radius of the ball, >= 0, a number or `[n]`.
        norm: of the ball, "linf" or "l2".
        num_steps: gradient steps of each start, >= 1.
        step_size: of a step, in units of epsilon; default 2.5 / num_steps.
        num_restarts: random starts, >= 1.
        loss: "margin" (the logit of the label against the largest other) or
            "cross_entropy".
        valid_range: least and largest value of an input.

    Returns:
        An `AttackResult`: of all iterates the one with the least margin.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> linear = lambda x: jnp.stack([x[:, 0], -x[:, 0] + 0.4], axis=-1)
        >>> found = pgd(jax.random.key(0), linear, jnp.array([[0.3]]),
        ...             labels=jnp.array([0]), epsilon=0.2)
        >>> print(found.x.round(3), found.is_adversarial)
        [[0.1]] [ True]

    Reference: Madry, Makelov, Schmidt, Tsipras and Vladu (2018), arXiv 1706.06083.
    """
    _validate.one_of(NORMS, norm=norm)
    _validate.integer(1, num_steps=num_steps, num_restarts=num_restarts)
    share = 2.5 / num_steps if step_size is None else step_size
    _validate.positive(step_size=share)
    start, labels, radius = _checked(x, labels, epsilon, loss, valid_range)
    project = functools.partial(
        _project, centre=start, radius=radius, norm=norm, valid_range=valid_range
    )

    def step(state: tuple[jax.Array, AttackResult], _: Any) -> tuple[Any, None]:
        now, best = state
        gradient = jax.grad(_total_loss)(now, apply_fn, labels, loss)
        now = project(now + share * radius * _direction(gradient, norm))
        return (now, _stronger(best, _evaluated(apply_fn, now, labels))), None

    def restart(best: AttackResult, key: jax.Array) -> tuple[AttackResult, None]:
        noise = _random_direction(key, start, norm)
        first = project(start + radius * noise)
        best = _stronger(best, _evaluated(apply_fn, first, labels))
        (_, best), _ = jax.lax.scan(step, (first, best), length=num_steps)
        return best, None

    clean = _evaluated(apply_fn, start, labels)
    keys = jax.random.split(key, num_restarts)
    return jax.lax.scan(restart, clean, keys)[0]


def smallest_epsilon(
    key: jax.Array,
    apply_fn: _ApplyFn,
    x: ArrayLike,
    *,
    labels: ArrayLike,
    limit: float = 0.5,
    num_halvings: int = 10,
    norm: str = "linf",
    num_steps: int = 20,
    num_restarts: int = 1,
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> SmallestEpsilon:
    """Distance of the nearest adversarial inputs that PGD finds by bisection.

    [host] An upper bound of every certified radius of the same norm.

    Guarantee:
        apply_fn, in the dtype of x on this device, does not give the label to the
        inputs that are returned, which are at the distance that is returned.

    Args:
        key: random key of the starts.
        apply_fn: maps `[n, ...]` inputs to `[n, k]` logits, row by row.
        x: `[n, ...]` inputs.
        labels: `[n]` classes to be lost.
        limit: largest distance that is tried.
        num_halvings: steps of the bisection.
        norm: "linf" or "l2".
        num_steps: as in `pgd`.
        num_restarts: as in `pgd`.
        valid_range: least and largest value of an input.

    Returns:
        A `SmallestEpsilon`; 0 where another class wins at x already.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> linear = lambda x: jnp.stack([x[:, 0], -x[:, 0] + 0.4], axis=-1)
        >>> found = smallest_epsilon(jax.random.key(0), linear, jnp.array([[0.3]]),
        ...                          labels=jnp.array([0]))
        >>> print(found.epsilon.round(3))
        [0.1]

    Reference: ours; the attack is that of `pgd`.
    """
    _validate.positive(limit=limit)
    _validate.integer(1, num_halvings=num_halvings)
    start, classes = jnp.asarray(x), jnp.asarray(labels)
    how = _Pgd(norm, num_steps, num_restarts, valid_range)
    partial = _callables.as_partial(apply_fn)
    nearest = np.array(start)
    epsilon = np.full(len(nearest), np.inf)
    good, bad = np.zeros(len(nearest)), np.full(len(nearest), float(limit))
    for step in range(num_halvings + 2):
        tried = (good, bad)[step] if step < 2 else 0.5 * (good + bad)
        step_key = jax.random.fold_in(key, step)
        found = _attack(step_key, partial, start, classes, tried, how=how)
        is_hit = np.asarray(found.is_adversarial)
        distance = _distance(
            np.asarray(found.x, float) - np.asarray(start, float), norm
        )
        is_nearer = is_hit & (distance < epsilon)
        epsilon = np.where(is_nearer, distance, epsilon)
        nearest[is_nearer] = np.asarray(found.x)[is_nearer]
        bad = np.minimum(np.where(is_hit, tried, bad), epsilon)
        good = np.where(is_hit, good, tried)
        good = np.minimum(good, bad)
    return SmallestEpsilon(epsilon, nearest)


class _Pgd(NamedTuple):
    """Options of `pgd`; static under jit."""

    norm: str
    num_steps: int
    num_restarts: int
    valid_range: tuple[float, float]


@functools.partial(jax.jit, static_argnames="how")
def _attack(
    key: jax.Array,
    apply_fn: _ApplyFn,
    x: jax.Array,
    labels: jax.Array,
    epsilon: jax.Array,
    *,
    how: _Pgd,
) -> AttackResult:
    return pgd(key, apply_fn, x, labels=labels, epsilon=epsilon, **how._asdict())


def _distance(delta: np.ndarray, norm: str) -> np.ndarray:
    flat = delta.reshape(len(delta), -1)
    if norm == "linf":
        return np.abs(flat).max(axis=1)
    return np.linalg.norm(flat, axis=1)


def _checked(
    x: ArrayLike,
    labels: ArrayLike,
    epsilon: ArrayLike,
    loss: str,
    valid_range: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    _validate.one_of(LOSSES, loss=loss)
    _validate.at_least(0, epsilon=epsilon)
    if not valid_range[0] < valid_range[1]:
        raise ValueError(
            f"Expected a valid_range that is not empty, got {valid_range}."
        )
    start, classes = jnp.asarray(x), jnp.asarray(labels)
    if start.ndim < 2 or classes.shape != start.shape[:1]:
        raise ValueError(
            f"Expected x [n, ...] and labels [n], got {start.shape} and "
            f"{classes.shape}."
        )
    radius = jnp.broadcast_to(jnp.asarray(epsilon, start.dtype), start.shape[:1])
    return start, classes, radius.reshape(-1, *(1,) * (start.ndim - 1))


def _margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    is_own = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    return own - jnp.max(jnp.where(is_own, -jnp.inf, logits), axis=-1)


def _total_loss(
    x: jax.Array, apply_fn: _ApplyFn, labels: jax.Array, loss: str
) -> jax.Array:
    """What an attack raises; the gradient of a row is that of its own loss."""
    logits = apply_fn(x)
    if loss == "margin":
        return -jnp.sum(_margin(logits, labels))
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.take_along_axis(log_p, labels[:, None], axis=-1))


def _evaluated(apply_fn: _ApplyFn, x: jax.Array, labels: jax.Array) -> AttackResult:
    logits = apply_fn(x)
    is_finite = jnp.all(jnp.isfinite(logits), axis=-1)
    margin = jnp.where(is_finite, _margin(logits, labels), -jnp.inf)
    wins = jnp.argmax(logits, axis=-1) != labels
    return AttackResult(x, margin, wins | ~is_finite)


def _stronger(old: AttackResult, new: AttackResult) -> AttackResult:
    is_better = new.margin < old.margin

    def pick(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where(is_better.reshape(-1, *(1,) * (a.ndim - 1)), b, a)

    return jax.tree.map(pick, old, new)


def _length(x: jax.Array) -> jax.Array:
    axes = tuple(range(1, x.ndim))
    return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))


def _direction(gradient: jax.Array, norm: str) -> jax.Array:
    """The step of length one that a linear loss likes best."""
    if norm == "linf":
        return jnp.sign(gradient)
    length = _length(gradient)
    return gradient / jnp.where(length > 0, length, 1.0)


def _random_direction(key: jax.Array, like: jax.Array, norm: str) -> jax.Array:
    """Uniform in the unit ball."""
    if norm == "linf":
        return jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)
    direction_key, length_key = jax.random.split(key)
    normal = jax.random.normal(direction_key, like.shape, like.dtype)
    share = jax.random.uniform(length_key, (len(like),), like.dtype)
    share = share ** (1 / math.prod(like.shape[1:]))
    return share.reshape(-1, *(1,) * (like.ndim - 1)) * normal / _length(normal)


def _project(
    x: jax.Array,
    *,
    centre: jax.Array,
    radius: jax.Array,
    norm: str,
    valid_range: tuple[float, float],
) -> jax.Array:
    """Into the ball, then into the range: both hold, as the centre is in the range."""
    delta = x - centre
    if norm == "linf":
        delta = jnp.clip(delta, -radius, radius)
    else:
        length = _length(delta)
        delta *= jnp.minimum(1.0, radius / jnp.where(length > 0, length, 1.0))
    return jnp.clip(centre + delta, *valid_range)
