"""Rows that carry many entries give the bounds that a row for each entry gives."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds
from robustjax.bounds import ibp, operations, tracing
from robustjax.bounds.linear import crown, receptive_fields


def _kernel(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))


def _conv(x, *shape, seed=0, strides=(1, 1), padding="SAME", **more):
    return lax.conv_general_dilated(
        x, _kernel(*shape, seed=seed).astype(x.dtype), strides, padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), **more,
    )  # fmt: skip


def _strided(x):
    y = jax.nn.relu(_conv(x[None], 3, 3, 2, 4, strides=(2, 2)) + 0.1)
    y = jax.nn.relu(_conv(y, 2, 2, 4, 3, seed=1, padding="VALID") - 0.2)
    return y.ravel()[:7]


def _residual(x):
    y = _conv(x[None], 3, 3, 2, 3, padding=((2, 0), (1, 1)))
    y = y + _conv(jnp.exp(-y), 3, 3, 3, 3, seed=1, rhs_dilation=(2, 1))
    return jnp.mean(jax.nn.relu(y), axis=(1, 2))[0]


def _pooled(x):
    y = jax.nn.relu(_conv(x[None], 3, 3, 2, 4))
    y = lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    y = jnp.exp(-y) * y
    return jax.nn.relu(_conv(y, 3, 1, 4, 2, seed=2)).sum(axis=(0, 3))[:, 0]


def _transposed(x):
    y = jnp.transpose(x, (2, 0, 1))[:, ::-1, 1:]
    y = jnp.abs(y - 0.3)
    y = lax.conv_general_dilated(y[None], _kernel(3, 2, 2, 3).astype(x.dtype),
                                 (1, 2), "SAME")  # fmt: skip
    return jax.nn.relu(y).reshape(-1)[::11]


_NETS = {
    "strided": _strided,
    "residual": _residual,
    "pooled": _pooled,
    "transposed": _transposed,
}


def _box(shape=(12, 10, 2), seed=0):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(size=shape)
    radius = 0.05 * rng.uniform(size=shape)
    return centre - radius, centre + radius


def _linear(fn, box, *options):
    """Bounds for several options, by one program."""

    @jax.jit
    def every(*box):
        return [bounds.linear_bounds(fn, *box, **how) for how in options]

    return jax.device_get(every(*box))


def _inside(graph, box, *capacities):
    """Bounds of all values of a graph, from which those of the output follow."""

    @jax.jit
    def every(*box):
        efforts = (crown.Effort(capacity) for capacity in capacities)
        return [crown.inside(graph, box, effort=effort).known for effort in efforts]

    return jax.device_get(every(*box))


def _alone(graph, value, known):
    del known
    return receptive_fields.one_by_one(graph.shape_of(value))


class SharedRowsTest(parameterized.TestCase):
    @parameterized.parameters(*_NETS)
    def test_bounds_are_those_of_single_rows(self, name):
        self.enterContext(jax.enable_x64(True))
        fn, box = _NETS[name], _box()
        graph = tracing.trace(fn, jax.ShapeDtypeStruct((12, 10, 2), jnp.float64))
        known = tracing.ranges(graph, jnp.float64)
        fewest = min(
            receptive_fields.groups(graph, v, known).num_rows / np.prod(n.shape)
            for v, n in enumerate(graph.nodes, start=1)
            if np.prod(n.shape) >= 64
        )
        self.assertLess(fewest, 0.4)
        with mock.patch.object(tracing, "ranges", return_value=known):
            (shared,) = _inside(graph, box, None)
            with mock.patch.object(receptive_fields, "groups", _alone):
                (alone,) = _inside(graph, box, None)
        for value, expected in alone.items():
            np.testing.assert_allclose(shared[value], expected, rtol=1e-12, atol=1e-13)

    @parameterized.parameters(*_NETS)
    @pytest.mark.slow
    def test_ranges_hold_what_the_derivative_shows(self, name):
        fn = _NETS[name]
        graph = tracing.trace(fn, jax.ShapeDtypeStruct((12, 10, 2), jnp.float32))
        for axis, entries in enumerate(
            tracing.ranges(graph, jnp.float32)[graph.output]
        ):
            met = np.zeros((len(entries.first), graph.shape[axis]), bool)
            for seed in range(3):
                x = jax.random.normal(jax.random.key(seed), graph.shape)
                slope = np.moveaxis(np.asarray(jax.jacobian(fn)(x)), axis + 1, 1)
                met |= np.any(slope.reshape(*slope.shape[:2], -1) != 0, axis=2)
            at = np.arange(graph.shape[axis])
            inside = (at >= entries.first[:, None]) & (at <= entries.last[:, None])
            self.assertFalse(np.any(met & ~inside))

    @pytest.mark.slow
    def test_weights_may_be_traced(self):
        box = tuple(side.astype(np.float32) for side in _box((12, 10, 1)))

        def bound(kernel):
            def fn(x):
                y = jax.nn.relu(lax.conv_general_dilated(
                    x.transpose(2, 0, 1)[None], kernel, (1, 1), "SAME"))  # fmt: skip
                y = jax.nn.relu(lax.conv_general_dilated(y, kernel, (1, 1), "SAME"))
                return y.sum(axis=(1, 2, 3))

            graph = tracing.trace(fn, jax.ShapeDtypeStruct((12, 10, 1), jnp.float32))
            known = crown.inside(graph, box, effort=crown.Effort()).known
            return known[graph.output][0].sum()

        kernel = _kernel(1, 1, 3, 3).astype(np.float32)
        with mock.patch.object(
            receptive_fields, "_shared", wraps=receptive_fields._shared
        ) as shared:
            traced = jax.jit(jax.value_and_grad(bound))(kernel)
            self.assertGreater(shared.call_count, 0)
        np.testing.assert_allclose(
            traced[0], jax.jit(lambda: bound(kernel))(), rtol=1e-5
        )
        self.assertTrue(np.all(np.isfinite(traced[1])))

    def test_an_entry_that_depends_on_nothing_keeps_rows_apart(self):
        """The constant border would be counted in the wrong cell."""

        def fn(x):
            y = jax.nn.relu(jnp.pad(x[..., 0], 4, constant_values=1.0) - 0.5)
            return jax.nn.relu(_conv(y[None, ..., None], 3, 3, 1, 2)).ravel()[::7]

        self.enterContext(jax.enable_x64(True))
        lower, upper = _box((9, 9, 1))
        graph = tracing.trace(fn, jax.ShapeDtypeStruct((9, 9, 1), jnp.float64))
        self.assertIsNone(tracing.ranges(graph, jnp.float64))
        (own,) = _linear(fn, (lower, upper), {})
        rng = np.random.default_rng(0)
        lower, upper = np.asarray(lower)[None], np.asarray(upper)[None]
        x = lower + rng.uniform(size=(500, 9, 9, 1)) * (upper - lower)
        values = np.asarray(jax.jit(jax.vmap(fn))(x))
        self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-12))
        self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-12))

    def test_an_operation_with_interval_rules_alone_may_depend_on_all(self):
        graph = tracing.trace(
            lambda x: jnp.sort(x, axis=0), jax.ShapeDtypeStruct((3, 2), jnp.float32)
        )
        for axis, found in enumerate(tracing.ranges(graph, jnp.float32)[graph.output]):
            np.testing.assert_array_equal(found.first, np.zeros((3, 2)))
            np.testing.assert_array_equal(found.last, np.full((3, 2), 2 - axis))


class EffortTest(parameterized.TestCase):
    def test_points_are_least_urgent(self):
        """Where an operation does not tell which entries are settled."""
        exp = operations.Elementwise("exp", jnp.exp, lambda low, high: (low, high))
        lower, width = jnp.array([5.0, 1, 9, 0]), jnp.array([0, 0.1, 0, 0.2])
        rows = crown._most_urgent(
            receptive_fields.one_by_one((4,)), (lower, lower + width),
            mock.Mock(operation=exp), 2,
        )  # fmt: skip
        self.assertEqual(rows.tolist(), [3, 1])

    @parameterized.parameters("strided", "residual")
    @pytest.mark.slow
    def test_chunks_change_nothing(self, name):
        fn, box = _NETS[name], _box(seed=1)
        whole, own = _linear(fn, box, {}, {"chunk_size": 7})
        np.testing.assert_allclose(own.lower, whole.lower, rtol=2e-5, atol=2e-6)

    @pytest.mark.newest
    def test_capacity_lies_between_intervals_and_all(self):
        self.enterContext(jax.enable_x64(True))
        first, second = _kernel(6, 60), _kernel(60, 50, seed=1)
        box = np.full(6, -0.3), np.full(6, 0.4)

        def fn(x):
            return jax.nn.relu(jax.nn.relu(x @ first) @ second) @ _kernel(50, 3, seed=2)

        graph = tracing.trace(fn, jax.ShapeDtypeStruct((6,), jnp.float64))
        found = _inside(graph, box, None, 10**6, 30, 5)
        intervals = jax.jit(lambda *box: ibp.propagate(graph, box))(*box)
        found.append(jax.device_get(intervals))
        widths = [
            sum(np.mean(known[v][1] - known[v][0]) for v in range(len(graph.nodes) + 1))
            for known in found
        ]
        self.assertAlmostEqual(widths[0], widths[1], places=12)
        self.assertGreater(widths[2], widths[1])
        self.assertGreater(widths[3], widths[2])
        self.assertGreaterEqual(widths[4], widths[3] - 1e-12)

    def test_settled_entries_need_no_rows(self):
        """As many rows as open entries are enough where all others are settled."""
        self.enterContext(jax.enable_x64(True))
        first, second = _kernel(6, 30), _kernel(30, 40, seed=1)
        shift = np.where(np.arange(40) < 30, 50.0, 0.0)  # 30 are always positive

        def fn(x):
            return (jax.nn.relu(jax.nn.relu(x @ first) @ second + shift)).sum()[None]

        box = np.full(6, -0.3), np.full(6, 0.3)
        whole, own, fewer = _linear(fn, box, {}, {"capacity": 10}, {"capacity": 5})
        np.testing.assert_allclose(own.upper, whole.upper, rtol=1e-12)
        self.assertGreater(fewer.upper[0] - whole.upper[0], 1e-6)

    def test_refusal(self):
        for name in ("capacity", "chunk_size"):
            with self.assertRaisesRegex(ValueError, f"{name} >= 1"):
                bounds.linear_bounds(jnp.sin, jnp.zeros(2), jnp.ones(2), **{name: 0})


if __name__ == "__main__":
    absltest.main()
