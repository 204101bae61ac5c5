"""Auto-PGD: halves the step size of an example when its loss stops increasing.

    u = P(x_t + s epsilon d(gradient of the loss at x_t)),
    x_{t+1} = P(x_t + a (u - x_t) + (1 - a) (x_t - x_{t-1})),   a = 3/4, first 1,

with P and d as in `gradient`. At a checkpoint s, at first 2, is halved and the example
goes back to its best point, if fewer than 3/4 of the steps since the last checkpoint
raised the loss, or if s was not halved there and the largest loss is still the same.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _loops, _validate
from robustjax.attacks.attack_result import (
    ApplyFn,
    AttackResult,
    AttackSettings,
    Objective,
    select,
    stronger,
    target,
)
from robustjax.attacks.ball import Ball, ball

_MOMENTUM = 0.25  # share of the last move in the next one
_GAINING = 0.75  # share of the steps that must raise the loss


class _State(NamedTuple):
    """State of one random start; rows are examples."""

    x: jax.Array  # [n, ...]
    last_x: jax.Array  # [n, ...]
    gradient: jax.Array  # [n, ...], at x
    loss: jax.Array  # [n], at x
    top_x: jax.Array  # [n, ...], of the largest loss so far
    top_gradient: jax.Array  # [n, ...]
    top_loss: jax.Array  # [n]
    size: jax.Array  # [n], of a step, in units of epsilon
    num_gains: jax.Array  # [n], since the last checkpoint
    was_halved: jax.Array  # [n], at the last checkpoint
    checked_loss: jax.Array  # [n], the largest at the last checkpoint


def apgd(
    key: jax.Array,
    apply_fn: ApplyFn,
    x: ArrayLike,
    *,
    labels: ArrayLike,
    epsilon: ArrayLike,
    norm: str = "linf",
    num_steps: int = 100,
    num_restarts: int = 1,
    loss: str = "cross_entropy",
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> AttackResult:
    """Auto-PGD: no step size to choose, each example halves its own.

    [device] Pure, jittable. All examples, starts one after another. Run it with both
    losses, "cross_entropy" and "dlr", for the two parts of AutoAttack that are gradient
    attacks on the label.

    Args:
        key: random key of the starts.
        apply_fn: maps `[n, ...]` inputs to `[n, k]` logits, row by row.
        x: `[n, ...]` inputs.
        labels: `[n]` classes to be lost, integers in [0, k); see `AttackResult` for
            others under jit.
        epsilon: radius of the ball, >= 0, a number or `[n]`.
        norm: of the ball, "linf" or "l2".
        num_steps: gradient steps of each start, >= 1.
        num_restarts: random starts, >= 1.
        loss: "cross_entropy", "dlr" (needs three classes) or "margin".
        valid_range: least and largest value of an input.

    Returns:
        An `AttackResult`: the iterate with the smallest margin.

    Raises:
        ValueError: if an argument or a concrete label is out of range.

    Example:
        >>> linear = lambda x: jnp.stack([x[:, 0], -x[:, 0] + 0.4], axis=-1)
        >>> @jax.jit
        ... def attack(key, x, labels):
        ...     return apgd(key, linear, x, labels=labels, epsilon=0.2)
        >>> found = attack(jax.random.key(0), jnp.array([[0.3]]), jnp.array([0]))
        >>> print(found.x.round(3), found.is_adversarial)
        [[0.1]] [ True]

    Reference: Croce and Hein (2020), ICML, arXiv 2003.01690, Alg. 1 and Eq. 6.
    """
    _validate.integer(1, num_steps=num_steps, num_restarts=num_restarts)
    around = ball(x, epsilon, norm=norm, valid_range=valid_range)
    settings = AttackSettings("apgd", loss, norm, num_steps, num_restarts, valid_range)
    aim = target(apply_fn, labels, around=around, settings=settings)
    schedule = _schedule(num_steps)

    def restart(best: AttackResult, key: jax.Array) -> AttackResult:
        state = _loops.once(_random_start, aim, around, best, key)
        return _loops.repeat(_step, (aim, around), state, items=schedule)[1]

    clean = _loops.once(Objective.evaluated, aim, around.centre)
    keys = jax.random.split(key, num_restarts)
    best = _loops.each(restart, clean, keys, seen=(aim, around))
    return _loops.once(Objective.evaluated, aim, best.x)


_Iterate = tuple[_State, AttackResult]  # where the attack is, and the best so far


def _random_start(
    aim: Objective, around: Ball, best: AttackResult, key: jax.Array
) -> _Iterate:
    state, found = _start(aim, around.random_point(key))
    return state, stronger(best, found)


def _step(
    context: tuple[Objective, Ball],
    scheduled: tuple[jax.Array, jax.Array],
    iterate: _Iterate,
) -> _Iterate:
    (aim, around), (window, share), (state, best) = context, scheduled, iterate
    moved, found = _move(aim, around, state, share=share)
    state = jax.lax.cond(window > 0, _check, lambda s, _: s, moved, window)
    return state, stronger(best, found)


def _schedule(num_steps: int) -> tuple[jax.Array, jax.Array]:
    """Returns for each step the steps since the last checkpoint, and the share."""
    percents, step = [0, 22], 19
    while percents[-1] + step <= 100:
        percents.append(percents[-1] + step)
        step = max(step - 3, 6)
    checkpoints = sorted({math.ceil(p * num_steps / 100) for p in percents})
    windows = np.zeros(num_steps, np.int32)
    for last, checkpoint in itertools.pairwise(checkpoints):
        windows[checkpoint - 1] = checkpoint - last
    shares = np.where(np.arange(num_steps) == 0, 1.0, 1 - _MOMENTUM)
    return jnp.asarray(windows), jnp.asarray(shares, jnp.float32)


def _start(aim: Objective, x: jax.Array) -> _Iterate:
    loss, gradient, found = aim.gradient(x)
    state = _State(
        x=x,
        last_x=x,
        gradient=gradient,
        loss=loss,
        top_x=x,
        top_gradient=gradient,
        top_loss=loss,
        size=jnp.full_like(loss, 2.0, x.dtype),
        num_gains=jnp.zeros_like(loss, jnp.int32),
        was_halved=jnp.ones_like(loss, bool),
        checked_loss=loss,
    )
    return state, found


def _move(aim: Objective, around: Ball, state: _State, *, share: jax.Array) -> _Iterate:
    """One step of gradient, of which a share is taken, and momentum."""
    size = state.size.reshape(around.radius.shape)
    uphill = around.step(state.x, state.gradient, size)
    ahead = share * (uphill - state.x) + (1 - share) * (state.x - state.last_x)
    x = around.project(state.x + ahead)
    loss, gradient, found = aim.gradient(x)
    is_top = loss > state.top_loss
    moved = state._replace(
        x=x,
        last_x=state.x,
        gradient=gradient,
        loss=loss,
        top_x=select(is_top, x, state.top_x),
        top_gradient=select(is_top, gradient, state.top_gradient),
        top_loss=jnp.where(is_top, loss, state.top_loss),
        num_gains=state.num_gains + (loss > state.loss),
    )
    return moved, found


def _check(state: _State, num_steps: jax.Array) -> _State:
    """Halves the steps of examples that stopped to gain, and puts them at their top."""
    is_slow = state.num_gains < _GAINING * num_steps
    is_stuck = ~state.was_halved & (state.top_loss <= state.checked_loss)
    is_halved = is_slow | is_stuck
    return state._replace(
        x=select(is_halved, state.top_x, state.x),
        gradient=select(is_halved, state.top_gradient, state.gradient),
        loss=jnp.where(is_halved, state.top_loss, state.loss),
        size=jnp.where(is_halved, state.size / 2, state.size),
        num_gains=jnp.zeros_like(state.num_gains),
        was_halved=is_halved,
        checked_loss=state.top_loss,
    )
