"""Layer normalisation, attention and Fourier transforms: bounds hold, and are tight."""

import fractions
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds

_TOKENS, _WIDTH = 3, 8
_POINTS = 400
_X = np.random.default_rng(0).normal(size=(_TOKENS, _WIDTH)).astype(np.float32)
_SCALE = np.linspace(-2.0, 3.0, _WIDTH, dtype=np.float32)


def _layer_norm(x, *, is_fast, epsilon=1e-6):
    layer = nn.LayerNorm(epsilon=epsilon, use_fast_variance=is_fast)
    shift = np.float32(np.arange(_WIDTH))
    return layer.apply({"params": {"scale": _SCALE, "bias": shift}}, x)


def _rms_norm(x):
    return nn.RMSNorm().apply({"params": {"scale": _SCALE}}, x)


def _quotient(x):
    around = x - x.mean(axis=-1, keepdims=True)
    return around / jnp.sqrt((around**2).mean(axis=-1, keepdims=True) + 1e-5)


def _attention(x):
    keys = jax.random.normal(jax.random.key(1), (3, _WIDTH, 4)) / 2
    q, k, v = (jnp.matmul(x, key) for key in keys)
    scores = jnp.where(np.tri(_TOKENS) > 0, q @ k.T, -1e9)  # causal
    return jax.nn.softmax(scores, axis=-1) @ v


def _spectrum(x):
    half = jnp.fft.rfft(x, axis=-1)
    back = jnp.fft.irfft(half * np.exp(1j * np.arange(_WIDTH // 2 + 1))[None], axis=-1)
    whole = jnp.fft.fft2(x.astype(jnp.complex64))
    return jnp.concatenate([jnp.abs(half), half.imag, back, whole.real], axis=-1)


def _points(radius):
    share = np.random.default_rng(1).uniform(-1, 1, (_POINTS, *_X.shape))
    share[: _POINTS // 4] = np.sign(share[: _POINTS // 4])
    return (_X + radius * share).astype(np.float32)


def _bounds_of(fn, radius, methods=("ibp", "crown-ibp", "crown")):
    """Bounds by each method, and values at points of the box."""

    @jax.jit
    def evaluate(low, high, points):
        found = [bounds.linear_bounds(fn, low, high, method=m) for m in methods]
        return found, jax.vmap(fn)(points)

    points = _points(radius)
    ends = (
        np.minimum(_X - radius, points.min(0)),
        np.maximum(_X + radius, points.max(0)),
    )
    return jax.device_get(evaluate(*map(np.float32, ends), points))


class NormalisingTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("two_passes", lambda x: _layer_norm(x, is_fast=False)),
        ("one_pass", lambda x: _layer_norm(x, is_fast=True)),
        ("root_mean_square", _rms_norm),
        ("quotient", _quotient),
        ("standardize", jax.nn.standardize),
    )
    def test_bounds_hold_and_know_how_large_results_get(self, fn):
        for radius in (0.01, 30.0):
            found, values = _bounds_of(fn, radius, methods=("ibp", "crown"))
            for own in found:
                self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-5))
                self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-5))
            if radius > 1:  # nothing but the limit is left
                width = np.max(found[0].upper - found[0].lower)
                self.assertLessEqual(width, 2 * 3 * np.sqrt(_WIDTH) + 1e-3)
            else:
                span = np.mean(np.ptp(values, axis=0))
                self.assertLess(np.mean(found[1].upper - found[1].lower), 1.6 * span)

    def test_the_limit_is_reached(self):
        """One number away from all others: the deviation is sqrt(n - 1)."""
        spike = jnp.zeros(_WIDTH).at[0].set(1e3)
        own = bounds.interval_bounds(_quotient, spike - 1e-3, spike + 1e-3)
        self.assertAlmostEqual(float(own.upper[0]), np.sqrt(_WIDTH - 1), delta=1e-3)
        self.assertGreaterEqual(float(own.upper[0]), float(_quotient(spike)[0]))

    @parameterized.parameters(
        lambda x: 3 * x.mean(axis=-1, keepdims=True),
        lambda x: x.sum(axis=-1, keepdims=True),
        lambda x: x.mean(keepdims=True),
    )
    def test_a_deviation_from_something_else_has_no_limit(self, middle):
        def fn(x):
            x = x + 5
            around = x - middle(x)
            other = x - x.mean(axis=-1, keepdims=True)
            return around / jnp.sqrt((other**2).mean(axis=-1, keepdims=True) + 1e-5)

        found, values = _bounds_of(fn, 0.01, methods=("ibp",))
        self.assertTrue(np.all(found[0].upper >= values.max(axis=0) - 1e-4))
        self.assertTrue(np.all(found[0].lower <= values.min(axis=0) + 1e-4))


class AttentionTest(absltest.TestCase):
    @pytest.mark.newest
    def test_bounds_hold_and_planes_help(self):
        (ibp, _, crown), values = _bounds_of(_attention, 0.01)
        for own in (ibp, crown):
            self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-6))
            self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-6))
        span = np.mean(np.ptp(values, axis=0))
        self.assertLess(np.mean(crown.upper - crown.lower), 2.0 * span)
        self.assertLess(
            np.mean(crown.upper - crown.lower), np.mean(ibp.upper - ibp.lower) / 2
        )

    def test_products_of_two_arrays_with_rounding_covered(self):
        """At a point nothing but rounding is left; fractions know the products."""

        def fn(x):
            return x @ x.T

        with jax.enable_x64(True):
            bound_fn = jax.jit(
                lambda *box: bounds.linear_bounds(fn, *box, rounding="cover")
            )
            own = jax.device_get(bound_fn(np.float64(_X), np.float64(_X)))
        rows = [[fractions.Fraction(float(v)) for v in row] for row in _X]
        for i, j in itertools.product(range(_TOKENS), repeat=2):
            exact = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
            self.assertLessEqual(fractions.Fraction(float(own.lower[i, j])), exact)
            self.assertGreaterEqual(fractions.Fraction(float(own.upper[i, j])), exact)
        self.assertLess(np.max(own.upper - own.lower), 1e-11)


class TransformTest(absltest.TestCase):
    def test_bounds_hold(self):
        found, values = _bounds_of(_spectrum, 0.1, methods=("ibp", "crown"))
        for own in found:
            self.assertTrue(np.all(own.lower <= values.min(axis=0) + 1e-5))
            self.assertTrue(np.all(own.upper >= values.max(axis=0) - 1e-5))
        linear = slice(_WIDTH // 2 + 1, None)  # exact but for the corners that are met
        width = (found[1].upper - found[1].lower)[:, linear]
        reach = np.ptp(values, axis=0)[:, linear]
        self.assertLess(
            np.max(np.where(reach > 1e-6, width / (reach + 1e-9), 1.0)), 2.5
        )

    def test_complex_results_and_others_are_refused(self):
        for fn, text in (
            (jnp.fft.fft, "real numbers"),
            (lambda x: jnp.exp(1j * x).real, "'exp' of complex"),
        ):
            with self.assertRaisesRegex(bounds.UnsupportedError, text):
                bounds.interval_bounds(
                    fn, np.zeros(4, np.float32), np.ones(4, np.float32)
                )


if __name__ == "__main__":
    absltest.main()
