"""The methods that contrastive.py compares, and what a training step of each raises."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from robustjax_experiments.configs.contrastive import ContrastiveConfig, Method

from robustjax import contrastive, models
from robustjax.contrastive import augmentations, losses

NUM_ANCHOR_VIEWS = 2  # further views are positives only
_WATCHED = contrastive.LossAux._fields
METRICS = ("loss", "clean_loss", "adversarial_loss", *_WATCHED)
Params = Any


class Projected(nn.Module):
    """A classifier whose logits become the hidden layer of a projection head.

    Attributes:
        backbone: from `robustjax.models.create`; its last layer is the first of the
            head, so that the representation is what `features_of` gives.
        width: of the embeddings.
    """

    backbone: nn.Module
    width: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[n, h, w, c]` in [0, 1] to float32 embeddings `[n, width]`."""
        hidden = nn.relu(self.backbone(x, train=train))
        return nn.Dense(self.width)(hidden)


def backbone_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of the classifier inside `Projected`."""
    return {name: tree["backbone"] for name, tree in variables.items()}


def augmentation(
    name: str, *, image_shape: tuple[int, ...]
) -> augmentations.Augmentation:
    """The random change that makes views.

    "shift" moves by an eighth, cuts out a quarter, dims and adds noise, for digits;
    "crop" is a random resized crop and a flip; "simclr" adds colour jitter and grey.
    """
    side = min(image_shape[:2])
    if name == "shift":
        return augmentations.in_turn(
            augmentations.pixel_shift(max(1, side // 8)),
            augmentations.cut_out(max(1, side // 4)),
            augmentations.random_brightness(0.6, 1.2),
            augmentations.additive_noise(0.1),
        )
    steps = [augmentations.random_resized_crop(), augmentations.random_flip(0.5)]
    if name == "simclr":
        jitter = augmentations.color_jitter()
        steps += [
            augmentations.sometimes(jitter, probability=0.8),
            augmentations.random_grey(0.2),
        ]
    return augmentations.in_turn(*steps)


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a method as a function of parameters, images and a key.

    Attributes:
        method: what is used of the loss.
        module: `Projected`.
        augment: makes views.
        settings: of the run.
    """

    method: Method
    module: Projected
    augment: augmentations.Augmentation
    settings: ContrastiveConfig

    @property
    def num_views(self) -> int:
        """Views of an image that are not adversarial."""
        many = self.method.has_neighbours
        return 1 + (self.settings.num_positives if many else 1)

    @property
    def mixing(self) -> float | None:
        """Share of the positive in mixed inputs; None without mixed inputs."""
        is_used = self.method.has_neighbours and self.settings.form != "none"
        return self.settings.mixing if is_used else None

    @property
    def work(self) -> float:
        """Encoder passes of a step, those of SimCLR being one."""
        passes = float(self.num_views)
        if self.mixing is not None:
            passes += NUM_ANCHOR_VIEWS * (self.num_views - 1)
        if self.method.is_adversarial:
            passes += 1 + self.settings.attack_steps
        return passes / 2

    def __call__(
        self, params: Params, statistics: Any, key: jax.Array, images: jax.Array
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """The loss of a batch, and (new batch statistics, `METRICS`). [device].

        Adversarial and mixed batches are normalised by their own statistics, which are
        not kept.
        """
        view_key, attack_key, mix_key = jax.random.split(key, 3)
        seen = contrastive.make_views(
            view_key, images, self.augment, num_views=self.num_views
        )
        embedded, updated = self._encode(params, statistics, _flat(seen))
        embedded = rearrange(embedded, "(v n) d -> v n d", v=self.num_views)
        mixed = None
        if self.mixing is not None:
            inputs = _mixed_inputs(mix_key, seen, mixing=self.mixing)
            mixed, _ = self._encode(params, statistics, _flat(inputs))
            mixed = rearrange(mixed, "(m n) d -> m n d", m=len(inputs))
        batch = contrastive.from_views(
            embedded, num_anchor_views=NUM_ANCHOR_VIEWS, mixed=mixed
        )
        if not self.method.is_adversarial:
            loss, aux = self._clean_loss(batch)
            figures = (loss, loss, jnp.zeros_like(loss), *aux)
            return loss, (updated, dict(zip(METRICS, figures, strict=True)))
        attacked = self._attacked(attack_key, params, statistics, seen[0], embedded[0])
        moved, _ = self._encode(params, statistics, attacked)
        total = contrastive.integrate(
            self._clean_loss,
            self._adversarial_loss,
            adversarial_weight=self.settings.adversarial_weight,
        )
        loss, parts = total(batch, jnp.stack([embedded[0], moved]))
        figures = (loss, parts.clean_loss, parts.adversarial_loss, *parts.clean)
        return loss, (updated, dict(zip(METRICS, figures, strict=True)))

    def _clean_loss(self, batch: Any) -> tuple[jax.Array, contrastive.LossAux]:
        neighbours: tuple[contrastive.Transform, ...] = ()
        if self.mixing is not None:
            neighbours = (losses.FORMS[self.settings.form](self.mixing),)
        return contrastive.compose(*self._estimator(), *neighbours)(batch)

    def _adversarial_loss(self, batch: Any) -> tuple[jax.Array, contrastive.LossAux]:
        weights = contrastive.weighted(self.settings.weights)
        return contrastive.compose(*self._estimator(), weights)(batch)

    def _estimator(self) -> tuple[contrastive.Transform, ...]:
        """The similarity and what makes a mass of negatives."""
        settings = self.settings
        steps = [
            contrastive.similarity(
                settings.temperature, block_size=settings.block_size or None
            )
        ]
        if self.method.estimator == "g2":
            steps.append(contrastive.hard(settings.beta))
        if self.method.estimator != "g0":
            steps.append(contrastive.debias(settings.tau_plus))
        return tuple(steps)

    def _attacked(
        self,
        key: jax.Array,
        params: Params,
        statistics: Any,
        x: jax.Array,
        anchors: jax.Array,
    ) -> jax.Array:
        settings = self.settings
        return contrastive.adversarial_view(
            key,
            lambda inputs: self._encode(params, statistics, inputs)[0],
            x,
            anchors=anchors,
            loss_fn=contrastive.compose(*self._estimator()),
            epsilon=settings.train_epsilon,
            num_steps=settings.attack_steps,
        )

    def _encode(
        self, params: Params, statistics: Any, x: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Embeddings, and batch statistics where the model has them."""

        def encode(params: Params, x: jax.Array) -> Any:
            variables = {"params": params, **statistics}
            return self.module.apply(variables, x, train=True, mutable=list(statistics))

        size = self.settings.chunk_size
        if size and len(x) > size:
            plain = contrastive.in_chunks(
                lambda *given: encode(*given)[0], chunk_size=size
            )
            return plain(params, x), statistics
        found, updated = encode(params, x)
        return found, dict(updated)


def classifier_variables(
    variables: Mapping[str, Any], weight: jax.Array, bias: jax.Array
) -> dict[str, Any]:
    """Variables of a classifier whose last layer is a linear probe."""
    found = backbone_variables(variables)
    head = {"kernel": weight, "bias": bias}
    return found | {"params": {**found["params"], "head": head}}


def create_encoder(
    name: str, *, hidden: int, width: int, options: Mapping[str, Any]
) -> Projected:
    """A model of `robustjax.models` below a head of one hidden layer."""
    return Projected(models.create(name, num_classes=hidden, **options), width)


def _flat(x: jax.Array) -> jax.Array:
    return rearrange(x, "v n ... -> (v n) ...")


def _mixed_inputs(key: jax.Array, seen: jax.Array, *, mixing: float) -> jax.Array:
    """`[m, anchors, ...]`, each positive's input mixed with one of another image.

    In the order of the positives of `from_views`.
    """
    num_views, num_images = seen.shape[:2]
    turns = [jnp.roll(seen, -shift, axis=0) for shift in range(1, num_views)]
    positives = jnp.stack([_flat(turn[:NUM_ANCHOR_VIEWS]) for turn in turns])
    shift = jax.random.randint(key, (), 1, num_images)
    others = [jnp.roll(turn, shift, axis=1) for turn in turns]
    negatives = jnp.stack([_flat(other[:NUM_ANCHOR_VIEWS]) for other in others])
    return mixing * positives + (1 - mixing) * negatives
