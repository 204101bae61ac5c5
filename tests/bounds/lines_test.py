"""Lines and planes of single operations, for every mix and at the ends of intervals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax.bounds import backward, ibp, operations, tracing

_NAMES = (
    "tanh", "logistic", "erf", "exp", "log", "sqrt", "square", "abs", "max", "sin",
    "cos", "silu", "reciprocal",
)  # fmt: skip
_S_SHAPED = ("tanh", "logistic", "erf")
_WIDTHS = ((-9, -6), (-4, 1))  # exponents of ten, between which widths are drawn
_COUNT = 5000  # intervals of each range of widths
_TOUCHING = 50  # intervals that begin at zero, and as many that end there


def _operation(name):
    """The elementwise operation behind a primitive or a function of JAX."""
    if name == "reciprocal":
        return operations.for_name(name)
    collected = []
    operand = operations.Bounded(0, (), jnp.float64)
    arguments = [operand, jnp.float64(0.3)] if name == "max" else [operand]
    rule = operations.for_primitive(name) or operations.for_function(name)[1]
    rule(lambda operation, _: collected.append(operation), None, arguments)
    (operation,) = collected
    return operation


@functools.partial(jax.jit, static_argnums=0)
def _rules(name, lower, upper, mix, x):
    """Lines and interval bounds on intervals, and the function at points."""
    operation = _operation(name)
    bounds = operation.bounds(lower, upper)
    return operation.lines(lower, upper, mix), bounds, operation.point(x)


def _evaluate(name, lower, upper, mix):
    """As `_rules`, with x at 101 points of each interval; zero is left out of 1/x."""
    x = np.minimum(lower + np.linspace(0, 1, 101)[:, None] * (upper - lower), upper)
    lines, bounds, value = _rules(name, lower, upper, mix, x)
    lines = operations.Lines(*map(np.asarray, lines))
    value = np.array(value)
    value[~np.isfinite(value)] = np.nan
    return x, lines, [np.asarray(b) for b in bounds], value


def _intervals(name):
    rng = np.random.default_rng(0)
    least = 0.01 if name in ("log", "sqrt") else -6.0
    width = 10.0 ** np.concatenate([rng.uniform(*w, _COUNT) for w in _WIDTHS])
    lower = rng.uniform(least, 6, len(width))
    if least < 0:
        lower[:_TOUCHING] = 0.0
        lower[_TOUCHING : 2 * _TOUCHING] = -width[_TOUCHING : 2 * _TOUCHING]
    mix = rng.choice([0.0, 1e-17, 1e-12, 1e-6, 0.3, 0.5, 1 - 1e-12, 1.0], len(lower))
    return lower, lower + width, mix


class LinesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(*_NAMES)
    def test_every_mix_is_sound_also_where_rounding_decides(self, name):
        x, lines, bounds, value = _evaluate(name, *_intervals(name))
        above = lines.upper_slope * x + lines.upper_offset - value
        below = value - lines.lower_slope * x - lines.lower_offset
        scale = 1 + np.nanmax(np.abs(value), axis=0)
        for slack in (above, below, bounds[1] - value, value - bounds[0]):
            self.assertGreater(np.nanmin(slack / scale), -1e-14)

    @parameterized.parameters(*_S_SHAPED)
    def test_lines_of_s_shapes_touch_at_the_lower_end_and_right_of_zero(self, name):
        """At mix 0 no line through the lower end is lower: it is a tangent there.

        Right of zero, the nearest of points that are d apart is at most d**2 / 8 below
        the line, by second derivatives of at most 1. A bisection of 30 steps finds the
        tangent to 6e-9, and with it the end to 2e-8.
        """
        lower = np.repeat(np.linspace(-3.0, -0.1, 100), 100)
        upper = np.tile(np.linspace(0.2, 6.0, 100), 100)
        x, lines, _, value = _evaluate(name, lower, upper, np.zeros_like(lower))
        gap = lines.upper_slope * x + lines.upper_offset - value
        np.testing.assert_allclose(gap[0], 0.0, atol=5e-8)
        step = (upper - lower) / 100
        nearest = np.where(x > 0, gap, np.inf).min(axis=0)
        self.assertTrue(np.all(nearest <= step**2 / 8 + 5e-8))

    @pytest.mark.newest
    def test_nothing_is_known_of_a_reciprocal_on_intervals_that_touch_zero(self):
        ends = np.array([[-1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [-1.0, 1.0]]).T
        _, lines, (lower, upper), _ = _evaluate("reciprocal", *ends, np.zeros(4))
        for found, expected in (
            (lower, -np.inf), (lines.lower_offset, -np.inf), (lines.lower_slope, 0),
            (upper, np.inf), (lines.upper_offset, np.inf), (lines.upper_slope, 0),
        ):  # fmt: skip
            np.testing.assert_array_equal(found, np.full(4, expected))


class PlanesOfProductsTest(absltest.TestCase):
    def test_every_mix_is_sound(self):
        """2,000 boxes with mixes of their own; intervals are the extreme corners."""
        self.enterContext(jax.enable_x64(True))
        count = 2000
        graph = tracing.trace(
            lambda x: x[0] * x[1], jax.ShapeDtypeStruct((2, count), jnp.float64)
        )
        rng = np.random.default_rng(0)
        centre, radius = rng.uniform(-2, 2, (2, count)), rng.uniform(0, 1, (2, count))
        box = centre - radius, centre + radius
        mix = rng.choice([0.0, 0.2, 0.5, 1.0], (2, count))

        @jax.jit
        def planes(box, mix):
            known = dict(enumerate(ibp.propagate(graph, box)))
            form = backward.lower_form(
                graph, jnp.stack([jnp.ones(count), -jnp.ones(count)]), graph.output,
                known=known, mixes={graph.output: mix},
                total=lambda value, numbers: numbers.reshape(2, -1),
            )  # fmt: skip
            return form, known[graph.output]

        form, ends = jax.device_get(planes(box, mix))
        share = rng.uniform(-1, 1, (50, 2, count))
        share[:4] = np.reshape([(a, b) for a in (-1, 1) for b in (-1, 1)], (4, 2, 1))
        x = centre + share * radius
        low, high = (np.sum(form.weight[k] * x, axis=1) + form.bias[k] for k in (0, 1))
        value = x[:, 0] * x[:, 1]
        self.assertLess(np.max(low - value), 1e-13)
        self.assertLess(np.max(value + high), 1e-13)
        np.testing.assert_allclose(ends[0], value.min(axis=0), atol=1e-13)
        np.testing.assert_allclose(ends[1], value.max(axis=0), atol=1e-13)


if __name__ == "__main__":
    absltest.main()
