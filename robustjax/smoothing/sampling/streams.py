"""Streams of the user's key: independent samples for independent uses.

Selection and estimation must not share noise, or the certificate is void.
"""

import jax

SELECT, ESTIMATE, PILOT, PREDICT, RAYS, SLICES, SURVIVAL = range(7)


def split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of the selection and of the estimation samples. [device]."""
    return jax.random.fold_in(key, SELECT), jax.random.fold_in(key, ESTIMATE)
