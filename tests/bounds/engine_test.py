"""Bounds hold at sampled points, methods are ordered, and what is refused."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds
from robustjax.bounds import operations

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
    "expm1": lambda x: jnp.expm1(x @ _weights(16, 4)),
    "log": lambda x: jnp.log(3.0 + x @ _weights(16, 4)),
    "log1p": lambda x: jnp.log1p(1.5 + x @ _weights(16, 4)),
    "sqrt": lambda x: jnp.sqrt(3.0 + x @ _weights(16, 4)),
    "rsqrt": lambda x: lax.rsqrt(3.0 + x @ _weights(16, 4)),
    "tanh": lambda x: jnp.tanh(3 * x @ _weights(16, 4)),
    "logistic": lambda x: jax.nn.sigmoid(5 * x @ _weights(16, 4)),
    "erf": lambda x: lax.erf(2 * x @ _weights(16, 4)),
    "sin": lambda x: jnp.sin(4 * x @ _weights(16, 4)),
    "cos": lambda x: jnp.cos(4 * x @ _weights(16, 4)),
    "square": lambda x: jnp.square(x @ _weights(16, 4)),
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
    "logic": lambda x: jnp.where(
        (x[:4] >= 0) & ~(x[4:8] > 0) | (x[1] < x[2]), x[:4], 1.0),
    "stack": lambda x: jnp.stack([x[:4], jnp.tanh(x[4:8]), jnp.ones(4)]).sum(axis=0),
    "logsumexp": lambda x: jax.scipy.special.logsumexp(x @ _weights(16, 4))[None],
    "long wave": lambda x: jnp.sin(20 * x[:4]) + jnp.cos(x[4:8]),
    "softmax": lambda x: jax.nn.softmax(x @ _weights(16, 4)),
    "attention": lambda x: (x.reshape(4, 4) @ x.reshape(4, 4).T)[0],
    "layer norm": lambda x: jax.nn.standardize(x @ _weights(16, 4), epsilon=0.1),
    "reduce_max": lambda x: jnp.max(x.reshape(4, 4) @ _weights(4, 4), axis=1),
    "reduce_min": lambda x: jnp.min(x.reshape(4, 4) @ _weights(4, 4), axis=0),
    "cummax": lambda x: lax.cummax(x[:5]) + lax.cummin(x[5:10]),
    "reduce_window_min": lambda x: -lax.reduce_window(
        x, jnp.inf, lax.min, (4,), (2,), "VALID"
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


@functools.cache
def _all_methods(name, methods=_METHODS):
    """Bounds of a function by methods, of several boxes at once."""

    def every(lower, upper):
        fn = _FUNCTIONS[name]
        return {m: bounds.linear_bounds(fn, lower, upper, method=m) for m in methods}

    return jax.jit(jax.vmap(every))


def _box(seed, width=0.4):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-0.5, 0.5, 16)
    radius = width * rng.uniform(0, 1, 16) * (rng.uniform(size=16) < 0.8)
    return jnp.asarray(centre - radius), jnp.asarray(centre + radius)


def _samples(lower, upper, count, seed=0):
    """Corners and interior points."""
    rng = np.random.default_rng(seed)
    lower, upper = np.asarray(lower), np.asarray(upper)
    share = rng.uniform(size=(count, len(lower)))
    share[: count // 2] = np.round(share[: count // 2])
    return jnp.asarray(lower + share * (upper - lower))


_JUMPS = {"sign", "floor", "round away"}  # rounding moves their steps
# They change no number, or add two of one kind.
_UNTESTED = {"add_any", "copy", "name", "sharding_constraint"}


class SoundnessTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    @parameterized.parameters(*_FUNCTIONS)
    def test_bounds_hold_and_lines_are_no_looser_than_intervals(self, name):
        self._check(name, ("ibp", "crown"), num_samples=4000)

    @parameterized.parameters(*_FUNCTIONS)
    @pytest.mark.slow
    def test_all_methods_hold_at_a_million_samples_and_are_ordered(self, name):
        self._check(name, _METHODS, num_samples=340_000)

    def _check(self, name, methods, *, num_samples):
        fn = _FUNCTIONS[name]
        """At samples; the last box is a point, where all give the value itself."""
        boxes = [_box(*row) for row in ((0, 0.4), (1, 0.05), (2, 0.4), (3, 0.0))]
        every = _all_methods(name, methods)(*map(jnp.stack, zip(*boxes, strict=True)))
        values_of = jax.jit(jax.vmap(fn))
        for index, (lower, upper) in enumerate(boxes):
            values = values_of(_samples(lower, upper, num_samples, index))
            least, most = values.min(axis=0), values.max(axis=0)
            found = jax.tree.map(lambda v, i=index: v[i], every)
            for method, own in found.items():
                self.assertTrue(np.all(own.lower <= least + 1e-12), method)
                self.assertTrue(np.all(own.upper >= most - 1e-12), method)
                self.assertTrue(np.all(np.isfinite([own.lower, own.upper])), method)
            for cheap, dear in itertools.pairwise(methods):
                slack = 1e-12
                self.assertTrue(np.all(found[dear].lower >= found[cheap].lower - slack))
                self.assertTrue(np.all(found[dear].upper <= found[cheap].upper + slack))
            ibp = jax.jit(functools.partial(bounds.interval_bounds, fn))(lower, upper)
            np.testing.assert_allclose(ibp.lower, found["ibp"].lower, atol=1e-12)
        if name not in _JUMPS:
            value = fn(boxes[-1][0])
            for method, own in found.items():
                np.testing.assert_allclose(own.lower, value, atol=1e-9, err_msg=method)
                np.testing.assert_allclose(own.upper, value, atol=1e-9, err_msg=method)

    @parameterized.parameters(*sorted(set(_FUNCTIONS) - _JUMPS))
    @pytest.mark.slow
    def test_float32_bounds_hold_up_to_the_documented_error(self, name):
        """All but functions that jump, whose steps rounding moves."""
        lower, upper = (np.float32(v) for v in _box(0))
        with jax.enable_x64(False):
            bound = functools.partial(bounds.linear_bounds, _FUNCTIONS[name])
            found = jax.device_get(jax.jit(bound)(lower, upper))
        box = jnp.asarray(lower, jnp.float64), jnp.asarray(upper, jnp.float64)
        values = jax.jit(jax.vmap(_FUNCTIONS[name]))(_samples(*box, 20_000))
        error = 1e-4 * (1 + np.abs(values).max(axis=0))
        self.assertTrue(np.all(found.lower - error <= values.min(axis=0)))
        self.assertTrue(np.all(found.upper + error >= values.max(axis=0)))

    @parameterized.parameters("relu", "mul", "tanh", "image", "sin")
    def test_affine_functions_bound_at_every_point(self, name):
        fn = _FUNCTIONS[name]
        lower, upper = _box(2)
        bound = functools.partial(bounds.affine_bounds, fn)
        found = jax.jit(bound)(lower, upper)
        x = _samples(lower, upper, 2000)
        values = jax.vmap(fn)(x)
        found = bounds.AffineBounds(*map(np.asarray, found))
        x, values = np.asarray(x), np.asarray(values)
        low, high = x @ found.lower_weight.T, x @ found.upper_weight.T
        self.assertTrue(np.all(low + found.lower_bias <= values + 1e-12))
        self.assertTrue(np.all(high + found.upper_bias >= values - 1e-12))

    def test_affine_functions_are_exact(self):
        for name in ("add", "sub", "structure", "gather", "select"):
            fn = _FUNCTIONS[name]
            lower, upper = _box(4)
            matrix = jax.jacobian(fn)(lower)
            centre, radius = (
                fn((lower + upper) / 2),
                np.abs(matrix) @ (upper - lower) / 2,
            )
            bound = functools.partial(bounds.linear_bounds, fn)
            own = jax.jit(bound)(lower, upper)
            np.testing.assert_allclose(own.lower, centre - radius, atol=1e-12)
            np.testing.assert_allclose(own.upper, centre + radius, atol=1e-12)


class LinesTest(parameterized.TestCase):
    """Lines hold for every mix, also at the ends where rounding decides."""

    @parameterized.product(
        name=(
            "tanh",
            "logistic",
            "erf",
            "exp",
            "log",
            "sqrt",
            "square",
            "abs",
            "max",
            "sin",
            "cos",
            "silu",
        ),
        width=((-9, -6), (-4, 1)),
    )
    def test_every_mix_is_sound(self, name, width):
        self.enterContext(jax.enable_x64(True))
        collected = []
        operand = operations.Bounded(0, (), jnp.float64)
        arguments = [operand, jnp.float64(0.3)] if name == "max" else [operand]
        rule = operations.for_primitive(name) or operations.for_function(name)
        rule(lambda operation, _: collected.append(operation), None, arguments)
        (operation,) = collected
        rng = np.random.default_rng(0)
        count, least = 5000, 0.01 if name in ("log", "sqrt") else -6.0
        lower = rng.uniform(least, 6, count)
        upper = lower + 10 ** rng.uniform(*width, count)
        mix = rng.choice([0.0, 1e-17, 1e-12, 1e-6, 0.3, 0.5, 1 - 1e-12, 1.0], count)
        lines = operation.lines(*map(jnp.asarray, (lower, upper, mix)))
        lines = operations.Lines(*map(np.asarray, lines))
        x = lower + np.linspace(0, 1, 101)[:, None] * (upper - lower)
        x = np.minimum(x, upper)
        value = np.asarray(operation.point(jnp.asarray(x)))
        above = lines.upper_slope * x + lines.upper_offset - value
        below = value - lines.lower_slope * x - lines.lower_offset
        scale = 1 + np.abs(value).max(axis=0)
        self.assertGreater((above / scale).min(), -1e-14)
        self.assertGreater((below / scale).min(), -1e-14)


class TransformTest(parameterized.TestCase):
    def test_jit_vmap_and_grad(self):
        fn = _FUNCTIONS["relu"]
        box = _box(6)
        alone = bounds.linear_bounds(fn, *box)
        jitted = jax.jit(lambda low, high: bounds.linear_bounds(fn, low, high))(*box)
        np.testing.assert_allclose(jitted.lower, alone.lower, rtol=1e-5)
        stacked = [jnp.stack([v, v + 0.1]) for v in box]
        mapped = jax.vmap(lambda low, high: bounds.linear_bounds(fn, low, high))(
            *stacked
        )
        np.testing.assert_allclose(mapped.lower[0], alone.lower, rtol=1e-5)

        def width(weight):
            own = bounds.linear_bounds(lambda x: jax.nn.relu(x @ weight), *box)
            return jnp.sum(own.upper - own.lower)

        gradient = jax.grad(width)(_weights(16, 4))
        self.assertTrue(np.all(np.isfinite(gradient)))
        self.assertGreater(np.abs(gradient).max(), 0)

    def test_spec_is_a_row_of_the_output(self):
        fn, box = _FUNCTIONS["relu"], _box(7)
        spec = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
        own = bounds.linear_bounds(fn, *box, spec=spec)
        values = jax.vmap(fn)(_samples(*box, 3000)) @ spec.T
        self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-5))
        plain = bounds.linear_bounds(fn, *box)
        apart = plain.lower[:2] - plain.upper[1:]
        self.assertTrue(np.all(own.lower >= apart - 1e-5))
        self.assertGreater(np.max(own.lower - apart), 1e-3)

    def test_single(self):
        fn = bounds.single(lambda x: jax.nn.relu(x @ _weights(16, 4)))
        self.assertEqual(bounds.interval_bounds(fn, *_box(8)).lower.shape, (4,))


class RefusalTest(parameterized.TestCase):
    def test_boxes(self):
        low, high = np.zeros(3), np.ones(3)
        bad = low.copy()
        bad[1] = 2.0
        for args, text in (
            ((bad, high), r"2.0 > 1.0 at \(1,\)"),
            ((low, np.full(3, np.nan)), "upper with NaN"),
            ((low, np.ones(2)), r"alike, got float32\[3\] and float32\[2\]"),
            ((low.astype(int), high.astype(int)), "floats"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                bounds.interval_bounds(jnp.sin, *args)

    @parameterized.parameters(
        (lambda x: lax.while_loop(lambda v: v[0] < 1, lambda v: v + 1, x), "'while'"),
        (lambda x: jnp.cbrt(2 * x), "'cbrt'.*engine_test.py.*register"),
        (lambda x: jnp.where(x == 0, x, 0.0), "'eq'"),
        (lambda x: x.astype(jnp.bfloat16), "conversion from float32 to bfloat16"),
        (lambda x: jnp.arange(3.0)[x[0].astype(int)], "conversion"),
        (lambda x: lax.reduce(x, 0.1, lambda a, b: a + 2 * b, (0,)), "'reduce'"),
    )
    def test_functions(self, fn, text):
        with self.assertRaisesRegex(bounds.UnsupportedError, text):
            bounds.interval_bounds(fn, jnp.zeros(3), jnp.ones(3))

    def test_arguments(self):
        box = jnp.zeros(3), jnp.ones(3)
        with self.assertRaisesRegex(ValueError, "method 'magic'"):
            bounds.linear_bounds(jnp.sin, *box, method="magic")
        with self.assertRaisesRegex(ValueError, r"spec \[s, k\]"):
            bounds.linear_bounds(jnp.sin, *box, spec=np.ones((2, 4)))
        with self.assertRaisesRegex(TypeError, "one array, got 2"):
            bounds.interval_bounds(lambda x: (x, x), *box)

    def test_filled_in_values_have_no_width(self):
        def fn(x):
            return x.at[jnp.array([0, 7])].get(mode="fill", fill_value=-5.0)

        own = bounds.interval_bounds(fn, jnp.zeros(3), jnp.ones(3))
        self.assertEqual((own.lower.tolist(), own.upper.tolist()), ([0, -5], [1, -5]))

    def test_a_function_that_bears_a_name_of_jax_is_not_taken_for_it(self):
        @jax.jit
        def softplus(x):
            return -x

        own = bounds.interval_bounds(softplus, jnp.zeros(1), jnp.ones(1))
        np.testing.assert_array_equal([own.lower[0], own.upper[0]], [-1.0, 0.0])


class RegistryTest(absltest.TestCase):
    def test_a_rule_is_added_and_taken_back(self):
        box = jnp.array([-8.0]), jnp.array([27.0])
        ends = dict(point=jnp.cbrt, interval=lambda a, b: (jnp.cbrt(a), jnp.cbrt(b)))
        with self.assertRaises(bounds.UnsupportedError):
            bounds.interval_bounds(jnp.cbrt, *box)
        take_back = bounds.register("cbrt", **ends)
        own = bounds.interval_bounds(jnp.cbrt, *box)
        np.testing.assert_allclose([own.lower[0], own.upper[0]], [-2, 3], rtol=1e-6)
        take_back()
        with self.assertRaises(bounds.UnsupportedError):
            bounds.interval_bounds(jnp.cbrt, *box)
        sine = operations.for_primitive("sin")
        bounds.register("sin", **ends)()
        self.assertIs(operations.for_primitive("sin"), sine)

    def test_all_rules_are_tested(self):
        """Every primitive with a rule occurs in the functions above."""
        used = set()

        def collect(jaxpr):
            for equation in jaxpr.eqns:
                used.add(equation.primitive.name)
                for value in equation.params.values():
                    if hasattr(value, "jaxpr"):
                        collect(value.jaxpr)

        for fn in _FUNCTIONS.values():
            collect(jax.make_jaxpr(fn)(jnp.zeros(16)).jaxpr)
        untested = set(operations.primitives()) - used
        self.assertLessEqual(untested, _UNTESTED)


if __name__ == "__main__":
    absltest.main()
