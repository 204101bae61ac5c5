"""Residual networks: for 32x32 images (ResNet-20, -110) and ImageNet (ResNet-50).

Convolutions pad symmetrically, so that strided layers see the same pixels as in the
usual PyTorch implementations.

Reference:
    He, Zhang, Ren and Sun (2016), Deep Residual Learning for Image Recognition.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from robustjax.models.normalized import NormalizedClassifier

_he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_Layer = Callable[..., Any]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 where shapes change."""

    width: int
    stride: int
    conv: _Layer
    norm: _Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = self.conv(self.width, (3, 3), strides=strides, padding=1)(x)
        y = nn.relu(self.norm()(y))
        y = self.conv(self.width, (3, 3), padding=1)(y)
        y = self.norm()(y)
        if x.shape != y.shape:
            x = self.conv(self.width, (1, 1), strides=strides, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class _Bottleneck(nn.Module):
    """1x1, 3x3 (which strides: v1.5), 1x1 convolutions; the last scale starts at 0."""

    width: int
    stride: int
    conv: _Layer
    norm: _Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        strides = (self.stride, self.stride)
        y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
        y = self.conv(self.width, (3, 3), strides=strides, padding=1)(y)
        y = nn.relu(self.norm()(y))
        y = self.conv(4 * self.width, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = self.conv(4 * self.width, (1, 1), strides=strides, name="shortcut")(x)
            x = self.norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class _ResNet(NormalizedClassifier):
    """Stages of residual blocks; each stage after the first halves the resolution."""

    @nn.nowrap
    def layers(self, train: bool) -> tuple[_Layer, _Layer]:
        """Constructors of the convolution and the batch norm with shared options."""
        conv = functools.partial(
            nn.Conv,
            use_bias=False,
            kernel_init=_he_normal,
            dtype=self.dtype,
            precision=self.precision,
        )
        norm = functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        return conv, norm

    def stages(
        self, x: jax.Array, block: _Layer, sizes: tuple[int, ...], width: int
    ) -> jax.Array:
        """Applies the stages, `sizes` blocks each, and averages over the pixels."""
        for stage, num_blocks in enumerate(sizes):
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                x = block(width * 2**stage, stride)(x)
        return x.astype(jnp.float32).mean(axis=(1, 2))


class ResNet20(_ResNet):
    """CIFAR ResNet of 6 num_blocks + 2 layers, 0.27 million parameters.

    3x3 stem of 16 channels and three stages, without max-pooling. Shortcuts that
    change shape are 1x1 convolutions with batch norm (option B), as in the code of
    Cohen et al. (2019); He et al. pad with zeros there (option A).

    Attributes:
        num_blocks: residual blocks in each of the three stages.
        width: channels of the stem and the first stage.
    """

    num_blocks: int = 3
    width: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[n, h, w, c]` in [0, 1] to float32 logits `[n, k]`. [device]."""
        conv, norm = self.layers(train)
        x = conv(self.width, (3, 3), padding=1)(self.standardize(x))
        x = nn.relu(norm()(x))
        block = functools.partial(_BasicBlock, conv=conv, norm=norm)
        return self.logits(self.stages(x, block, (self.num_blocks,) * 3, self.width))


class ResNet110(ResNet20):
    """CIFAR ResNet of 110 layers, 1.7 million parameters; else as `ResNet20`."""

    num_blocks: int = 18


class ResNet50(_ResNet):
    """ImageNet ResNet-50 v1.5, 25.6 million parameters with 1000 classes.

    Attributes:
        stage_sizes: bottleneck blocks in each stage.
        width: channels of the stem and of the first stage's 3x3 convolutions.
    """

    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps `[n, h, w, c]` in [0, 1] to float32 logits `[n, k]`. [device]."""
        conv, norm = self.layers(train)
        x = conv(self.width, (7, 7), strides=(2, 2), padding=3)(self.standardize(x))
        x = nn.relu(norm()(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        block = functools.partial(_Bottleneck, conv=conv, norm=norm)
        return self.logits(self.stages(x, block, self.stage_sizes, self.width))
