"""Certificates of order 1: valid, tight where they can be, never below order 0."""

import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import integrate, optimize, stats

from robustjax import smoothing
from robustjax.smoothing.sampling import moments

_KEY = jax.random.key(4)
_NORMS = ("l2", "l1", "linf", "l1.5", "l4")
_SIGMA = 0.25
_DIM = 40  # with three examples: one program


def _plane(normal: jax.Array, x: jax.Array) -> jax.Array:
    score = (x.reshape(len(x), -1) - 0.5) @ normal
    return jnp.stack([score, -score], axis=-1)


def _network(weights: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ weights[0])
    return hidden @ weights[1]


def _random_plane(dim: int) -> tuple[np.ndarray, jax.tree_util.Partial]:
    normal = np.random.default_rng(dim).normal(size=dim)
    normal /= np.linalg.norm(normal)
    return normal, jax.tree_util.Partial(_plane, jnp.asarray(normal, jnp.float32))


def _inputs(normal: np.ndarray, distances: np.ndarray) -> np.ndarray:
    return (0.5 + distances[:, None] * normal).astype(np.float32)


def _exact_radii(normal: np.ndarray, inputs: np.ndarray, norm: str) -> np.ndarray:
    """Distance to the plane: that in l2 by the dual norm of the normal."""
    p = {"l2": 2, "l1": 1, "linf": math.inf}.get(norm) or float(norm[1:])
    q = math.inf if p == 1 else 1 / (1 - 1 / p)
    scores = (inputs.astype(np.float64) - 0.5) @ normal
    return np.abs(scores) / np.linalg.norm(normal, ord=q)


def _certify(apply_fn, x, **options):
    options = dict(sigma=_SIGMA, num_classes=2, num_estimation=20_000) | options
    return smoothing.certify(_KEY, apply_fn, x, order=1, **options)


class HalfSpaceTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_radii_are_valid_and_gain_where_they_can(self):
        normal, apply_fn = _random_plane(40)
        x = _inputs(normal, np.linspace(0.02, 0.7, 30))
        c = _certify(apply_fn, x, norms=_NORMS, num_estimation=50_000)
        certified = c.prediction >= 0
        self.assertGreater(certified.sum(), 25)
        for norm in _NORMS:
            exact = _exact_radii(normal, x, norm)
            self.assertTrue(np.all(c.radius[norm] <= exact), norm)
            self.assertTrue(np.all(c.radius[norm] >= c.zeroth_radius[norm]), norm)
        for norm, gain in (("l1", 1.2), ("linf", 1.02)):
            ratio = c.radius[norm][certified] / c.zeroth_radius[norm][certified]
            self.assertGreater(np.median(ratio), gain)
        np.testing.assert_array_equal(
            c.p_lower,
            smoothing.clopper_pearson_lower(c.count, 50_000, alpha=0.0005),
        )

    @pytest.mark.newest
    def test_counts_are_those_of_order_0_and_half_of_alpha_pays_for_them(self):
        normal, apply_fn = _random_plane(_DIM)
        x = _inputs(normal, np.array([0.1, 0.2, 0.3]))
        first = _certify(apply_fn, x, num_estimation=3000, alpha=0.01)
        zeroth = smoothing.certify(
            _KEY, apply_fn, x, sigma=_SIGMA, num_classes=2, num_estimation=3000
        )
        np.testing.assert_array_equal(first.counts, zeroth.counts)
        np.testing.assert_array_equal(
            first.p_lower,
            smoothing.clopper_pearson_lower(first.count, 3000, alpha=0.005),
        )
        np.testing.assert_array_equal(first.p_upper, 1 - first.p_lower)

    def test_each_norm_alone_is_no_less_than_all_together(self):
        normal, apply_fn = _random_plane(_DIM)
        x = _inputs(normal, np.array([0.1, 0.3, 0.5]))
        norms = ("l2", "l1", "l4")
        options = dict(norms=norms, num_estimation=5000)
        together = _certify(apply_fn, x, **options)
        alone = _certify(apply_fn, x, **options, simultaneous=False)
        self.assertEqual((together.simultaneous, alone.simultaneous), (True, False))
        for norm in norms:
            self.assertTrue(np.all(alone.radius[norm] >= together.radius[norm] - 1e-7))
            self.assertTrue(
                np.all(
                    alone.gradient[norm].dual_upper
                    <= together.gradient[norm].dual_upper + 1e-12
                )
            )

    def test_subspaces_by_name_and_by_mask(self):
        normal, _ = _random_plane(48)
        normal[0::3] *= 0.1  # little red in the gradient
        normal /= np.linalg.norm(normal)
        apply_fn = jax.tree_util.Partial(_plane, jnp.asarray(normal, jnp.float32))
        x = _inputs(normal, np.array([0.15, 0.4])).reshape(2, 4, 4, 3)
        mask = np.zeros((4, 4, 3), bool)
        mask[:2] = True
        c = _certify(
            apply_fn,
            x,
            norms=("l2", "subspace:red", "subspace:top"),
            subspaces={"top": mask},
            num_estimation=10_000,
        )
        scores = np.abs((x.reshape(2, -1).astype(np.float64) - 0.5) @ normal)
        for name, inside in (("red", normal[0::3]), ("top", normal[:24])):
            radius = c.radius[f"subspace:{name}"]
            self.assertTrue(np.all(radius <= scores / np.linalg.norm(inside)))
            self.assertTrue(np.all(radius > 1.1 * c.radius["l2"]), name)

    def test_bounds_refuse_other_subspaces_than_the_moments_were_made_for(self):
        normal, apply_fn = _random_plane(48)
        x = _inputs(normal, np.array([0.2, 0.2])).reshape(2, 4, 4, 3)
        red, green = (
            smoothing.named_subspace(n, shape=(4, 4, 3)) for n in ("red", "green")
        )
        sums = smoothing.class_moments(
            _KEY,
            apply_fn,
            x,
            sigma=_SIGMA,
            num_samples=5000,
            num_classes=2,
            selected=[0, 0],
            baseline=[0.5, 0.5],
            subspaces=(red, green),
        )
        sums = jax.tree.map(np.asarray, sums)
        found = smoothing.gradient_norm_bounds(
            sums, alpha=0.01, subspaces={"red": red, "green": green}
        )
        self.assertGreater(found.subspace_upper["red"][0], 0)
        for wrong in ({"green": green, "red": red}, {"red": red}, {}):
            with self.assertRaisesRegex(ValueError, "subspaces"):
                smoothing.gradient_norm_bounds(sums, alpha=0.01, subspaces=wrong)


