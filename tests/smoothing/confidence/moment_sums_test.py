"""What rounding in float32 takes from sums is within what the host adds back."""

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax.smoothing.confidence import moment_sums
from robustjax.smoothing.sampling.moments import (
    MAX_PROJECTION,
    NUM_BETS,
    SOFT_BETS,
    Moments,
)

_SINGLE = np.float32


def _naive_sum(terms):
    """Float32 sum over the first axis, one term after the other."""
    total = np.zeros(terms.shape[1:], _SINGLE)
    for term in terms:
        total = total + term
    return total


def _sums(terms):
    """Naive sums of blocks of 128, added exactly; and the exact sum."""
    blocks = terms.reshape(-1, 128, *terms.shape[1:])
    rounded = np.sum([_naive_sum(b).astype(np.float64) for b in blocks], axis=0)
    return rounded, terms.astype(np.float64).sum(axis=0)


def _case(seed, *, baseline, offset=0.0, num=128 * 30, dim=6):
    """Moments with rounded sums, and with exact ones, of the same samples."""
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(2, num, dim)) + offset).astype(_SINGLE)
    f = (rng.uniform(size=(2, num)) < 0.9).astype(_SINGLE)
    s = f - _SINGLE(baseline)
    direction = np.ones(dim, _SINGLE) / np.sqrt(_SINGLE(dim))
    along = (z[0] @ direction).astype(_SINGLE)
    x = np.where(np.abs(along) > MAX_PROJECTION, 0, s[0] * along)
    bets = np.geomspace(0.005, 0.15, NUM_BETS).astype(_SINGLE)
    wealth = [np.log1p(sign * bets * x[:, None]).astype(_SINGLE) for sign in (1, -1)]
    exact_along = z[0].astype(np.float64) @ (np.ones(dim) / np.sqrt(dim))
    exact_x = np.where(np.abs(along) > MAX_PROJECTION, 0, s[0] * exact_along)
    exact_wealth = [
        np.log1p(sign * bets.astype(np.float64) * exact_x[:, None]).sum(axis=0)
        for sign in (1, -1)
    ]
    products = s[..., None] * z
    even, odd = _sums(products[0]), _sums(products[1])
    squares = [_sums(products[i] ** 2) for i in range(2)]
    misses = (1 - f).sum(axis=1)

    def moments(which):
        log_wealth = exact_wealth if which else [_sums(w)[0] for w in wealth]
        return Moments(
            counts=np.array([[int(f.sum()), int(2 * num - f.sum()), 0]]),
            num_even=np.array([num]),
            num_odd=np.array([num]),
            misses_even=misses[:1],
            misses_odd=misses[1:],
            sum_even=even[which][None],
            sum_odd=odd[which][None],
            sum_squares=(squares[0][which] + squares[1][which])[None],
            log_wealth=np.stack(log_wealth)[None, None],
            bets=bets[None],
            baseline=np.array([baseline]),
            selected=np.array([0]),
            soft_log_wealth=np.zeros((1, len(SOFT_BETS))),
        )

    return moments(0), moments(1)


class RoundingTest(parameterized.TestCase):
    @parameterized.product(baseline=(1.0, 0.5), offset=(0.0, 3.0))
    def test_errors_are_within_their_bounds(self, baseline, offset):
        for seed in range(5):
            rounded, exact = (
                moment_sums.from_device(m, votes="hard")
                for m in _case(seed, baseline=baseline, offset=offset)
            )
            error = rounded.mean - exact.mean
            self.assertTrue((np.abs(error) <= rounded.mean_error).all())
            for name in ("x", "y"):
                error = getattr(rounded, name) - getattr(exact, name)
                limit = getattr(rounded, f"{name}_error")
                self.assertLessEqual(np.linalg.norm(error), limit[0])
            self.assertGreater(np.abs(error).max(), 0)  # there is rounding

    @parameterized.parameters(1.0, 0.5)
    def test_wealth_and_squares_are_on_the_safe_side(self, baseline):
        for seed in range(5):
            rounded, exact = _case(seed, baseline=baseline, offset=1.0)
            host = moment_sums.from_device(rounded, votes="hard")
            self.assertTrue((host.log_wealth <= exact.log_wealth).all())
            self.assertTrue((host.log_wealth >= exact.log_wealth - 0.02).all())
            self.assertTrue((host.sum_squares >= exact.sum_squares).all())

    def test_soft_votes_have_more_terms(self):
        moments, _ = _case(0, baseline=1.0)
        hard = moment_sums.from_device(moments, votes="hard")
        soft = moment_sums.from_device(moments, votes="soft")
        self.assertTrue((soft.x_error > 2 * hard.x_error).all())

    def test_errors_are_small_beside_the_noise(self):
        moments, _ = _case(0, baseline=1.0)
        host = moment_sums.from_device(moments, votes="hard")
        noise = np.sqrt(moments.sum_squares) / (2 * 128 * 30)
        self.assertLess((host.mean_error / noise).max(), 1e-3)


class FromDeviceTest(parameterized.TestCase):
    @pytest.mark.newest
    def test_means_are_those_of_the_halves(self):
        moments, _ = _case(1, baseline=1.0)
        moments = moments._replace(num_even=np.array([2 * 128 * 30]))
        host = moment_sums.from_device(moments, votes="hard")
        np.testing.assert_allclose(host.x, moments.sum_even / (2 * 128 * 30))
        np.testing.assert_allclose(host.y, moments.sum_odd / (128 * 30))
        total = moments.sum_even + moments.sum_odd
        np.testing.assert_allclose(host.mean, total / (3 * 128 * 30))

    @parameterized.parameters(
        "misses_odd", "sum_even", "sum_odd", "sum_squares", "log_wealth", "bets"
    )
    def test_a_row_that_is_not_finite_is_named_and_emptied(self, field):
        one, _ = _case(1, baseline=1.0)
        two = jax.tree.map(lambda v: np.concatenate([v, v]), one)
        for bad in (np.nan, np.inf):
            values = getattr(two, field).copy()
            values.reshape(2, -1)[1, -1] = bad
            moments = two._replace(**{field: values})
            self.assertEqual(moment_sums.is_finite(moments).tolist(), [True, False])
            host = moment_sums.from_device(moments, votes="hard")
            for part in host[1:]:
                self.assertTrue(np.isfinite(part).all())
            np.testing.assert_array_equal(
                host.x[0], moment_sums.from_device(one, votes="hard").x[0]
            )

    def test_a_half_without_samples_is_refused(self):
        moments, _ = _case(1, baseline=1.0)
        with self.assertRaisesRegex(ValueError, "num_samples .* a half with 0"):
            moment_sums.from_device(
                moments._replace(num_odd=np.array([0])), votes="hard"
            )

    def test_another_baseline_is_refused(self):
        moments, _ = _case(1, baseline=1.0)
        with self.assertRaisesRegex(ValueError, "baseline as 1 or 0.5, got .0.7"):
            moment_sums.from_device(
                moments._replace(baseline=np.array([0.7])), votes="hard"
            )


if __name__ == "__main__":
    absltest.main()
