"""Attacks of fixed steps along the gradient: FGSM, PGD, and ascent of any loss.

    x' = P(x + s epsilon d(gradient of the loss at x)),

d(g) = sign(g) in linf and g / |g| in l2, P the projection on the ball of radius epsilon
and the valid range, s the size of a step in units of epsilon.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _loops, _validate
from robustjax.attacks.attack_result import (
    ApplyFn,
    AttackResult,
    AttackSettings,
    Objective,
    stronger,
    target,
)
from robustjax.attacks.ball import Ball, ball


class AscentResult(NamedTuple):
    """Where an ascent ended."""

    x: jax.Array  # [n, ...], inside the ball and the valid range
    loss: jax.Array  # what the loss function gives there


def fgsm(
    apply_fn: ApplyFn,
    x: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike,
    loss: str = "cross_entropy",
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> AttackResult:
    """The fast gradient sign method: one step to a corner of the linf ball.

    [device] Pure, jittable. Where the input itself is stronger, it is returned.

    Args:
        apply_fn: maps `[n, ...]` inputs to `[n, k]` logits, row by row.
        x: `[n, ...]` inputs.
        labels: `[n]` classes to be lost, integers in [0, k); see `AttackResult` for
            others under jit.
        epsilon: radius of the ball, >= 0, a number or `[n]`.
        loss: "margin", "cross_entropy" or "dlr".
        valid_range: least and largest value of an input.

    Returns:
        An `AttackResult`.

    Raises:
        ValueError: if an argument or a concrete label is out of range.

    Example:
        >>> linear = lambda x: jnp.stack([x[:, 0], -x[:, 0] + 0.4], axis=-1)
        >>> import functools
        >>> attack = jax.jit(functools.partial(fgsm, linear, epsilon=0.2))
        >>> found = attack(jnp.array([[0.3]]), jnp.array([0]))
        >>> print(found.x.round(3), found.is_adversarial)
        [[0.1]] [ True]

    Reference: Goodfellow, Shlens and Szegedy (2015), arXiv 1412.6572.
    """
    around = ball(x, epsilon, valid_range=valid_range)
    settings = AttackSettings("fgsm", loss, "linf", 1, 1, valid_range, 1.0)
    aim = target(apply_fn, labels, around=around, settings=settings)
    return _loops.once(_corner, aim, around)


def _corner(aim: Objective, around: Ball) -> AttackResult:
    _, gradient, _ = aim.gradient(around.centre)
    stepped = around.step(around.centre, gradient, 1.0)
    return stronger(aim.evaluated(around.centre), aim.evaluated(stepped))


def pgd(
    key: jax.Array,
    apply_fn: ApplyFn,
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
        labels: `[n]` classes to be lost, integers in [0, k); see `AttackResult` for
            others under jit.
        epsilon: radius of the ball, >= 0, a number or `[n]`.
        norm: of the ball, "linf" or "l2".
        num_steps: gradient steps of each start, >= 1.
        step_size: of a step, in units of epsilon; default 2.5 / num_steps.
        num_restarts: random starts, >= 1.
        loss: "margin" (the logit of the label against the largest other),
            "cross_entropy" or "dlr".
        valid_range: least and largest value of an input.

    Returns:
        An `AttackResult`: the iterate with the smallest margin.

    Raises:
        ValueError: if an argument or a concrete label is out of range.

    Example:
        >>> linear = lambda x: jnp.stack([x[:, 0], -x[:, 0] + 0.4], axis=-1)
        >>> @jax.jit
        ... def attack(key, x, labels):
        ...     return pgd(key, linear, x, labels=labels, epsilon=0.2)
        >>> found = attack(jax.random.key(0), jnp.array([[0.3]]), jnp.array([0]))
        >>> print(found.x.round(3), found.is_adversarial)
        [[0.1]] [ True]

    Reference: Madry, Makelov, Schmidt, Tsipras and Vladu (2018), arXiv 1706.06083.
    """
    _validate.integer(1, num_steps=num_steps, num_restarts=num_restarts)
    share = 2.5 / num_steps if step_size is None else step_size
    _validate.positive(step_size=share)
    around = ball(x, epsilon, norm=norm, valid_range=valid_range)
    settings = AttackSettings(
        "pgd", loss, norm, num_steps, num_restarts, valid_range, share
    )
    aim = target(apply_fn, labels, around=around, settings=settings)
    shares = jnp.full(num_steps, share, around.centre.dtype)

    def restart(best: AttackResult, key: jax.Array) -> AttackResult:
        state = _loops.once(Ball.random_point, around, key), best
        last, best = _loops.repeat(_descend, (aim, around), state, items=shares)
        return _loops.once(_better, aim, best, last)

    clean = _loops.once(Objective.evaluated, aim, around.centre)
    keys = jax.random.split(key, num_restarts)
    best = _loops.each(restart, clean, keys, seen=(aim, around))
    return _loops.once(Objective.evaluated, aim, best.x)


