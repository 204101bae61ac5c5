"""Random networks of all kinds of operations: bounds hold and methods are ordered."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds

_SIZE = 6
_METHODS = ("ibp", "crown-ibp", "crown", "alpha")
_SCALES = (0.5, 1.0, 2.5)  # of the weights
_WIDTHS = (0.0, 1e-6, 0.05, 0.5, 2.0)  # of the boxes
_NUM_DRAWS = 60  # of weights and boxes, for each network
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


def _networks(seed, *, num_layers, num_parallel):
    """Networks of which each activation is in one at most.

    A layer is some activations, each of a share of its entries, and whether there is a
    skip connection.
    """
    rng = np.random.default_rng(seed)
    names = rng.permutation(sorted(_ACTIVATIONS)).tolist()
    size = num_layers * num_parallel
    return [
        [
            (names[at : at + num_parallel], bool(rng.integers(2)))
            for at in range(start, start + size, num_parallel)
        ]
        for start in range(0, len(names) - size + 1, size)
    ]


def _values(layers, weights, x):
    """What all layers give."""
    found = []
    for (names, has_skip), (weight, shift) in zip(layers, weights, strict=True):
        z, share = x @ weight + shift, _SIZE // len(names)
        y = [
            _ACTIVATIONS[name](z[share * k : share * (k + 1)])
            for k, name in enumerate(names)
        ]
        x = x + jnp.concatenate(y) if has_skip else jnp.concatenate(y)
        found.append(x)
    return found


def _draws(num_layers):
    """Weights, shifts, boxes and samples in them, half of these corners."""
    for draw in range(_NUM_DRAWS):
        rng = np.random.default_rng(draw)
        scale = rng.choice(_SCALES, (num_layers, 1, 1)) / np.sqrt(_SIZE)
        weight = rng.normal(size=(num_layers, _SIZE, _SIZE)) * scale
        shift = 0.3 * rng.normal(size=(num_layers, _SIZE))
        centre = rng.uniform(-1, 1, _SIZE)
        radius = _WIDTHS[draw % len(_WIDTHS)] * rng.uniform(0, 1, _SIZE)
        share = rng.uniform(-1, 1, (400, _SIZE))
        share[:200] = np.sign(share[:200])
        box = centre - radius, centre + radius
        yield list(zip(weight, shift, strict=True)), box, centre + share * radius


class RandomNetworksTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_bounds_of_a_chain_hold(self):
        self._check([(["sigmoid"], True), (["abs"], False)], ("ibp", "crown"))

    @pytest.mark.slow
    def test_bounds_hold(self):
        """Three networks of 12 activations, at 60 draws of weights and boxes each."""
        for layers in _networks(22, num_layers=2, num_parallel=2)[:3]:
            self._check(layers, ("ibp", "crown"))

    @parameterized.parameters(range(1, 7))
    @pytest.mark.slow
    def test_bounds_of_deeper_networks_hold(self, seed):
        for layers in _networks(seed, num_layers=3, num_parallel=2):
            self._check(layers, ("ibp", "crown"))

    @parameterized.parameters(range(9, 12))
    @pytest.mark.slow
    def test_bounds_hold_with_optimised_lines(self, seed):
        for layers in _networks(seed, num_layers=3, num_parallel=2):
            self._check(layers, _METHODS)

    def _check(self, layers, methods):
        """All draws by one program; samples are rounded, relative to the largest."""

        @jax.jit
        def evaluate(weights, box, x):
            def fn(x):
                return _values(layers, weights, x)[-1]

            values = jax.vmap(lambda x: _values(layers, weights, x))(x)
            return (
                jnp.max(jnp.abs(jnp.stack(values))),
                values[-1].min(axis=0),
                values[-1].max(axis=0),
                [
                    bounds.linear_bounds(
                        fn, *box, method=method, num_steps=3, rounding="cover"
                    )
                    for method in methods
                ],
            )

        names = {name for of_layer, _ in layers for name in of_layer}
        num_checked = 0
        for weights, box, x in _draws(len(layers)):
            with jax.enable_x64(True):
                size, least, most, found = jax.device_get(evaluate(weights, box, x))
            if not size < 1e4:
                continue
            num_checked += 1
            slack = 1e-13 * (1 + size)
            for own in found:
                self.assertFalse(np.any(np.isnan([own.lower, own.upper])), layers)
                self.assertTrue(np.all(own.lower <= least + slack), layers)
                self.assertTrue(np.all(own.upper >= most - slack), layers)
            if {"choice", "sign"} & names:
                continue  # rounding decides where they jump
            for cheap, dear in itertools.pairwise(found):
                self.assertTrue(np.all(dear.lower >= cheap.lower - slack), layers)
                self.assertTrue(np.all(dear.upper <= cheap.upper + slack), layers)
        self.assertGreater(num_checked, _NUM_DRAWS / 2)


if __name__ == "__main__":
    absltest.main()
