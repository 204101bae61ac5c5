"""Vision transformers: one Flax module for the public families of pretrained weights.

Images become a row of patch tokens, behind a class token and registers where there are
any; `depth` blocks x += attention(LN(x)), x += mlp(LN(x)) follow; the final LN and the
pooling give the features.

Position embeddings are added to the patches, before the class token is put in front.
Sources that give the class token a position of its own have it added to `cls`.

Reference:
    Dosovitskiy et al. (2021), An Image is Worth 16x16 Words; Oquab et al. (2024),
    DINOv2; Darcet et al. (2024), Vision Transformers Need Registers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat

from robustjax import _validate
from robustjax.models.normalized import standardize
from robustjax.models.vit.config import ViTConfig

_MEAN = "n token d -> n d"
_OUTPUTS = ("features", "logits", "blocks")
_GELU: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": lambda x: nn.gelu(x, approximate=True),
    "erf": lambda x: nn.gelu(x, approximate=False),
    "quick": lambda x: x * nn.sigmoid(1.702 * x),
}


class _Layers(nn.Module):
    """Layers with the options that all parts of the network share."""

    config: ViTConfig
    dtype: str
    precision: str | None

    def layer_norm(self) -> nn.LayerNorm:
        """Layer normalisation whose statistics are float32 at least."""
        return nn.LayerNorm(
            self.config.ln_eps, dtype=self.dtype, use_fast_variance=False
        )

    def dense(self, width: int) -> nn.Dense:
        """A linear layer."""
        return nn.Dense(width, dtype=self.dtype, precision=self.precision)

    def attention(self) -> nn.MultiHeadDotProductAttention:
        """Attention with scale 1/sqrt(width / heads) and softmax in float32."""
        return nn.MultiHeadDotProductAttention(
            self.config.heads,
            dtype=self.dtype,
            precision=self.precision,
            deterministic=True,
            force_fp32_for_softmax=jnp.dtype(self.dtype).itemsize < 4,
        )

    def inner(self, part: type["_Layers"]) -> Any:
        """A part of the network with the same options."""
        return part(self.config, self.dtype, self.precision)


class _Mlp(_Layers):
    """Dense, gelu, Dense; or the gated form silu(a) * b."""

    def setup(self) -> None:
        gates = 2 if self.config.swiglu else 1
        self.Dense_0 = self.dense(gates * self.config.mlp)
        self.Dense_1 = self.dense(self.config.width)

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self.Dense_0(x)
        if self.config.swiglu:
            gate, value = jnp.split(hidden, 2, axis=-1)
            return self.Dense_1(nn.silu(gate) * value)
        return self.Dense_1(_GELU[self.config.gelu](hidden))


class _Block(_Layers):
    """x += scale * attention(LN(x)); x += scale * mlp(LN(x))."""

    def setup(self) -> None:
        self.LayerNorm_0, self.LayerNorm_1 = self.layer_norm(), self.layer_norm()
        self.MultiHeadDotProductAttention_0 = self.attention()
        self.MlpBlock_0 = self.inner(_Mlp)
        self.scales = [self._scale(name) for name in ("LayerScale_0", "LayerScale_1")]

    def _scale(self, name: str) -> jax.Array | float:
        if not self.config.layer_scale:
            return 1.0
        scale = self.param(name, nn.initializers.ones, (self.config.width,))
        return scale.astype(self.dtype).reshape(1, 1, -1)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x))
        x = x + self.scales[0] * y
        y = self.MlpBlock_0(self.LayerNorm_1(x))
        return x + self.scales[1] * y


class _Encoder(_Layers):
    """All blocks, and the LN behind them for whoever pools."""

    def setup(self) -> None:
        self.encoderblock = [self.inner(_Block) for _ in range(self.config.depth)]
        self.encoder_norm = self.layer_norm()

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        outputs = []
        for block in self.encoderblock:
            x = block(x)
            outputs.append(x)
        return outputs


class _AttentionPool(_Layers):
    """Attention of one learned query to all tokens, and a residual mlp ("MAP")."""

    def setup(self) -> None:
        shape = (1, 1, self.config.width)
        self.probe = self.param("probe", nn.initializers.xavier_uniform(), shape)
        self.MultiHeadDotProductAttention_0 = self.attention()
        self.LayerNorm_0 = self.layer_norm()
        self.MlpBlock_0 = self.inner(_Mlp)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        probe = jnp.tile(self.probe, (len(tokens), 1, 1))
        x = self.MultiHeadDotProductAttention_0(probe, tokens)
        x = x + self.MlpBlock_0(self.LayerNorm_0(x))
        return x[:, 0]


class VisionTransformer(_Layers):
    """A vision transformer that takes images in [0, 1] and normalises them itself.

    Softmax and the statistics of LN are float32 also where the rest is bfloat16.

    Attributes:
        config: the `ViTConfig`.
        dtype: compute dtype, "float32" or "bfloat16"; parameters stay float32.
        precision: of convolutions and products: None (the platform's default),
            "default", "high" or "highest".
    """

    dtype: str = "float32"
    precision: str | None = None

    def setup(self) -> None:
        """Makes the layers, with the parameter names of the big_vision layout."""
        config = self.config
        side = (config.patch, config.patch)
        options: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}
        self.embedding = nn.Conv(config.width, side, side, "VALID", **options)
        small, tokens = nn.initializers.normal(0.02), (1, config.grid**2, config.width)
        self.pos_embedding = self.param("pos_embedding", small, tokens)
        if config.class_token:
            self.cls = self.param("cls", nn.initializers.zeros, (1, 1, config.width))
        if config.registers:
            tokens = (1, config.registers, config.width)
            self.registers = self.param("registers", small, tokens)
        if config.norm_pre:
            self.norm_pre = self.layer_norm()
        self.Transformer = self.inner(_Encoder)
        if config.pool == "map":
            self.MAPHead_0 = self.inner(_AttentionPool)
        if config.pre_logits:
            self.pre_logits = self.dense(config.width)
        if config.num_classes:
            self.head = nn.Dense(config.num_classes, precision=self.precision)

    def __call__(self, x: jax.Array, *, output: str = "features") -> jax.Array:
        """Maps images to features, logits, or the features of every block. [device].

        Args:
            x: floats `[n, resolution, resolution, channels]`, [0, 1] for black to
                white; values beyond are not clipped.
            output: "features" `[n, width]`, what the head sees: pooled, and after
                `pre_logits` where there is such a layer; "logits" `[n, num_classes]`;
                "blocks" `[depth, n, width]`: pooled features of the network that ends
                after each block, without `pre_logits`.

        Returns:
            A float32 array.

        Raises:
            ValueError: if x has another size or holds integers, or there is no head.
        """
        _validate.one_of(_OUTPUTS, output=output)
        self._check(x, output)
        blocks = self.Transformer(self._tokens(x))
        if output == "blocks":
            return jnp.stack([self._pooled(tokens) for tokens in blocks])
        features = self._pooled(blocks[-1])
        if self.config.pre_logits:
            features = _wide(jnp.tanh(self.pre_logits(features)))
        if self.is_initializing() and self.config.num_classes:
            self.head(features)  # makes its parameters, whatever is asked for
        return self.head(features) if output == "logits" else features

    def _tokens(self, x: jax.Array) -> jax.Array:
        """Class token, registers, and patches with their positions."""
        x = standardize(x, self.config.mean, self.config.std).astype(self.dtype)
        patches = self.embedding(x)
        patches = rearrange(patches, "n row col d -> n (row col) d")
        rows = [patches + repeat(self.pos_embedding, "1 t d -> n t d", n=len(x))]
        if self.config.registers:
            rows.insert(0, jnp.tile(self.registers, (len(x), 1, 1)))
        if self.config.class_token:
            rows.insert(0, jnp.tile(self.cls, (len(x), 1, 1)))
        tokens = jnp.concatenate(rows, axis=1).astype(self.dtype)
        return self.norm_pre(tokens) if self.config.norm_pre else tokens

    def _pooled(self, tokens: jax.Array) -> jax.Array:
        """`[n, width]` from the tokens behind a block, in float32."""
        norm, num_patches = self.Transformer.encoder_norm, self.config.grid**2
        match self.config.pool:
            case "cls":
                return _wide(norm(tokens)[:, 0])
            case "gap":
                return reduce(_wide(norm(tokens)[:, -num_patches:]), _MEAN, "mean")
            case "map":
                return _wide(self.MAPHead_0(norm(tokens)))
        mean = reduce(_wide(tokens[:, -num_patches:]), _MEAN, "mean")
        return _wide(norm(mean))

    def _check(self, x: jax.Array, output: str) -> None:
        side = self.config.resolution
        if x.ndim != 4 or x.shape[1:3] != (side, side):
            raise ValueError(
                f"Expected images [n, {side}, {side}, channels], the size of the "
                f"model, got {x.shape}; load_vit(..., resolution=, resize=) changes it."
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"Expected images as floats, got {x.dtype}; divide by 255."
            )
        if output == "logits" and not self.config.num_classes:
            raise ValueError("output='logits' needs a head: num_classes is 0.")


def vit_features(
    config: ViTConfig,
    params: Mapping[str, Any],
    *,
    output: str = "features",
    dtype: str = "float32",
    precision: str | None = None,
) -> jax.tree_util.Partial:
    """A vision transformer as a function of images alone.

    [device] The weights are leaves of the returned `Partial`, so that `jit` takes them
    as arguments: other weights of the same model do not compile again.

    Args:
        config: the model, as from `load_vit` or `vit_config`.
        params: its weights.
        output: "features", "logits" or "blocks", see `VisionTransformer`.
        dtype: compute dtype, "float32" or "bfloat16".
        precision: of products: None, "default", "high" or "highest"; the last to
            compare with other tools, since accelerators round float32 products.

    Returns:
        A function from images `[n, resolution, resolution, 3]`, [0, 1] for black to
        white, to float32 `[n, width]`, `[n, num_classes]` or `[depth, n, width]`.

    Example:
        >>> config = ViTConfig(width=8, heads=2, mlp=16, depth=1, patch=4, resolution=8)
        >>> images = jnp.zeros((3, 8, 8, 3))
        >>> def initial_features(key, images):  # of a network before training
        ...     variables = VisionTransformer(config).init(key, images)
        ...     return vit_features(config, variables["params"])(images)
        >>> jax.eval_shape(initial_features, jax.random.key(0), images).shape
        (3, 8)
    """
    _validate.one_of(_OUTPUTS, output=output)
    module = VisionTransformer(config, jnp.dtype(dtype).name, precision)
    return jax.tree_util.Partial(_Inference(module, output), params)


@dataclasses.dataclass(frozen=True)
class _Inference:
    """Static part: equal models and outputs are equal to the jit cache."""

    module: VisionTransformer
    output: str

    def __call__(self, params: Mapping[str, Any], x: jax.Array) -> jax.Array:
        output = self.module.apply({"params": params}, x, output=self.output)
        return jnp.asarray(output)


def _wide(x: jax.Array) -> jax.Array:
    """In float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
