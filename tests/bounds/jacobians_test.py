"""Jacobians and Lipschitz constants: sampled, attacked, and where nothing holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds
from robustjax.bounds.jacobians import operator_norms

_ORDER = {"l1": 1, "l2": 2, "linf": np.inf}


def _network(activation, x):
    rng = np.random.default_rng(0)
    x = activation(x @ rng.normal(size=(4, 6)) + 0.1)
    x = activation(x @ rng.normal(size=(6, 5)) / 2)
    return x @ rng.normal(size=(5, 3))


@jax.custom_jvp
def _half_the_slope(x):
    return 2.0 * x


_half_the_slope.defjvp(lambda at, move: (_half_the_slope(*at), move[0]))


_flat_tanh, _flat_relu = jax.custom_jvp(jnp.tanh), jax.custom_jvp(jax.nn.relu)
for _flat in (_flat_tanh, _flat_relu):
    _flat.defjvps(lambda move, found, at: 0 * move)


@jax.custom_vjp
def _straight_through(x):
    return 2.0 * x


_straight_through.defvjp(lambda x: (2.0 * x, None), lambda _, back: (back,))


class NetworkTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters((jax.nn.softmax, "ibp", 100.0), (jax.nn.relu, "ibp", 6.0))
    def test_no_pair_of_points_is_further_apart(self, activation, method, loose):
        self._check(activation, method, loose)

    @parameterized.parameters((jax.nn.relu, "crown", 3.0), (jnp.tanh, "crown", 3.0))
    @pytest.mark.slow
    def test_no_pair_is_further_apart_than_linear_bounds_say(self, *case):
        self._check(*case)

    def _check(self, activation, method, loose):
        """Derivatives at 4,000 points, far pairs, and pairs along the steepest way."""
        fn = functools.partial(_network, activation)
        rng = np.random.default_rng(1)
        centre = rng.uniform(-1, 1, 4)
        lower, upper = centre - 0.1, centre + 0.1
        share = rng.uniform(size=(4000, 4))
        share[:1000] = np.round(share[:1000])
        x = lower + share * (upper - lower)

        @jax.jit
        def every(lower, upper, x):
            slopes = jax.vmap(jax.jacfwd(fn))(x)
            right = jnp.linalg.svd(slopes, full_matrices=False)[2][:, 0]
            near = jnp.clip(x + 1e-3 * right, lower[None], upper[None])
            found = bounds.lipschitz(fn, lower, upper, method=method)
            return found, slopes, near, jax.vmap(fn)(x), jax.vmap(fn)(near)

        found, slopes, near, value, near_value = jax.device_get(every(lower, upper, x))
        self.assertTrue(np.all(found.jacobian.lower <= slopes.min(axis=0) + 1e-12))
        self.assertTrue(np.all(found.jacobian.upper >= slopes.max(axis=0) - 1e-12))
        size = np.maximum(*map(np.abs, found.jacobian))
        pairs = [(near - x, near_value - value)]
        order = rng.permutation(4000)
        pairs.append((x[order] - x, value[order] - value))
        for norm, p in _ORDER.items():
            constant = float(operator_norms.largest(jnp.asarray(size), norm))
            steepest = np.linalg.norm(slopes, p, axis=(1, 2)).max()
            self.assertBetween(constant, steepest, loose * steepest)
            for pair in pairs:
                moved, changed = (np.linalg.norm(v, p, axis=1) for v in pair)
                self.assertTrue(np.all(changed <= constant * moved + 1e-12))
        self.assertAlmostEqual(
            found.constant, operator_norms.largest(jnp.asarray(size), "l2"), places=9
        )
        for move, change in pairs:
            length = np.linalg.norm(move, axis=1)[:, None]
            self.assertTrue(np.all(np.abs(change) <= found.of_entries * length + 1e-12))

    @pytest.mark.newest
    def test_constants_of_linear_functions(self):
        """Also of a batch of boxes, and with rounding outward."""
        matrix = np.random.default_rng(2).normal(size=(3, 4))

        @functools.partial(jax.jit, static_argnames=("norm", "rounding"))
        def constants(lower, norm, rounding):
            bound = functools.partial(
                bounds.lipschitz, lambda x: matrix @ x, norm=norm, rounding=rounding
            )
            return jax.vmap(bound)(lower, lower + 1)

        for norm, p in _ORDER.items():
            size = np.abs(matrix)
            exact = np.linalg.norm(size, p)
            rows = np.array([np.linalg.norm(row[None], p) for row in size])
            for rounding in ("ignore", "cover"):
                found = jax.device_get(constants(np.zeros((2, 4)), norm, rounding))
                np.testing.assert_allclose(found.constant, exact, rtol=2e-6)
                np.testing.assert_allclose(found.of_entries, [rows, rows], rtol=2e-6)
                if rounding == "cover":
                    self.assertTrue(np.all(found.constant > exact))
                    self.assertTrue(np.all(found.of_entries > rows))

    def test_in_a_ball_those_of_a_quadratic_form_are_exact(self):
        """The gradient 2 A'A x is linear: its rows G give |G c| + radius |G|_2."""
        rng = np.random.default_rng(4)
        factor, centre = rng.normal(size=(3, 4)), rng.normal(size=4)

        @jax.jit
        def constant_and_slope(radius):
            def constant(radius):
                found = bounds.lipschitz(
                    lambda x: jnp.sum((factor @ x) ** 2), centre - 9, centre + 9,
                    norm="linf", input_set=bounds.L2Ball(centre, radius),
                )  # fmt: skip
                return found.constant

            return jax.value_and_grad(constant)(radius)

        constant, slope = constant_and_slope(0.3)
        rows = 2 * factor.T @ factor
        lengths = np.linalg.norm(rows, axis=1)
        expected = np.sum(np.abs(rows @ centre) + 0.3 * lengths)
        np.testing.assert_allclose(constant, expected, rtol=1e-9)
        np.testing.assert_allclose(slope, lengths.sum(), rtol=1e-9)
        with self.assertRaisesRegex(ValueError, "convex"):
            pieces = bounds.UnionOfBoxes(np.zeros((2, 4)), np.ones((2, 4)))
            bounds.lipschitz(jnp.tanh, np.zeros(4), np.ones(4), input_set=pieces)


