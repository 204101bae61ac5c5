"""jax_verify as a second engine: the same numbers, sound bounds, JAX left alone."""

import builtins
import functools
import importlib.machinery
import importlib.util
import itertools
import pathlib
import sys
import tempfile
from concurrent import futures
from types import ModuleType
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds
from robustjax.bounds import jax_verify

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax_verify") is None,
    reason='jax_verify is not installed: pip install "robustjax[verify]"',
)

_METHODS = ("ibp", "crown-ibp", "crown")
_WATCHED = (jax, jax.lax, jax.numpy, jax.core, jax.tree_util, jax.interpreters)


def _weights(*shape, seed=0):
    scale = np.prod(shape[:-1]) ** -0.5
    weights = scale * np.random.default_rng(seed).normal(size=shape)
    return np.asarray(weights, jnp.result_type(float))


def _dense(x, size, seed):
    return x @ _weights(*x.shape, size, seed=seed) + 0.1 * _weights(size, seed=seed + 9)


def _mlp(*sizes):
    def apply(x):
        for layer, size in enumerate(sizes[:-1]):
            x = jax.nn.relu(_dense(x, size, layer))
        return _dense(x, sizes[-1], len(sizes))

    return apply


def _cnn(images):
    numbers = ("NHWC", "HWIO", "NHWC")
    for layer, channels in enumerate((3, 4)):
        kernel = _weights(3, 3, images.shape[-1], channels, seed=layer)
        images = lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=numbers
        )
        images = jax.nn.relu(images + 0.1 * _weights(channels).reshape(1, 1, 1, -1))
    flat = images.reshape(len(images), -1)
    return flat @ _weights(flat.shape[1], 5) + 0.1


def _residual(x):
    hidden = jax.nn.relu(_dense(x, 16, 0))
    hidden = hidden + jax.nn.relu(_dense(hidden, 16, 1)) - 0.3
    return _dense(hidden + x, 4, 2)


def _dense_rows(x):
    return x @ _weights(4, 6, seed=3)


def _moved(x):
    """What moves, repeats and joins values, with constants among them."""
    columns = jnp.stack([x[:, 0], jnp.ones(4), x[1]], axis=1)
    padded = jnp.pad(x[::-1], ((1, 0), (0, 2)), constant_values=0.5)
    chosen = jnp.where(np.eye(4) > 0, x.T, 0.25)
    parts = jnp.split(x[jnp.array([2, 0, 2])], [1], axis=0)
    wide = jnp.broadcast_to(jax.nn.relu(x[None, 3]), (2, 4))
    every = (columns, padded, chosen, *parts, wide, jnp.cumsum(x, axis=1))
    return jnp.concatenate([part.reshape(-1) for part in every])


_FUNCTIONS = {
    "mlp": _mlp(12, 12, 4),
    "cnn": lambda x: bounds.single(_cnn)(x.reshape(4, 4, 1)),
    "residual": _residual,
    "matrix first": lambda x: _weights(4, 16) @ jax.nn.relu(_weights(16, 16) @ x),
    "tokens": lambda x: jax.nn.relu(_dense_rows(x.reshape(4, 4))).sum(axis=0),
    "normalised": lambda x: jax.nn.relu(
        (x - _weights(16)) / (0.5 + _weights(16) ** 2) * 3 - 1
    ),
    "difference": lambda x: jax.nn.relu(x[None] - 0.2)[0] - jax.nn.relu(-x),
    "floors": lambda x: jnp.maximum(x, 0.1) + jnp.maximum(_weights(16), x),
    "checkpoint": jax.checkpoint(_mlp(8, 4)),
    "mixing rows": lambda x: jax.nn.relu(_weights(3, 4) @ x.reshape(4, 4) - 0.1).T,
    "rows apart": lambda x: jnp.einsum(
        "hw,hwc->hc", jax.nn.relu(x.reshape(4, 4)), _weights(4, 4, 2)
    ),
    "largest": lambda x: jnp.maximum(jax.nn.relu(x[:8]), -x[8:]) - x[:8],
    "smallest": lambda x: jnp.minimum(x[::2], 0.1) + jnp.minimum(x[1::2], x[::2]),
    "clipped": lambda x: jnp.abs(jnp.clip(x, -0.2, 0.4) - 0.1) + lax.clamp(0.0, x, 0.5),
    "far limits": lambda x: (
        jnp.clip(x, -1e30, 1e30)
        + jnp.maximum(x, np.where(np.arange(16) < 8, -100.0, 0.1).astype(x.dtype))
    ),
    "moved": lambda x: _moved(x.reshape(4, 4)),
    "total": lambda x: jnp.mean(jax.nn.relu(x)),
    "identity": lambda x: x,
    "constant": lambda x: jnp.arange(3.0),
}


