"""Softmax, its logarithms and log-sum-exps: bounds hold, are tight and never NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from absl.testing import absltest, parameterized
from jax import nn

from robustjax import bounds
from robustjax.bounds import tracing
from robustjax.bounds.rules.special import log_sums

_SIZE = 5
_COPIES = 20  # of each entry: more than have differences
_MASK = np.array([True, False, True, True, False])


def _masked(value):
    return lambda x: nn.softmax(jnp.where(_MASK, x, value))


def _of_many(fn):
    return lambda x: fn(jnp.tile(x, _COPIES))[: _SIZE + 1]


_FUNCTIONS = {
    "softmax": nn.softmax,
    "log_softmax": nn.log_softmax,
    "logsumexp": lambda x: nn.logsumexp(x, keepdims=True),
    "over two axes": lambda x: nn.logsumexp(jnp.stack([x, -x]))[None],
    "along the first": lambda x: nn.softmax(jnp.stack([x, -x]), axis=0),
    "softmax of many": _of_many(nn.softmax),
    "log_softmax of many": _of_many(nn.log_softmax),
    "masked": _masked(-jnp.inf),
    "masked by a number": _masked(-1e9),
    "log-sum of masked": lambda x: nn.logsumexp(jnp.where(_MASK, x, -jnp.inf))[None],
    "cross-entropy": lambda x: (nn.logsumexp(x) - x[1])[None],
    "sum of shares": lambda x: jnp.sum(nn.softmax(x))[None],
    "of two": lambda x: jnp.logaddexp(x, x[::-1]),
    "of two, masked": lambda x: jnp.logaddexp(jnp.where(_MASK, -jnp.inf, 1.0), x),
}


_SHORT = ("softmax", "logsumexp", "masked")


def _joined(names):
    """The functions of some names, as one."""

    def joined(x):
        return jnp.concatenate([_FUNCTIONS[name](x).ravel() for name in names])

    return joined


@functools.partial(jax.jit, static_argnums=0)
def _every(names, lower, upper, points):
    """Bounds by all methods, and values at points `[boxes, points, ...]`."""
    fn = _joined(names)
    found = [
        jax.vmap(functools.partial(bounds.linear_bounds, fn, method=method))(
            lower, upper
        )
        for method in ("ibp", "crown")
    ]
    return found, jax.vmap(jax.vmap(fn))(points)


@functools.partial(jax.jit, static_argnums=0)
def _bounds_of(fn, lower, upper):
    return bounds.linear_bounds(fn, lower, upper)


def _boxes(count):
    """Of many spreads and widths, some of width zero."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(count, _SIZE)) * 10.0 ** rng.uniform(-1, 3, (count, 1))
    radius = 10.0 ** rng.uniform(-3, 3, (count, 1)) * rng.uniform(size=centre.shape)
    radius[::7] = 0.0
    return centre - radius, centre + radius


