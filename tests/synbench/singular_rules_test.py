"""Rules of covariances with eigenvalues from 0 to 1e8, against 40 digits."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numeric_derivatives
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, stats

from robustjax import synbench
from robustjax.synbench import spectrum

_NUM, _SIZE = 48, 4
_linear_accuracy = jax.jit(synbench.linear_accuracy)
_rule = jax.jit(synbench.robust_bayes)
_rules = jax.jit(jax.vmap(lambda m, s, e: synbench.robust_bayes(m, s, epsilon=e)))


def _in_float64(function, *arguments, **options):
    """Results of a compiled function as NumPy arrays."""
    with jax.enable_x64(True):
        return jax.device_get(function(*arguments, **options))


@functools.cache
def _problems():
    """Means, variances and radii: above and below what has no or little noise."""
    rng, rows = np.random.default_rng(0), []
    for k in range(_NUM):
        mean = rng.normal(size=_SIZE) * 10 ** rng.uniform(-2, 2, _SIZE) ** (k % 3 > 0)
        variances = 10 ** rng.uniform(-8, 8, _SIZE)
        if k % 4:
            variances[rng.permutation(_SIZE)[: 1 + k % 2]] = 0
        length = np.linalg.norm(mean)
        hidden = np.linalg.norm(mean[variances == 0])
        quiet = np.linalg.norm(mean[variances <= np.median(variances)])
        sign = (-1) ** k
        epsilon = (
            hidden * (1 + 10 ** rng.uniform(-12, -1)),
            hidden * (1 - 10 ** rng.uniform(-12, -1)),
            quiet * (1 + sign * 10 ** rng.uniform(-9, -2)),
            hidden + (length - hidden) * 10 ** rng.uniform(-9, 0),
            length * (1 - 10 ** rng.uniform(-12, -1)),
        )[k % 5]
        rows.append((mean, variances, epsilon))
    return [np.array(part) for part in zip(*rows, strict=True)]


def _digits(values):
    return [mpmath.mpf(float(v)) for v in values]


def _best_signal(mean, variances, epsilon):
    """Of the ridge that bisection finds; inf where the classes are separated."""
    mean, variances, epsilon = (
        _digits(mean),
        _digits(variances),
        mpmath.mpf(float(epsilon)),
    )
    pairs = list(zip(mean, variances, strict=True))
    if epsilon < mpmath.sqrt(sum(m * m for m, d in pairs if d == 0)):
        return mpmath.inf
    low, high = mpmath.mpf(-80), mpmath.mpf(80)  # of the logarithm of the ridge
    for _ in range(110):
        middle = (low + high) / 2
        ridge = mpmath.exp(middle)
        square = sum((m * ridge / (d + ridge)) ** 2 for m, d in pairs)
        low, high = (middle, high) if square < epsilon**2 else (low, middle)
    ridge = mpmath.exp(low)
    return mpmath.sqrt(sum(d * (m / (d + ridge)) ** 2 for m, d in pairs))


@functools.cache
def _best_accuracies(dtype):
    """Of each problem in a dtype, and with a radius some roundings larger."""
    above = 1 + 64 * float(np.finfo(dtype).eps)
    found = []
    with mpmath.workdps(40):
        for *pair, epsilon in zip(*(v.astype(dtype) for v in _problems()), strict=True):
            radii = float(epsilon), float(epsilon) * above
            found.append([_cdf(_best_signal(*pair, radius)) for radius in radii])
    return np.array(found)


def _own_signal(weight, mean, variances, epsilon):
    """What the worst shift leaves of the signal of a rule, in noise deviations."""
    weight, mean, variances = map(_digits, (weight, mean, variances))
    noise = sum(d * w * w for w, d in zip(weight, variances, strict=True))
    length = mpmath.sqrt(sum(w * w for w in weight))
    left = sum(w * m for w, m in zip(weight, mean, strict=True))
    left -= mpmath.mpf(float(epsilon)) * length
    return left / mpmath.sqrt(noise) if noise else mpmath.inf * mpmath.sign(left)


def _cdf(signal):
    return float(mpmath.ncdf(signal)) if mpmath.isfinite(signal) else 1.0


class SweepTest(parameterized.TestCase):
    @parameterized.product(dtype=(np.float64, np.float32), is_matrix=(False, True))
    def test_rule_and_number_are_the_best(self, dtype, is_matrix):
        """Up to what a rounding of epsilon changes: epsilon |w| / deviation.

        A radius that rounding takes above the noiseless part may count as above it.
        """
        mean, variances, epsilon = (v.astype(dtype) for v in _problems())
        covariance = variances
        if is_matrix:
            covariance = np.stack([np.diag(v) for v in variances])
        with jax.enable_x64(dtype == np.float64):
            found = jax.tree.map(np.asarray, _rules(mean, covariance, epsilon))
        self.assertEqual(found.weight.dtype, dtype)
        eps = np.finfo(dtype).eps
        with mpmath.workdps(40):
            best, least = _best_accuracies(dtype).T
            for i, case in enumerate(zip(mean, variances, epsilon, strict=True)):
                accuracy = float(found.robust_accuracy[i])
                weight = found.weight[i].astype(float)
                noise = np.sqrt(np.sum(case[1].astype(float) * weight**2)) or np.inf
                size = 1 + float(case[2]) * np.linalg.norm(weight) / noise
                room = 50 * eps * size
                if case[2] >= np.linalg.norm(case[0]) or not np.any(weight):
                    self.assertEqual(accuracy, 0.5)
                    continue
                self.assertLess(accuracy, best[i] + room, case)
                self.assertGreater(accuracy, least[i] - room, case)
                self.assertLess(abs(_cdf(_own_signal(weight, *case)) - accuracy), room)

    @pytest.mark.newest
    def test_just_above_the_noiseless_part_by_brentq(self):
        mean = np.array([1.0, 0.5, 1.0, 0.0])
        cases = ((0.0, 1e-9), (1e-8, 1e-7), (0.0, 1e-3), (1e-12, 1e-6))
        rows = np.array([(1.0, noise, 2.0, 1.0) for noise, _ in cases])
        radii = np.array([0.5 + above for _, above in cases])
        matrices = np.resize([np.diag(v) for v in rows], (_NUM, _SIZE, _SIZE))
        with jax.enable_x64(True):
            found = jax.device_get(
                _rules(np.tile(mean, (_NUM, 1)), matrices, np.resize(radii, _NUM))
            )
        for k, (variances, epsilon) in enumerate(zip(rows, radii, strict=True)):

            def excess(log_ridge, variances=variances, epsilon=epsilon):
                share = 1 / (1 + variances / np.exp(log_ridge))
                return np.linalg.norm(mean * share) - epsilon

            ridge = np.exp(optimize.brentq(excess, -60, 60, xtol=1e-13))
            weight = mean / (variances + ridge)
            left = weight @ mean - epsilon * np.linalg.norm(weight)
            best = stats.norm.cdf(left / np.sqrt(weight**2 @ variances))
            self.assertLess(abs(found.robust_accuracy[k] - best), 1e-8)
            again = _in_float64(
                _linear_accuracy,
                found.weight[k],
                mean,
                np.diag(variances),
                epsilon=epsilon,
            )
            self.assertLess(abs(again - best), 1e-8)


class RotatedTest(parameterized.TestCase):
    """Matrices whose null space is known up to rounding only."""

    @staticmethod
    def _rotated(variances, seed=0):
        basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        return basis, (basis * np.asarray(variances)) @ basis.T

    def test_a_noiseless_part_above_rounding_separates(self):
        basis, covariance = self._rotated([1.0, 0.0, 2.0])
        mean = basis @ np.array([1.0, 0.5, 1.0])
        found = _in_float64(_rule, mean, covariance, epsilon=np.array([0.4, 0.51]))
        self.assertEqual(found.robust_accuracy[0], 1)
        shift = found.weight[1] / found.multiplier[1]
        np.testing.assert_allclose(np.linalg.norm(shift), 0.51, rtol=1e-9)
        expected = _best_signal([1.0, 0.5, 1.0], [1.0, 0.0, 2.0], 0.51)
        np.testing.assert_allclose(found.robust_signal[1], float(expected), rtol=1e-9)

    def test_noise_that_rounding_hides_is_not_denied(self):
        """A deviation of 1e-5 next to 1e4 cannot be told from 0, nor from 1e-4."""
        basis, covariance = self._rotated([1e8, 1e-10, 1e8])
        mean = basis @ np.array([0.0, 2e-5, 0.0])
        found = _in_float64(_rule, mean, covariance, epsilon=np.zeros(2))
        self.assertLess(found.robust_accuracy.max(), stats.norm.cdf(2.0))
        of_rule = _in_float64(_linear_accuracy, found.weight[0], mean, covariance)
        self.assertLess(of_rule, stats.norm.cdf(2.0))


class SeparatedTest(parameterized.TestCase):
    def _found(self, mean, variances, *, epsilon, prior=(0.5, 0.5)):
        """Rules of two priors, which are one program."""
        mean, variances, prior = map(np.array, (mean, variances, prior))
        return _in_float64(_rule, mean, variances, epsilon=epsilon, prior=prior)

    def test_small_variances_next_to_large_ones_are_noise(self):
        found = self._found([0.0, 1e-4], [1e10, 1e-7], epsilon=0.0)
        expected = stats.norm.cdf(1e-4 / np.sqrt(1e-7))
        np.testing.assert_allclose(found.robust_accuracy, expected, rtol=1e-12)

    def test_at_the_length_of_the_noiseless_part(self):
        """There the worst shift takes that part away, and the rest is left."""
        found = self._found([1.0, 0.5], [4.0, 0.0], epsilon=0.5)
        np.testing.assert_allclose(
            found.robust_accuracy, stats.norm.cdf(0.5), atol=1e-7
        )

    def test_unequal_classes_do_not_move_a_boundary_without_noise(self):
        found = self._found([1.0, 0.5], [4.0, 0.0], epsilon=0.3, prior=[0.01, 0.5])
        np.testing.assert_array_equal(found.robust_accuracy, 1)
        for weight, offset, prior in zip(
            found.weight, found.offset, (0.01, 0.5), strict=True
        ):
            self._check_accuracy(weight, [0.3] * 3, 1, offset=offset, prior=prior)

    def test_a_weight_without_noise_decides_by_its_sign(self):
        self._check_accuracy(np.array([0.0, 1.0]), [0.4, 0.5, 0.6], [1, 0, 0])

    def _check_accuracy(self, weight, epsilons, expected, *, offset=0.0, prior=0.5):
        accuracy = _in_float64(
            _linear_accuracy,
            weight,
            np.array([1.0, 0.5]),
            np.array([4.0, 0.0]),
            epsilon=np.array(epsilons),
            offset=float(offset),
            prior=float(prior),
        )
        np.testing.assert_array_equal(accuracy, expected)

    def test_numbers_that_are_none_claim_nothing(self):
        indefinite = np.eye(_SIZE)
        indefinite[0, 1] = indefinite[1, 0] = 2.0
        variances = [[1.0, 1.0, np.nan, 1.0], [1.0, 1.0, -1.0, 1.0]]
        matrices = [indefinite, np.full((_SIZE, _SIZE), np.nan)]
        mean, epsilon = np.ones((_NUM, _SIZE)), np.full(_NUM, 0.1)
        with jax.enable_x64(True):
            for covariance in (np.array(variances), np.array(matrices)):
                every = np.resize(covariance, (_NUM, *covariance.shape[1:]))
                accuracy = np.asarray(_rules(mean, every, epsilon).robust_accuracy)
                self.assertTrue(np.all(np.isnan(accuracy)))
        for bad in (-1.0, [1.0, -1e-9], [1.0, np.nan]):
            with self.assertRaisesRegex(ValueError, "covariance"):
                synbench.robust_bayes([1.0, 1.0], bad, epsilon=0.1)

    @parameterized.parameters(
        ([[1.0, 2.0], [2.0, 1.0]], "an eigenvalue -1"),
        ([[1.0, 0.0], [0.0, -1e-9]], "an eigenvalue -1e-09"),
        ([[-1.0, 0.0], [0.0, -1.0]], "an eigenvalue -1"),
        ([[1.0, 0.5], [0.1, 1.0]], "entries that differ by 0.4"),
        ([[1.0, 1e-5], [0.0, 1.0]], "entries that differ by 1e-05"),
        ([[np.inf, 0.0], [0.0, 1.0]], "not finite"),
        ([[1.0, np.nan], [np.nan, 1.0]], "not finite"),
    )
    def test_matrices_that_are_no_covariance_are_named(self, matrix, text):
        for of in (np.array, jnp.array):
            covariance = of(matrix)
            for call in (
                lambda c: synbench.robust_bayes([1.0, 0.5], c, epsilon=0.1),
                lambda c: synbench.linear_accuracy([1.0, 0.5], [1.0, 0.5], c),
                lambda c: synbench.expected_margin([1.0, 0.5], [1.0, 0.5], c),
                lambda c: synbench.oas_shrinkage(c, num_samples=9),
                lambda c: synbench.sample(
                    jax.random.key(0), np.ones(2), num_samples=3, covariance=c
                ),
            ):
                if of is jnp.array and "1e-05" in text:
                    continue  # less than float32 may leave
                with self.assertRaisesRegex(ValueError, f"semidefinite .* {text}"):
                    call(covariance)

    @parameterized.parameters(np.float32, np.float64)
    def test_matrices_of_few_samples_are_covariances(self, dtype):
        """Of rank n < p, with what rounding makes of their zeros and mirror images."""
        rng = np.random.default_rng(0)
        num_negative = 0
        for p, n in ((5, 2), (40, 7), (120, 119), (200, 3)):
            x = rng.normal(size=(n, p)) * 10.0 ** rng.uniform(-3, 3, p)
            matrix = (x.T @ x.copy() / n).astype(dtype)
            matrix *= 1 + np.finfo(dtype).eps * rng.integers(-2, 3, (p, p)).astype(
                dtype
            )
            spectrum.check_matrix(matrix)
            num_negative += np.linalg.eigvalsh(matrix).min() < 0
        self.assertGreater(num_negative, 2)
        spectrum.check_matrix(np.ones((9, 9), int))
        spectrum.check_matrix(np.zeros((3, 3), dtype))

    def test_samples_need_a_root_and_variances_that_are_some(self):
        draw = functools.partial(synbench.sample, jax.random.key(0), num_samples=3)
        with self.assertRaisesRegex(ValueError, "positive definite .* singular"):
            draw(np.ones(2), covariance=np.ones((2, 2)))
        for covariance in (-1.0, [1.0, np.nan]):
            with self.assertRaisesRegex(ValueError, "covariance >= 0"):
                draw(np.ones(2), covariance=covariance)
        with self.assertRaisesRegex(ValueError, "diagonal >= 0"):
            factors = synbench.FactorCovariance(-np.ones(2), np.ones((1, 2)))
            draw(np.ones(2), covariance=factors)
        variances = np.array([[1.0, 2.0], [3.0, 4.0]])  # of a mean of this shape
        drawn = jax.eval_shape(lambda: draw(np.ones((2, 2)), covariance=variances))
        self.assertEqual(drawn.x.shape, (3, 2, 2))

    def test_derivatives_near_a_singular_covariance(self):
        def outputs(mean, variances, epsilon):
            rule = synbench.robust_bayes(mean, variances, epsilon=epsilon)
            return rule.robust_accuracy, rule.standard_accuracy, rule.weight

        def of_all(mean, noise, above):
            one = jax.vmap(lambda v, e: outputs(mean, v, e))
            zeros = jnp.zeros_like(noise[:1])
            rows = [jnp.concatenate([noise[:1], zeros, noise[1:]]) for _ in above]
            return one(jnp.stack(rows), jnp.abs(mean[1]) + above)

        mean, noise = np.array([1.0, 0.5, 0.8]), np.array([1.0, 2.0])
        numeric_derivatives.assert_close(of_all, mean, noise, np.array([0.05, 0.3]))


if __name__ == "__main__":
    absltest.main()
