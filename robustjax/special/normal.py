"""The standard normal density, for JAX on the device and NumPy on the host."""

import math
from typing import Any

import jax.numpy as jnp


def normal_pdf(x: Any, *, xp: Any = jnp) -> Any:
    """phi(x) = exp(-x^2 / 2) / sqrt(2 pi). [device].

    Args:
        x: numbers, any shape.
        xp: jax.numpy, or numpy for the host.

    Returns:
        Of the shape and dtype of x.

    Example:
        >>> print(f"{normal_pdf(jnp.zeros(())):.4f}")
        0.3989
    """
    return xp.exp(-0.5 * xp.square(x)) / math.sqrt(2 * math.pi)
