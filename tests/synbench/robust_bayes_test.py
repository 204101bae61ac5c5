"""Robust Bayes rules: noted values, optimality, derivatives, singular covariances."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numeric_derivatives
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, special, stats

from robustjax import synbench
from robustjax.synbench import spectrum

_S = np.array([[2, 0.6, 0], [0.6, 1, -0.3], [0, -0.3, 0.5]])
_M = (np.array([1, 0.2, -0.4]) - np.array([-0.5, 0.1, 0.3])) / 2
_ridges_of = jax.jit(jax.vmap(spectrum.ridge_of))
_linear_accuracy = jax.jit(synbench.linear_accuracy)


def _random_problem(rng, p=3):
    root = rng.normal(size=(p, p))
    return rng.normal(size=p), root @ root.T + 0.01 * np.eye(p)


@functools.cache
def _noted_rules():
    """For radii 0, 0.3 and 0.3, the last one of unequal classes."""
    prior = np.array([0.5, 0.5, 0.3])
    rules = synbench.robust_bayes(_M, _S, epsilon=[0.0, 0.3, 0.3], prior=prior)
    return [jax.tree.map(lambda v, i=i: v[i], rules) for i in range(3)]


class NotedValuesTest(parameterized.TestCase):
    @parameterized.parameters(
        (1, 0.2, 0.5, "robust_accuracy", 0.788144601417),
        (2, 0.5, 0.5, "robust_accuracy", 0.933192798731),
        (2, 0.5, 0.3, "robust_accuracy", 0.940354188994),
        (1, 1.5, 0.3, "robust_accuracy", 0.7),
        (1, 0.0, 0.3, "standard_accuracy", 0.861251470029),
        (1, 0.2, 0.3, "standard_accuracy", 0.860149885553),
        (2, 0.5, 0.3, "standard_accuracy", 0.979256332867),
    )
    def test_isotropic(self, scale, epsilon, prior, name, expected):
        mean = scale * np.ones(4) / 2
        rule = synbench.robust_bayes(mean, 1.0, epsilon=epsilon, prior=prior)
        np.testing.assert_allclose(getattr(rule, name), expected, rtol=1e-11)

    def test_diagonal(self):
        rule = synbench.robust_bayes([1.0, 1.0], [1.0, 4.0], epsilon=0.5)
        shift = rule.weight / rule.multiplier
        for found, expected in (
            (shift, [0.4666724049191, 0.1794905749253]),
            (rule.multiplier, 1.1428307940628),
            (rule.robust_signal, 0.6728649588393),
            (rule.signal, 1.0974786866942),
            (rule.standard_accuracy, 0.8637839036495),
            (rule.robust_accuracy, 0.7494833965761),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        margin = synbench.expected_margin(rule.weight, [1.0, 1.0], [1.0, 4.0])
        np.testing.assert_allclose(margin.distance, 1.5901336320218, rtol=1e-12)
        np.testing.assert_allclose(margin.scaled, 1.2304431556917, rtol=1e-12)

    @pytest.mark.newest
    def test_full(self):
        first, second, third = _noted_rules()
        np.testing.assert_allclose(
            first.weight, [0.55546875, -0.6015625, -1.0609375], rtol=1e-12
        )
        margins = [
            synbench.expected_margin(r.weight, _M, _S, offset=r.offset, prior=prior)
            for r, prior in ((first, 0.5), (second, 0.5), (third, 0.3))
        ]
        for found, expected in (
            (first.standard_accuracy, 0.807999145981),
            (second.multiplier, 1.749907007195),
            (second.robust_signal, 0.460966298235),
            (second.standard_accuracy, 0.788903292017),
            (second.robust_accuracy, 0.677588607687),
            (third.standard_accuracy, 0.806302073847),
            (third.robust_accuracy, 0.738380276812),
            (margins[0].distance, 0.785065248760),
            (margins[0].scaled, 1.388277042590),
            (margins[1].scaled, 1.456550467953),
            (margins[2].distance, 1.437871222494),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-11)

    def test_float32(self):
        rule = synbench.robust_bayes(
            jnp.asarray(_M, jnp.float32), jnp.asarray(_S, jnp.float32), epsilon=0.3
        )
        self.assertEqual(rule.weight.dtype, jnp.float32)
        np.testing.assert_allclose(rule.robust_accuracy, 0.677588607687, rtol=2e-5)
        np.testing.assert_allclose(rule.multiplier, 1.749907007195, rtol=2e-5)


class OptimalityTest(parameterized.TestCase):
    @parameterized.product(seed=(0, 1, 2, 3), prior=(0.5, 0.2))
    def test_no_linear_rule_does_better(self, seed, prior):
        rng = np.random.default_rng(seed)
        mean, covariance = _random_problem(rng)
        epsilon = 0.4 * np.linalg.norm(mean)
        rule = synbench.robust_bayes(mean, covariance, epsilon=epsilon, prior=prior)

        def loss(v):
            spread = np.sqrt(v[:3] @ covariance @ v[:3])
            left = v[:3] @ mean - epsilon * np.sqrt(v[:3] @ v[:3])
            ones, others = special.ndtr((left + np.array([-v[3], v[3]])) / spread)
            return -prior * ones - (1 - prior) * others

        starts = rng.normal(size=(8, 4))
        found = [optimize.minimize(loss, s, method="Nelder-Mead") for s in starts]
        best = max(-f.fun for f in found)
        self.assertLessEqual(best, rule.robust_accuracy + 1e-9)
        self.assertGreater(best, rule.robust_accuracy - 1e-3)
        own = -loss(np.append(rule.weight, rule.offset))
        np.testing.assert_allclose(own, rule.robust_accuracy, rtol=1e-12)

    def test_the_shift_is_that_of_a_generic_solver(self):
        for seed in range(4):
            mean, covariance = _random_problem(np.random.default_rng(seed))
            epsilon = 0.3 * np.linalg.norm(mean)
            rule = synbench.robust_bayes(mean, covariance, epsilon=epsilon)
            inverse = np.linalg.inv(covariance)
            found = optimize.minimize(
                lambda z, m=mean, q=inverse: (m - z) @ q @ (m - z),
                np.zeros(3),
                jac=lambda z, m=mean, q=inverse: -2 * q @ (m - z),
                constraints={
                    "type": "ineq",
                    "fun": lambda z, e=epsilon: e**2 - z @ z,
                    "jac": lambda z: -2 * z,
                },
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            np.testing.assert_allclose(rule.robust_signal**2, found.fun, rtol=1e-6)
            shift = rule.weight / rule.multiplier
            np.testing.assert_allclose(shift, found.x, atol=1e-4 * epsilon)
            direct = inverse @ (mean - shift)
            np.testing.assert_allclose(rule.weight, direct, rtol=1e-7, atol=1e-10)

    def test_accuracies_are_those_of_shifted_samples(self):
        rule = _noted_rules()[2]
        rng = np.random.default_rng(0)
        y = rng.random(400_000) < 0.3
        x = rng.multivariate_normal(np.zeros(3), _S, len(y))
        x += np.where(y, 1, -1)[:, None] * _M
        margin = np.where(y, 1, -1) * (x @ rule.weight - rule.offset)
        for shift, expected in (
            (0, rule.standard_accuracy),
            (0.3 * np.linalg.norm(rule.weight), rule.robust_accuracy),
        ):
            self.assertLess(abs(np.mean(margin > shift) - expected), 4 * 0.5 / 632)

    def test_linear_accuracy_at_another_radius(self):
        epsilons = np.array([0.0, 0.3])
        for rule, prior in zip(_noted_rules(), (0.5, 0.5, 0.3), strict=True):
            with jax.enable_x64(True):
                at = _linear_accuracy(
                    rule.weight,
                    _M,
                    _S,
                    epsilon=epsilons,
                    offset=rule.offset,
                    prior=prior,
                )
            left = rule.weight @ _M - epsilons * np.linalg.norm(rule.weight)
            spread = np.sqrt(rule.weight @ _S @ rule.weight)
            expected = prior * stats.norm.cdf((left - rule.offset) / spread)
            expected += (1 - prior) * stats.norm.cdf((left + rule.offset) / spread)
            np.testing.assert_allclose(at, expected, rtol=1e-12)


class RootTest(parameterized.TestCase):
    def test_ten_steps_are_enough_on_every_spectrum(self):
        i = np.arange(1, 41)
        spectra = (
            np.ones(40),
            1.0 / i,
            10.0 ** (-0.3 * i),
            10.0 ** (-2.0 * i),
            np.where(i > 20, 1e-8, 1.0),
            1e-9 / i**2,
        )
        means = (
            np.random.default_rng(0).normal(size=40),
            np.exp(-i / 2.0),
            np.exp(i / 2.0 - 20),
        )
        shares = (1e-6, 0.01, 0.3, 0.9, 1 - 1e-6)
        cases = [*itertools.product(spectra, means, shares)]
        values, mean, share = (np.array(part) for part in zip(*cases, strict=True))
        epsilon = share * np.linalg.norm(mean, axis=1)
        with jax.enable_x64(True):
            ridge = np.asarray(_ridges_of(mean, values, epsilon))
        shift = mean / (1 + values / ridge[:, None])
        np.testing.assert_allclose(np.linalg.norm(shift, axis=1), epsilon, rtol=1e-9)


class EdgesTest(parameterized.TestCase):
    """Two dimensions, and one radius, as in `test_diagonal`."""

    def test_trivial_from_the_length_of_the_mean_on(self):
        for epsilon in (5.0, 9.0):
            rule = synbench.robust_bayes([3.0, 4.0], [1.0, 2.0], epsilon=epsilon)
            np.testing.assert_array_equal(rule.weight, 0)
            np.testing.assert_array_equal(rule.robust_accuracy, 0.5)
        rule = synbench.robust_bayes([3.0, 4.0], 1.0, epsilon=5.0, prior=0.9)
        self.assertEqual(rule.robust_accuracy, 0.9)
        self.assertLess(rule.offset, 0)  # so that 0 > offset: class 1 wins

    def test_without_noise_along_the_mean(self):
        for epsilon in (0.0, 0.5):
            rule = synbench.robust_bayes([1.0, 0.7], [1.0, 0.0], epsilon=epsilon)
            np.testing.assert_allclose(rule.weight, [0.0, 0.7])
            self.assertEqual((rule.robust_accuracy, rule.standard_accuracy), (1, 1))

    def test_a_shift_longer_than_the_noiseless_part(self):
        rule = synbench.robust_bayes([1.0, 0.3], [1.0, 0.0], epsilon=0.6)
        shift = rule.weight / rule.multiplier
        np.testing.assert_allclose(np.linalg.norm(shift), 0.6, rtol=1e-12)
        np.testing.assert_allclose(shift[1], 0.3, rtol=1e-12)
        self.assertLess(rule.robust_accuracy, 1)

    def test_singular_covariance_with_the_mean_in_its_range(self):
        basis = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0][:, :2]
        covariance = basis @ np.diag([1.0, 3.0]) @ basis.T
        mean = basis @ np.array([1.0, 1.0])
        rule = synbench.robust_bayes(mean, covariance, epsilon=0.0)
        expected = np.linalg.pinv(covariance, rcond=1e-10) @ mean
        np.testing.assert_allclose(rule.weight, expected, atol=1e-10)
        self.assertAlmostEqual(float(rule.signal), np.sqrt(1 + 1 / 3), 9)

    def test_refuses(self):
        for options in ({"epsilon": -0.1}, {"epsilon": 0.1, "prior": 1.0}):
            for function in (
                synbench.robust_bayes,
                functools.partial(synbench.linear_accuracy, [1.0]),
            ):
                with self.assertRaisesRegex(ValueError, "epsilon|prior"):
                    function([1.0], 1.0, **options)
        with self.assertRaisesRegex(ValueError, r"\[p, p\]"):
            synbench.robust_bayes([1.0, 2.0], [1.0, 2.0, 3.0], epsilon=0.1)


def _outputs(mean, covariance, epsilon, prior):
    covariance = (covariance + covariance.T) / 2
    rule = synbench.robust_bayes(mean, covariance, epsilon=epsilon, prior=prior)
    return rule.robust_accuracy, rule.standard_accuracy, rule.weight


class TransformTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_derivatives(self):
        """Also of the identity, where derivatives of eigh are infinite."""
        epsilons, every = np.array([1e-3, 0.301]), (None, 0, 0, None)
        of_matrices = jax.vmap(_outputs, in_axes=every)
        matrices = np.stack([_S, _S, np.eye(3), np.eye(3)])
        numeric_derivatives.assert_close(
            of_matrices, _M, matrices, np.tile(epsilons, 2), 0.4
        )
        of_variances = jax.vmap(_outputs, in_axes=every)
        variances = np.tile([1.0, 2.0, 0.5], (2, 1))
        numeric_derivatives.assert_close(of_variances, _M, variances, epsilons, 0.4)

    def test_robust_accuracy_falls_by_the_envelope_theorem(self):
        rule = _noted_rules()[1]
        with jax.enable_x64(True):
            slope = float(_slope(np.float64(0.3)))
        spread = np.sqrt(rule.weight @ _S @ rule.weight)
        length = np.linalg.norm(rule.weight)
        by_hand = -stats.norm.pdf(spread) * length / spread
        np.testing.assert_allclose(slope, by_hand, rtol=1e-9)

    def test_jit_and_vmap(self):
        means = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
        one = functools.partial(synbench.robust_bayes, epsilon=0.1)
        rules = jax.jit(jax.vmap(one, in_axes=(0, None)))(means, np.eye(2, dtype="f"))
        for weight, mean in zip(rules.weight, means, strict=True):
            expected = synbench.robust_bayes(mean, np.ones(2), epsilon=0.1).weight
            np.testing.assert_allclose(weight, expected, rtol=1e-5)


@jax.jit
@jax.grad
def _slope(epsilon):
    rule = synbench.robust_bayes(_M, _S, epsilon=epsilon)
    return rule.robust_accuracy


if __name__ == "__main__":
    absltest.main()
