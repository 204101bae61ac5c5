"""Bounds hold at sampled points, methods are ordered, and what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import user_functions
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds
from robustjax.bounds import ibp, operations, tracing
from robustjax.bounds.linear import crown

_METHODS = ("ibp", "crown-ibp", "crown", "alpha")


def _weights(*shape, seed=0):
    return jnp.asarray(
        np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[0])
    )


def _image_net(x):
    kernel = _weights(3, 3, 1, 2)
    y = lax.conv_general_dilated(
        x.reshape(1, 4, 4, 1), kernel, (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    y = jax.nn.relu(y)
    pooled = lax.reduce_window(
        y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    average = lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME") / 4
    return jnp.concatenate([pooled.ravel(), average.ravel()]) @ _weights(16, 3, seed=1)


_HIDDEN_ELU = jax.jit(jax.nn.elu, static_argnames="alpha")

# One function an operation, of 16 numbers; w and v mix them.
_FUNCTIONS = {
    "add": lambda x: x @ _weights(16, 4) + x[:4] + 1.0,
    "sub": lambda x: 1.0 - x[:4] - x[4:8],
    "mul": lambda x: (x @ _weights(16, 4)) * (x @ _weights(16, 4, seed=1)),
    "div": lambda x: (x @ _weights(16, 4)) / (3.0 + jnp.tanh(x[:4])),
    "neg": lambda x: -x[:4],
    "max": lambda x: jnp.maximum(x @ _weights(16, 4), x[:4]),
    "max of constants": lambda x: jnp.maximum(x[:4], jnp.arange(4.0) / 4 - 0.3),
    "min": lambda x: jnp.minimum(x @ _weights(16, 4), 0.3),
    "clamp": lambda x: jnp.clip(x @ _weights(16, 4), -0.2, 0.4),
    "abs": lambda x: jnp.abs(x @ _weights(16, 4)),
    "relu": lambda x: jax.nn.relu(x @ _weights(16, 4)) @ _weights(4, 3),
    "exp": lambda x: jnp.exp(x @ _weights(16, 4)),
    "exp2": lambda x: jnp.exp2(x @ _weights(16, 4)),
    "expm1": lambda x: jnp.expm1(x @ _weights(16, 4)),
    "log": lambda x: jnp.log(3.0 + x @ _weights(16, 4)),
    "log1p": lambda x: jnp.log1p(1.5 + x @ _weights(16, 4)),
    "log2": lambda x: jnp.log2(3.0 + x @ _weights(16, 4)),
    "sqrt": lambda x: jnp.sqrt(3.0 + x @ _weights(16, 4)),
    "rsqrt": lambda x: lax.rsqrt(3.0 + x @ _weights(16, 4)),
    "tanh": lambda x: jnp.tanh(3 * x @ _weights(16, 4)),
    "logistic": lambda x: jax.nn.sigmoid(5 * x @ _weights(16, 4)),
    "erf": lambda x: lax.erf(2 * x @ _weights(16, 4)),
    "sin": lambda x: jnp.sin(4 * x @ _weights(16, 4)),
    "cos": lambda x: jnp.cos(4 * x @ _weights(16, 4)),
    "square": lambda x: jnp.square(x @ _weights(16, 4)),
    "inverse": lambda x: lax.integer_pow(3.0 + x[:4], -1),
    "max of many": lambda x: jnp.stack([
        jnp.concatenate([x, 2 * x]).max(), jnp.concatenate([x, 3 * x]).min()
    ]),
    "windows": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (2,), (1,), "VALID", window_dilation=(3,)
    ) + lax.reduce_window(
        x, jnp.inf, lax.min, (2,), (1,), ((0, 0),), window_dilation=(3,)
    ),
    "slope of tanh": lambda x: jax.grad(lambda y: jnp.tanh(y).sum())(3 * x[:4]),
    "integer_pow": lambda x: (x @ _weights(16, 4)) ** 3 + (x[:4] + 3.0) ** 4,
    "floor": lambda x: jnp.floor(2 * x[:4]) + jnp.ceil(x[:4]) + jnp.round(3 * x[:4]),
    "sign": lambda x: jnp.sign(x @ _weights(16, 4)),
    "softplus": lambda x: jax.nn.softplus(4 * x @ _weights(16, 4)),
    "elu": lambda x: jax.nn.elu(x @ _weights(16, 4)),
    "elu of slope 3": lambda x: jax.nn.elu(x @ _weights(16, 4), 3.0),
    "elu of hidden slope": lambda x: _HIDDEN_ELU(x @ _weights(16, 4), alpha=3.0),
    "round away": lambda x: lax.round(4 * x[:4]) / 4,
    "leaky_relu of slope 2": lambda x: jax.nn.leaky_relu(x @ _weights(16, 4), 2.0),
    "leaky_relu": lambda x: jax.nn.leaky_relu(x @ _weights(16, 4), 0.2),
    "log_sigmoid": lambda x: jax.nn.log_sigmoid(x @ _weights(16, 4)),
    "gelu": lambda x: jax.nn.gelu(x @ _weights(16, 4)),
    "silu": lambda x: jax.nn.silu(x @ _weights(16, 4)),
    "where": lambda x: jnp.where(x @ _weights(16, 4) > 0.1, x[:4], 2 * x[4:8]),
    "where of one": lambda x: jnp.where(x[:4] <= x[4:8], 3.0, x[8:12]) + (x[0] < 0.1),
    "equal": lambda x: jnp.where(jnp.sign(x) == jnp.sign(x[0]), x, 1.0),
    "not equal": lambda x: jnp.where((jnp.round(x) != 0) | jnp.isnan(x), x, 1.0),
    "count": lambda x: jnp.where(jnp.sum(x > 0) > 8, x, jnp.sum(x < 0) * x)[:4],
    "parts": lambda x: jnp.split(x, 4)[1] + jnp.unstack(x.reshape(4, 4), axis=1)[2],
    "negative power": lambda x: (3.0 + x[:4]) ** -3 + (2.0 + x[4:8]) ** -2,
    "logic": lambda x: jnp.where(
        (x >= 0) & ~(x[::-1] > 0) | (x < -0.4), x, 1.0),
    "stack": lambda x: jnp.stack([x[:4], jnp.tanh(x[4:8]), jnp.ones(4)]).sum(axis=0),
    "logsumexp": lambda x: jax.scipy.special.logsumexp(x @ _weights(16, 2))[None],
    "long wave": lambda x: jnp.sin(20 * x[:4]) + jnp.cos(x[4:8]),
    "softmax": lambda x: jax.nn.softmax(x @ _weights(16, 2)),
    "attention": lambda x: (x.reshape(4, 4) @ x.reshape(4, 4).T)[0],
    "layer norm": lambda x: jax.nn.standardize(x @ _weights(16, 3), epsilon=0.1),
    "reduce_max": lambda x: jnp.max(x.reshape(4, 4) @ _weights(4, 4), axis=1),
    "reduce_min": lambda x: jnp.min(x.reshape(4, 4)[:3] @ _weights(4, 4), axis=0),
    "cummax": lambda x: lax.cummax(x[:5]) + lax.cummin(x[5:10]),
    "reduce_window_min": lambda x: -lax.reduce_window(
        x, jnp.inf, lax.min, (3,), (2,), "SAME"
    ),
    "update": lambda x: lax.dynamic_update_slice(x[:6], 2 * x[8:10], (3,)),
    "lax clamp": lambda x: lax.clamp(-0.2, x[:4], 0.3),
    "sort": lambda x: jnp.sort(x @ _weights(16, 4)),
    "structure": lambda x: (
        2 * jnp.pad(x.reshape(4, 4).T[::-1, 1:3], 1)[2] + jnp.cumsum(x)[:4]
    ),
    "select": lambda x: jnp.where(jnp.array([True, False]), x[:2], 2 * x[2:4]),
    "gather": lambda x: x[jnp.array([3, 0, 7])] + lax.dynamic_slice(x, (2,), (3,)),
    "image": _image_net,
    "constant": lambda x: jnp.arange(3.0),
}  # fmt: skip


_BOXES = ((0, 0.4), (1, 0.05), (2, 0.4), (3, 0.0))  # seed, width; the last is a point


def _box(seed, width=0.4):
    """A box of float32 numbers, some of them without width."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-0.5, 0.5, 16)
    radius = width * rng.uniform(0, 1, 16) * (rng.uniform(size=16) < 0.8)
    corners = np.float32(centre - radius), np.float32(centre + radius)
    return tuple(corner.astype(np.float64) for corner in corners)