class NetworkTest(parameterized.TestCase):
    def test_never_below_the_zeroth_order_of_the_same_counts(self):
        rng = np.random.default_rng(0)
        weights = (rng.normal(size=(24, 16)), rng.normal(size=(16, 4)))
        apply_fn = jax.tree_util.Partial(
            _network, tuple(jnp.asarray(w, jnp.float32) for w in weights)
        )
        x = rng.uniform(size=(20, 24)).astype(np.float32)
        norms = ("l1", "linf", "l1.5", "l4")
        c = _certify(apply_fn, x, num_classes=4, norms=norms, num_estimation=5000)
        certified = c.prediction >= 0
        self.assertGreater(certified.sum(), 10)
        self.assertGreater((~certified).sum(), 3)
        zeroth = smoothing.zeroth_order_radius(c.p_lower, sigma=_SIGMA)
        for norm in norms:
            divisor = 24 ** max(0.0, 0.5 - 1 / float(norm[1:].replace("inf", "1e9")))
            expected = np.where(certified, zeroth / divisor, 0.0)
            np.testing.assert_allclose(c.zeroth_radius[norm], expected, rtol=1e-7)
            self.assertTrue(np.all(c.radius[norm] >= c.zeroth_radius[norm]), norm)
            np.testing.assert_array_equal(c.radius[norm][~certified], 0.0)

    def test_reference_bounds_never_beat_the_tight_ones_by_much(self):
        normal, apply_fn = _random_plane(_DIM)
        x = _inputs(normal, np.array([0.1, 0.3, 0.5]))
        options = dict(norms="l1", num_estimation=10_000)
        tight = _certify(apply_fn, x, **options)
        reference = _certify(apply_fn, x, **options, method="reference")
        self.assertTrue(np.all(tight.radius["l1"] >= 0.99 * reference.radius["l1"]))
        self.assertGreater(np.sum(tight.radius["l1"] - reference.radius["l1"]), 0.01)


class CoverageTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_complete_protocol_in_two_norms_at_once(self):
        """1,000 certificates with their own noise: both radii hold together."""
        num, alpha = 1000, 0.1
        normal, apply_fn = _random_plane(6)
        x = _inputs(normal, np.full(num, 0.2))
        c = _certify(apply_fn, x, norms=("l2", "l1"), alpha=alpha, num_estimation=2000)
        wrong = np.zeros(num, bool)
        for norm in c.radius:
            wrong |= c.radius[norm] > _exact_radii(normal, x, norm)
        self.assertLessEqual(wrong.mean(), alpha + 3 * math.sqrt(alpha / num))
        self.assertGreater(wrong.mean(), 0.001)


