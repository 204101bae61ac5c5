"""Distances of the nearest adversarial inputs, to compare with certified radii.

    epsilon(x) = min |x' - x| over all x' that are not classified as the label,

bounded from above by the nearest one that attacks at several radii find.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax.attacks.attack_result import ApplyFn
from robustjax.attacks.ball import ball
from robustjax.attacks.gradient import pgd


class SmallestEpsilon(NamedTuple):
    """The nearest adversarial inputs found; float64 on the host."""

    epsilon: np.ndarray  # [n], distance in the norm; inf where none was found
    x: np.ndarray  # [n, ...], at that distance; the example itself where none was found


def smallest_epsilon(
    key: jax.Array,
    apply_fn: ApplyFn,
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
        labels: `[n]` classes to be lost, integers in [0, k).
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
        >>> import jax.numpy as jnp
        >>> linear = lambda x: jnp.stack([x[:, 0], -x[:, 0] + 0.4], axis=-1)
        >>> found = smallest_epsilon(jax.random.key(0), linear, jnp.array([[0.3]]),
        ...                          labels=jnp.array([0]))
        >>> print(found.epsilon.round(3))
        [0.1]

    Reference: ours; the attack is that of `pgd`.
    """
    _validate.positive(limit=limit)
    _validate.integer(1, num_halvings=num_halvings)
    start = ball(x, limit, norm=norm, valid_range=valid_range).centre
    how: dict[str, Any] = dict(
        norm=norm,
        num_steps=num_steps,
        num_restarts=num_restarts,
        valid_range=valid_range,
    )
    partial = _callables.as_partial(apply_fn)
    nearest = np.array(start)
    epsilon = np.full(len(nearest), np.inf)
    good, bad = np.zeros(len(nearest)), np.full(len(nearest), float(limit))
    for step in range(num_halvings + 2):
        if step < 2:
            tried = (good, bad)[step]
        else:  # a step too long may miss what a shorter one finds
            tried = np.where(
                np.isinf(epsilon), limit / 2 ** (step - 1), (good + bad) / 2
            )
        step_key = jax.random.fold_in(key, step)
        found = pgd(step_key, partial, start, labels=labels, epsilon=tried, **how)
        is_hit = np.asarray(found.is_adversarial)
        distance = _distance(
            np.asarray(found.x, float) - np.asarray(start, float), norm
        )
        is_nearer = is_hit & (distance < epsilon)
        epsilon = np.where(is_nearer, distance, epsilon)
        nearest[is_nearer] = np.asarray(found.x)[is_nearer]
        bad = np.minimum(np.where(is_hit, tried, bad), epsilon)
        good = np.where(is_hit | np.isinf(epsilon), good, tried)
        good = np.minimum(good, bad)
    return SmallestEpsilon(epsilon, nearest)


def _distance(delta: np.ndarray, norm: str) -> np.ndarray:
    flat = delta.reshape(len(delta), math.prod(delta.shape[1:]))
    if norm == "linf":
        return np.abs(flat).max(axis=1)
    return np.linalg.norm(flat, axis=1)
