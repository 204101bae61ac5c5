"""Random networks of all kinds of operations: bounds hold and methods are ordered."""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from jax import lax

from robustjax import bounds

_SIZE = 6
_METHODS = ("ibp", "crown-ibp", "crown", "alpha")
_ACTIVATIONS = {
    "relu": jax.nn.relu, "leaky_relu": jax.nn.leaky_relu, "elu": jax.nn.elu,
    "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "softplus": jax.nn.softplus,
    "silu": jax.nn.silu, "gelu": jax.nn.gelu, "abs": jnp.abs, "sin": jnp.sin,
    "cos": jnp.cos, "square": jnp.square, "clip": lambda x: jnp.clip(x, -0.4, 0.6),
    "exp": lambda x: jnp.exp(x / 2), "log": lambda x: jnp.log(1.5 + x**2),
    "sqrt": lambda x: jnp.sqrt(0.2 + jnp.abs(x)), "sign": jnp.sign,
    "reciprocal": lambda x: 1 / (1 + x**2), "max": lambda x: jnp.maximum(x, x[::-1]),
    "gate": lambda x: x * jax.nn.sigmoid(x[::-1]), "sort": jnp.sort,
    "choice": lambda x: jnp.where(x > x[0], x, 0.5), "softmax": jax.nn.softmax,
    "cumulate": lambda x: jnp.cumsum(x) / 3, "window": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (2,), (1,), "SAME"),
}  # fmt: skip

_networks = st.fixed_dictionaries(
    {
        "layers": st.lists(
            st.tuples(
                st.sampled_from(sorted(_ACTIVATIONS)),
                st.integers(0, 2**16),
                st.booleans(),  # with a skip connection
                st.sampled_from([0.5, 1.0, 2.5]),  # scale of the weights
            ),
            min_size=1,
            max_size=3,
        ),
        "seed": st.integers(0, 2**16),
        "width": st.sampled_from([0.0, 1e-6, 0.05, 0.5, 2.0]),
    }
)


def _function(layers):
    def fn(x):
        for name, seed, has_skip, scale in layers:
            rng = np.random.default_rng(seed)
            weight = rng.normal(size=(_SIZE, _SIZE)) * scale / np.sqrt(_SIZE)
            y = _ACTIVATIONS[name](x @ weight + 0.3 * rng.normal(size=_SIZE))
            x = x + y if has_skip else y
        return x

    return fn


class RandomNetworksTest(parameterized.TestCase):
    def test_bounds_hold(self):
        self._check_fifty(0)

    @parameterized.parameters(1, 2, 3)
    @pytest.mark.slow
    def test_bounds_of_more_networks_hold(self, seed):
        self._check_fifty(seed)

    def _check_fifty(self, seed):
        """Not jitted: all networks are made of the same small programs."""

        @hypothesis.seed(seed)
        @hypothesis.settings(max_examples=50, deadline=None, database=None)
        @hypothesis.given(network=_networks)
        def check(network):
            self._check(network, ("ibp", "crown"), lambda fn: fn)

        check()

    @pytest.mark.slow
    @hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
    @hypothesis.given(network=_networks)
    def test_bounds_hold_with_optimised_lines(self, network):
        self._check(network, _METHODS, jax.jit)

    def _check(self, network, methods, transform):
        fn = _function(network["layers"])
        rng = np.random.default_rng(network["seed"])
        centre = rng.uniform(-1, 1, _SIZE)
        radius = network["width"] * rng.uniform(0, 1, _SIZE)
        share = rng.uniform(-1, 1, (400, _SIZE))
        share[:200] = np.sign(share[:200])
        with jax.enable_x64(True):
            box = jnp.asarray(centre - radius), jnp.asarray(centre + radius)
            x = jnp.asarray(centre + share * radius)
            sizes = [
                jnp.abs(jax.vmap(_function(network["layers"][: depth + 1]))(x)).max()
                for depth in range(len(network["layers"]))
            ]
            hypothesis.assume(max(sizes) < 1e4)  # rounding is relative to these
            values = jax.vmap(fn)(x)
            bound = functools.partial(bounds.linear_bounds, fn, num_steps=3)
            found = transform(lambda *b: [bound(*b, method=m) for m in methods])(*box)
            values, found = jax.device_get((values, found))
        least, most = values.min(axis=0), values.max(axis=0)
        slack = 1e-11 * (1 + float(max(sizes)))
        for own in found:
            self.assertFalse(np.any(np.isnan([own.lower, own.upper])))
            self.assertTrue(np.all(own.lower <= least + slack))
            self.assertTrue(np.all(own.upper >= most - slack))
        if {"choice", "sign"} & {name for name, *_ in network["layers"]}:
            return  # rounding decides where they jump
        for cheap, dear in itertools.pairwise(found):
            self.assertTrue(np.all(dear.lower >= cheap.lower - slack))
            self.assertTrue(np.all(dear.upper <= cheap.upper + slack))


if __name__ == "__main__":
    absltest.main()
