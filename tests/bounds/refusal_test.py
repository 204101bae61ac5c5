"""What boxes, functions and arguments are refused, and by which words."""

import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax import lax

from robustjax import bounds


class RefusalTest(parameterized.TestCase):
    def test_boxes(self):
        low, high = np.zeros(3, np.float32), np.ones(3, np.float32)
        bad = low.copy()
        bad[1] = 2.0
        for args, text in (
            ((bad, high), r"2.0 > 1.0 at \(1,\)"),
            ((low, high * np.nan), "upper with NaN"),
            ((low, high[:2]), r"alike, got float32\[3\] and float32\[2\]"),
            ((low.astype(int), high.astype(int)), "floats"),
        ):
            with self.assertRaisesRegex(ValueError, text):
                bounds.interval_bounds(jnp.sin, *args)

    @parameterized.parameters(
        (lambda x: lax.while_loop(lambda v: v[0] < 1, lambda v: v + 1, x),
         "loop whose number of steps is not known.*refusal_test.py"),
        (lambda x: lax.while_loop(
            lambda v: v[0] < 300, lambda v: (v[0] + 1, v[1] / 2), (0, x))[1],
         "at most 256 steps of a loop.*refusal_test.py"),
        (lambda x: lax.fori_loop(0, 257, lambda i, v: v / 2, x),
         "at most 256 steps of a loop, this one has 257.*refusal_test.py"),
        (lambda x: lax.cond(x[0] > 0, lambda: jnp.arange(3), lambda: jnp.ones(3, int)),
         "a choice between int"),
        (lambda x: lax.nextafter(2 * x, x), "'nextafter'.*refusal_test.py.*register"),
        (lambda x: lax.igamma_grad_a(x + 2.0, x), "'igamma_grad_a'"),
        (lambda x: jnp.linalg.solve(jnp.eye(3) + jnp.outer(x, x), x), "'lu'"),
        (lambda x: jnp.arange(3.0)[x[0].astype(int)], "conversion"),
        (lambda x: (x, jax.debug.print("{}", x))[0], "side effects are not followed"),
        (lambda x: lax.integer_pow(x, 65), "power 65"),
        (lambda x: lax.integer_pow(x, 0), "power 0"),
        (lambda x: ~(x > 0).astype(int), "bits of integers"),
        (lambda x: (x > 0).astype(int) & 3, "bits of integers"),
        (lambda x: (x > 0).astype(int) ^ 3, "bits of integers"),
        (lambda x: lax.reduce_or((x > 0).astype(int), (0,)), "bits of integers"),
        (lambda x: lax.polygamma(x, x + 1), "an order that depends"),
        (lambda x: lax.dynamic_update_slice(x, x[:1], (jnp.argmax(x),)),
         "places that depend"),
        (lambda x: lax.sort((x, 2 * x), num_keys=2)[1], "sort by several keys"),
        (lambda x: x.at[jnp.argsort(x)].get(mode="fill"), "mode='clip'"),
        (lambda x: x.at[jnp.argmax(x)].set(0.0), "places that depend"),
        (lambda x: x.at[:2].multiply(x[1:]), "places that depend"),
        (lambda x: x[jnp.sum(x > 0)], "indices that depend"),
        (lambda x: lax.dynamic_slice(x, (jnp.argmax(x),), (1,)), "indices that depend"),
        (lambda x: lax.reduce(x, np.float32(0.1), lambda a, b: a + 2 * b, (0,)),
         "'reduce'"),
    )  # fmt: skip
    def test_functions(self, fn, text):
        with self.assertRaisesRegex(bounds.UnsupportedError, text):
            bounds.interval_bounds(fn, np.zeros(3, np.float32), np.ones(3, np.float32))

    @parameterized.parameters(
        (
            lambda x: x + lax.bitcast_convert_type(jnp.ones(2), jnp.uint32) * 1.0,
            "bitcast_convert_type",
        ),
        (lambda x: x + jax.random.gamma(jax.random.key(1), 1.0, (2,)), "random_gamma"),
        (lambda x: jnp.linalg.eigh(jnp.ones((2, 2)))[1] @ x, "eigh"),
    )
    def test_what_may_be_another_thing_in_float64(self, fn, name):
        with (
            jax.enable_x64(False),
            self.assertRaisesRegex(bounds.UnsupportedError, f"'{name}'.*float64"),
        ):
            bounds.verify_property(
                fn, np.zeros(2), np.ones(2), rows=[[1.0, 1]], offsets=[0.0]
            )

    @pytest.mark.newest
    def test_arguments(self):
        box = jnp.zeros(3), jnp.ones(3)
        with self.assertRaisesRegex(ValueError, "method 'magic'"):
            bounds.linear_bounds(jnp.sin, *box, method="magic")
        with self.assertRaisesRegex(ValueError, r"spec \[s, k\]"):
            bounds.linear_bounds(jnp.sin, *box, spec=np.ones((2, 4)))
        with self.assertRaisesRegex(TypeError, "one array, got 2"):
            bounds.interval_bounds(lambda x: (x, x), *box)

    def test_without_jax_verify(self):
        with (
            mock.patch.dict(sys.modules, jax_verify=None),
            self.assertRaisesRegex(ImportError, r"robustjax\[verify\]"),
        ):
            box = jnp.zeros(3), jnp.ones(3)
            bounds.interval_bounds(jnp.sin, *box, engine="jax_verify")

    def test_what_is_not_used_needs_no_rule(self):
        def fn(x):
            lax.nextafter(x, x + 1)
            return 2 * x

        own = bounds.interval_bounds(fn, jnp.zeros(1), jnp.ones(1))
        self.assertEqual((own.lower.tolist(), own.upper.tolist()), ([0], [2]))

    def test_filled_in_values_have_no_width(self):
        def fn(x):
            return x.at[jnp.array([0, 7])].get(mode="fill", fill_value=-5.0)

        own = bounds.interval_bounds(fn, jnp.zeros(3), jnp.ones(3))
        self.assertEqual((own.lower.tolist(), own.upper.tolist()), ([0, -5], [1, -5]))

    def test_windows_of_padding_alone_lie_below_all_numbers(self):
        def fn(x):
            return lax.reduce_window(x, -np.inf, lax.max, (2,), (1,), ((3, 0),))

        own = bounds.interval_bounds(fn, jnp.zeros(3), jnp.arange(1.0, 4))
        self.assertEqual(own.lower.tolist(), [-np.inf, -np.inf, 0, 0, 0])
        self.assertEqual(own.upper[2:].tolist(), [1, 2, 3])
        self.assertLess(own.upper[:2].max(), -1e38)


if __name__ == "__main__":
    absltest.main()
