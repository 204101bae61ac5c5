"""Unsafe outputs: found, excluded, or neither, against brute force."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import bounds


def _network(x):
    rng = np.random.default_rng(0)
    x = jax.nn.relu(x @ rng.normal(size=(2, 12)) + rng.normal(size=12))
    return x @ rng.normal(size=(12, 3))


_one_value = jax.jit(_network)
_BOX = np.array([-1.0, -1.0]), np.array([1.0, 1.0])


@functools.cache
def _grid_values():
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), -1).reshape(-1, 2)
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.vmap(_network))(grid))


class ExcludeTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        jax.config.update("jax_numpy_rank_promotion", "allow")
        self.addCleanup(jax.config.update, "jax_numpy_rank_promotion", "raise")
        self.values = _grid_values()

    @parameterized.parameters(0, 1, 2)
    def test_decides_thresholds_near_the_true_extreme(self, output):
        """y_k >= t: unsafe just below the largest y_k, excluded just above it.

        Said three times, so that all tests share the programs for three inequalities.
        """
        rows = np.repeat(-np.eye(3)[[output]], 3, axis=0)
        largest = self.values[:, output].max()
        for gap, status in ((-0.02, "sat"), (0.02, "unsat")):
            found = bounds.exclude(
                _network, *_BOX, rows=rows, offsets=3 * [largest + gap], max_boxes=3000
            )
            self.assertEqual(found.status, status)
            if found.x is not None:
                with jax.enable_x64(True):
                    value = float(_one_value(found.x)[output])
                self.assertGreater(value, largest + gap)
                self.assertTrue(np.all(np.abs(found.x) <= 1))

    def test_all_inequalities_have_to_hold(self):
        rng = np.random.default_rng(1)
        seen = set()
        for _ in range(12):
            rows, offsets = rng.normal(size=(3, 3)), rng.normal(size=3)
            sides = self.values @ rows.T + offsets
            worst = sides.max(axis=1).min()
            if abs(worst) < 0.05:
                continue
            found = bounds.exclude(
                _network, *_BOX, rows=rows, offsets=offsets, max_boxes=3000
            )
            self.assertEqual(found.status, "sat" if worst < 0 else "unsat")
            seen.add(found.status)
        self.assertEqual(seen, {"sat", "unsat"})

    @pytest.mark.newest
    def test_stops_without_an_answer(self):
        rows = np.repeat(-np.eye(3)[[0]], 3, axis=0)
        offsets = 3 * [self.values[:, 0].max() + 1e-4]
        for options in ({"max_boxes": 3}, {"max_boxes": 3000, "time_limit": 0.0}):
            found = bounds.exclude(
                _network, *_BOX, rows=rows, offsets=offsets, **options
            )
            self.assertEqual((found.status, found.x), ("unknown", None))
            self.assertLessEqual(found.num_bounded, 3)

    def test_nan_is_never_excluded(self):
        found = bounds.exclude(
            jnp.log, np.array([-1.0]), np.array([1.0]), rows=[[1.0]],
            offsets=[100.0], max_boxes=20,
        )  # fmt: skip
        self.assertEqual(found.status, "unknown")

    @parameterized.parameters(
        ({"rows": [1.0], "offsets": [0.0]}, "rows"),
        ({"rows": [[1.0, 0, 0]], "offsets": [0.0, 1.0]}, "offsets"),
        ({"rows": [[1.0, 0, 0]], "offsets": [0.0], "method": "lp"}, "method"),
        ({"rows": [[1.0, 0, 0]], "offsets": [0.0], "max_boxes": 0}, "max_boxes"),
    )
    def test_options(self, options, text):
        with self.assertRaisesRegex(ValueError, text):
            bounds.exclude(_network, *_BOX, **options)


if __name__ == "__main__":
    absltest.main()
