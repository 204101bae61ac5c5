"""What may be NaN or infinite inside of a box decides nothing."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from jax import lax

from robustjax import bounds

_PARTIAL = {  # functions that are no number somewhere on [-1, 2]
    "log": jnp.log,
    "log1p": lambda x: jnp.log1p(2 * x),
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "reciprocal": lambda x: 1 / x - 1 / x,
    "power": lambda x: x**-3 * 0,
    "matrix product": lambda x: jnp.log(x) @ jnp.array([[0.0, 1.0], [1.0, 0.0]]),
    "sum": lambda x: jnp.log(x) + jnp.log(x)[::-1],
    "largest": lambda x: jnp.maximum(jnp.log(x), 0.3),
    "smallest of a window": lambda x: lax.reduce_window(
        jnp.sqrt(x), jnp.inf, lax.min, (2,), (1,), "SAME"
    ),
    "product": lambda x: jnp.log(x) * x[::-1],
    "zero times infinity": lambda x: jnp.exp(9999 * x) * jnp.maximum(-x[::-1], 0.0),
    "square": lambda x: jnp.sqrt(x) ** 2,
    "wave": lambda x: jnp.sin(jnp.log(x)),
    "s-shape": lambda x: jnp.tanh(jnp.log(x)),
    "clip": lambda x: jnp.clip(jnp.sqrt(x), 0.1, 0.2),
    "steps": lambda x: jnp.floor(jnp.sqrt(x)) + jnp.sign(jnp.sqrt(x)),
    "softplus": lambda x: jax.nn.softplus(jnp.log(x)),
    "silu": lambda x: jax.nn.silu(jnp.sqrt(x)),
    "elu": lambda x: jax.nn.elu(jnp.log(x)),
    "sort": lambda x: jnp.sort(jnp.sqrt(x)),
    "cummax": lambda x: lax.cummax(jnp.sqrt(x)),
    "running log-sum": lambda x: lax.cumlogsumexp(jnp.log(x)),
    "running product": lambda x: lax.cumprod(jnp.tile(jnp.log(x), 9))[-2:],
    "remainder": lambda x: lax.rem(x, jnp.zeros_like(x)),
    "arccosh": jnp.arccosh,
    "arctanh": lambda x: jnp.arctanh(-x),
    "root": lambda x: jnp.power(x, 0.3),
    "matrix of both": lambda x: (jnp.sqrt(x)[:, None] @ x[None]) @ jnp.ones(2),
}
_DECIDE = {  # numbers from a result z; at NaN the comparisons are False
    "less": lambda z: jnp.where(z < 1e30, 1.0, -1.0),
    "less than infinity": lambda z: jnp.where(z <= jnp.inf, 1.0, -1.0),
    "at least minus infinity": lambda z: jnp.where(z >= -jnp.inf, 1.0, -1.0),
    "more": lambda z: jnp.where(z > -1e30, 1.0, -1.0),
    "not": lambda z: jnp.where(~(z >= 1e30), -1.0, 1.0),
    "equal": lambda z: jnp.where(z == z, 1.0, -1.0),  # noqa: PLR0124
    "is finite": lambda z: jnp.where(jnp.isfinite(z), 1.0, -1.0),
    "count": lambda z: jnp.sum(z < 1e30) - 1.5,
}
_METHODS = ("ibp",)


def _joined(x):
    """All that may be no number, one after the other."""
    return jnp.concatenate([fn(x) for fn in _PARTIAL.values()])


def _decided(x):
    """What is decided by these, each in another way, and by one in every way."""
    decisions = itertools.cycle(_DECIDE.values())
    values = [fn(x) for fn in _PARTIAL.values()] + [jnp.log(x)] * len(_DECIDE)
    return jnp.stack([jnp.ravel(next(decisions)(value))[0] for value in values])


def _all_bounds(fn, lower, upper, methods=_METHODS):
    return [bounds.linear_bounds(fn, lower, upper, method=m) for m in methods]


class UnknownTest(absltest.TestCase):
    def test_what_may_be_no_number_is_not_bounded(self):
        self._check_bounds(_METHODS)

    def _check_bounds(self, methods):
        """Nor what is computed of it, at three boxes around and below zero."""
        lower = np.float32([[-1.0, -1.0], [-1.0, -1.0], [-0.5, 0.0]])
        upper = np.float32([[2.0, 2.0], [0.5, 2.0], [2.0, 2.0]])
        every = jax.jit(functools.partial(_all_bounds, _joined, methods=methods))
        at_points = jax.jit(jax.vmap(_joined))
        share = np.linspace(0, 1, 61)[:, None]
        names = np.repeat(list(_PARTIAL), 2)
        num_unknown = 0
        for low, high in zip(lower, upper, strict=True):
            values = at_points(np.float32(low + share * (high - low)))
            is_nan = np.isnan(values).any(axis=0)
            num_unknown += is_nan.sum()
            for own in jax.device_get(every(low, high)):
                self.assertFalse(np.isnan([own.lower, own.upper]).any())
                is_open = (own.lower == -np.inf) & (own.upper == np.inf)
                self.assertEmpty(names[is_nan & ~is_open])
        self.assertGreater(num_unknown, 4 * len(_PARTIAL))

    @pytest.mark.newest
    def test_it_decides_nothing(self):
        self._check_decisions(("ibp",))

    @pytest.mark.slow
    def test_it_decides_nothing_by_lines(self):
        self._check_decisions(("crown-ibp", "crown"))

    @pytest.mark.slow
    def test_what_may_be_no_number_is_not_bounded_by_lines(self):
        self._check_bounds(("crown-ibp", "crown"))

    def _check_decisions(self, methods):
        every = jax.jit(functools.partial(_all_bounds, _decided, methods=methods))
        for own in jax.device_get(every(-jnp.ones(2), 2 * jnp.ones(2))):
            self.assertTrue(np.all(own.lower < 0))
            self.assertTrue(np.all(own.upper > 0))

    def test_an_unknown_entry_reaches_what_is_made_of_it(self):
        """The first of three entries may be NaN, and with it what follows."""

        def fn(x):
            z = jnp.log(x)
            running = jnp.exp(-lax.cumlogsumexp(z))[1:]
            return jnp.concatenate([
                jnp.where(running < 9, 1.0, -1.0),
                jnp.where(jnp.sort(z) < 9, 1.0, -1.0),
                jnp.where(lax.top_k(z, 2)[0] < 9, 1.0, -1.0),
                jnp.where(jnp.prod(jnp.tile(z, 7)) < 9, 1.0, -1.0)[None],
                jnp.argmax(z).astype(x.dtype)[None],
                jnp.argmin(z).astype(x.dtype)[None],
                jnp.take(z, jnp.argmin(-z), mode="clip")[None],
            ])  # fmt: skip

        lower, upper = jnp.array([-1.0, 0.5, 1.0]), jnp.array([-0.5, 0.8, 2.0])
        values = np.asarray(fn((lower + upper) / 2))
        every = jax.jit(functools.partial(_all_bounds, fn))
        for own in jax.device_get(every(lower, upper)):
            self.assertTrue(np.all((own.lower <= values) | np.isnan(values)))
            self.assertTrue(np.all((own.upper >= values) | np.isnan(values)))
            self.assertTrue(np.isinf([own.lower[-1], own.upper[-1]]).all())

    def test_a_false_claim_is_not_verified(self):
        for inner in (jnp.log, lambda x: jnp.sqrt(x) - 2):
            fn = lambda x, inner=inner: jnp.stack(  # noqa: E731
                [jnp.where(inner(x[0]) < 0, -1.0, 1.0), 0.0]
            )
            for low in (-0.1, 0.3):
                own = bounds.verify(
                    fn, np.array([[low]]), np.array([[2.0]]), labels=np.array([0])
                )
                self.assertFalse(own.is_verified[0])


class OverflowTest(absltest.TestCase):
    def test_finite_values_of_large_intermediate_ones_are_inside(self):
        """Probabilities and their logarithms, whatever exp gives."""

        def fn(x):
            masked = jnp.where(jnp.arange(3) < 2, 200 * x, -jnp.inf)
            return jnp.concatenate([
                jax.nn.softmax(400 * x),
                jax.scipy.special.logsumexp(400 * x, keepdims=True),
                jax.nn.softmax(masked),
                jax.nn.log_softmax(300 * x),
                1 / (1 + jnp.exp(300 * x)),
                jnp.log(jnp.exp(100 * x)),
            ])  # fmt: skip

        lower, upper = np.float32([-1.0, -0.5, 0.2]), np.float32([1.0, 0.7, 0.9])
        share = np.random.default_rng(0).uniform(size=(500, 3))
        points = np.float32(lower + share * (upper - lower))
        value = np.asarray(jax.jit(jax.vmap(fn))(points), np.float64)
        value[np.isposinf(value)] = 3e38  # exactly, it is some number above
        for own in jax.device_get(jax.jit(functools.partial(_all_bounds, fn))(
            lower, upper
        )):  # fmt: skip
            self.assertFalse(np.isnan([own.lower, own.upper]).any())
            self.assertTrue(np.all(own.lower <= value.min(axis=0) + 1e-4))
            self.assertTrue(np.all(own.upper >= value.max(axis=0) - 1e-4))
            for part in (slice(3), slice(4, 7)):  # softmax
                self.assertTrue(np.all(own.lower[part] >= 0))
                self.assertTrue(np.all(own.upper[part] <= 1 + 1e-6))

    def test_infinite_constants_are_no_bounds_of_numbers_inside(self):
        """exp(800) is a number: its logarithm is not said to be infinite."""

        def fn(x):
            return jnp.log(jnp.exp(800 * x)) - 900 * x

        bound = jax.jit(functools.partial(bounds.linear_bounds, fn, method="ibp"))
        with jax.enable_x64(True):
            own = jax.device_get(bound(np.ones(1), 2 * np.ones(1)))
        self.assertLessEqual(own.lower[0], -200)
        self.assertGreaterEqual(own.upper[0], -100)

    def test_infinite_constants_meet_what_they_are_equal_to(self):
        """Each is true for every input, or for some."""

        def fn(x):
            z = jax.nn.relu(x)
            masked = jnp.where(np.array([True, False]), z, -jnp.inf)
            infinite = jnp.stack([
                jnp.isneginf(masked), z + jnp.inf == jnp.inf,
                jnp.isneginf(z - jnp.inf), z - jnp.inf < -1.0, z + jnp.inf > 1.0,
            ])  # fmt: skip
            return infinite.astype(jnp.float32).ravel()

        expected = np.float32([0, 1, *[1] * 8])
        box = -jnp.ones(2), jnp.ones(2)
        every = functools.partial(_all_bounds, fn, methods=("ibp", "crown"))
        for own in jax.device_get(jax.jit(every)(*box)):
            self.assertTrue(np.all(own.lower <= expected))
            self.assertTrue(np.all(own.upper >= expected))


class SharesTest(absltest.TestCase):
    def test_what_only_looks_like_softmax_is_not_taken_for_it(self):
        """Another sum, other axes, or a sum that lies across."""

        def with_other_sum(x):
            e = jnp.exp(x - jnp.max(x))
            return e / (jnp.sum(e**2) + 0 * x)

        def of_another(x):
            return jnp.exp(x - jnp.max(x)) / jnp.sum(
                jnp.exp(0.5 * x - jnp.max(0.5 * x))
            )

        def across(x):
            y = jnp.stack([x, 2 * x, x**2])
            e = jnp.exp(y - jnp.max(y, axis=0, keepdims=True))
            return (e / jnp.sum(e, axis=0)[:, None]).ravel()

        def along_others(x):
            y = jnp.stack([x, 2 * x, x**2])
            e = jnp.exp(y - jnp.max(y, axis=0, keepdims=True))
            return jnp.sum(e, axis=1)

        def turned(x):
            y = jnp.stack([x, 2 * x, x**2])
            return (y - jnp.max(y, axis=0)[:, None]).ravel()

        def transposed_largest(x):
            y = jnp.stack([jnp.stack([x, 2 * x]), jnp.stack([x**2, x - 1])])
            largest = jax.lax.reshape(jnp.max(y, axis=2), (2, 2), dimensions=(1, 0))
            return (y - largest[:, :, None]).ravel()

        def of_another_largest(x):
            return x - jnp.max(0.5 * x)

        lower, upper = np.float32([-1.0, -3.0, 0.5]), np.float32([1.5, -1.0, 2.0])
        share = np.random.default_rng(0).uniform(size=(2000, 3)).round(1)
        points = np.float32(lower + share * (upper - lower))

        def fn(x):
            return jnp.concatenate([
                f(x) for f in (with_other_sum, of_another, across, along_others, turned,
                               transposed_largest, of_another_largest)
            ])  # fmt: skip

        value = np.asarray(jax.jit(jax.vmap(fn))(points))
        for own in jax.device_get(
            jax.jit(functools.partial(_all_bounds, fn))(lower, upper)
        ):
            self.assertTrue(np.all(own.lower <= value.min(axis=0) + 1e-5))
            self.assertTrue(np.all(own.upper >= value.max(axis=0) - 1e-5))


if __name__ == "__main__":
    absltest.main()
