"""Variables for tests without the compilation of `module.init`."""

import jax
import jax.numpy as jnp
import numpy as np


def shapes(module, input_shape):
    """The variables of a module as shapes."""
    example = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), example)


def draw(module, input_shape, *, seed=0):
    """Random arrays in [-0.2, 0.3); running variances are moved above zero."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        is_variance = path[-1].key == "var"
        values = rng.random(shape.shape, dtype=np.float32) / 2 - 0.2
        return jnp.asarray(values + is_variance)

    return jax.tree_util.tree_map_with_path(leaf, shapes(module, input_shape))
