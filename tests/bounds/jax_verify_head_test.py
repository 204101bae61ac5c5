"""The real head of jax_verify's repository, of which `ROBUSTJAX_JAX_VERIFY_HEAD` names
a checkout: its methods are sound on current JAX, and as tight as ours.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import on_the_path
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds
from robustjax.bounds import jax_verify

_HEAD = os.environ.get("ROBUSTJAX_JAX_VERIFY_HEAD", "")
_METHODS = ("ibp", "crown-ibp", "crown")


def _network(activation):
    rng = np.random.default_rng(0)
    shapes = (6, 10), (10, 8), (8, 3)
    first, second, last = (
        np.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.result_type(float))
        for s in shapes
    )
    return lambda x: activation(activation(x @ first) @ second - 0.1) @ last


_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "exp": lambda x: jnp.exp(0.5 * x),
    "abs": jnp.abs,
    "relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, -0.5, 0.5),
}
_NAMES = (
    "interval", "backward_crown", "backward_fastlin", "crownibp", "forward_crown",
    "forward_fastlin", "ibpforwardfastlin", "nonconvex_constopt", "nonconvex_ibp",
)  # fmt: skip


def _samples(low, high, count=10_000):
    share = np.random.default_rng(1).uniform(size=(count, *low.shape))
    share[: count // 10] = np.round(share[: count // 10])
    return (low + share * (high - low)).astype(low.dtype)


@pytest.mark.slow
@pytest.mark.skipif(not _HEAD, reason="ROBUSTJAX_JAX_VERIFY_HEAD names no checkout")
class HeadTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(on_the_path.first_on_the_path(_HEAD))
        rng = np.random.default_rng(2)
        self.low = (rng.uniform(-1, 0, 6)).astype(jnp.result_type(float))
        self.high = self.low + np.asarray(0.7, self.low.dtype)

    @parameterized.parameters(*_ACTIVATIONS)
    @pytest.mark.newest
    def test_networks(self, name):
        fn = _network(_ACTIVATIONS[name])

        @jax.jit
        def evaluate(low, high, x):
            found = [
                [
                    bounds.linear_bounds(fn, low, high, method=m, engine=e)
                    for m in _METHODS
                ]
                for e in ("jax_verify", "robustjax")
            ]
            return found, jax.vmap(fn)(x)

        samples = _samples(self.low, self.high)
        (found, own), values = jax.device_get(evaluate(self.low, self.high, samples))
        for (low, high), ours in zip(found, own, strict=True):
            self.assertTrue(np.all(low - 1e-5 <= values.min(axis=0)))
            self.assertTrue(np.all(values.max(axis=0) <= high + 1e-5))
            ratio = np.sum(high - low) / np.sum(ours.upper - ours.lower)
            self.assertLess(ratio, 1.15)  # ours narrows inner bounds by intervals
        if name in ("relu", "abs"):
            for theirs, ours in zip(found[:2], own[:2], strict=True):
                np.testing.assert_allclose(theirs, ours, atol=1e-5, rtol=1e-5)

    def test_all_methods_run(self):
        jv, fn = jax_verify.load(), _network(jax.nn.relu)
        box = jv.IntervalBound(self.low[None], self.high[None])
        values = fn(_samples(self.low, self.high))
        for name in _NAMES:
            with jax.numpy_rank_promotion("allow"):
                found = getattr(jv, f"{name}_bound_propagation")(fn, box)
            low, high = np.asarray(found.lower)[0], np.asarray(found.upper)[0]
            self.assertTrue(np.all(low - 1e-5 <= values.min(axis=0)), name)
            self.assertTrue(np.all(values.max(axis=0) <= high + 1e-5), name)

    def test_one_neuron_in_boxes_of_all_sizes(self):
        """f(x) - s x of each box by itself, against a fine grid in float64."""
        rng, count = np.random.default_rng(0), 600
        centre = rng.normal(size=count) * rng.choice([0.1, 1, 5, 30], count)
        radius = 10 ** rng.uniform(-7, 2, count)
        slope = rng.normal(size=count) * rng.choice([0, 0.01, 0.3, 1], count)
        slope = slope.astype(np.float32)
        for name, (fn, exact, top) in {
            "relu": (jax.nn.relu, lambda x: np.maximum(x, 0), 200),
            "abs": (jnp.abs, np.abs, 200),
            "tanh": (jnp.tanh, np.tanh, 200),
            "sigmoid": (jax.nn.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 200),
            "exp": (jnp.exp, np.exp, 11),
        }.items():
            low = np.clip(centre - radius, -200, top).astype(np.float32)
            high = np.clip(centre + radius, -200, top).astype(np.float32)
            grid = low + np.linspace(0, 1, 2001)[:, None] * (high - low.astype(float))
            values = exact(grid) - slope.astype(float) * grid
            scale = (
                1 + np.abs(exact(grid)).max(axis=0) + np.abs(slope * grid).max(axis=0)
            )
            for method in _METHODS[1:]:
                found = jax.jit(
                    lambda a, b, fn=fn, method=method: jax_verify.bounds(
                        lambda x: fn(x) - slope * x, a, b, method=method
                    )
                )(low, high)
                missed = np.maximum(found[0] - values.min(0), values.max(0) - found[1])
                self.assertLess(np.max(missed / scale), 1e-6, name)
                self.assertTrue(np.all(np.isfinite(found)), name)


if __name__ == "__main__":
    absltest.main()