def _boxes():
    return tuple(map(np.stack, zip(*(_box(*row) for row in _BOXES), strict=True)))


def _samples(lower, upper, count, seed=0):
    """Corners and interior points, [..., count, 16]."""
    rng = np.random.default_rng(seed)
    share = rng.uniform(size=(*lower.shape[:-1], count, 16))
    share[..., : count // 2, :] = np.round(share[..., : count // 2, :])
    return lower[..., None, :] + share * (upper - lower)[..., None, :]


@jax.jit
def _ends(x):
    """The least and the largest values of all functions at samples of boxes."""
    values = {name: jax.vmap(jax.vmap(fn))(x) for name, fn in _FUNCTIONS.items()}
    return jax.tree.map(lambda v: (v.min(axis=1), v.max(axis=1)), values)


@functools.cache
def _range(num_draws):
    """What values reach in every box, by function, at draws of 4,000 samples."""
    found = None
    for seed in range(num_draws):
        ends = jax.device_get(_ends(_samples(*_boxes(), 4000, seed)))
        found = found or ends
        found = {
            name: (np.minimum(low, ends[name][0]), np.maximum(high, ends[name][1]))
            for name, (low, high) in found.items()
        }
    return found


def _joined(names):
    """Several functions as one, with their values one after the other."""

    def fn(x):
        values = [_FUNCTIONS[name](x) for name in names]
        return jnp.concatenate(values) if len(values) > 1 else values[0]

    return fn


def _by_name(names, found):
    sizes = [len(jax.eval_shape(_FUNCTIONS[name], jnp.zeros(16))) for name in names]
    parts = (jnp.split(side, np.cumsum(sizes)[:-1]) for side in found)
    return dict(zip(names, map(bounds.Bounds, *parts), strict=True))


def _in_all_boxes(names, bound):
    """Bounds of functions, a list of dicts, for all boxes by one program."""
    every = jax.jit(lambda *box: [_by_name(names, found) for found in bound(*box)])
    found = [jax.device_get(every(*box)) for box in zip(*_boxes(), strict=True)]
    return jax.tree.map(lambda *values: np.stack(values), *found)


@functools.cache
def _intervals_and_lines(names):
    """The parts of `linear_bounds`, without its short cuts."""

    def bound(*box):
        graph = tracing.trace(_joined(names), jax.ShapeDtypeStruct((16,), float))
        known = crown.inside(graph, box, effort=crown.Effort())
        lines = crown.of_output(graph, known, effort=crown.Effort())
        return ibp.propagate(graph, box)[graph.output], lines

    return _in_all_boxes(names, bound)


def _methods(names):
    """The bounds by all methods."""

    def bound(*box):
        linear = functools.partial(bounds.linear_bounds, _joined(names), *box)
        return [linear(method=method) for method in _METHODS]

    return _in_all_boxes(names, bound)


_JUMPS = {"sign", "floor", "round away", "equal", "not equal"}  # at rounded places
# Functions whose bounds are outputs of one program: they share none of their nodes.
_GROUPS = (
    ("add", "sub", "neg", "stack", "update", "structure", "select", "gather"),
    ("exp", "exp2", "expm1", "square", "abs", "relu", "softplus", "max of constants"),
    ("log", "log1p", "log2", "sqrt", "rsqrt", "log_sigmoid", "max", "min", "clamp"),
    ("tanh", "slope of tanh", "logistic", "erf", "sin", "cos", "long wave"),
    ("silu", "integer_pow", "mul", "div", "attention", "lax clamp"),
    ("elu", "elu of slope 3", "elu of hidden slope", "leaky_relu of slope 2"),
    ("where", "where of one", "logic", "sort", "cummax", "leaky_relu"),
    ("inverse", "max of many", "windows"),
    ("sign", "floor", "round away"),
)
_ALONE = sorted(set(_FUNCTIONS) - {name for group in _GROUPS for name in group})
# Softmax is left to the long tests: others have all of its parts.
_PROGRAMS = (*_GROUPS, *((name,) for name in _ALONE if name != "softmax"), ("softmax",))
# They change no number, add two of one kind, or are of a JAX newer than this one.
_UNTESTED = {"add_any", "copy", "name", "sharding_constraint"} | {
    name
    for name in ("log2", "one_minus_square", "polynomial")
    if not hasattr(lax, f"{name}_p")
}


class SoundnessTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(*zip(_PROGRAMS[:-1]))
    def test_bounds_hold_and_lines_are_no_looser_than_intervals(self, names):
        self._check(names, _intervals_and_lines(names), num_draws=1)

    @parameterized.parameters(*zip(_PROGRAMS))
    @pytest.mark.slow
    def test_all_methods_hold_at_a_million_samples_and_are_ordered(self, names):
        self._check(names, _methods(names), num_draws=63)

    def _check(self, names, found, *, num_draws):
        """At samples; in the last box, a point, all methods give the value itself."""
        for name, method in itertools.product(names, range(len(found))):
            with self.subTest(name, method=method):
                least, most = _range(num_draws)[name]
                own = found[method][name]
                self.assertTrue(np.all(own.lower <= least + 1e-12))
                self.assertTrue(np.all(own.upper >= most - 1e-12))
                self.assertTrue(np.all(np.isfinite([own.lower, own.upper])))
                for side in () if name in _JUMPS else own:
                    np.testing.assert_allclose(side[-1], least[-1], atol=1e-9)
                if method > 0:
                    cheap = found[method - 1][name]
                    self.assertTrue(np.all(own.lower >= cheap.lower - 1e-12))
                    self.assertTrue(np.all(own.upper <= cheap.upper + 1e-12))

    def test_methods_are_ordered_and_ibp_is_interval_bounds(self):
        names = "relu", "mul", "structure"

        def bound(*box):
            every = functools.partial(bounds.linear_bounds, _joined(names), *box)
            found = [every(method=m) for m in ("ibp", "crown-ibp", "crown")]
            return [*found, bounds.interval_bounds(_joined(names), *box)]

        *found, intervals = _in_all_boxes(names, bound)
        self._check(names, found, num_draws=1)
        for name in names:
            np.testing.assert_allclose(found[0][name], intervals[name], atol=1e-12)

    @parameterized.parameters(*zip(_PROGRAMS))
    @pytest.mark.slow
    def test_float32_bounds_hold_up_to_the_documented_error(self, names):
        """All but functions that jump, whose steps rounding moves."""
        box = (corner[0].astype(np.float32) for corner in _boxes())
        with jax.enable_x64(False):
            bound = jax.jit(functools.partial(bounds.linear_bounds, _joined(names)))
            found = jax.device_get(_by_name(names, bound(*box)))
        for name in set(names) - _JUMPS:
            with self.subTest(name):
                least, most = (ends[0] for ends in _range(5)[name])
                error = 1e-4 * (1 + np.maximum(np.abs(least), np.abs(most)))
                self.assertEqual(found[name].lower.dtype, np.float32)
                self.assertTrue(np.all(found[name].lower - error <= least))
                self.assertTrue(np.all(found[name].upper + error >= most))

    def test_optimised_lines_do_not_leave_the_function(self):
        """A slope above 1 would raise the bounds of relu and |.| less 3 x / 2."""

        def fn(x):
            return jnp.concatenate([jax.nn.relu(x), jnp.abs(x)]) - 1.5 * x

        bound = functools.partial(bounds.linear_bounds, fn, method="alpha", num_steps=3)
        own = jax.jit(bound)(np.full(1, -1.0), np.full(1, 1.2))
        np.testing.assert_allclose(own.lower, [-0.6, -0.6], atol=1e-12)
        np.testing.assert_array_less([1.5 - 1e-12, 2.5 - 1e-12], own.upper)

    def test_rounding_may_cross_a_jump(self):
        """At a jump, functions may be on either side of it."""
        one = np.ones(1)
        for fn in (jnp.floor, lambda x: (x > 1.0) * 1.0, lambda x: (x < 1.0) * 1.0):
            own = jax.jit(functools.partial(bounds.interval_bounds, fn))(one, one)
            self.assertEqual(own.upper[0], own.lower[0] + 1)

    def test_affine_functions_bound_at_every_point(self):
        methods = dict.fromkeys(("mul", "tanh", "sin"), "crown") | {"relu": "crown-ibp"}
        box = _box(2)
        x = _samples(*box, 2000)

        @jax.jit
        def every(box, x):
            return {
                name: (
                    bounds.affine_bounds(_FUNCTIONS[name], *box, method=method),
                    jax.vmap(_FUNCTIONS[name])(x),
                )
                for name, method in methods.items()
            }

        for name, (found, values) in jax.device_get(every(box, x)).items():
            low, high = x @ found.lower_weight.T, x @ found.upper_weight.T
            self.assertTrue(np.all(low + found.lower_bias <= values + 1e-12), name)
            self.assertTrue(np.all(high + found.upper_bias >= values - 1e-12), name)

    def test_affine_functions_are_exact(self):
        """Their matrix is what they make of unit vectors."""
        names = "add", "sub", "structure", "gather", "select"
        lower, upper = _boxes()
        points = np.concatenate([np.zeros((1, 16)), np.eye(16), (lower + upper) / 2])
        values = jax.jit(lambda x: [jax.vmap(_FUNCTIONS[name])(x) for name in names])
        for name, value in zip(names, jax.device_get(values(points)), strict=True):
            radius = (upper - lower) / 2 @ np.abs(value[1:17] - value[0])
            centre = value[17:]
            own = _intervals_and_lines(_GROUPS[0])[1][name]
            np.testing.assert_allclose(own.lower, centre - radius, atol=1e-12)
            np.testing.assert_allclose(own.upper, centre + radius, atol=1e-12)


class TransformTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_vmap_and_grad_under_jit(self):
        """The first of two boxes alone; gradients by differences of the width."""
        box = [np.stack([v, v + 0.1]) for v in _box(6)]
        weight = np.random.default_rng(0).normal(size=(16, 4)) / 4
        step = 1e-6 * np.random.default_rng(1).normal(size=weight.shape)

        def width(weight, lower, upper):
            own = bounds.linear_bounds(lambda x: jax.nn.relu(x @ weight), lower, upper)
            return jnp.sum(own.upper - own.lower)

        @jax.jit
        def every(lower, upper, weights):
            bound = functools.partial(bounds.linear_bounds, _FUNCTIONS["relu"])
            first = lower[0], upper[0]
            of_width = jax.vmap(jax.value_and_grad(width), in_axes=(0, None, None))
            return (
                bound(*first),
                jax.vmap(bound)(lower, upper),
                of_width(weights, *first),
            )

        with jax.enable_x64(True):
            weights = np.stack([weight - step, weight, weight + step])
            alone, mapped, (widths, slopes) = jax.device_get(every(*box, weights))
        np.testing.assert_allclose(mapped.lower[0], alone.lower, rtol=1e-12)
        np.testing.assert_allclose(mapped.upper[0], alone.upper, rtol=1e-12)
        self.assertGreater(np.abs(slopes).max(), 0)
        gain = np.sum(slopes[1] * 2 * step)
        np.testing.assert_allclose(gain, widths[2] - widths[0], rtol=1e-4)

    def test_spec_is_a_row_of_the_output(self):
        fn, box = _FUNCTIONS["relu"], _box(7)
        spec = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])

        @jax.jit
        def every(x, *box):
            bound = functools.partial(bounds.linear_bounds, fn, *box)
            return bound(spec=spec), bound(), jax.vmap(fn)(x)

        with jax.enable_x64(True):
            own, plain, values = jax.device_get(every(_samples(*box, 3000), *box))
        values = values @ spec.T
        self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-12))
        self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-12))
        apart = plain.lower[:2] - plain.upper[1:]
        self.assertTrue(np.all(own.lower >= apart - 1e-12))
        self.assertGreater(np.max(own.lower - apart), 1e-3)

    def test_single(self):
        fn = bounds.single(lambda x: jax.nn.relu(x @ _weights(16, 4)))
        bound = functools.partial(bounds.interval_bounds, fn)
        self.assertEqual(jax.eval_shape(bound, *_box(8)).lower.shape, (4,))


