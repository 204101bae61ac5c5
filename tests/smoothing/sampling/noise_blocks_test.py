"""The range of the noise, and sums that rounding does not wear down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from scipy import special

from robustjax.smoothing.sampling import moments, noise_blocks


def _normal(mantissa: jax.Array) -> jax.Array:
    """Float32 noise from the 23 random bits that decide it."""
    one_to_two = jax.lax.bitcast_convert_type(mantissa | 0x3F800000, jnp.float32)
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(low, (one_to_two - 1) * (np.float32(1) - low) + low)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)


class NoiseRangeTest(absltest.TestCase):
    @pytest.mark.newest
    def test_noise_is_a_function_of_23_bits(self):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 5), 2)
        bits = jax.random.bits(key, (128 * 300,), jnp.uint32) >> 9
        noise = noise_blocks.noise_block(jax.random.key(3), 5, 2, shape=(300,))
        np.testing.assert_array_equal(noise.ravel(), jax.jit(_normal)(bits))

    def test_no_noise_is_above_the_maximum(self):
        """Over all values that the 23 bits can take."""

        @jax.jit
        def summary(start):
            noise = _normal(start + jnp.arange(2**20, dtype=jnp.uint32))
            return jnp.abs(noise).max(), jnp.isfinite(noise).all(), jnp.mean(noise**2)

        parts = [summary(jnp.uint32(i * 2**20)) for i in range(8)]
        largest, finite, squares = (np.array(part) for part in zip(*parts, strict=True))
        self.assertLess(largest.max(), noise_blocks.MAX_NOISE)
        self.assertGreater(largest.max(), 5.4)
        self.assertTrue(finite.all())
        self.assertAlmostEqual(squares.mean(), 1, delta=1e-3)


class CompensatedTest(absltest.TestCase):
    def test_small_values_are_not_lost_beside_a_large_sum(self):
        """Rows of 10^6 and more, to which plain float32 cannot add 0.01."""
        start = np.array([[1e6, 3e7], [-1e6, 0.0], [2e6, 1e6]], np.float32)
        rows = np.array([0, 0, 2], np.int32)
        values = np.array([[0.01, 0.3], [0.02, -0.1], [0.01, 0.03]], np.float32)

        @jax.jit
        def add_all(start):
            return jax.lax.fori_loop(
                0,
                10_000,
                lambda _, sums: sums.add_rows(jnp.asarray(rows), jnp.asarray(values)),
                noise_blocks.Compensated(start, jnp.zeros_like(start)),
            )

        actual = add_all(jnp.asarray(start))
        expected = start.astype(float)
        np.add.at(expected, rows, 10_000 * values.astype(float))
        np.testing.assert_allclose(actual.value, expected, rtol=1e-7)
        np.testing.assert_array_equal(start[2] + values[2], start[2])  # plain: lost
        self.assertGreater(np.abs(actual.high[2] / expected[2] - 1).max(), 1e-6)

    def test_sums_of_a_run_of_many_blocks_do_not_drift(self):
        """Soft votes that are all equal: plain float32 sums drift to one side."""

        def apply_fn(x):
            return jnp.stack([0 * x[:, 0], 0 * x[:, 0] + 0.9], axis=1)

        def misses(num_samples):
            actual = moments.class_moments(
                jax.random.key(0),
                apply_fn,
                jnp.zeros((1, 1)),
                sigma=0.5,
                num_samples=num_samples,
                num_classes=2,
                selected=[0],
                baseline=[0.5],
                votes="soft",
                with_bets=False,
                chunk_size=2**11,
            )
            return np.asarray(actual.misses_even + actual.misses_odd)[0]

        block, num_blocks = misses(256) / 2, 2**12
        np.testing.assert_allclose(block, 128 * special.expit(0.9), rtol=1e-6)
        plain = np.cumsum(np.full(num_blocks, block), dtype=np.float32)[-1]
        exact = num_blocks * float(block)
        self.assertGreater(abs(plain / exact - 1), 1e-5)
        np.testing.assert_allclose(misses(128 * num_blocks), exact, rtol=2e-7)


if __name__ == "__main__":
    absltest.main()
