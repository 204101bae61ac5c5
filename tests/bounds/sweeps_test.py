"""One program for all values gives the bounds of a program for each value."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds
from robustjax.bounds import operations, tracing
from robustjax.bounds.graph import Graph, Node
from robustjax.bounds.linear import crown

_SIZE = 5


def _weights(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[0])


def _deep(x, *, depth=2):
    """A residual network: values meet again, and one has no linear bounds at all."""
    for layer in range(depth):
        y = jax.nn.relu(x @ _weights(_SIZE, 7, seed=layer).astype(x.dtype) + 0.1)
        x = x + jnp.tanh(y @ _weights(7, _SIZE, seed=layer + 50).astype(x.dtype))
    return jnp.sort(x)[:3] * x[:3]


def _box(dtype=np.float64):
    centre = np.random.default_rng(1).uniform(-1, 1, _SIZE)
    return (centre - 0.1).astype(dtype), (centre + 0.1).astype(dtype)


_OPTIONS = ({}, {"capacity": 3, "chunk_size": 2}, {"rounding": "cover"})
_ALPHA = (
    {"method": "alpha", "num_steps": 2}, {"method": "alpha-all", "num_steps": 1},
)  # fmt: skip


@functools.cache
def _found(many, options=(0, 1, 2)):
    """Bounds for all options, with the loop from so many values on."""
    box = _box()

    def every(*box):
        chosen = [(*_OPTIONS, *_ALPHA)[k] for k in options]
        return [bounds.linear_bounds(_deep, *box, **how) for how in chosen]

    with mock.patch.object(crown, "_MANY", many), jax.enable_x64(True):
        return jax.device_get(jax.jit(every)(*box))


class LoopTest(parameterized.TestCase):
    def test_bounds_are_those_of_passes_written_out(self):
        for how, own, expected in zip(_OPTIONS, _found(4), _found(99), strict=True):
            with self.subTest(str(how)):
                np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-12)
        self.assertFalse(np.allclose(_found(4)[0], _found(4)[1], rtol=1e-3))

    @pytest.mark.slow
    def test_optimised_bounds_are_those_of_passes_written_out(self):
        for own, expected in zip(_found(4, (3, 4)), _found(99, (3, 4)), strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-12)

    def test_samples_lie_inside(self):
        lower, upper = _box()
        rng = np.random.default_rng(2)
        x = lower + rng.uniform(size=(2_000, _SIZE)) * (upper - lower)
        values = np.stack([np.asarray(_deep(row)) for row in x[:20]])
        for found in _found(4):
            self.assertTrue(np.all(found.lower <= values.min(axis=0) + 1e-12))
            self.assertTrue(np.all(found.upper >= values.max(axis=0) - 1e-12))

    def test_programs_grow_with_depth_alone(self):
        """And not with its square, as those with passes written out do."""
        sizes = []
        for depth in (4, 8):
            fn = functools.partial(_deep, depth=depth)
            jaxpr = jax.make_jaxpr(lambda *box, fn=fn: bounds.linear_bounds(fn, *box))
            sizes.append(str(jaxpr(*_box(np.float32))).count("="))
        self.assertLess(sizes[1], 2.1 * sizes[0])

    def test_values_without_entries(self):
        def fn(x):
            y = jnp.tanh(jnp.tanh(jnp.tanh(jnp.tanh(jnp.pad(x[:0], 1) + x[:2]))))
            return jnp.concatenate([y, jnp.tanh(jnp.sin(y[:0]))])

        with jax.enable_x64(True), mock.patch.object(crown, "_MANY", 1):
            found = bounds.linear_bounds(fn, *_box())
        self.assertTrue(np.all(found.lower < found.upper))

    @pytest.mark.slow
    def test_gradients_are_those_of_passes_written_out(self):
        box = _box()

        def width(many):
            def loss(scale):
                found = bounds.linear_bounds(lambda x: _deep(scale * x), *box)
                return jnp.sum(found.upper - found.lower)

            with mock.patch.object(crown, "_MANY", many), jax.enable_x64(True):
                return jax.jit(jax.value_and_grad(loss))(1.0)

        np.testing.assert_allclose(width(4), width(99), rtol=1e-9)

    @pytest.mark.slow
    def test_many_boxes_at_once(self):
        low, high = (np.stack([end, end + 0.01]) for end in _box())
        bound = jax.jit(jax.vmap(functools.partial(bounds.linear_bounds, _deep)))
        with jax.enable_x64(True):
            found = bound(low, high)
        np.testing.assert_allclose(found.lower[0], _found(4)[0].lower, rtol=1e-9)


def _gathered(x):
    return jnp.take(x, np.array([2, 0, 2]), axis=1)[:, ::-1]


def _padded(x):
    y = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 1), (0, 0, 0)))
    return y[::2] + jnp.concatenate([x[1:], x[:1]])


def _grouped(x):
    y = jax.lax.conv_general_dilated(
        x[None], np.ones((2, 2, 4), x.dtype), (1,), ((1, 1),), lhs_dilation=(2,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=2,
    )  # fmt: skip
    return y[0]


def _multiplied(x):
    return jnp.einsum("ij,kij->kji", x, np.ones((2, 6, 4), x.dtype))


class ReachTest(parameterized.TestCase):
    @parameterized.parameters(_gathered, _padded, _grouped, _multiplied, jnp.cumsum)
    def test_it_holds_what_the_derivative_shows(self, fn):
        """To the entry, but for sums that run along an axis."""
        x = jnp.ones((6, 4), jnp.float32)
        node = Node(operations.Affine(fn, fn), (0,), jax.eval_shape(fn, x).shape)
        graph = Graph((node,), 1, x.shape)
        ranges = tracing.ranges(graph, x.dtype)
        slope = np.asarray(jax.jacobian(graph.at)(x)) != 0
        for axis, found in enumerate(ranges[graph.output]):
            other = slope.any(axis=-1 if axis == 0 else -2)
            first = other.argmax(axis=-1)
            last = other.shape[-1] - 1 - other[..., ::-1].argmax(axis=-1)
            self.assertTrue(np.all(found.first <= first))
            self.assertTrue(np.all(found.last >= last))
            if fn is not jnp.cumsum:
                np.testing.assert_array_equal(found.first, first)
                np.testing.assert_array_equal(found.last, last)


if __name__ == "__main__":
    absltest.main()