class ConditionsTest(absltest.TestCase):
    def test_where_nothing_is_known_the_constant_is_infinite(self):
        """Jumps, other derivatives, NaN; those that are trusted are what JAX says."""
        is_fine = {
            "relu": (jax.nn.relu, 1), "leaky": (jax.nn.leaky_relu, 1.01),
            "clip": (lambda x: jnp.clip(3 * x, -1, 1), 3),
            "softmax": (jax.nn.softmax, 2),
            "decided": (lambda x: jnp.where(x > -2, x, 9.0) + jnp.floor(x / 9 + .5), 1),
        }  # fmt: skip
        is_trusted = {
            "where": (lambda x: jnp.where(x > 0, x, 0.1 * x), 1.1),
            "step": (lambda x: jnp.where(x > 0, x, x + 1), 2),
            "floor": (lambda x: jnp.floor(x) + x, 1),
            "sign": (lambda x: x + jnp.sign(x), 1),
            "remainder": (lambda x: jnp.fmod(x, 0.5), 1),
            "cut": (lambda x: jnp.arctan2(x, jnp.full_like(x, -1.0)), 1),
            "count": (lambda x: x + jnp.sum(x > 0), 1),
            "own rule": (_half_the_slope, 1), "own vjp": (_straight_through, 1),
            "stopped": (lambda x: jax.lax.stop_gradient(x) + x, 1),
            "stopped in a tree": (
                lambda x: jax.tree.map(jax.lax.stop_gradient, x) + x, 1),
            "short": (lambda x: jax.lax.reduce_precision(x, 8, 2), 1),
            "rule of a function of JAX": (lambda x: _flat_tanh(x) + x, 1),
            "rule of an activation": (lambda x: _flat_relu(x) + x, 1),
            "inside": (lambda x: jax.lax.fori_loop(
                0, 2, lambda _, y: _half_the_slope(y), x), 1),
        }  # fmt: skip
        is_unknown = {
            "NaN": (lambda x: jnp.log(x - 2.0), 1),
            "pole": (lambda x: 1 / x, 1),
            "root": (lambda x: jnp.sqrt(jnp.abs(x)), 1),
        }
        functions = is_fine | is_trusted | is_unknown

        @jax.jit
        def every(lower, upper):
            return {
                name: [
                    bounds.lipschitz(
                        fn, lower, upper, norm="linf", method="ibp",
                        is_trusted=is_known,
                    ).constant
                    for is_known in ((False,) if name in is_fine else (False, True))
                ]
                for name, (fn, _) in functions.items()
            }  # fmt: skip

        with jax.enable_x64(True):
            box = np.array([-1.0, -0.2]), np.array([0.4, 1.0])
            found = jax.device_get(every(*box))
        for name, (_, expected) in functions.items():
            with self.subTest(name):
                if name in is_fine:
                    self.assertBetween(found[name][0], 0.3, expected + 1e-9)
                    continue
                self.assertEqual(found[name][0], np.inf)
                if name in is_trusted:
                    self.assertAlmostEqual(found[name][1], expected)
                else:
                    self.assertEqual(found[name][1], np.inf)


class OperatorNormTest(absltest.TestCase):
    def test_of_random_matrices_it_is_the_singular_value_from_above(self):
        """Full, sparse, of blocks, of one entry; scales that float32 cannot square."""
        rng = np.random.default_rng(3)
        largest = jax.jit(functools.partial(operator_norms.largest, norm="l2"))
        for size in ((4, 7), (6, 3)):
            for scale in (1.0, 1e-30, 1e30):
                for density in (1.0, 0.4, 0.1, 0.0):
                    matrix = rng.uniform(size=size) * (rng.uniform(size=size) < density)
                    matrix = np.float32(scale * matrix)
                    exact = np.linalg.norm(matrix.astype(float), 2)
                    found = float(largest(matrix))
                    self.assertGreaterEqual(found, exact * (1 - 1e-6))
                    self.assertLessEqual(found, exact * 1.02)
        self.assertEqual(largest(np.float32([[1.0, np.inf], [0.0, 1.0]])), np.inf)


if __name__ == "__main__":
    absltest.main()
