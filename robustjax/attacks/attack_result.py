"""Losses and results of attacks; results are evaluated at the returned input.

With logits l, sorted as l_(1) >= l_(2) >= ..., and the label y,

    margin = l_y - max over j != y of l_j,
    losses:  -margin,   log(1 + exp(z)),   -margin / (l_(1) - l_(3))   (DLR),
    z = log sum over j != y of exp(l_j) - l_y.

Attacks on the cross-entropy, log(1 + exp(z)), raise z.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax.attacks.ball import Ball

LOSSES = ("margin", "cross_entropy", "dlr")
ApplyFn = Callable[[jax.Array], jax.Array]


class AttackSettings(NamedTuple):
    """How an attack was made; static under jit."""

    attack: str
    loss: str
    norm: str
    num_steps: int
    num_restarts: int
    valid_range: tuple[float, float]
    step_size: float | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The strongest input found for each example.

    Concrete labels outside of [0, k) raise an error. Under jit they cannot: a row with
    such a label is never adversarial, keeps its x, and has margin and loss NaN.
    """

    x: jax.Array  # [n, ...], inside the ball and the valid range
    margin: jax.Array  # [n], logit of the label minus the largest other one
    loss: jax.Array  # [n], at x
    is_adversarial: (
        jax.Array
    )  # [n], whether another class wins, or logits are not finite
    epsilon: jax.Array  # [n]
    settings: AttackSettings = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Objective:
    """A classifier and the classes that it shall lose."""

    apply_fn: Partial
    labels: jax.Array  # [n]
    epsilon: jax.Array  # [n]
    settings: AttackSettings = dataclasses.field(metadata={"static": True})

    def gradient(self, x: jax.Array) -> tuple[jax.Array, jax.Array, AttackResult]:
        """Losses `[n]`, their gradients by rows, and what the classifier makes of x."""

        def losses(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = self.apply_fn(x)
            return _raised(logits, self.labels, self.settings.loss), logits

        found, pull, logits = jax.vjp(losses, x, has_aux=True)
        return found, pull(jnp.ones_like(found))[0], self._judged(x, logits)

    def evaluated(self, x: jax.Array) -> AttackResult:
        """What the classifier makes of x."""
        return self._judged(x, self.apply_fn(x))

    def _judged(self, x: jax.Array, logits: jax.Array) -> AttackResult:
        is_finite = jnp.all(jnp.isfinite(logits), axis=-1)
        is_class = _is_class(self.labels, logits.shape[-1])
        lowest = jnp.where(is_class, -jnp.inf, jnp.nan)
        margin = jnp.where(is_finite, _margin(logits, self.labels), lowest)
        is_lost = (jnp.argmax(logits, axis=-1) != self.labels) | ~is_finite
        loss = _raised(logits, self.labels, self.settings.loss)
        if self.settings.loss == "cross_entropy":
            loss = jax.nn.softplus(loss)
        return AttackResult(
            x, margin, loss, is_lost & is_class, self.epsilon, self.settings
        )


def target(
    apply_fn: ApplyFn, labels: ArrayLike, *, around: Ball, settings: AttackSettings
) -> Objective:
    """Checks what depends on the loss and the labels."""
    _validate.one_of(LOSSES, loss=settings.loss)
    num, partial = len(around.centre), _callables.as_partial(apply_fn)
    shape = _callables.applied.eval_shape(partial, around.centre).shape
    if len(shape) != 2 or shape[0] != num:
        raise ValueError(f"Expected apply_fn to give logits [{num}, k], got {shape}.")
    _validate.labels(shape[1], labels=labels)  # before a cast, which may wrap them
    classes = jnp.asarray(labels)
    if classes.shape != (num,):
        raise ValueError(f"Expected labels [{num}], as many as x, got {classes.shape}.")
    return Objective(partial, classes, around.radius.reshape(-1), settings)


def stronger(old: AttackResult, new: AttackResult) -> AttackResult:
    """Returns for each example the result with the smaller margin; ties may be lost."""
    is_lost = new.is_adversarial & ~old.is_adversarial
    is_better = is_lost | (new.margin < old.margin)
    return jax.tree.map(lambda a, b: select(is_better, b, a), old, new)


def select(is_first: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Rows `[n, ...]` of the first where `is_first [n]`, else of the second."""
    return jnp.where(is_first.reshape(-1, *(1,) * (first.ndim - 1)), first, second)


def _is_class(labels: jax.Array, num_classes: int) -> jax.Array:
    return (labels >= 0) & (labels < num_classes)


def _own_and_others(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`[n]`, NaN for a label of no class, and `[n, k]`, where the own logit is -inf."""
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    own = jnp.where(_is_class(labels, logits.shape[-1]), own, jnp.nan)
    is_own = jnp.arange(logits.shape[-1])[None] == labels[:, None]
    return own, jnp.where(is_own, -jnp.inf, logits)


def _margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    own, others = _own_and_others(logits, labels)
    return own - jnp.max(others, axis=-1)


def _raised(logits: jax.Array, labels: jax.Array, loss: str) -> jax.Array:
    """`[n]`, for the cross-entropy the log-odds z against the label.

    The cross-entropy is softplus(z), whose derivative rounds to 0 where the classifier
    is sure; z rises with it and has derivatives everywhere.
    """
    if loss == "cross_entropy":
        own, others = _own_and_others(logits, labels)
        return jax.nn.logsumexp(others, axis=-1) - own
    margin = _margin(logits, labels)
    if loss == "margin":
        return -margin
    if logits.shape[-1] < 3:
        raise ValueError(
            f"The loss dlr needs three classes or more, got {logits.shape[-1]}; "
            'choose loss="cross_entropy".'
        )
    highest = jax.lax.top_k(logits, 3)[0]
    spread = highest[:, 0] - highest[:, 2]
    return -margin / (spread + 1e-12)  # as the public code, for equal logits