_UNKNOWN = {
    "sin": (jnp.sin, "'sin'"),
    "square": (lambda x: x * x, "'mul' of two values"),
    "gram": (lambda x: x @ x, "'dot_general' of two values"),
    "reciprocal": (lambda x: 2.0 / x, "'div' by a value"),
    "picked": (lambda x: x[x[:2].astype(int)], "'convert_element_type' to int"),
    "sorted": (jnp.sort, "'sort'"),
    "limits": (
        lambda x: lax.clamp(x, _weights(16), _weights(16)), "'clamp' with limits"
    ),
    "selected": (lambda x: jnp.where(x > 0, x, 1.0), "'gt'"),
    "cast": (lambda x: x.astype(int), "'convert_element_type' to int"),
    "kernel": (
        lambda x: lax.conv(
            jnp.ones((1, 1, 9, 9)), x.reshape(1, 1, 4, 4), (1, 1), "SAME"
        ),
        "'conv_general_dilated' with a kernel",
    ),
    "images": (
        lambda x: _cnn(x.reshape(4, 2, 2, 1)), "of other than one image"
    ),
    "loop": (lambda x: lax.fori_loop(0, 3, lambda _, y: y, x), "'(scan|while)'"),
}  # fmt: skip


def _box(size=16, seed=0, width=0.3):
    rng = np.random.default_rng(seed)
    centre, radius = rng.uniform(-1, 1, size), width * rng.uniform(size=size)
    dtype = jnp.result_type(float)
    return (centre - radius).astype(dtype), (centre + radius).astype(dtype)


