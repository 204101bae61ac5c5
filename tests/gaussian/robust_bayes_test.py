"""Robust Bayes rules: noted values, optimality, derivatives, singular covariances."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.test_util import check_grads
from scipy import optimize, stats

from robustjax import gaussian
from robustjax.gaussian import spectrum

_S = np.array([[2, 0.6, 0], [0.6, 1, -0.3], [0, -0.3, 0.5]])
_RIDGE_OF = jax.jit(spectrum.ridge_of)
_M = (np.array([1, 0.2, -0.4]) - np.array([-0.5, 0.1, 0.3])) / 2


def _random_problem(rng, p):
    root = rng.normal(size=(p, p))
    return rng.normal(size=p), root @ root.T + 0.01 * np.eye(p)


class NotedValuesTest(parameterized.TestCase):
    @parameterized.parameters(
        (1, 0.2, 0.5, 0.788144601417),
        (2, 0.5, 0.5, 0.933192798731),
        (2, 0.5, 0.3, 0.940354188994),
        (1, 1.5, 0.3, 0.7),
    )
    def test_isotropic_robust_accuracy(self, scale, epsilon, prior, expected):
        mean = scale * np.ones(4) / 2
        rule = gaussian.robust_bayes(mean, 1.0, epsilon=epsilon, prior=prior)
        np.testing.assert_allclose(rule.robust_accuracy, expected, rtol=1e-11)

    @parameterized.parameters(
        (1, 0.0, 0.3, 0.861251470029),
        (1, 0.2, 0.3, 0.860149885553),
        (2, 0.5, 0.3, 0.979256332867),
    )
    def test_isotropic_standard_accuracy(self, scale, epsilon, prior, expected):
        rule = gaussian.robust_bayes([scale], 1.0, epsilon=epsilon, prior=prior)
        np.testing.assert_allclose(rule.standard_accuracy, expected, rtol=1e-11)

    def test_diagonal(self):
        rule = gaussian.robust_bayes([1.0, 1.0], [1.0, 4.0], epsilon=0.5)
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
        margin = gaussian.expected_margin(rule.weight, [1.0, 1.0], [1.0, 4.0])
        np.testing.assert_allclose(margin.distance, 1.5901336320218, rtol=1e-12)
        np.testing.assert_allclose(margin.scaled, 1.2304431556917, rtol=1e-12)

    def test_full(self):
        rules = gaussian.robust_bayes(_M, _S, epsilon=[0.0, 0.3])
        first, second = (jax.tree.map(lambda v, i=i: v[i], rules) for i in (0, 1))
        np.testing.assert_allclose(
            first.weight, [0.55546875, -0.6015625, -1.0609375], rtol=1e-12
        )
        for found, expected in (
            (first.standard_accuracy, 0.807999145981),
            (second.multiplier, 1.749907007195),
            (second.robust_signal, 0.460966298235),
            (second.standard_accuracy, 0.788903292017),
            (second.robust_accuracy, 0.677588607687),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-11)
        margins = [gaussian.expected_margin(r.weight, _M, _S) for r in (first, second)]
        np.testing.assert_allclose(margins[0].distance, 0.785065248760, rtol=1e-11)
        np.testing.assert_allclose(margins[0].scaled, 1.388277042590, rtol=1e-11)
        np.testing.assert_allclose(margins[1].scaled, 1.456550467953, rtol=1e-11)

    def test_full_and_unbalanced(self):
        rule = gaussian.robust_bayes(_M, _S, epsilon=0.3, prior=0.3)
        margin = gaussian.expected_margin(
            rule.weight, _M, _S, offset=rule.offset, prior=0.3
        )
        for found, expected in (
            (rule.standard_accuracy, 0.806302073847),
            (rule.robust_accuracy, 0.738380276812),
            (margin.distance, 1.437871222494),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-11)

    def test_float32(self):
        rule = gaussian.robust_bayes(
            jnp.asarray(_M, jnp.float32), jnp.asarray(_S, jnp.float32), epsilon=0.3
        )
        self.assertEqual(rule.weight.dtype, jnp.float32)
        np.testing.assert_allclose(rule.robust_accuracy, 0.677588607687, rtol=2e-5)
        np.testing.assert_allclose(rule.multiplier, 1.749907007195, rtol=2e-5)


class OptimalityTest(parameterized.TestCase):
    @parameterized.product(seed=(0, 1, 2, 3), prior=(0.5, 0.2))
    def test_no_linear_rule_does_better(self, seed, prior):
        rng = np.random.default_rng(seed)
        mean, covariance = _random_problem(rng, 3)
        epsilon = 0.4 * np.linalg.norm(mean)
        rule = gaussian.robust_bayes(mean, covariance, epsilon=epsilon, prior=prior)

        def robust_accuracy(v):
            spread = np.sqrt(v[:3] @ covariance @ v[:3])
            left = v[:3] @ mean - epsilon * np.linalg.norm(v[:3])
            ones = stats.norm.cdf((left - v[3]) / spread)
            return prior * ones + (1 - prior) * stats.norm.cdf((left + v[3]) / spread)

        starts = rng.normal(size=(20, 4))
        found = [
            optimize.minimize(lambda v: -robust_accuracy(v), s, method="Nelder-Mead")
            for s in starts
        ]
        best = max(-f.fun for f in found)
        self.assertLessEqual(best, rule.robust_accuracy + 1e-9)
        self.assertGreater(best, rule.robust_accuracy - 1e-3)
        own = robust_accuracy(np.append(rule.weight, rule.offset))
        np.testing.assert_allclose(own, rule.robust_accuracy, rtol=1e-12)

    @parameterized.parameters(*range(4))
    def test_the_shift_is_that_of_a_generic_solver(self, seed):
        mean, covariance = _random_problem(np.random.default_rng(seed), 4)
        epsilon = 0.3 * np.linalg.norm(mean)
        rule = gaussian.robust_bayes(mean, covariance, epsilon=epsilon)
        inverse = np.linalg.inv(covariance)
        found = optimize.minimize(
            lambda z: (mean - z) @ inverse @ (mean - z),
            np.zeros(4),
            jac=lambda z: -2 * inverse @ (mean - z),
            constraints={
                "type": "ineq",
                "fun": lambda z: epsilon**2 - z @ z,
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
        rule = gaussian.robust_bayes(_M, _S, epsilon=0.3, prior=0.3)
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
        rule = gaussian.robust_bayes(_M, _S, epsilon=0.3)
        at = gaussian.linear_accuracy(rule.weight, _M, _S, epsilon=[0.0, 0.3])
        np.testing.assert_allclose(
            at, [rule.standard_accuracy, rule.robust_accuracy], rtol=1e-12
        )


class RootTest(parameterized.TestCase):
    @parameterized.product(
        kind=("flat", "harmonic", "steep", "steeper", "two", "tiny"),
        share=(1e-6, 0.01, 0.3, 0.9, 1 - 1e-6),
        aligned=("random", "first", "last"),
    )
    def test_ten_steps_are_enough_on_every_spectrum(self, kind, share, aligned):
        i = np.arange(1, 41)
        values = {
            "flat": np.ones(40),
            "harmonic": 1.0 / i,
            "steep": 10.0 ** (-0.3 * i),
            "steeper": 10.0 ** (-2.0 * i),
            "two": np.where(i > 20, 1e-8, 1.0),
            "tiny": 1e-9 / i**2,
        }[kind]
        mean = {
            "random": np.random.default_rng(0).normal(size=40),
            "first": np.exp(-i / 2.0),
            "last": np.exp(i / 2.0 - 20),
        }[aligned]
        epsilon = share * np.linalg.norm(mean)
        with jax.enable_x64(True):
            ridge = float(_RIDGE_OF(mean, values, epsilon))
        shift = mean / (1 + values / ridge)
        np.testing.assert_allclose(np.linalg.norm(shift), epsilon, rtol=1e-9)


class EdgesTest(parameterized.TestCase):
    def test_trivial_from_the_length_of_the_mean_on(self):
        rule = gaussian.robust_bayes([3.0, 4.0], [1.0, 2.0], epsilon=[5.0, 9.0])
        np.testing.assert_array_equal(rule.weight, 0)
        np.testing.assert_array_equal(rule.robust_accuracy, 0.5)
        rule = gaussian.robust_bayes([3.0, 4.0], 1.0, epsilon=5.0, prior=0.9)
        self.assertEqual(rule.robust_accuracy, 0.9)
        self.assertLess(rule.offset, 0)  # so that 0 > offset: class 1 wins

    @parameterized.parameters(0.0, 0.5)
    def test_without_noise_along_the_mean(self, epsilon):
        rule = gaussian.robust_bayes([1.0, 0.7], [1.0, 0.0], epsilon=epsilon)
        np.testing.assert_allclose(rule.weight, [0.0, 0.7])
        self.assertEqual((rule.robust_accuracy, rule.standard_accuracy), (1, 1))

    def test_a_shift_longer_than_the_noiseless_part(self):
        rule = gaussian.robust_bayes([1.0, 0.3], [1.0, 0.0], epsilon=0.6)
        shift = rule.weight / rule.multiplier
        np.testing.assert_allclose(np.linalg.norm(shift), 0.6, rtol=1e-12)
        np.testing.assert_allclose(shift[1], 0.3, rtol=1e-12)
        self.assertLess(rule.robust_accuracy, 1)

    def test_singular_covariance_with_the_mean_in_its_range(self):
        basis = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
        covariance = basis[:, :3] @ np.diag([1.0, 2.0, 3.0]) @ basis[:, :3].T
        mean = basis[:, :3] @ np.array([1.0, 1.0, 1.0])
        rule = gaussian.robust_bayes(mean, covariance, epsilon=0.0)
        expected = np.linalg.pinv(covariance, rcond=1e-10) @ mean
        np.testing.assert_allclose(rule.weight, expected, atol=1e-10)
        self.assertAlmostEqual(float(rule.signal), np.sqrt(1 + 1 / 2 + 1 / 3), 9)

    def test_refuses(self):
        for options in ({"epsilon": -0.1}, {"epsilon": 0.1, "prior": 1.0}):
            with self.assertRaisesRegex(ValueError, "epsilon|prior"):
                gaussian.robust_bayes([1.0], 1.0, **options)
        with self.assertRaisesRegex(ValueError, r"\[p, p\]"):
            gaussian.robust_bayes([1.0, 2.0], [1.0, 2.0, 3.0], epsilon=0.1)


class TransformTest(parameterized.TestCase):
    @parameterized.parameters("matrix", "variances", "repeated")
    def test_derivatives(self, kind):
        with jax.enable_x64(True):
            covariance = {
                "matrix": jnp.asarray(_S),
                "variances": jnp.asarray([1.0, 2.0, 0.5]),
                "repeated": jnp.eye(3),  # where derivatives of eigh are infinite
            }[kind]

            def accuracies(mean, covariance, epsilon, prior):
                covariance = (covariance + covariance.T) / 2
                rule = gaussian.robust_bayes(
                    mean, covariance, epsilon=epsilon, prior=prior
                )
                return rule.robust_accuracy, rule.standard_accuracy, rule.weight

            for epsilon in (0.0, 0.3):
                args = (jnp.asarray(_M), covariance, jnp.asarray(epsilon + 1e-3))
                check_grads(accuracies, (*args, jnp.asarray(0.4)), order=1)

    def test_robust_accuracy_falls_by_the_envelope_theorem(self):
        with jax.enable_x64(True):
            mean, covariance = jnp.asarray(_M), jnp.asarray(_S)

            def accuracy(epsilon):
                rule = gaussian.robust_bayes(mean, covariance, epsilon=epsilon)
                return rule.robust_accuracy

            rule = gaussian.robust_bayes(mean, covariance, epsilon=jnp.asarray(0.3))
            slope = float(jax.grad(accuracy)(jnp.asarray(0.3)))
            weight = np.asarray(rule.weight)
        spread = np.sqrt(weight @ _S @ weight)
        by_hand = -stats.norm.pdf(spread) * np.linalg.norm(weight) / spread
        np.testing.assert_allclose(slope, by_hand, rtol=1e-9)

    def test_jit_and_vmap(self):
        means = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
        rules = jax.jit(
            jax.vmap(lambda m: gaussian.robust_bayes(m, jnp.eye(2), epsilon=0.1))
        )(means)
        one = gaussian.robust_bayes(means[1], jnp.eye(2), epsilon=0.1)
        np.testing.assert_allclose(rules.weight[1], one.weight, rtol=1e-6)


if __name__ == "__main__":
    absltest.main()