_Iterate = tuple[jax.Array, AttackResult]  # where the attack is, and the best before


def _descend(
    context: tuple[Objective, Ball], share: jax.Array, state: _Iterate
) -> _Iterate:
    (aim, around), (now, best) = context, state
    _, gradient, found = aim.gradient(now)
    return around.step(now, gradient, share), stronger(best, found)


def _better(aim: Objective, best: AttackResult, x: jax.Array) -> AttackResult:
    return stronger(best, aim.evaluated(x))


def ascend(
    key: jax.Array,
    loss_fn: Callable[[jax.Array], jax.Array],
    x: ArrayLike,
    *,
    epsilon: ArrayLike,
    norm: str = "linf",
    num_steps: int = 1,
    step_size: float | None = None,
    random_start: bool = True,
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> AscentResult:
    """Projected gradient ascent of any loss, inside of a training step or alone.

    [device] Pure, jittable. Rows of x may depend on each other in the loss, as they do
    in contrastive ones: the last iterate of all rows is returned, whatever its loss is.

    Args:
        key: random key of the start.
        loss_fn: maps `[n, ...]` inputs to a number or to numbers, whose sum is raised.
        x: `[n, ...]` inputs.
        epsilon: radius of the ball, >= 0, a number or `[n]`.
        norm: of the ball, "linf" or "l2".
        num_steps: gradient steps, >= 1.
        step_size: of a step, in units of epsilon; default 1.25 for one step, else
            2.5 / num_steps.
        random_start: start from a random point of the ball; else from x, where the
            gradient of many losses is zero.
        valid_range: least and largest value of an input.

    Returns:
        An `AscentResult` without gradient.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> found = ascend(jax.random.key(0), lambda x: x[:, 0], jnp.array([[0.3]]),
        ...                epsilon=0.2, num_steps=10)
        >>> print(found.x.round(3), found.loss.round(3))
        [[0.5]] [0.5]

    Reference: Madry, Makelov, Schmidt, Tsipras and Vladu (2018), arXiv 1706.06083; one
        step of 1.25 is Wong, Rice and Kolter (2020), arXiv 2001.03994.
    """
    _validate.integer(1, num_steps=num_steps)
    default = 1.25 if num_steps == 1 else 2.5 / num_steps
    share = default if step_size is None else step_size
    _validate.positive(step_size=share)
    around = ball(x, epsilon, norm=norm, valid_range=valid_range)
    start = around.random_point(key) if random_start else around.centre
    partial = _callables.as_partial(loss_fn)
    shares = jnp.full(num_steps, share, around.centre.dtype)
    end = _loops.repeat(_climb, (partial, around), start, items=shares)
    return jax.lax.stop_gradient(AscentResult(end, _loops.once(_value, partial, end)))


def _climb(context: tuple[Partial, Ball], share: jax.Array, now: jax.Array) -> Any:
    loss_fn, around = context
    gradient = jax.grad(lambda x: jnp.sum(loss_fn(x)))(now)
    return around.step(now, gradient, share)


def _value(loss_fn: Partial, x: jax.Array) -> jax.Array:
    return loss_fn(x)
