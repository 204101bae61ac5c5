"""Integers inside of a function: bounds that hold, or a refusal, but no wrap-around."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds

_MASK = np.array([True, False, True])


def _as_int(x, dtype=jnp.int32):
    return (x > 0).astype(dtype)


_ALLOWED = {
    "sum": lambda x: jnp.sum(_as_int(x))[None],
    "running sum": lambda x: jnp.cumsum(_as_int(x)),
    "of constants": lambda x: 3 - _as_int(x) + jnp.arange(3),
    "near the limit": lambda x: _as_int(x) + (2**24 - 1),
    "masked": lambda x: jnp.where(_MASK, _as_int(x), 7),
    "chosen": lambda x: jnp.where(x > 0, 100, -3),
    "joined": lambda x: jnp.concatenate([_as_int(x), jnp.array([5, 6])]),
    "sorted": lambda x: jnp.sort(_as_int(x) + jnp.arange(3)),
    "of few bits": lambda x: jnp.sum(_as_int(x, jnp.int32), dtype=jnp.int32)[None],
    "larger and smaller": lambda x: jnp.maximum(
        _as_int(x), jnp.minimum(2, -_as_int(-x))
    ),
    "compared": lambda x: jnp.where(jnp.sum(_as_int(x)) >= 2, x, -x),
}


def _joined(x):
    return jnp.concatenate([fn(x).astype(x.dtype) for fn in _ALLOWED.values()])


class CountsTest(parameterized.TestCase):
    def test_truths_of_float64_as_narrower_numbers(self):
        """They are rounded as float32, also where rows come back."""

        def fn(x):
            truths = (x > 0).astype(jnp.float32) * jnp.float32(0.1)
            return jnp.sum(truths * jnp.arange(3.0, dtype=jnp.float32))[None]

        @jax.jit
        def every(*box):
            bound = functools.partial(bounds.linear_bounds, fn, *box, rounding="cover")
            return [bound(method=method) for method in ("ibp", "crown")]

        with jax.enable_x64(True):
            for own in jax.device_get(every(np.full(3, -1.0), np.full(3, 1.0))):
                self.assertLessEqual(own.lower[0], 0.0)
                self.assertGreater(own.upper[0], 3 * float(np.float32(0.1)))
                self.assertLess(own.upper[0], 0.301)

    @pytest.mark.newest
    def test_bounds_hold(self):
        points = np.random.default_rng(0).uniform(-1, 1, (200, 3)).astype(np.float32)

        @jax.jit
        def evaluate(points):
            found = [
                bounds.linear_bounds(
                    _joined, -jnp.ones(3), jnp.ones(3), method=method, rounding=rounding
                )
                for method in ("ibp", "crown")
                for rounding in ("cover", "ignore")
            ]
            return found, jax.vmap(_joined)(points)

        found, values = jax.device_get(evaluate(points))
        for own in found:
            self.assertTrue(np.all(own.lower <= values.min(axis=0)))
            self.assertTrue(np.all(own.upper >= values.max(axis=0)))
        self.assertLess(np.max(found[1].upper - found[1].lower), 104)

    def test_integers_of_pictures_lie_behind_all_of_their_entries(self):
        """Inputs of two axes, whose rows may be shared."""

        def fn(x):
            counts = jnp.where(np.eye(4) > 0, _as_int(x), 0)
            counts = jnp.concatenate([counts + 1, jnp.ones((1, 4), jnp.int32)])
            return (counts.sum(axis=0) * 1.0) @ jnp.arange(4.0)[:, None]

        @jax.jit
        def every(*box):
            return bounds.linear_bounds(fn, *box), *map(fn, box)

        own, least, most = jax.device_get(every(-np.ones((4, 4)), np.ones((4, 4))))
        np.testing.assert_array_less(own.lower, least + 1e-4)
        np.testing.assert_array_less(most, own.upper + 1e-4)

    @parameterized.parameters(
        (lambda x: (_as_int(x) + 1290) ** 3, "power 3"),
        (lambda x: jnp.square(_as_int(x) + 50000), "square"),
        (lambda x: jnp.abs(_as_int(x) - 3), "abs"),
        (lambda x: _as_int(x) + (2**31 - 1), "as large as 2.147"),
        (lambda x: _as_int(x) + 2**24, "as large as 1.677"),
        (lambda x: jnp.where(x > 0, 2**30, 3), "as large as 1.07"),
        (lambda x: _as_int(x) * 2**30 * 4, "integers"),
        (lambda x: _as_int(x) @ jnp.ones((3, 2), int), "integers"),
        (lambda x: jnp.square(jnp.where(x > 0, jnp.int8(100), jnp.int8(3))), "square"),
        (lambda x: jnp.cumsum(_as_int(x, jnp.int8)), "sums of int8"),
        (lambda x: _as_int(x, jnp.uint32) - jnp.uint32(1), "sums of uint32"),
        (lambda x: -_as_int(x, jnp.uint8), "sums of uint8"),
    )
    def test_refuses(self, fn, text):
        box = -jnp.ones(3), jnp.ones(3)
        with self.assertRaisesRegex(bounds.UnsupportedError, text):
            bounds.interval_bounds(fn, *box)

    def test_traced_constants_are_refused(self):
        @functools.partial(jax.jit, static_argnames="fn")
        def evaluate(count, fn):
            box = -jnp.ones(3), jnp.ones(3)
            return bounds.interval_bounds(lambda x: fn(x, count), *box)

        with self.assertRaisesRegex(bounds.UnsupportedError, "traced constants"):
            evaluate(jnp.array(5), fn=lambda x, count: _as_int(x) + count)


if __name__ == "__main__":
    absltest.main()
