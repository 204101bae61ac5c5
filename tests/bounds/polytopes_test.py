"""Polytopes inside a box against linear programs, exact arithmetic and networks."""

import fractions
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from scipy import optimize

from robustjax import bounds
from robustjax.bounds import input_sets
from robustjax.bounds.linear import backward

_SIZE = 8


@functools.partial(jax.jit, static_argnames="rounding")
def _linear(*cases, rounding="ignore"):
    """Bounds of weight @ x on the polytope, and on the box alone."""

    def one(weight, *box, polytope):
        bound = functools.partial(
            bounds.linear_bounds, lambda x: weight @ x, *box,
            method="crown-ibp", rounding=rounding,
        )  # fmt: skip
        return bound(input_set=polytope), bound()

    *box, rows, offsets = cases
    return jax.vmap(one)(*box, polytope=bounds.Polytope(rows, offsets))


def _cases(num, num_rows, seed=0):
    """Constraints that hold at a point of the box, some of them barely."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(num, 2, _SIZE)) * 10.0 ** rng.uniform(-1, 1, _SIZE)
    lower = rng.uniform(-1, 0, (num, _SIZE))
    upper = lower + rng.uniform(0, 1, (num, _SIZE)) * rng.integers(0, 5, (num, _SIZE))
    rows = rng.normal(size=(num, num_rows, _SIZE))
    inside = rng.uniform(lower, upper)
    gap = rng.uniform(size=(num, num_rows)) * rng.integers(0, 2, (num, num_rows))
    return weight, lower, upper, rows, -np.einsum("nmk,nk->nm", rows, inside) - gap


def _network(x):
    rng = np.random.default_rng(0)
    for shape in ((_SIZE, 10), (10, 8), (8, 3)):
        x = x @ rng.normal(size=shape) + 0.1 * rng.normal(size=shape[1])
        x = jax.nn.relu(x) if shape[1] != 3 else x
    return x


class PolytopeTest(absltest.TestCase):
    @pytest.mark.newest
    def test_bounds_of_linear_functions_are_those_of_linear_programs(self):
        for num_rows in (1, 4):
            cases = _cases(20, num_rows)
            with jax.enable_x64(True):
                found, box = jax.device_get(_linear(*cases))
            num_tighter = 0
            for k, (weight, lower, upper, rows, offsets) in enumerate(
                zip(*cases, strict=True)
            ):
                for i, row in enumerate(weight):
                    ends = [
                        optimize.linprog(
                            sign * row, A_ub=rows, b_ub=-offsets,
                            bounds=list(zip(lower, upper, strict=True)),
                        ).fun
                        for sign in (1, -1)
                    ]  # fmt: skip
                    slack = 1e-6 * np.abs(row).sum()
                    self.assertAlmostEqual(found.lower[k, i], ends[0], delta=slack)
                    self.assertAlmostEqual(found.upper[k, i], -ends[1], delta=slack)
                    num_tighter += found.lower[k, i] > box.lower[k, i] + 1e-3
            self.assertGreater(num_tighter, 15)

    def test_in_float32_no_vertex_is_outside(self):
        cases = [np.float32(v) for v in _cases(20, 4, seed=1)]
        found, box = jax.device_get(_linear(*cases))
        self.assertTrue(np.all(found.lower >= box.lower))
        for k, (weight, *rest) in enumerate(zip(*cases, strict=True)):
            lower, upper, rows, offsets = (v.astype(float) for v in rest)
            for i, row in enumerate(weight.astype(float)):
                least = optimize.linprog(
                    row, A_ub=rows, b_ub=-offsets,
                    bounds=list(zip(lower, upper, strict=True)),
                ).fun  # fmt: skip
                size = np.abs(row).sum()
                self.assertLess(found.lower[k, i], least + 1e-6 * size)
                self.assertGreater(found.lower[k, i], least - 1e-3 * size)

    def test_no_bound_is_inside_of_the_exact_range(self):
        """x.0 = x.1 by two constraints, and weights that cancel where it holds."""
        rng = np.random.default_rng(2)
        num = 50
        weight = np.zeros((num, 1, _SIZE))
        weight[:, 0, 0] = rng.normal(size=num) * 10.0 ** rng.integers(0, 10, num)
        weight[:, 0, 1] = -weight[:, 0, 0] * (1 + 1e-15 * rng.integers(-9, 9, num))
        lower = np.tile(rng.uniform(-1, 1, (num, 1)), _SIZE)
        upper = lower + rng.uniform(size=(num, 1))
        rows = np.zeros((num, 2, _SIZE))
        rows[:, 0, :2], rows[:, 1, :2] = (1, -1), (-1, 1)
        with jax.enable_x64(True):
            found, _ = jax.device_get(
                _linear(
                    weight, lower, upper, rows, np.zeros((num, 2)), rounding="cover"
                )
            )
        exactly = np.vectorize(fractions.Fraction, otypes=[object])
        for k in range(num):
            slope = exactly(weight[k, 0, 0]) + exactly(weight[k, 0, 1])
            ends = [slope * exactly(end[k, 0]) for end in (lower, upper)]
            low, high = found.lower[k, 0], found.upper[k, 0]
            self.assertLessEqual(fractions.Fraction(float(low)), min(ends))
            self.assertGreaterEqual(fractions.Fraction(float(high)), max(ends))
            self.assertLess(high - low, 1e-11 * np.abs(weight[k]).max())

    def test_where_no_constraint_is_met_rounding_is_covered_too(self):
        """The multipliers are zero then: sums over the box, without their error."""
        rng = np.random.default_rng(4)
        weight = rng.normal(size=(200, _SIZE)) * 10.0 ** rng.integers(0, 9, (200, 1))
        ends = np.sort(rng.uniform(-1, 1, (2, _SIZE)), axis=0)

        @jax.jit
        def least(weight, low, high):
            rounding = (2 * _SIZE + 32) * jnp.finfo(weight.dtype).eps  # as of a `Graph`
            form = backward.LinearForm(weight, jnp.zeros((200, 1)), rounding)
            polytope = bounds.Polytope(jnp.ones((1, _SIZE)), jnp.full(1, -99.0))
            return input_sets.least(form, (low, high), polytope)[:, 0]

        with jax.enable_x64(True):
            found = np.asarray(least(weight, *ends))
        exactly = np.vectorize(fractions.Fraction, otypes=[object])
        for row, low in zip(exactly(weight), found, strict=True):
            exact = sum(np.minimum(*(row * exactly(ends))))
            self.assertLessEqual(fractions.Fraction(float(low)), exact)

    def test_steep_constraints_do_not_magnify_rounding(self):
        """In float32; the centre meets them barely, and bounds it from above."""
        rng = np.random.default_rng(5)
        num = 2000

        def scales(*shape):
            return 10.0 ** rng.uniform(-8, 8, shape)

        weight = rng.normal(size=(num, 2, _SIZE)) * scales(num, 1, _SIZE)
        centre, width = rng.normal(size=(num, _SIZE)), scales(num, _SIZE).clip(0, 1e3)
        rows = rng.normal(size=(num, 2, _SIZE)) * scales(num, 2, 1)
        low = centre - width * rng.integers(0, 2, (num, _SIZE))
        cases = [np.float32(v) for v in (weight, low, centre + width, rows)]
        weight, *box, rows = (v.astype(float) for v in cases)
        centre = np.clip(np.float32(centre).astype(float), *box)
        offsets = -np.einsum("nmk,nk->nm", rows, centre)
        cases.append(np.nextafter(np.float32(offsets), np.float32(-np.inf)))
        found, _ = jax.device_get(_linear(*cases))
        value = np.einsum("nik,nk->ni", weight, centre)
        size = np.einsum("nik,nk->ni", np.abs(weight), np.abs(box).max(axis=0))
        self.assertLess(np.max((found.lower - value) / size), 1e-6)
        self.assertLess(np.max((value - found.upper) / size), 1e-6)

    def test_of_an_empty_set_bounds_may_cross_but_are_numbers(self):
        weight, lower, upper, rows, _ = _cases(4, 2)
        offsets = np.full((4, 2), 99.0)
        found, _ = _linear(weight, lower, upper, rows, offsets)
        for end in found:
            self.assertFalse(np.isnan(end).any())

    @pytest.mark.slow
    def test_bounds_of_a_network_hold_for_inputs_that_rise(self):
        """x.0 <= x.1 <= x.2 ..., with gradients that are finite."""
        rows = np.eye(_SIZE)[:-1] - np.eye(_SIZE)[1:]
        rng = np.random.default_rng(3)
        x = np.sort(rng.uniform(-0.5, 0.5, (20_000, _SIZE)), axis=1)
        x[::2] = np.where(rng.uniform(size=(10_000, 1)) < x[::2] + 0.5, 0.5, -0.5)

        @jax.jit
        def every(rows, x):
            box = jnp.full(_SIZE, -0.5), jnp.full(_SIZE, 0.5)

            def lowest(offsets):
                polytope = bounds.Polytope(rows, offsets)
                own = bounds.linear_bounds(_network, *box, input_set=polytope)
                return own.lower.sum(), own

            slope, own = jax.grad(lowest, has_aux=True)(jnp.zeros(_SIZE - 1))
            alone = bounds.linear_bounds(_network, *box)
            return slope, own, alone, jax.vmap(_network)(x)

        with jax.enable_x64(True):
            slope, own, alone, values = jax.device_get(every(rows, x))
        self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-12))
        self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-12))
        widths = [np.sum(found.upper - found.lower) for found in (own, alone)]
        self.assertLess(widths[0], 0.8 * widths[1])
        self.assertTrue(np.isfinite(slope).all() and np.any(slope > 0))


if __name__ == "__main__":
    absltest.main()
