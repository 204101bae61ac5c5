"""Variables for tests without the compilation of `module.init`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def shapes(module, input_shape):
    """The variables of a module as shapes; for all to read."""
    example = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), example)


def draw(module, input_shape, *, seed=0):
    """Random arrays in [-0.2, 0.3); running variances are moved above zero."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        is_variance = path[-1].key == "var"
        values = rng.random(shape.shape, dtype=np.float32) / 2 - 0.2
        return jax.device_put(values + np.float32(is_variance))

    return jax.tree_util.tree_map_with_path(leaf, shapes(module, input_shape))