def _samples(lower, upper, count):
    share = np.random.default_rng(1).uniform(size=(1, count, _SIZE))
    share[:, : count // 2] = np.round(share[:, : count // 2])
    x = lower[:, None] + share * (upper - lower)[:, None]
    return np.clip(x, lower[:, None], upper[:, None])


class LogSumsTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_bounds_hold_at_any_spread(self):
        self._check(_SHORT, jnp.float32, num_points=300)

    @parameterized.parameters(jnp.float32, jnp.float64)
    @pytest.mark.slow
    def test_bounds_of_all_hold_at_many_points(self, dtype):
        self._check(tuple(_FUNCTIONS), dtype, num_points=10_000)

    def _check(self, names, dtype, *, num_points):
        with jax.enable_x64(dtype == jnp.float64):
            lower, upper = (np.asarray(side, dtype) for side in _boxes(28))
            points = _samples(lower, upper, num_points).astype(dtype)
            of_methods, values = jax.device_get(_every(names, lower, upper, points))
        low, high = values.min(axis=1), values.max(axis=1)
        slack = 100 * np.finfo(dtype).eps * (1 + np.maximum(abs(low), abs(high)))
        for found in of_methods:
            self.assertFalse(np.any(np.isnan([found.lower, found.upper])))
            self.assertTrue(np.all(found.lower <= low + slack))
            self.assertTrue(np.all(found.upper >= high - slack))

    def test_intervals_are_the_values_at_corners(self):
        """p_i is least where x_i is and all others are largest; shares sum to one."""
        lower, upper = np.array([0.1, -0.4, 1.0]), np.array([0.2, 0.5, 1.1])

        @jax.jit
        def every(*box):
            return [
                bounds.interval_bounds(fn, *box)
                for fn in (nn.softmax, nn.logsumexp, lambda x: nn.softmax(x).sum())
            ]

        with jax.enable_x64(True):
            shares, total, one = jax.device_get(every(lower, upper))
        for i in range(3):
            at_low, at_high = upper.copy(), lower.copy()
            at_low[i], at_high[i] = lower[i], upper[i]
            expected = [scipy.special.softmax(at)[i] for at in (at_low, at_high)]
            own = [shares.lower[i], shares.upper[i]]
            np.testing.assert_allclose(own, expected, rtol=1e-13)
        expected = [scipy.special.logsumexp(side) for side in (lower, upper)]
        np.testing.assert_allclose(total, expected, rtol=1e-13)
        np.testing.assert_allclose(one, [1.0, 1.0], rtol=1e-13)

    def test_planes_touch_and_beat_the_steps(self):
        """They are off by the square of the width; a common shift loses nothing."""

        def shifted(x):
            return nn.log_softmax(x[0] + jnp.arange(3.0))

        @jax.jit
        def affine(*box):
            return bounds.affine_bounds(nn.logsumexp, *box)

        box = np.array([0.3, 0.1, 0.2])
        with jax.enable_x64(True):
            for radius in (1e-2, 1e-3):
                own = jax.device_get(affine(box - radius, box + radius))
                gap = own.upper_weight - own.lower_weight
                height = (gap @ box)[0] + own.upper_bias[0] - own.lower_bias[0]
                self.assertBetween(float(height), 0.0, radius**2)
            same = _bounds_of(shifted, np.array([-2.0]), np.array([3.0]))
        expected = scipy.special.log_softmax(np.arange(3.0))
        np.testing.assert_allclose(same.lower, expected, atol=1e-12)
        np.testing.assert_allclose(same.upper, expected, atol=1e-12)

    def test_shares_that_may_not_be_numbers_are_not_known(self):
        """All entries masked, or one that overflows."""

        def damaged(x):
            none = jnp.where(np.zeros(3, bool), x, -jnp.inf)
            beyond = x * jnp.array([3e38, 1.0, 1.0], x.dtype)
            return jnp.concatenate(
                [fn(y) for fn in (nn.softmax, nn.log_softmax) for y in (none, beyond)]
            )

        own = _bounds_of(damaged, np.ones(3, np.float32), np.full(3, 2.0, np.float32))
        np.testing.assert_array_equal(own.lower, np.full(12, -np.inf))
        np.testing.assert_array_equal(own.upper, np.full(12, np.inf))

    def test_number_of_nodes_does_not_grow(self):
        for fn, most in ((nn.softmax, 6), (nn.log_softmax, 4), (nn.logsumexp, 2)):
            for count in (2, 8, 50, 5000):
                x = jax.ShapeDtypeStruct((count,), jnp.float32)
                self.assertLessEqual(len(tracing.trace(fn, x).nodes), most)

    def test_other_sums_are_not_mistaken(self):
        """Of another value, or along another axis."""

        def of_another(x):
            top = jnp.max(x)
            return jnp.log(jnp.sum(jnp.exp(x - top))) + jnp.max(2 * x)

        def along_another(x):
            x = x.reshape(2, 2)
            return x - jnp.max(x, 0) - jnp.log(jnp.sum(jnp.exp(x - jnp.max(x, 0)), 1))

        lower, upper = np.zeros(4, np.float32), np.arange(4, dtype=np.float32)
        with jax.numpy_rank_promotion("allow"):
            for fn in (of_another, along_another):
                own = jax.device_get(_bounds_of(fn, lower, upper))
                for x in (lower, upper, (lower + upper) / 2):
                    self.assertTrue(np.all(own.lower <= fn(x) + 1e-5))
                    self.assertTrue(np.all(own.upper >= fn(x) - 1e-5))


class PlanesTest(absltest.TestCase):
    """The terms of both inequalities alone."""

    def test_every_mix_is_sound(self):
        box, count = _boxes(60), _SIZE
        points = _samples(*box, 400)
        value = scipy.special.logsumexp(points, axis=-1)
        scale = 1e-13 * (1 + np.abs(points).max(axis=-1))
        lines_of = jax.jit(functools.partial(log_sums._lines, (-1,), count))
        with jax.enable_x64(True):
            for mix in (0.0, 0.3, 1.0):
                lines = jax.device_get(lines_of(*box, np.full(box[0].shape, mix)))
                below, above = (
                    np.sum(slope[:, None] * points, axis=-1)
                    + np.sum(offset, axis=-1, keepdims=True)
                    for slope, offset in (lines[:2], lines[2:])
                )
                self.assertTrue(np.all(below <= value + scale))
                self.assertTrue(np.all(above >= value - scale))


if __name__ == "__main__":
    absltest.main()