class RegistryTest(absltest.TestCase):
    def test_a_rule_is_added_and_taken_back(self):
        """Of exp(-x) I_0(x), which falls for x > 0."""
        known = operations._RULES.pop("bessel_i0e")
        self.addCleanup(operations._RULES.__setitem__, "bessel_i0e", known)
        box, fn = (jnp.array([1.0]), jnp.array([2.0])), lax.bessel_i0e
        ends = dict(point=fn, interval=lambda low, high: (fn(high), fn(low)))
        with self.assertRaises(bounds.UnsupportedError):
            bounds.interval_bounds(fn, *box)
        take_back = bounds.register("bessel_i0e", **ends)
        own = bounds.interval_bounds(fn, *box)
        np.testing.assert_allclose(own, scipy.special.i0e([[2.0], [1.0]]), rtol=1e-6)
        take_back()
        with self.assertRaises(bounds.UnsupportedError):
            bounds.interval_bounds(fn, *box)
        sine = operations.for_primitive("sin")
        bounds.register("sin", **ends)()
        self.assertIs(operations.for_primitive("sin"), sine)

    def test_all_rules_are_tested(self):
        """Every primitive with a rule occurs above or in `user_functions`."""
        used = set()

        def collect(jaxpr):
            for equation in jaxpr.eqns:
                used.add(equation.primitive.name.replace("-", "_"))
                for value in equation.params.values():
                    if hasattr(value, "jaxpr"):
                        collect(value.jaxpr)

        for fn in _FUNCTIONS.values():
            collect(jax.make_jaxpr(fn)(jnp.zeros(16)).jaxpr)
        for fn in user_functions.FUNCTIONS.values():
            collect(jax.make_jaxpr(fn)(jnp.zeros(user_functions.SIZE)).jaxpr)
        names = {name.replace("-", "_") for name in operations.primitives()}
        untested = names - used
        self.assertLessEqual(untested, _UNTESTED)


if __name__ == "__main__":
    absltest.main()
