"""Norm balls inside a box against SciPy, exact arithmetic and sampled networks."""

import fractions
import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize

from robustjax import bounds
from robustjax.bounds import input_sets
from robustjax.bounds.linear import backward

_SIZE = 6
_KINDS = {"l1": bounds.L1Ball, "l2": bounds.L2Ball}


@jax.jit
@jax.vmap
def _linear(weight, lower, upper, centre, radius):
    """Bounds of weight @ x on both balls, and on the box alone."""

    def bound(input_set):
        return bounds.linear_bounds(
            lambda x: weight @ x, lower, upper, input_set=input_set, method="crown-ibp"
        )

    return [bound(kind(centre, radius)) for kind in _KINDS.values()] + [bound(None)]


def _cases(num, seed=0):
    """Rows with weights over four decades, and balls that the box cuts or fixes."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(num, 2, _SIZE)) * 10.0 ** rng.uniform(-2, 2, _SIZE)
    centre = rng.uniform(-1, 1, (num, _SIZE))
    reach = rng.uniform(0, 0.5, (2, num, _SIZE))
    reach[0, ::3, :2] = 0.0  # the centre lies on a side of the box
    radius = rng.uniform(0.05, 0.8, (num, _SIZE))
    radius[::2, 3] = 0.0
    return weight, centre - reach[0], centre + reach[1], centre, radius


def _least(weight, lower, upper, centre, radius, *, norm):
    """Minimum of weight @ x over ball and box, by SciPy."""
    is_free = radius > 0
    unit = np.where(is_free, radius, 1.0)
    low, high = ((end - centre) * is_free for end in (lower, upper))
    if norm == "l1":  # x = centre + up - down
        cost = np.concatenate([weight, -weight])
        ends = [(0.0, most) for most in np.concatenate([high, -low])]
        rows = np.concatenate([1 / unit, 1 / unit])[None]
        found = optimize.linprog(cost, A_ub=rows, b_ub=[1.0], bounds=ends)
    else:
        found = optimize.minimize(
            lambda move: weight @ move, np.zeros(_SIZE), jac=lambda _: weight,
            bounds=list(zip(low, high, strict=True)), method="SLSQP",
            constraints={
                "type": "ineq", "fun": lambda move: 1 - np.sum((move / unit) ** 2),
                "jac": lambda move: -2 * move / unit**2,
            },
            options={"ftol": 1e-15, "maxiter": 500},
        )  # fmt: skip
    return weight @ centre + found.fun


class LinearTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_bounds_of_linear_functions_are_exact(self):
        cases = _cases(16)
        with jax.enable_x64(True):
            *balls, box = jax.device_get(_linear(*cases))
        num_tighter = 0
        for norm, found in zip(_KINDS, balls, strict=True):
            for k, (weight, *rest) in enumerate(zip(*cases, strict=True)):
                for i, row in enumerate(weight):
                    slack = 1e-6 * np.abs(row).sum()
                    least = _least(row, *rest, norm=norm)
                    most = -_least(-row, *rest, norm=norm)
                    self.assertAlmostEqual(found.lower[k, i], least, delta=slack)
                    self.assertAlmostEqual(found.upper[k, i], most, delta=slack)
            self.assertTrue(np.all(found.lower >= box.lower))
            num_tighter += np.sum(found.lower > box.lower + 1e-3)
        self.assertGreater(num_tighter, 40)

    def test_no_point_of_ball_and_box_is_outside_in_float32(self):
        """Points of the sphere, cut by the box, most of them towards the minimum."""
        rng = np.random.default_rng(1)
        cases = [np.float32(v) for v in _cases(16, seed=2)]
        weight, lower, upper, centre, radius = (v.astype(float) for v in cases)
        *balls, _ = jax.device_get(_linear(*cases))
        for norm, found in zip(_KINDS, balls, strict=True):
            power = float(norm[1:])
            move = rng.normal(size=(4000, 16, _SIZE))
            move[:2000] *= rng.uniform(size=(2000, 16, _SIZE)) < 0.3
            move[2000:] -= 3 * np.sign(weight[:, 0]) * rng.uniform(size=(2000, 1, 1))
            length = np.sum(np.abs(move) ** power, axis=-1) ** (1 / power)
            move /= np.maximum(length, 1e-9)[..., None]
            x = np.clip(centre + move * radius, lower, upper)
            values = np.einsum("kin,skn->ski", weight, x)
            slack = 1e-6 * np.abs(weight).sum(axis=-1)
            self.assertTrue(np.all(found.lower <= values.min(axis=0) + slack))
            self.assertTrue(np.all(found.upper >= values.max(axis=0) - slack))

    def test_cells_of_a_row_are_bounded_as_if_each_had_a_row(self):
        rng = np.random.default_rng(3)
        weight = rng.normal(size=(2, 4, 3)) * 10.0 ** rng.uniform(-2, 2, (2, 4, 1))
        centre, radius = rng.uniform(size=(4, 3)), rng.uniform(0.1, 1, (4, 3))
        box = centre - rng.uniform(size=(4, 3)), centre + rng.uniform(size=(4, 3))
        rows, bias = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4))
        offsets = np.array([0.0, -0.1]) - np.sum(rows * centre, axis=(1, 2))

        @jax.jit
        def every(weight, bias, box, *sets):
            """By cells, and each cell alone in a row."""
            cells = jnp.eye(4)[None, :, :, None] * weight[:, None]
            many = backward.LinearForm(weight, bias, 1e-14)
            apart = cells.reshape(8, 4, 3), bias.reshape(8, 1)
            alone = backward.LinearForm(*apart, 1e-14)
            total = lambda value, x: jnp.sum(x, axis=2)  # noqa: E731
            return [
                (
                    input_sets.least(many, box, own, total=total),
                    input_sets.least(alone, box, own).reshape(2, 4),
                )
                for own in sets
            ]

        balls = [kind(centre, radius) for kind in _KINDS.values()]
        with jax.enable_x64(True):
            found = every(weight, bias, box, *balls, bounds.Polytope(rows, offsets))
        for by_cells, alone in jax.device_get(found):
            np.testing.assert_allclose(by_cells, alone, rtol=1e-8, atol=1e-8)


class RoundingTest(absltest.TestCase):
    def test_no_bound_is_inside_of_the_exact_range(self):
        """Terms up to 1e9 that cancel at the centre; the box is far away."""
        rng = np.random.default_rng(4)
        num = 100
        weight = rng.normal(size=(num, 1, 8)) * 10.0 ** rng.integers(0, 10, (num, 1, 1))
        weight[:, :, 4:] = -weight[:, :, :4] * (1 + 1e-15)
        centre = np.tile(rng.uniform(size=(num, 4)), 2)
        radius = np.repeat(10.0 ** -rng.uniform(0, 17, (num, 1)), 8, axis=1)
        radius[::5] = 1e-170  # squares are flushed to zero

        @jax.jit
        @jax.vmap
        def bound(weight, centre, radius):
            both = jnp.concatenate([weight, -weight])
            rounding = (2 * 8 + 32) * jnp.finfo(both.dtype).eps  # as of a `Graph`
            form = backward.LinearForm(both, jnp.zeros((2, 1)), rounding)
            box = centre - 2, centre + 2
            balls = [kind(centre, radius) for kind in _KINDS.values()]
            return [input_sets.least(form, box, ball)[:, 0] for ball in balls]

        with jax.enable_x64(True):
            found = jax.device_get(bound(weight, centre, radius))
        exactly = np.vectorize(fractions.Fraction, otypes=[object])
        with mpmath.workdps(60):
            for norm, own in zip(_KINDS, found, strict=True):
                for k in range(num):
                    row, at = exactly(weight[k, 0]), exactly(centre[k])
                    middle = sum(row * at)
                    if norm == "l1":
                        dual = max(abs(row))
                    else:
                        squares = sum(row**2)
                        dual = mpmath.sqrt(squares.numerator) / mpmath.sqrt(
                            squares.denominator
                        )
                    far = mpmath.mpf(radius[k, 0]) * _real(dual)
                    low, high = own[k, 0], -own[k, 1]
                    self.assertLessEqual(mpmath.mpf(low), _real(middle) - far)
                    self.assertGreaterEqual(mpmath.mpf(high), _real(middle) + far)
                    self.assertLess(high - low, 2.01 * far + 1e-12 * np.abs(row).sum())


def _real(number):
    if isinstance(number, fractions.Fraction):
        return mpmath.mpf(number.numerator) / number.denominator
    return number


def _network(x):
    rng = np.random.default_rng(0)
    for shape in ((_SIZE, 10), (10, 8), (8, 3)):
        x = x @ rng.normal(size=shape) + 0.1 * rng.normal(size=shape[1])
        x = jnp.tanh(x) if shape[1] != 3 else x
    return x


def _image_network(x):
    kernel = np.random.default_rng(1).normal(size=(3, 3, 1, 4))
    y = jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    last = np.random.default_rng(2).normal(size=(y.size, 3))
    return jax.nn.relu(y).reshape(-1) @ last


def _in_ball(norm, centre, epsilon, *, fn, num):
    """Points of the ball and [0, 1]: on the sphere, and where gradients point."""
    rng = np.random.default_rng(5)
    slopes = np.asarray(jax.jacrev(fn)(centre))
    move = rng.normal(size=(num, *centre.shape))
    move[::2] += (
        5
        * slopes[rng.integers(3, size=num // 2)]
        * rng.choice([-1, 1], size=(num // 2, *[1] * centre.ndim))
    )
    if norm == "l1":  # on few entries
        order = np.abs(move).reshape(num, -1)
        most = np.sort(order, axis=1)[:, -rng.integers(1, 4)][:, None]
        move = move * (order >= most).reshape(move.shape)
    flat = np.abs(move).reshape(num, -1)
    length = flat.sum(axis=1) if norm == "l1" else np.sqrt((flat**2).sum(axis=1))
    move *= (epsilon / length).reshape(-1, *[1] * centre.ndim)
    return np.clip(centre + move, 0, 1)


class NetworkTest(parameterized.TestCase):
    def test_bounds_hold_for_images(self):
        """For convolutions, of which many entries share a row."""
        self._check(_image_network, (12, 10, 1), 0.5)

    @pytest.mark.slow
    def test_bounds_hold_for_a_network(self):
        self._check(_network, (_SIZE,), 0.2)

    def _check(self, fn, shape, epsilon):
        """They hold, and are better than those of the box."""
        centre = np.random.default_rng(6).uniform(size=shape)

        @jax.jit
        def every(centre, *x):
            found = []
            for norm, points in zip(_KINDS, x, strict=True):
                lower, upper, ball = bounds.norm_ball(centre, epsilon, norm=norm)
                bound = functools.partial(bounds.linear_bounds, fn, lower, upper)
                values = jax.vmap(fn)(points)
                ends = values.min(axis=0), values.max(axis=0)
                found.append((bound(input_set=ball), bound(), ends))
            return found

        with jax.enable_x64(True):
            x = [_in_ball(n, centre, epsilon, fn=fn, num=4000) for n in _KINDS]
            found = jax.device_get(every(centre, *x))
        for own, box, (least, most) in found:
            self.assertTrue(np.all(own.lower <= least + 1e-12))
            self.assertTrue(np.all(own.upper >= most - 1e-12))
            self.assertTrue(
                np.all(own.upper - own.lower < 0.7 * (box.upper - box.lower))
            )

    def test_gradients_are_those_of_the_minimum(self):
        """Against differences; and finite for rows of zeros and radius zero."""
        weight, lower, upper, centre, radius = (v[:6] for v in _cases(6, seed=7))

        def least(weight, centre, radius):
            found = _linear(weight, lower, upper, centre, radius)
            return jnp.stack([own.lower.sum() for own in found[:2]])

        with jax.enable_x64(True):
            slopes = jax.jit(jax.jacrev(least, (0, 1, 2)))
            at = weight, centre, radius + 0.1
            rng = np.random.default_rng(8)
            moves = [rng.normal(size=v.shape) for v in at]
            moves[2] *= radius > 0
            ends = [
                [v + sign * 1e-6 * m for v, m in zip(at, moves, strict=True)]
                for sign in (1, -1)
            ]
            ahead, behind = (np.asarray(least(*end)) for end in ends)
            found = jax.device_get(slopes(*at))
            pairs = zip(found, moves, strict=True)
            slope = sum(np.tensordot(s, m, axes=m.ndim) for s, m in pairs)
            np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, rtol=1e-5)
            for leaf in jax.device_get(slopes(0 * weight, centre, 0 * radius)):
                self.assertTrue(np.isfinite(leaf).all())


class NormBallTest(parameterized.TestCase):
    def test_boxes_hold_the_ball_and_only_what_is_valid(self):
        x = np.random.default_rng(9).uniform(size=(500,)).astype(np.float32)
        x[:2] = 0, 1
        epsilon = np.float32(10.0) ** -np.arange(500, dtype=np.float32).clip(0, 8)
        epsilon[-1] = 0
        for norm in ("linf", "l2", "l1"):
            lower, upper, ball = bounds.norm_ball(x, epsilon, norm=norm)
            exact = x.astype(float), epsilon.astype(float)
            low, high = np.clip([exact[0] - exact[1], exact[0] + exact[1]], 0, 1)
            self.assertTrue(np.all(np.asarray(lower, float) <= low))
            self.assertTrue(np.all(np.asarray(upper, float) >= high))
            np.testing.assert_allclose([lower, upper], [low, high], atol=2e-7)
            self.assertEqual(lower[-1], upper[-1])
            self.assertIs(type(ball), _KINDS.get(norm, type(None)))

    @parameterized.parameters(
        (dict(epsilon=-0.1), "epsilon >= 0"),
        (dict(epsilon=np.ones(2)), "epsilon to broadcast"),
        (dict(epsilon=0.1, norm="l3"), "Unknown norm 'l3'"),
        (dict(x=np.float32([2.0]), epsilon=0.1), "valid_range"),
        (dict(x=np.arange(3), epsilon=0.1), "floats"),
    )
    def test_errors_name_the_argument(self, arguments, message):
        with self.assertRaisesRegex(ValueError, message):
            bounds.norm_ball(**{"x": np.full(3, 0.5), **arguments})


class ScaleTest(absltest.TestCase):
    def test_the_radius_of_each_entry_is_epsilon_times_its_scale(self):
        """x.0 + 2 x.1 <= 1.5 at (0.5, 0.25): epsilon (s.0 + 2 s.1) = 0.5."""

        def fn(x):
            return jnp.stack([1.5 - x[0] - 2 * x[1], 0.0 * x[0]])

        x, labels = np.tile([0.5, 0.25], (2, 1)), np.zeros(2, int)
        for scale, expected in ((1.0, 1 / 6), ([1.0, 0.0], 0.5), ([2.0, 0.5], 1 / 6)):
            found = bounds.largest_epsilon(
                fn, x, labels, scale=np.array(scale), num_halvings=20
            )
            np.testing.assert_allclose(found.epsilon, expected, atol=1e-5)
            self.assertTrue(np.all(found.epsilon < expected))
        with self.assertRaisesRegex(ValueError, "scale to broadcast"):
            bounds.largest_epsilon(fn, x, labels, scale=np.ones(3))


if __name__ == "__main__":
    absltest.main()
