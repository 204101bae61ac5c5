"""Lines and planes of single operations, for every mix and at the ends of intervals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from absl.testing import absltest, parameterized
from jax import lax, nn

from robustjax.bounds import ibp, operations, tracing
from robustjax.bounds.linear import backward

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
    rule = operations.for_primitive(name) or operations.for_function(name)[0][1]

    def add(operation, _):
        collected.append(operation)
        return operand

    rule(add, None, arguments)
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


def _normal_gate(z):
    return z * scipy.special.ndtr(z)


def _tanh_gate(z):
    p = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    return z * scipy.special.expit(2 * p)


def _swish(z, slope=1.0):
    return z * scipy.special.expit(slope * z)


def _exact_gelu(x):
    return nn.gelu(x, approximate=False)


_REALS, _UNIT = (-6.0, 6.0), (-1.0, 1.0)
# By name: the function, the same by NumPy or SciPy, and where intervals lie.
_CURVES = {
    "atan": (jnp.arctan, np.arctan, _REALS),
    "asinh": (jnp.arcsinh, np.arcsinh, _REALS),
    "sinh": (jnp.sinh, np.sinh, _REALS),
    "cosh": (jnp.cosh, np.cosh, _REALS),
    "cbrt": (jnp.cbrt, np.cbrt, _REALS),
    "tan": (jnp.tan, np.tan, (-1.5, 1.5)),
    "asin": (jnp.arcsin, np.arcsin, _UNIT),
    "acos": (jnp.arccos, np.arccos, _UNIT),
    "atanh": (jnp.arctanh, np.arctanh, (-0.99, 0.99)),
    "erf_inv": (lax.erf_inv, scipy.special.erfinv, (-0.99, 0.99)),
    "acosh": (jnp.arccosh, np.arccosh, (1.01, 6.0)),
    "digamma": (lax.digamma, scipy.special.digamma, (0.1, 6.0)),
    "lgamma": (lax.lgamma, scipy.special.gammaln, (0.1, 6.0)),
    "erfc": (lax.erfc, scipy.special.erfc, _REALS),
    "mish": (nn.mish, lambda x: x * np.tanh(np.logaddexp(x, 0)), _REALS),
    "power 1.5": (lambda x: x**1.5, lambda x: x**1.5, (0.0, 6.0)),
    "power .5": (lambda x: jnp.power(x, 0.5), np.sqrt, (0.0, 6.0)),
    "power -.7": (lambda x: x**-0.7, lambda x: x**-0.7, (0.1, 6.0)),
    "rem": (lambda x: lax.rem(x, 0.7), lambda x: np.fmod(x, 0.7), _REALS),
    "exact gelu": (_exact_gelu, _normal_gate, _REALS),
    "tanh gelu": (nn.gelu, _tanh_gate, _REALS),
    "quick gelu": (
        lambda x: x * nn.sigmoid(1.702 * x), lambda x: _swish(x, 1.702), _REALS),
    "gelu of erf": (
        lambda x: x * (1 + lax.erf(x / np.sqrt(2))) / 2, _normal_gate, _REALS),
    "swish of tanh": (lambda x: x * (1 + jnp.tanh(x / 2)), lambda x: 2 * _swish(x),
                      _REALS),
    "negative multiple": (
        lambda x: nn.sigmoid(x) * -3 * x, lambda x: -3 * _swish(x), _REALS),
    "swish of -x": (lambda x: x * nn.sigmoid(-x), lambda x: -_swish(-x), _REALS),
    "gelu of -x": (lambda x: x * lax.erfc(x), lambda x: -2 / np.sqrt(2) * _normal_gate(
        -np.sqrt(2) * x), _REALS),
    "tanh gelu of -x": (lambda x: -2 * nn.gelu(-x), lambda x: -2 * _tanh_gate(-x),
                        _REALS),
}  # fmt: skip
_GATES = tuple(_CURVES)[tuple(_CURVES).index("exact gelu") :]
# Intervals of which nothing is known: the functions may be no number there.
_OUTSIDE = {
    "asin": [(-1.1, 0), (0.5, 1.0001)], "acos": [(-1.1, 0), (0.5, 1.0001)],
    "atanh": [(-1.1, 0), (0.5, 1.0001)], "erf_inv": [(-1.1, 0), (0.5, 1.0001)],
    "acosh": [(0.9, 2), (-3, -2), (1, 2)], "digamma": [(-0.5, 1), (-0.5, -0.4), (0, 1)],
    "lgamma": [(-0.5, 1), (-1, 0), (0, 1)], "tan": [(1, 2), (-1.6, 0), (2, 2.1)],
    "power 1.5": [(-0.1, 1), (-2, -1)], "power .5": [(-0.1, 1), (-2, -1)],
    "power -.7": [(-0.1, 1), (-2, -1), (0, 1), (0, 0)],
}  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _forms(name, lower, upper, mix):
    """Lines of a whole function of each interval, `[2, n]`, and interval bounds."""
    count = len(lower)
    graph = tracing.trace(_CURVES[name][0], jax.ShapeDtypeStruct((count,), lower.dtype))
    known = dict(enumerate(ibp.propagate(graph, (lower, upper))))
    mixes = {
        value: jnp.broadcast_to(mix, (2, count))
        for value, node in enumerate(graph.nodes, start=1)
        if backward.start_mix(node, known) is not None
    }
    rows = jnp.stack([jnp.ones(count), -jnp.ones(count)])
    form = backward.lower_form(
        graph, rows, graph.output, known=known, mixes=mixes,
        total=lambda _, numbers: numbers.reshape(2, -1),
    )  # fmt: skip
    return form.weight, form.bias, known[graph.output]


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


class CurvesTest(parameterized.TestCase):
    """Against other libraries, whose values are right to a few roundings."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(*_CURVES)
    def test_every_mix_is_sound(self, name):
        _, oracle, (least, most) = _CURVES[name]
        rng = np.random.default_rng(0)
        width = 10.0 ** np.concatenate([rng.uniform(*w, 1000) for w in _WIDTHS])
        width = np.minimum(width, most - least)
        lower = least + rng.uniform(size=len(width)) * (most - least - width)
        lower[:_TOUCHING] = least
        lower[_TOUCHING : 2 * _TOUCHING] = (most - width)[_TOUCHING : 2 * _TOUCHING]
        if least < 0 < most:
            lower[-_TOUCHING:] = np.minimum(0.0, most - width)[-_TOUCHING:]
        upper = np.minimum(lower + width, most)
        mix = rng.choice([0.0, 1e-12, 0.3, 0.5, 1 - 1e-12, 1.0], len(lower))
        weight, bias, ends = jax.device_get(_forms(name, lower, upper, mix))
        x = np.minimum(lower + np.linspace(0, 1, 101)[:, None] * (upper - lower), upper)
        value = oracle(x)
        scale = 1 + np.max(np.abs(value), axis=0)
        for slack in (
            value - weight[0] * x - bias[0], -value - weight[1] * x - bias[1],
            value - ends[0], ends[1] - value,
        ):  # fmt: skip
            self.assertGreater(np.min(slack / scale), -2e-14)
        is_known = np.isfinite(bias).all(axis=0)
        self.assertTrue(is_known.all())

    @parameterized.parameters(*_GATES)
    def test_gates_are_functions_of_single_numbers(self, name):
        graph = tracing.trace(_CURVES[name][0], jax.ShapeDtypeStruct((2,), float))
        kinds = [type(node.operation) for node in graph.nodes]
        self.assertNotIn(operations.Product, kinds)
        self.assertIn(operations.Elementwise, kinds)

    def test_other_products_with_a_gate_are_no_gates(self):
        """Of another value, another polynomial, or another sum of gate and number."""
        for fn in (
            lambda x: x[::-1] * nn.sigmoid(x),
            lambda x: x * nn.sigmoid(x + 1),
            lambda x: x * nn.sigmoid(x**2),
            lambda x: x * (1 + jnp.tanh(x - 0.03 * x**3)),
            lambda x: x * (1.1 + jnp.tanh(x)),
            lambda x: x * (1.1 + lax.erf(x)),
            lambda x: x * (0.1 + nn.sigmoid(x)),
            lambda x: (x + 1) * nn.sigmoid(x),
            lambda x: x * (1 + jnp.array([1.0, 1.1]) * lax.erf(x)),
        ):
            graph = tracing.trace(fn, jax.ShapeDtypeStruct((2,), float))
            kinds = [type(node.operation) for node in graph.nodes]
            self.assertIn(operations.Product, kinds)

    @parameterized.parameters(*_OUTSIDE)
    def test_nothing_is_known_outside_of_the_domain(self, name):
        lower, upper = np.array(_OUTSIDE[name], float).T
        weight, bias, ends = jax.device_get(_forms(name, lower, upper, 0.5))
        np.testing.assert_array_equal(weight, 0)
        np.testing.assert_array_equal(bias, -np.inf)
        np.testing.assert_array_equal(ends[0], -np.inf)
        np.testing.assert_array_equal(ends[1], np.inf)


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