def _samples(lower, upper, count=2000):
    share = np.random.default_rng(1).uniform(size=(count, *lower.shape))
    share[: count // 2] = np.round(share[: count // 2])
    return (lower + share * (upper - lower)).astype(lower.dtype)


def _of(fn, *, methods=_METHODS, engine="jax_verify"):
    """A function of a box: bounds by each method."""

    def bound(lower, upper):
        return [
            bounds.linear_bounds(fn, lower, upper, method=method, engine=engine)
            for method in methods
        ]

    return bound


def _forget():
    """Forgets that jax_verify was imported."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "jax_verify"]:
        del sys.modules[name]


@functools.cache
def _found(name):
    """Bounds of a function in the box by each method, and its values there."""
    fn = _FUNCTIONS[name]
    evaluate = jax.jit(lambda box, x: (_of(fn)(*box), jax.vmap(fn)(x)))
    return jax.device_get(evaluate(_box(), _samples(*_box())))


class AgreementTest(parameterized.TestCase):
    @parameterized.parameters(
        ("mlp", ("ibp", "crown-ibp")),
        ("cnn", ("ibp", "crown-ibp")),
        ("residual", ("ibp", "crown-ibp")),
        ("normalised", ("crown-ibp",)),
        ("tokens", ("crown-ibp",)),
        ("rows apart", _METHODS),
        ("moved", _METHODS),
        ("largest", ("ibp",)),
        ("smallest", ("ibp",)),
        ("clipped", ("ibp",)),
        ("far limits", ("ibp",)),
        ("checkpoint", ("crown",)),  # forward and backward agree on one hidden layer
    )
    def test_both_engines_give_the_same(self, name, methods):
        ours = _of(_FUNCTIONS[name], methods=methods, engine="robustjax")
        for method, own in zip(methods, jax.jit(ours)(*_box()), strict=True):
            low, high = _found(name)[0][_METHODS.index(method)]
            width = np.asarray(own.upper - own.lower)
            np.testing.assert_allclose(high - low, width, rtol=1e-5)
            np.testing.assert_allclose(low, own.lower, atol=1e-5 * width.max())


class SoundnessTest(parameterized.TestCase):
    @parameterized.parameters(*_FUNCTIONS)
    def test_bounds_contain_samples_and_tighten_with_the_method(self, name):
        found, outputs = _found(name)
        for low, high in found:
            self.assertEqual(low.shape, outputs.shape[1:])
            self.assertTrue(np.all(low - 1e-5 <= outputs.min(axis=0)))
            self.assertTrue(np.all(outputs.max(axis=0) <= high + 1e-5))
        for loose, tight in itertools.pairwise(found):
            self.assertTrue(np.all(loose[0] <= tight[0]))
            self.assertTrue(np.all(tight[1] <= loose[1]))

    @pytest.mark.newest
    def test_affine_functions_are_exact(self):
        found = jax.jit(_of(lambda x: 3 - 2 * x))(np.zeros(2), np.ones(2))
        for low, high in found:
            np.testing.assert_allclose(low, [1, 1], rtol=1e-6)
            np.testing.assert_allclose(high, [3, 3], rtol=1e-6)

    def test_far_limits_are_not_rounded_away(self):
        """Without a compiler, which may take together what is added and subtracted."""
        low, high = jax_verify.bounds(
            lambda x: jax.nn.relu(jnp.clip(x, -1e30, 1e30)) + x,
            *(np.array(c, jnp.result_type(float)) for c in ([-0.5, -0.5], [-0.2, 0.4])),
            method="crown-ibp",
        )
        np.testing.assert_allclose(low, [-0.5, -0.5], rtol=1e-6)
        np.testing.assert_allclose(high, [-0.2, 0.8], rtol=1e-6)

    def test_what_overflows_is_not_known(self):
        huge = np.finfo(jnp.result_type(float)).max ** 0.75

        def fn(x):
            return jnp.stack([jax.nn.relu(x[0] * huge * huge) - 1, x[1]])

        for low, high in jax.jit(_of(fn))(*_box(2)):
            np.testing.assert_array_equal(low[0], -np.inf)
            np.testing.assert_array_equal(high[0], np.inf)
            self.assertLess(high[1] - low[1], 1)

    def test_vmap_agrees_with_a_loop(self):
        """Of the first box the bounds alone are those of the tests above."""
        boxes = [_box(seed=seed) for seed in range(3)]
        corners = (np.stack(side) for side in zip(*boxes, strict=True))
        mapped = jax.jit(jax.vmap(_of(_residual)))(*corners)
        alone, _ = _found("residual")
        for found, expected in zip(mapped, alone, strict=True):
            np.testing.assert_allclose([v[0] for v in found], expected, rtol=1e-5)

    def test_parameters_may_be_traced(self):
        lower, upper = _box()
        matrix = _weights(16, 4)

        def width(matrix):
            low, high = jax_verify.bounds(
                lambda x: jax.nn.relu(x @ matrix), lower, upper, method="crown"
            )
            return jnp.sum(high - low)

        self.assertGreater(np.abs(jax.jit(jax.grad(width))(matrix)).sum(), 0)

    def test_double_precision(self):
        with jax.enable_x64(True):
            bound = jax.jit(_of(_mlp(8, 4), methods=("crown",)))
            for dtype in (np.float64, np.float32):
                ((low, high),) = bound(*(corner.astype(dtype) for corner in _box()))
                self.assertTrue(np.all(np.asarray(low) <= np.asarray(high)))
                self.assertEqual(low.dtype, np.float64)


class LoadTest(absltest.TestCase):
    def test_jax_is_left_alone(self):
        def snapshot():
            loaded = {n for n in sys.modules if n.partition(".")[0] == "jax"}
            finders = [type(finder) for finder in sys.meta_path]
            names = [dict(vars(module)) for module in _WATCHED]
            return names, loaded, builtins.__import__, finders

        jax_verify.load()  # whatever jax_verify depends on
        before = snapshot()
        with mock.patch.dict(sys.modules):
            _forget()
            jax_verify.load()
            loaded = snapshot()
            jax.eval_shape(_of(_mlp(4, 2)), *_box())
            used = snapshot()
        for after in (loaded, used):
            for index in range(len(before)):
                self.assertEqual(before[index], after[index])

    def test_every_call_returns_one_module(self):
        with mock.patch.dict(sys.modules), futures.ThreadPoolExecutor(4) as pool:
            _forget()
            modules = set(pool.map(lambda _: jax_verify.load(), range(4)))
        self.assertLen(modules, 1)

    def test_the_module_is_usable_as_it_is(self):
        jv = jax_verify.load()
        batched = jax.vmap(_mlp(8, 4))
        names = "interval", "fastlin", "ibpfastlin", "crown", "crownibp"

        @jax.jit
        def every(x):
            box = jv.IntervalBound(x - 0.1, x + 0.1)
            found = (getattr(jv, f"{n}_bound_propagation")(batched, box) for n in names)
            return [(bound.lower, bound.upper) for bound in found], batched(x)

        x = np.random.default_rng(0).uniform(size=(3, 16))
        found, outputs = jax.device_get(every(x))
        for lower, upper in found:
            self.assertTrue(np.all(lower < outputs))
            self.assertTrue(np.all(outputs < upper))

    def test_the_backward_rules_of_the_release_are_corrected(self):
        jv = jax_verify.load()
        one = np.ones((1, 2), jnp.result_type(float))
        cases = (
            (lambda x: x - one, -1, 0),  # the release: 1, 2
            (lambda x: x + x + one, 1, 3),  # the release: 2, 4
            (lambda x: (x - one) - (x + one), -2, -2),
        )

        @jax.jit
        def every(*box):
            box = jv.IntervalBound(*box)
            found = (jv.crownibp_bound_propagation(fn, box) for fn, _, _ in cases)
            return [(bound.lower, bound.upper) for bound in found]

        for own, (_, *ends) in zip(every(0 * one, one), cases, strict=True):
            for found, expected in zip(own, ends, strict=True):
                np.testing.assert_allclose(found, expected * one)

    def test_relu_of_nothing_known_is_not_zero(self):
        jv = jax_verify.load()
        huge = np.finfo(jnp.result_type(float)).max ** 0.75
        box = jv.IntervalBound(0.5 * jnp.ones((1, 2)), jnp.ones((1, 2)))
        found = jv.crownibp_bound_propagation(
            lambda x: jax.nn.relu(x * huge * huge) @ np.eye(2, dtype=x.dtype), box
        )
        self.assertTrue(np.isnan(found.lower).all() and np.isnan(found.upper).all())

    def test_equal_calls_keep_their_own_results(self):
        jv = jax_verify.load()
        box = jv.IntervalBound(jnp.ones((1, 2)), jnp.ones((1, 2)))
        step = jax.jit(lambda x: 2 * x)  # one jaxpr for both calls
        found = jv.interval_bound_propagation(lambda x: step(x) + step(step(x)), box)
        np.testing.assert_array_equal(found.upper, 6 * jnp.ones((1, 2)))


class ErrorsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        (name, fn, text) for name, (fn, text) in _UNKNOWN.items()
    )
    def test_an_unknown_operation_is_named(self, fn, text):
        for method in _METHODS:
            with self.assertRaisesRegex(bounds.UnsupportedError, text):
                jax_verify.bounds(fn, *_box(), method=method)

    def test_a_method_it_does_not_have(self):
        with self.assertRaisesRegex(NotImplementedError, "has no method 'alpha'"):
            jax_verify.bounds(jax.nn.relu, *_box(), method="alpha")

    def test_bad_boxes(self):
        for lower, upper, text in (
            (jnp.ones(2), jnp.zeros(2), "lower <= upper"),
            (jnp.zeros(2), jnp.array([1.0, jnp.inf]), "finite"),
            (jnp.zeros(2), jnp.ones(3), "alike"),
            (jnp.zeros(2, int), jnp.ones(2, int), "floats"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                jax_verify.bounds(jax.nn.relu, lower, upper, method="ibp")

    def test_two_outputs(self):
        with self.assertRaisesRegex(TypeError, "one array, got 2"):
            jax_verify.bounds(lambda x: (x, x), *_box(), method="ibp")

    def test_not_installed(self):
        with (
            mock.patch.dict(sys.modules, {"jax_verify": None}),
            self.assertRaisesRegex(ImportError, r'pip install "robustjax\[verify\]"'),
        ):
            jax_verify.load()

    def test_another_version(self):
        with (
            mock.patch("importlib.metadata.version", return_value="2.5"),
            self.assertRaisesRegex(ImportError, "release 1.0 .* found 2.5"),
        ):
            jax_verify.load()

    def test_another_layout_of_the_same_version(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(sys.modules):
            _forget()
            package = pathlib.Path(folder, "jax_verify")
            package.mkdir()
            package.joinpath("__init__.py").touch()
            with (
                mock.patch.object(sys, "path", [folder, *sys.path]),
                self.assertRaisesRegex(
                    ImportError, "found 1.0 in a layout that is neither"
                ),
            ):
                jax_verify.load()

    def test_imported_by_somebody_else(self):
        spec = importlib.util.find_spec("jax_verify")
        other = ModuleType("jax_verify")
        other.__spec__ = importlib.machinery.ModuleSpec(
            "jax_verify", None, origin=spec.origin
        )
        with (
            mock.patch.dict(sys.modules, {"jax_verify": other}),
            self.assertRaisesRegex(ImportError, "imported already"),
        ):
            jax_verify.load()


if __name__ == "__main__":
    absltest.main()
