"""Kept programs give the bounds of `linear_bounds`, and are not compiled again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.tree_util import Partial

from robustjax import bounds
from robustjax.bounds import compilation

_RNG = np.random.default_rng(0)
_WEIGHTS = [
    _RNG.normal(size=shape).astype(np.float32) for shape in ((4, 8), (8, 8), (8, 3))
]
_SPECS = [_RNG.normal(size=(rows, 3)).astype(np.float32) for rows in (3, 4)]


def _network(weights, x):
    first, second, last = weights
    return jax.nn.relu(jnp.tanh(x @ first) @ second) @ last


def _boxes(*batch):
    centre = _RNG.uniform(size=(*batch, 4)).astype(np.float32)
    return centre - np.float32(0.1), centre + np.float32(0.1)


@functools.cache
def _expected():
    fn = functools.partial(_network, _WEIGHTS)
    return jax.jit(lambda *box, spec: bounds.linear_bounds(fn, *box, spec=spec))


def _num_programs():
    return compilation._program()._cache_size()


class CompiledTest(parameterized.TestCase):
    def test_bounds_are_those_of_linear_bounds(self):
        network = bounds.compiled(Partial(_network, _WEIGHTS), (4,))
        lower, upper = _boxes(2, 2)
        specs = np.stack([_SPECS[1]] * 4).reshape(2, 2, 4, 3)
        specs[0, 0] += 1
        found = network.linear_bounds(lower, upper, spec=specs)
        self.assertEqual(found.lower.shape, (2, 2, 4))
        for at in np.ndindex(2, 2):
            own = _expected()(lower[at], upper[at], spec=specs[at])
            for side, end in zip(found, own, strict=True):
                np.testing.assert_allclose(side[at], end, rtol=1e-5, atol=1e-5)
        alone = network.linear_bounds(lower[1, 1], upper[1, 1], spec=_SPECS[1])
        np.testing.assert_allclose(alone.lower, found.lower[1, 1], rtol=1e-5, atol=1e-5)

    def test_sizes_that_are_filled_up(self):
        sizes = [compilation._next_size(size) for size in range(40)]
        self.assertEqual(
            sorted(set(sizes)),
            [0, 1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40],
        )
        self.assertTrue(all(own >= size for size, own in enumerate(sizes)))

    def test_further_specifications_boxes_and_weights_compile_nothing(self):
        network = bounds.compiled(Partial(_network, _WEIGHTS), (4,))
        first = network.linear_bounds(*_boxes(4), spec=_SPECS[1])
        before = _num_programs()
        second = network.linear_bounds(*_boxes(3), spec=_SPECS[0])
        self.assertEqual((first.lower.shape, second.lower.shape), ((4, 4), (3, 3)))
        other = Partial(_network, [2 * weight for weight in _WEIGHTS])
        bounds.compiled(other, (4,)).linear_bounds(*_boxes(2, 2), spec=-_SPECS[1])
        self.assertEqual(_num_programs(), before)
        network.linear_bounds(*_boxes(3), spec=_SPECS[0], method="crown-ibp")
        self.assertEqual(_num_programs(), before + 1)

    def test_one_box_and_the_output_itself(self):
        network = bounds.compiled(lambda x: jnp.outer(x, x), (2,))
        found = network.interval_bounds(np.zeros(2), np.ones(2))
        np.testing.assert_array_equal(found.lower, np.zeros((2, 2)))
        np.testing.assert_array_equal(found.upper, np.ones((2, 2)))

    def test_corners_are_rounded_outward(self):
        network = bounds.compiled(lambda x: x, (1,))
        low, high = np.array([0.1 + 3e-9]), np.array([0.1 + 4e-9])
        found = network.interval_bounds(low, high)
        self.assertLessEqual(float(found.lower[0]), low[0])
        self.assertGreaterEqual(float(found.upper[0]), high[0])

    def test_objects_with_state_are_read_again(self):
        class Scaled:
            factor = 1.0

            def __call__(self, x):
                return self.factor * x

        fn = Scaled()
        network = bounds.compiled(fn, (1,))
        uppers = []
        for fn.factor in (1.0, 5.0):
            found = network.interval_bounds(np.zeros(1), np.ones(1))
            uppers.append(float(found.upper[0]))
        self.assertEqual(uppers, [1.0, 5.0])

    def test_nothing_to_bound(self):
        network = bounds.compiled(Partial(_network, _WEIGHTS), (4,))
        found = network.linear_bounds(*_boxes(3), spec=np.zeros((0, 3)))
        self.assertEqual(found.lower.shape, (3, 0))
        self.assertEqual(network.interval_bounds(*_boxes(0)).upper.shape, (0, 3))

    def test_bad_input_is_named(self):
        network = bounds.compiled(jnp.sin, (2,))
        for call, text in (
            (lambda: network.interval_bounds(np.zeros(3), np.ones(3)), "corners"),
            (lambda: network.interval_bounds(np.ones(2), np.zeros(2)), "1.0 > 0.0"),
            (lambda: network.linear_bounds(
                np.zeros((5, 2)), np.ones((5, 2)), spec=np.ones((4, 1, 2))), "spec"),
            (lambda: bounds.compiled(jnp.sin, (2,), dtype=int), "dtype of floats"),
            (lambda: bounds.compiled(jnp.sin, (-2,)), "shape"),
        ):  # fmt: skip
            with self.assertRaisesRegex(ValueError, text):
                call()


if __name__ == "__main__":
    absltest.main()
