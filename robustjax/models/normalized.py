"""What all architectures share: the normalisation in front, a float32 head behind."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def standardize(
    x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> jax.Array:
    """(x - mean) / std in float32, one value for all channels or one each. [device]."""
    channels = x.shape[-1]
    if not {len(mean), len(std)} <= {1, channels}:
        raise ValueError(
            f"Expected mean and std of length 1 or {channels}, the channels of the "
            f"input, got mean={mean} and std={std}."
        )
    center, scale = (
        jnp.asarray(values, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
        for values in (mean, std)
    )
    return (x.astype(jnp.float32) - center) / scale


class NormalizedClassifier(nn.Module):
    """Fields and first and last operation of every classifier of this package.

    Attributes:
        num_classes: number of logits.
        mean: subtracted from the input, one value or one a channel.
        std: divides the centred input, one value or one a channel.
        dtype: compute dtype, "float32" or "bfloat16"; parameters stay float32.
        precision: of convolutions and products, as in `jax.lax.Precision`: None (the
            platform's default), "default", "high" or "highest".
    """

    num_classes: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    dtype: str = "float32"
    precision: str | None = None

    def standardize(self, x: jax.Array) -> jax.Array:
        """(x - mean) / std in float32, then cast to the compute dtype. [device]."""
        return standardize(x, self.mean, self.std).astype(self.dtype)

    def logits(self, features: jax.Array) -> jax.Array:
        """The last layer, in float32 so that bfloat16 does not tie the votes."""
        self.sow("intermediates", "features", features)  # for `features_of`
        head = nn.Dense(self.num_classes, precision=self.precision, name="head")
        return head(features.astype(jnp.float32))
