"""The standard normal density, for JAX on the device and NumPy on the host.

    phi(z) = exp(-z^2 / 2) / sqrt(2 pi).

Its distribution function Phi and quantile Phi^-1 are those of JAX and SciPy.
"""

import math
from typing import Any

import jax.numpy as jnp


def normal_pdf(x: Any, *, xp: Any = jnp) -> Any:
    """phi(x) = exp(-x^2 / 2) / sqrt(2 pi). [device].

    Args:
        x: numbers, any shape.
        xp: jax.numpy, or numpy for the host.

    Returns:
        An array of the shape and dtype of x.

    Example:
        >>> print(f"{normal_pdf(jnp.zeros(())):.4f}")
        0.3989
    """
    return xp.exp(-0.5 * xp.square(x)) / math.sqrt(2 * math.pi)