class SoftVotesTest(parameterized.TestCase):
    def test_radius_is_below_that_of_the_mean_probability(self):
        """One relevant coordinate: E f along it by quadrature."""

        def apply_fn(x):
            score = 12 * (x[:, 0] - 0.5)
            return jnp.stack([score, jnp.zeros_like(score)], axis=-1)

        def mean(center):
            def integrand(z):
                score = 12 * (center + _SIGMA * z - 0.5)
                return math.exp(-(z**2) / 2) / (1 + math.exp(-score))

            integral = integrate.quad(integrand, -9, 9, epsabs=1e-12)[0]
            return integral / math.sqrt(2 * math.pi)

        x = np.full((3, 5), 0.5, np.float32)
        x[:, 0] = (0.6, 0.75, 0.9)
        norms = ("l1", "l2")
        c = _certify(apply_fn, x, votes="soft", norms=norms, num_estimation=40_000)
        self.assertEqual(c.bound, "betting")
        for i in range(3):
            center = float(x[i, 0])
            self.assertLess(c.p_lower[i], mean(center))
            self.assertGreater(c.p_lower[i], mean(center) - 0.01)
            exact = center - optimize.brentq(lambda x: mean(x) - 0.5, -1, center)
            for norm in norms:
                self.assertBetween(c.radius[norm][i], 0.3 * exact, exact)

    def test_order_0_takes_soft_votes_too(self):
        _, apply_fn = _random_plane(_DIM)
        x = np.full((3, _DIM), 0.5, np.float32)
        c = smoothing.certify(
            _KEY,
            apply_fn,
            x,
            sigma=0.25,
            num_classes=2,
            votes="soft",
            num_estimation=2000,
        )
        self.assertEqual((c.order, c.prediction[0]), (0, -1))
        self.assertEmpty(c.gradient)


class FailureTest(parameterized.TestCase):
    def test_sums_that_are_not_finite_fail_their_example_alone(self):
        normal, apply_fn = _random_plane(_DIM)
        x = _inputs(normal, np.full(3, 0.4))
        original = moments.class_moments

        def broken(*args, **kwargs):
            sums = original(*args, **kwargs)
            odd = np.array(sums.sum_odd)
            odd[1, 2] = np.nan
            return sums._replace(sum_odd=odd)

        with mock.patch.object(moments, "class_moments", broken):
            c = _certify(apply_fn, x, norms=("l1", "linf"), num_estimation=5000)
        np.testing.assert_array_equal(c.failed, [False, True, False])
        np.testing.assert_array_equal(c.prediction >= 0, [True, False, True])
        np.testing.assert_array_equal(c.p_lower > 0, [True, False, True])
        self.assertEqual(c.p_upper[1], 1.0)
        for norm, radius in c.radius.items():
            self.assertEqual(radius[1], 0.0)
            self.assertTrue(np.all(radius[[0, 2]] > 0.01), norm)
            for values in c.gradient[norm]:
                self.assertTrue(np.all(np.isfinite(values)))

    def test_invalid_samples_are_misses(self):
        def apply_fn(x):
            score = jnp.where(x[:, 0] > 1.0, jnp.nan, x[:, 0] - 0.2)
            return jnp.stack([score, -score], axis=-1)

        x = np.array([[0.8, 0.5], [1.0, 0.5]], np.float32)
        c = _certify(apply_fn, x)
        invalid, hits = stats.norm.sf(0.8), stats.norm.sf(-2.4) - stats.norm.sf(0.8)
        self.assertAlmostEqual(c.num_invalid[0] / 20_000, invalid, delta=0.012)
        self.assertAlmostEqual(c.count[0] / 20_000, hits, delta=0.012)
        self.assertFalse(c.failed.any())

    @parameterized.parameters(
        (dict(num_estimation=128), "num_estimation >= 129"),
        (dict(alpha=2.0**-200, num_estimation=201), "num_estimation >= 202"),
        (dict(alpha=1.5), "alpha in .0, 1., got 1.5"),
        (dict(norms=("subspace", "subspace:channel0")), "NAME"),
        (dict(subspaces={"a": np.ones(8)}), "mask"),
        (dict(norms=("subspace:red",)), "shape"),
        (dict(norms=("subspace:purple",)), "purple"),
        (dict(norms=("subspace",)), "NAME"),
        (dict(norms=("subspace:Red",)), "lower case"),
        (dict(norms=("l0",)), "l0"),
        (dict(runner_up="bonferroni"), "complement"),
        (dict(norms=("subspace:a",), subspaces={"a": np.ones(7)}), "shape"),
        (dict(norms=("subspace:a",), subspaces={"a": np.zeros(8)}), "(?i)empty|no "),
    )
    def test_refuses(self, arguments, text):
        _, apply_fn = _random_plane(8)
        with self.assertRaisesRegex(ValueError, text):
            _certify(apply_fn, np.full((1, 8), 0.5), **arguments)


if __name__ == "__main__":
    absltest.main()
