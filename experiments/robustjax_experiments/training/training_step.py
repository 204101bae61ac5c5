"""One step of noise-augmented or certified training, and the accuracies."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from robustjax import bounds

_TRAINING = 0x7472  # keeps all keys of training apart from those of certification
_INIT, _NOISE, _AUGMENT = range(3)  # streams of the root key


class TrainState(NamedTuple):
    """State of training, which a step updates."""

    step: jax.Array  # [], int32
    params: Any
    statistics: dict[str, Any]  # the other collections, {"batch_stats": ...} or {}
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """Variables for the `apply` of the module."""
        return {"params": self.params, **self.statistics}


class Certified(NamedTuple):
    """A loss that bounds the cross-entropy over linf balls, phased in during training.

    Reference: Gowal et al. (2018), arXiv 1810.12715: the radius and the weight of the
    bound rise from zero between two steps.
    """

    epsilon: float  # radius at the end
    weight: float  # of the bounded loss at the end
    method: str  # of the bounds
    first_step: int
    last_step: int

    def losses(
        self,
        module: nn.Module,
        variables: Any,
        images: jax.Array,
        labels: jax.Array,
        *,
        step: jax.Array,
    ) -> jax.Array:
        """Upper bounds of the cross-entropy on the ball of each image. [device]."""
        epsilon = self.epsilon * self._share(step)

        def fn(x: jax.Array) -> jax.Array:
            return module.apply(variables, x[None], train=False)[0]

        def one(image: jax.Array, label: jax.Array) -> jax.Array:
            box = (jnp.clip(image + side, 0.0, 1.0) for side in (-epsilon, epsilon))
            worst = bounds.worst_case_logits(fn, *box, label=label, method=self.method)
            return optax.softmax_cross_entropy_with_integer_labels(worst, label)

        return jax.vmap(one)(images, labels)

    def mixed(
        self, losses: jax.Array, bounded: jax.Array, *, step: jax.Array
    ) -> jax.Array:
        """The plain loss, step by step replaced by the bounded one. [device]."""
        weight = self.weight * self._share(step)
        return (1 - weight) * losses + weight * bounded

    def _share(self, step: jax.Array) -> jax.Array:
        span = max(self.last_step - self.first_step, 1)
        return jnp.clip((step - self.first_step) / span, 0.0, 1.0)


def root_key(seed: int) -> jax.Array:
    """The key of all randomness of a training run. [device]."""
    return jax.random.fold_in(jax.random.key(seed), _TRAINING)


def initial_state(
    seed: jax.Array,
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    input_shape: tuple[int, ...],
) -> TrainState:
    """The state before the first step. [device]."""

    @jax.jit
    def start(key: jax.Array) -> TrainState:
        statistics = dict(module.init(key, jnp.zeros((1, *input_shape))))
        params = statistics.pop("params")
        return TrainState(jnp.int32(0), params, statistics, optimizer.init(params))

    return start(jax.random.fold_in(seed, _INIT))


def make_train_step(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    sigma: float,
    augment: str,
    certified: Certified | None = None,
) -> Callable[..., tuple[TrainState, tuple[jax.Array, jax.Array]]]:
    """A jitted function that makes one step and reuses the memory of its state.

    Steps are not scanned: on a CPU XLA runs the gradients of convolutions inside a loop
    several times slower than outside.

    Args:
        module: with `__call__(x, *, train)`, as from `robustjax.models.create`.
        optimizer: of its parameters.
        sigma: standard deviation of the noise, in input units.
        augment: "none", "crop" or "crop_flip", see `augmented`.
        certified: the certified loss; none by default.

    Returns:
        A function of (state, seed, images `[n, h, w, c]`, labels `[n]`) that returns
        the next state and the batch's (loss, accuracy). Noise and augmentation depend
        on the seed and the number of the step, hence differ from step to step.
    """

    def loss_fn(
        params: Any,
        statistics: dict[str, Any],
        images: jax.Array,
        labels: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, dict[str, Any]]]:
        logits, updated = module.apply(
            {"params": params, **statistics},
            images,
            train=True,
            mutable=list(statistics),
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        accuracy = (logits.argmax(axis=-1) == labels).mean()
        if certified is not None:
            variables = {"params": params, **statistics}
            bounded = certified.losses(module, variables, images, labels, step=step)
            losses = certified.mixed(losses, bounded, step=step)
        return losses.mean(), (accuracy, dict(updated))

    @functools.partial(jax.jit, donate_argnames="state")
    def train_step(
        state: TrainState, seed: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[TrainState, tuple[jax.Array, jax.Array]]:
        move_key = jax.random.fold_in(jax.random.fold_in(seed, _AUGMENT), state.step)
        noise_key = jax.random.fold_in(jax.random.fold_in(seed, _NOISE), state.step)
        images = augmented(move_key, images, mode=augment)
        images = noisy(noise_key, images, sigma=sigma)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (accuracy, statistics)), grads = grad_fn(
            state.params, state.statistics, images, labels, state.step
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, statistics, opt_state)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new)  # one program
        return new, (loss, accuracy)

    return train_step


def noisy(key: jax.Array, images: jax.Array, *, sigma: float | jax.Array) -> jax.Array:
    """Images plus Gaussian noise of standard deviation sigma, not clipped. [device]."""
    noise = jax.random.normal(key, (images.size,))  # flat is faster on a CPU
    return images + sigma * noise.reshape(images.shape)


def augmented(key: jax.Array, images: jax.Array, *, mode: str) -> jax.Array:
    """Images shifted by up to 1/8 of their height, and mirrored for "crop_flip".

    [device]

    Args:
        key: of the shifts and flips, which differ from image to image.
        images: `[n, h, w, c]`; zeros are moved in.
        mode: "none", "crop" or "crop_flip".

    Returns:
        Images of the same shape.
    """
    if mode == "none":
        return images
    pad = max(1, images.shape[1] // 8)
    shift_key, flip_key = jax.random.split(key)
    shifts = jax.random.randint(shift_key, (len(images), 2), 0, 2 * pad + 1)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def crop(image: jax.Array, shift: jax.Array) -> jax.Array:
        start = (shift[0], shift[1], 0)
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    images = jax.vmap(crop)(padded, shifts)
    if mode == "crop":
        return images
    flips = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
    return jnp.where(flips, images[:, :, ::-1], images)


@jax.jit
def num_correct(
    key: jax.Array,
    apply_fn: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    labels: jax.Array,
    sigma: float,
) -> tuple[jax.Array, jax.Array]:
    """Numbers of correct images, without noise and with one draw. [device]."""
    clean = apply_fn(images).argmax(axis=-1) == labels
    with_noise = apply_fn(noisy(key, images, sigma=sigma)).argmax(axis=-1) == labels
    return clean.sum(), with_noise.sum()
