"""Smoothed functions: unbiased derivatives against closed forms, memory, transforms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.scipy.special import ndtr
from jax.tree_util import Partial

from robustjax import smoothing
from robustjax.smoothing.derivatives import smoothed

_KEY = jax.random.key(17)
_SIGMA = 0.7
_START = np.array([0.3, -0.5, 0.8], "float32")
_X = jnp.asarray(_START)
_A = jnp.array([1.0, -2.0, 0.5], "float32")
_Q = jnp.array([[1.0, 0.3, -0.2], [0.1, -0.5, 0.4], [0.0, 0.6, 2.0]], "float32")
_W = jnp.array([0.9, 0.4, -1.1], "float32")

_POINT = jnp.append(_X, _SIGMA)


def _function(x: jax.Array) -> jax.Array:
    """Columns: linear, quadratic, sine and half-space of a batch `[m, 3]`."""
    quadratic = jnp.einsum("ni,ij,nj->n", x, _Q, x)
    half_space = jnp.where(x @ _A > 1, 1.0, 0.0)
    return jnp.stack([x @ _A + 3, quadratic, jnp.sin(x @ _W), half_space], axis=-1)


def _closed_form(x: jax.Array, sigma: jax.Array) -> jax.Array:
    """The same functions smoothed."""
    damping = jnp.exp(-(sigma**2) * _W @ _W / 2)
    return jnp.stack(
        [
            x @ _A + 3,
            x @ _Q @ x + sigma**2 * jnp.trace(_Q),
            damping * jnp.sin(x @ _W),
            ndtr((x @ _A - 1) / (sigma * jnp.linalg.norm(_A))),
        ]
    )


def _exactly(x: jax.Array) -> jax.Array:
    return _closed_form(x, _SIGMA)


def _sine(x: jax.Array) -> jax.Array:
    return _function(x)[:, 2]


def _build(fn=_sine, **options):
    options = dict(sigma=_SIGMA, num_samples=1000, chunk_size=128) | options
    return smoothed(fn, **options)


def _derivatives(function, point):
    """Value, Jacobian by reverse mode and Hessian at a point, in one program."""

    def jacobian(point):
        value, pullback = jax.vjp(function, point)
        (rows,) = jax.vmap(pullback)(jnp.eye(len(value), dtype=value.dtype))
        return rows, (value, rows)

    hessian, (value, rows) = jax.jacfwd(jacobian, has_aux=True)(point)
    return value, rows, hessian


def _assert_unbiased(estimate, exact, *, num_keys, precision):
    """The mean over keys of each array is within 4 standard errors of the exact one.

    Rows are functions; errors must be below `precision`, as a share of the largest
    entry of their row or of 1.
    """
    estimates = jax.jit(jax.vmap(estimate))(jax.random.split(_KEY, num_keys))
    for drawn, known in zip(estimates, exact, strict=True):
        values = np.asarray(drawn, np.float64).reshape(num_keys, len(known), -1)
        expected = np.asarray(known, np.float64).reshape(len(known), -1)
        scale = np.maximum(np.abs(expected).max(axis=1, keepdims=True), 1)
        error = values.std(axis=0, ddof=1) / np.sqrt(num_keys)
        assert np.all(error <= precision * scale), error / scale
        deviation = np.abs(values.mean(axis=0) - expected) - 1e-5 * scale  # rounding
        assert np.all(deviation <= 4 * error), (values.mean(axis=0), expected, error)


class UnbiasedTest(parameterized.TestCase):
    """Derivatives by the vector (x, sigma), so all the mixed ones as well."""

    @parameterized.parameters(("score", 4), ("pathwise", 3))
    @pytest.mark.slow
    def test_value_gradient_and_hessian(self, estimator, columns):
        def estimate(key):
            def value(point):
                fn = Partial(lambda x: _function(x)[:, :columns])
                g = _build(fn, estimator=estimator, sigma=point[3], num_samples=640)
                return g(key, point[:3])

            return _derivatives(value, _POINT)

        def exact(point):
            return _closed_form(point[:3], point[3])[:columns]

        expected = jax.jit(functools.partial(_derivatives, exact))(_POINT)
        _assert_unbiased(estimate, expected, num_keys=1000, precision=0.1)

    @pytest.mark.slow
    def test_two_samples(self):
        """A baseline that includes the sample itself would halve the derivatives."""
        g = jax.jacfwd(_build(_function, num_samples=2), argnums=1)
        exact = jax.jit(jax.jacfwd(_closed_form))(_X, _SIGMA)
        _assert_unbiased(
            lambda key: [g(key, _X)], [exact], num_keys=20_000, precision=0.1
        )

    @pytest.mark.slow
    def test_third_derivative_of_score(self):
        def third(function):
            for _ in range(3):
                function = jax.jacfwd(function)
            return function(_X)

        g = _build(_function)
        _assert_unbiased(
            lambda key: [third(lambda x: g(key, x))],
            [jax.jit(third, static_argnums=0)(_exactly)],
            num_keys=4000,
            precision=0.15,
        )

    @parameterized.parameters("score", "pathwise")
    @pytest.mark.slow
    def test_derivatives_by_parameters(self, estimator):
        """And mixed ones, by the vector (w, x)."""

        def estimate(key):
            def value(point):
                fn = Partial(lambda w, x: jnp.sin(x @ w)[:, None], point[:3])
                g = _build(fn, num_samples=3, estimator=estimator)
                return g(key, point[3:])

            return _derivatives(value, point)

        def exact(point):
            w, x = point[:3], point[3:]
            return jnp.exp(-(_SIGMA**2) * w @ w / 2) * jnp.sin(x @ w)[None]

        point = jnp.concatenate([_W, _X])
        expected = jax.jit(functools.partial(_derivatives, exact))(point)
        _assert_unbiased(estimate, expected, num_keys=10_000, precision=0.05)


class SampleTest(parameterized.TestCase):
    def test_values_are_the_votes_that_class_counts_sees(self):
        def logits(x):
            return jnp.stack([x @ _A, x @ _W, jnp.full(len(x), 0.2)], axis=-1)

        def votes(x):
            return jax.nn.one_hot(jnp.argmax(logits(x), axis=-1), 3, dtype=jnp.int32)

        x, ids, n = np.stack([0 * _START, abs(_START)]), np.array([4, 9]), 700
        g = smoothed(votes, sigma=_SIGMA, num_samples=n)
        shares = jax.vmap(g, in_axes=(None, 0))(_KEY, x, example_id=ids)
        counts = smoothing.class_counts(
            _KEY,
            logits,
            x,
            sigma=_SIGMA,
            num_samples=n,
            num_classes=3,
            example_ids=ids,
        )
        np.testing.assert_allclose(shares * n, counts[:, :3], atol=1e-3)
        self.assertGreater(int(counts[:, :3].min()), 20)

    def test_chunks_change_rounding_only(self):
        one, other = (
            jax.jit(jax.value_and_grad(g, argnums=1))(_KEY, _X)
            for g in (_build(chunk_size=size, num_samples=900) for size in (128, 512))
        )
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    @pytest.mark.newest
    def test_score_derivative_is_a_sample_covariance(self):
        n = 5
        key = jax.random.fold_in(jax.random.fold_in(_KEY, 0), 0)
        noise = np.asarray(jax.random.normal(key, (128, 3), "float32")[:n], np.float64)
        values = np.sin((np.asarray(_X) + _SIGMA * noise) @ np.asarray(_W))
        expected = [np.cov(values, z)[0, 1] / _SIGMA for z in noise.T]
        gradient = jax.jit(jax.grad(_build(num_samples=n), argnums=1))(_KEY, _X)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)

    def test_constants_do_not_matter_to_score(self):
        def fn(x):
            cube = x.sum(axis=-1, keepdims=True) ** 3
            return cube + jnp.array([[0, 1e6]])

        with jax.enable_x64(True):
            hessian = jax.jit(jax.hessian(_build(fn), argnums=1))
            plain, shifted = hessian(_KEY, _X.astype("float64"))
        self.assertEqual(plain.dtype, np.float64)
        np.testing.assert_allclose(shifted, plain, rtol=1e-8)

    def test_weights_are_exactly_one_in_high_dimension(self):
        def fn(x):
            return jnp.tanh(x.sum(axis=(1, 2, 3)) + 1)

        x = jnp.zeros((3, 32, 32))
        score, pathwise = (
            smoothed(fn, sigma=0.01, num_samples=500, estimator=estimator)(_KEY, x)
            for estimator in ("score", "pathwise")
        )
        np.testing.assert_allclose(score, pathwise, rtol=1e-6)

    def test_types_of_results(self):
        for fn in (_sine, lambda x: x[:, 0] > 0, lambda x: x.astype(jnp.bfloat16)):
            for dtype in (jnp.float32, jnp.bfloat16):
                result = jax.eval_shape(_build(fn), _KEY, _X.astype(dtype))
                self.assertEqual(result.dtype, jnp.float32)


class TransformTest(parameterized.TestCase):
    def test_jit_and_vmap_agree_with_a_loop(self):
        gradient = jax.jit(jax.grad(_build(), argnums=1))
        keys, x = jax.random.split(_KEY, 2), np.stack([_START, -2 * _START])
        loop = np.stack([gradient(k, v) for k, v in zip(keys, x, strict=True)])
        close = dict(rtol=1e-4, atol=1e-5)
        rows = np.array([0, 1, 0]), np.array([0, 1, 1])
        together = jax.vmap(gradient)(keys[rows[0]], x[rows[1]])
        np.testing.assert_allclose(together[:2], loop, **close)
        self.assertFalse(np.allclose(together[2], loop[1], **close))  # other noise

    def test_scalar_inputs(self):
        g = smoothed(lambda x: x > 0.2, sigma=1.0, num_samples=200)
        value, slope = jax.jit(jax.value_and_grad(g, argnums=1))(_KEY, 0.2)
        self.assertEqual((value.shape, slope.shape), ((), ()))
        self.assertBetween(float(slope), 0.2, 0.6)  # about phi(0)

    def test_one_trace_for_other_weights_and_sigmas(self):
        chex.clear_trace_counter()

        @chex.assert_max_traces(n=1)
        def fn(w, x):
            return jnp.tanh(x @ w)

        for scale in (1.0, 2.0):
            g = _build(Partial(fn, scale * _W), sigma=scale)
            for key in jax.random.split(_KEY, 2):
                g(key, scale * _X)
                jax.grad(g, argnums=1)(key, scale * _X)

    @parameterized.parameters(("score", jax.hessian), ("pathwise", jax.grad))
    def test_memory_does_not_grow_with_the_samples(self, estimator, transform):
        def temporary_bytes(num_samples):
            g = _build(
                lambda x: jnp.tanh(x).sum(axis=1),
                num_samples=num_samples,
                estimator=estimator,
            )
            lowered = jax.jit(transform(g, argnums=1)).lower(_KEY, jnp.zeros(64))
            return lowered.compile().memory_analysis().temp_size_in_bytes

        few, many = temporary_bytes(1_000), temporary_bytes(100_000)
        num_steps = 100_000 // 128
        self.assertLess(many - few, 8 * num_steps)  # an index a step, nothing else
        self.assertLess(few, 50 * 128 * 64 * 4)


class BadInputTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(estimator="stein"), ValueError, "estimator 'stein'"),
        (dict(num_samples=1), ValueError, "num_samples >= 2, got 1"),
        (dict(num_samples=0, estimator="pathwise"), ValueError, "num_samples >= 1"),
        (dict(num_samples=10.0), TypeError, "num_samples"),
        (dict(sigma=0.0), ValueError, "sigma"),
        (dict(sigma=float("nan")), ValueError, "sigma"),
        (dict(sigma=jnp.ones(2)), ValueError, "sigma"),
        (dict(chunk_size=100), ValueError, "chunk_size"),
    )
    def test_refuses_bad_options(self, arguments, error, text):
        with self.assertRaisesRegex(error, text):
            _build(**arguments)

    @parameterized.parameters(
        (lambda x: x.sum(), "score", r"got \(\)"),
        (lambda x: x[:1], "score", r"got \(1, 3\)"),
        (lambda x: x[:, 0] + 1j, "pathwise", "complex"),
        (lambda x: x[:, 0] > 0, "pathwise", 'got bool; use estimator="score"'),
        (lambda x: jnp.argmax(x, axis=1), "pathwise", 'use estimator="score"'),
    )
    def test_refuses_bad_functions(self, fn, estimator, text):
        g = smoothed(fn, sigma=1.0, num_samples=10, estimator=estimator)
        with self.assertRaisesRegex(ValueError, text):
            g(_KEY, _X)

    def test_refuses_integers(self):
        with self.assertRaisesRegex(ValueError, "x as floats, got uint8"):
            _build()(_KEY, np.array([1, 2, 3], np.uint8))

    def test_values_that_are_not_finite_are_not_hidden(self):
        g = _build(lambda x: jnp.where(x[:, 0] > 1, jnp.nan, x[:, 1]))
        self.assertTrue(np.isnan(g(_KEY, _X)))


if __name__ == "__main__":
    absltest.main()
