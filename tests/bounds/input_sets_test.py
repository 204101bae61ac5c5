"""Bounds of inputs that lie between planes, or in one of several boxes."""

import functools

import jax
import numpy as np
import pytest
from absl.testing import absltest

from robustjax import bounds


def _network(x):
    rng = np.random.default_rng(0)
    for shape in ((5, 8), (8, 6), (6, 3)):
        x = x @ rng.normal(size=shape) + 0.1 * rng.normal(size=shape[1])
        x = jax.nn.relu(x) if shape[1] != 3 else x
    return x


def _image_network(x):
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(3, 3, 1, 4))
    y = jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(y).reshape(-1) @ rng.normal(size=(y.size, 3))


def _planes(shape, seed=0):
    """AffineInputs over two parameters, and the box that they need."""
    rng = np.random.default_rng(seed)
    slope, offset = rng.normal(size=(2, *shape)), rng.normal(size=shape)
    gap = 0.05 * rng.uniform(size=(2, *shape))
    low, high = np.array([-0.2, 0.1]), np.array([0.3, 0.2])
    lower, upper = offset - gap[0], offset + gap[1]
    planes = bounds.AffineInputs(slope, lower, slope, upper, low, high)
    reach = np.minimum, np.maximum
    sides = [
        end + sum(f(slope[k] * low[k], slope[k] * high[k]) for k in range(2))
        for f, end in zip(reach, (lower, upper), strict=True)
    ]
    return sides, planes


class PlanesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_bounds_hold_and_are_better_than_those_of_the_box(self):
        self._check(_network, (5,), {}, {"capacity": 5})

    def test_of_images(self):
        self._check(_image_network, (12, 10, 1), {"chunk_size": 7})

    @pytest.mark.slow
    def test_optimised_lines(self):
        self._check(_network, (5,), {"method": "alpha"}, {"method": "alpha-all"})

    def _check(self, fn, shape, *options):
        """The bounds of the box are those of the first options, the best."""
        (lower, upper), planes = _planes(shape)
        rng = np.random.default_rng(2)
        at = rng.uniform(planes.low, planes.high, size=(4000, 2))
        at[:4] = [(a, b) for a in (-0.2, 0.3) for b in (0.1, 0.2)]
        share = rng.choice([0.0, 1.0], size=(4000, *shape))
        x = np.tensordot(at, planes.lower_slope, axes=1)
        x += planes.lower_offset + share * (planes.upper_offset - planes.lower_offset)

        @jax.jit
        def every(planes, x):
            def bound(input_set, how):
                return bounds.linear_bounds(
                    fn, lower, upper, input_set=input_set, **how
                )

            found = [bound(planes, how) for how in options]
            return bound(None, options[0]), found, jax.vmap(fn)(x)

        box, found, values = jax.device_get(every(planes, x))
        for how, own in zip(options, found, strict=True):
            with self.subTest(**how):
                self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-12))
                self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-12))
                self.assertTrue(
                    np.all(own.upper - own.lower < 0.8 * (box.upper - box.lower))
                )

    @pytest.mark.newest
    def test_of_a_linear_function_they_are_exact(self):
        (lower, upper), planes = _planes((5,))
        weight = np.random.default_rng(3).normal(size=5)
        bound = functools.partial(bounds.linear_bounds, lambda x: (x @ weight)[None])
        found = jax.jit(lambda p: bound(lower, upper, input_set=p))(planes)
        slope = planes.lower_slope @ weight
        least = np.sum(np.minimum(slope * planes.low, slope * planes.high))
        sides = np.where(weight > 0, planes.lower_offset, planes.upper_offset)
        np.testing.assert_allclose(found.lower[0], least + sides @ weight, rtol=1e-12)


class PiecesTest(absltest.TestCase):
    def test_bounds_hold_for_each_piece_and_are_no_looser_than_their_hull(self):
        centre = np.linspace(-1, 1, 7)[:, None] * np.ones(5)
        hull = centre[0] - 0.1, centre[-1] + 0.1
        rng = np.random.default_rng(0)
        x = centre[:, None] + rng.uniform(-0.1, 0.1, size=(7, 2000, 5))

        @jax.jit
        def every(pieces, x):
            bound = functools.partial(bounds.linear_bounds, _network, *hull)
            return bound(input_set=pieces), bound(), jax.vmap(_network)(x)

        with jax.enable_x64(True):
            own, alone, values = jax.device_get(
                every(bounds.UnionOfBoxes(centre - 0.1, centre + 0.1), x.reshape(-1, 5))
            )
        self.assertTrue(np.all(own.lower <= values.min(axis=0)))
        self.assertTrue(np.all(own.upper >= values.max(axis=0)))
        self.assertTrue(np.all(own.lower > alone.lower))


class RefusalTest(absltest.TestCase):
    def test_jax_verify_has_no_such_sets(self):
        (lower, upper), planes = _planes((5,))
        with self.assertRaisesRegex(ValueError, "input_set=None"):
            bounds.linear_bounds(
                _network, lower, upper, input_set=planes, engine="jax_verify"
            )


if __name__ == "__main__":
    absltest.main()
