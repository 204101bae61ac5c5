"""Losses with an adversarial term, and the adversarial views in it.

    x_adv = argmax over |x' - x| <= epsilon of L(anchors, f(x')), by gradient ascent,
    loss  = L(clean views) + adversarial_weight * L_adv(adversarial views).

Nothing of x_adv carries a gradient; it is encoded once more for the second term.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.typing import ArrayLike

from robustjax import _validate, attacks
from robustjax.contrastive.batch import Batch
from robustjax.contrastive.composition import Loss, LossAux

Params = Any  # a pytree of arrays


class IntegratedAux(NamedTuple):
    """The two terms of an integrated loss, before the second is weighted."""

    clean_loss: jax.Array
    adversarial_loss: jax.Array
    clean: LossAux
    adversarial: LossAux


IntegratedLoss = Callable[
    [Batch | ArrayLike, Batch | ArrayLike], tuple[jax.Array, IntegratedAux]
]


def integrate(
    loss_fn: Loss, adversarial_loss_fn: Loss, *, adversarial_weight: ArrayLike = 1.0
) -> IntegratedLoss:
    """Adds a weighted adversarial loss to a clean one. [device].

    Args:
        loss_fn: of clean views, made by `compose`.
        adversarial_loss_fn: of a view and its adversarial one.
        adversarial_weight: >= 0.

    Returns:
        A function of two batches, clean and adversarial, each a `Batch` or views; it
        returns the loss and `IntegratedAux`.

    Raises:
        ValueError: if the weight is negative.

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> views = jnp.array([[[1.0, 0], [0, 1]], [[1, 0], [0, 1]]])
        >>> attacked = jnp.array([[[1, 0], [0, 1]], [[0.8, 0.6], [0.6, 0.8]]])
        >>> chain = compose(similarity(0.5))
        >>> loss, aux = jax.jit(integrate(chain, chain))(views, attacked)
        >>> print(f"{loss:.3f} = {aux.clean_loss:.3f} + {aux.adversarial_loss:.3f}")
        1.110 = 0.240 + 0.871

    Reference: ours; Ko et al. (2022), ICML, arXiv 2112.04468, has this form.
    """
    _validate.at_least(0, adversarial_weight=adversarial_weight)

    def integrated(
        clean: Batch | ArrayLike, adversarial: Batch | ArrayLike
    ) -> tuple[jax.Array, IntegratedAux]:
        clean_loss, clean_aux = loss_fn(clean)
        adversarial_loss, adversarial_aux = adversarial_loss_fn(adversarial)
        total = clean_loss + adversarial_weight * adversarial_loss
        return total, IntegratedAux(
            clean_loss, adversarial_loss, clean_aux, adversarial_aux
        )

    return integrated


def adversarial_view(
    key: jax.Array,
    encode_fn: Callable[[jax.Array], jax.Array],
    x: ArrayLike,
    *,
    anchors: ArrayLike,
    loss_fn: Loss,
    epsilon: ArrayLike,
    norm: str = "linf",
    num_steps: int = 1,
    step_size: float | None = None,
    random_start: bool = True,
    valid_range: tuple[float, float] = (0.0, 1.0),
) -> jax.Array:
    """Inputs near x whose embeddings have left their anchors.

    [device] Pure, jittable, for use inside of a training step: nothing of it carries a
    gradient, neither to the parameters of the encoder nor to the anchors.

    Args:
        key: random key of the start.
        encode_fn: maps `[n, ...]` inputs to `[n, d]` embeddings.
        x: `[n, ...]` inputs, inside the valid range.
        anchors: `[n, d]` embeddings of other views of the same images. Those of x
            itself need the random start: at x their gradient is zero.
        loss_fn: a loss built by `compose`; the attack maximises it on the views
            [anchors, encode_fn(inputs)].
        epsilon: radius of the ball, in units of x, a number or `[n]`.
        norm: of the ball, "linf" or "l2".
        num_steps: gradient steps, >= 1.
        step_size: in units of epsilon, as in `attacks.ascend`.
        random_start: start from a random point of the ball.
        valid_range: least and largest value of an input.

    Returns:
        `[n, ...]` inputs, to be encoded once more with the gradient of the parameters.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from robustjax.contrastive import compose, similarity
        >>> x = jax.random.uniform(jax.random.key(0), (8, 5))
        >>> @jax.jit
        ... def attacked(key, x):
        ...     return adversarial_view(
        ...         key, lambda x: x - 0.5, x, anchors=x - 0.5,
        ...         loss_fn=compose(similarity(0.5)), epsilon=0.1)
        >>> found = attacked(jax.random.key(1), x)
        >>> found.shape, bool(abs(found - x).max() <= 0.1 + 1e-6)
        ((8, 5), True)

    Reference: Ho and Vasconcelos (2020), NeurIPS, arXiv 2010.12050, with a random
        start, the valid range, and any number of steps.
    """
    fixed = jax.lax.stop_gradient(jnp.asarray(anchors))

    def loss(inputs: jax.Array) -> jax.Array:
        return loss_fn(jnp.stack([fixed, encode_fn(inputs)]))[0]

    return attacks.ascend(
        key,
        loss,
        x,
        epsilon=epsilon,
        norm=norm,
        num_steps=num_steps,
        step_size=step_size,
        random_start=random_start,
        valid_range=valid_range,
    ).x


def in_chunks(
    encode_fn: Callable[[Params, jax.Array], jax.Array], *, chunk_size: int
) -> Callable[[Params, jax.Array], jax.Array]:
    """An encoder that keeps embeddings only, for large batches in little memory.

    [device] Inputs go through in chunks, and each chunk once more for the derivative:
    memory of activations is that of one chunk, at the price of a second forward pass.

    Args:
        encode_fn: maps parameters and `[n, ...]` inputs to `[n, d]`, row by row.
        chunk_size: inputs at a time; it must divide their number.

    Returns:
        A function like encode_fn, of the same values and gradients.

    Raises:
        ValueError: if the chunk size does not divide the number of inputs.

    Example:
        >>> encode = in_chunks(lambda w, x: x @ w, chunk_size=2)
        >>> encode(jnp.ones((3, 4)), jnp.ones((6, 3))).shape
        (6, 4)

    Reference: Gao et al. (2021), arXiv 2101.06983 (GradCache), by rematerialisation.
    """
    _validate.integer(1, chunk_size=chunk_size)

    def encode(params: Params, x: jax.Array) -> jax.Array:
        if len(x) % chunk_size:
            raise ValueError(
                f"Expected a multiple of chunk_size={chunk_size} inputs, got {len(x)}."
            )
        chunks = rearrange(x, "(chunk n) ... -> chunk n ...", n=chunk_size)
        one = jax.checkpoint(lambda chunk: encode_fn(params, chunk))
        found = jax.lax.map(one, chunks)
        return rearrange(found, "chunk n ... -> (chunk n) ...")

    return encode
