"""Small classifiers: a multilayer perceptron and a strided convolutional network."""

from typing import Any

import flax.linen as nn
import jax
from einops import rearrange

from robustjax.models.normalized import NormalizedClassifier


class MLP(NormalizedClassifier):
    """Dense ReLU network on flattened inputs.

    Attributes:
        features: widths of the hidden layers.
    """

    features: tuple[int, ...] = (256, 256)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[n, ...]` in [0, 1] to float32 logits `[n, num_classes]`. [device]."""
        x = self.standardize(x)
        x = rearrange(x, "n ... -> n (...)")
        for width in self.features:
            x = nn.relu(nn.Dense(width, dtype=self.dtype, precision=self.precision)(x))
        return self.logits(x)


class CNN(NormalizedClassifier):
    """3x3 convolutions of stride 2, then one hidden dense layer, all with ReLU.

    Striding instead of pooling keeps it cheap: 0.23 MFLOP for an 8x8x1 input and 2.7
    MFLOP for 28x28x1, so that millions of noisy copies are classified on a laptop.

    Attributes:
        features: channels of the convolutions, each of which halves the resolution.
        hidden: width of the dense layer.
    """

    features: tuple[int, ...] = (32, 64)
    hidden: int = 128

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[n, h, w, c]` in [0, 1] to float32 logits `[n, k]`. [device]."""
        x = self.standardize(x)
        options: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}
        for width in self.features:
            x = nn.relu(nn.Conv(width, (3, 3), strides=(2, 2), **options)(x))
        x = rearrange(x, "n ... -> n (...)")
        x = nn.relu(nn.Dense(self.hidden, **options)(x))
        return self.logits(x)
