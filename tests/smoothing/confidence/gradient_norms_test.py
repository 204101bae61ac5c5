"""Bounds of gradient norms: published values, widths, bad input, the whole pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import special, stats
from simulated_moments import Experiment, interval, soft_plane

from robustjax import smoothing
from robustjax.smoothing.confidence import budget, gradient_norms, moment_sums
from robustjax.smoothing.sampling.moments import Moments, class_moments
from robustjax.smoothing.sampling.subspaces import Subspace

_HALF_SPACE = interval(-stats.norm.ppf(0.99), np.inf)
_bounds = gradient_norms.gradient_norm_bounds


def _moments(x, y, *, num_half, hits, baseline=0.5):
    """Moments of one example with means x and y of the halves, without bets."""
    x, y = np.atleast_2d(x), np.atleast_2d(y)
    return Moments(
        counts=np.array([[hits, 2 * num_half - hits, 0]]),
        num_even=np.array([num_half]),
        num_odd=np.array([num_half]),
        misses_even=np.array([num_half - hits / 2]),
        misses_odd=np.array([num_half - hits / 2]),
        sum_even=x * num_half,
        sum_odd=y * num_half,
        sum_squares=np.zeros_like(x),  # no rounding
        log_wealth=np.zeros((1, 1, 2, 8)),
        bets=np.zeros((1, 8)),
        baseline=np.array([baseline]),
        selected=np.array([0]),
        soft_log_wealth=np.zeros((1, 24)),
    )


def _draw(case, num_runs=6, seed=0):
    return case.moments(np.random.default_rng(seed), num_runs=num_runs)


class ReferenceTest(parameterized.TestCase):
    """At alpha = 0.001, n1 = n2 = 1e5, d = 3072; the values are of an independent code.

    Its noise term has sqrt(2 d log) = 225.7402 where the Chernoff bound has 226.0442.
    """

    def _reference(self, product, **options):
        root = np.sqrt(abs(product) / 3072)
        x, y = np.full(3072, root), np.full(3072, np.sign(product) * root)
        moments = _moments(x, y, num_half=100_000, hits=130_000)
        return _bounds(moments, alpha=0.001, method="reference", **options)

    @parameterized.parameters((0.01, 0.085967393, 0.114062488), (0.001, 0, 0.056471067))
    def test_length_matches_but_for_the_mended_noise_term(self, product, low, high):
        one_event = dict(bounds=["l2_upper"])
        upper = float(self._reference(product, **one_event).l2_upper[0])
        lower = float(self._reference(product, bounds=["l2_lower"]).l2_lower[0])
        noise = 0.0013836883381953768 * 226.0442 / 225.7402
        along = 0.014260277993006096
        mended = along / 2 + np.sqrt(along**2 / 4 + product + noise)
        self.assertAlmostEqual(upper, mended, delta=1e-8)
        self.assertBetween(upper - high, 0, 2e-5)
        self.assertBetween(low - lower, 0, 2e-5)

    def test_negative_product_of_the_halves(self):
        found = self._reference(-0.01, bounds=["l2_upper"])
        self.assertAlmostEqual(float(found.l2_upper[0]), 0.014260277993, delta=1e-9)
        self.assertEqual(float(found.l2[0]), 0.0)

    def test_l1_and_linf_match(self):
        root = 2e-4  # their add-ons at n = 2e5, for levels 2.5e-4 and exp(-log 4000)
        moments = _moments(
            np.full(3072, root), np.full(3072, root), num_half=100_000, hits=130_000
        )
        linf = _bounds(
            moments, alpha=0.0005, method="reference", bounds=["linf_upper"]
        ).linf_upper[0]
        self.assertAlmostEqual(linf - root, 0.01021315128509772, places=12)
        l1 = _bounds(
            moments, alpha=0.0005, method="reference", bounds=["l1_upper"]
        ).l1_upper[0]
        expected = np.sqrt(2 * 0.6129560868 / 2e5 * (3072 * np.log(2) + np.log(4000)))
        self.assertAlmostEqual(l1 / np.sqrt(3072) - root * np.sqrt(3072), expected)
        self.assertAlmostEqual(expected, 0.11446749716342502, places=9)

    def test_complement_has_its_own_dimension(self):
        mask = np.zeros(3072)
        mask[::3] = 1
        channel, rest = Subspace(mask=mask), Subspace(mask=1 - mask)
        x = np.full(3072, 0.003)
        moments = _moments(x, x, num_half=100_000, hits=130_000)
        found = [
            _bounds(
                moments,
                alpha=0.001,
                method="reference",
                subspaces={"part": part},
                bounds=["complement_lower:part"],
            ).complement_lower["part"][0]
            for part in (channel, rest)
        ]
        for lower, dim in zip(found, (2048, 1024), strict=True):
            scale = np.sqrt(2 * dim * np.log(4000))
            noise = 0.6129560868 * scale / 1e5
            along = 0.014260277993006096
            expected = np.sqrt(along**2 / 4 + dim * 9e-6 - noise) - along / 2
            self.assertBetween(expected - lower, 0, 1e-4)

    def test_baseline_1_is_refused(self):
        moments = _moments([0.1], [0.1], num_half=1000, hits=1500, baseline=1.0)
        with self.assertRaisesRegex(ValueError, "baseline=0.5"):
            _bounds(moments, alpha=0.1, method="reference")


class TightTest(parameterized.TestCase):
    def test_width_of_a_half_space_is_that_of_the_note_or_less(self):
        case = Experiment(_HALF_SPACE, 3072, 100_000)
        moments = _draw(case)
        # Lower and upper bound of the length at 2.5e-4 each.
        found = _bounds(moments, alpha=0.001, bounds=["l2_lower", "l2_upper"])
        true = case.gradient[0]
        self.assertAlmostEqual(true, 0.026652, places=6)
        self.assertTrue((found.l2_lower <= true).all())
        self.assertTrue((found.l2_upper >= true).all())
        # A half-space attains the largest length, which then is the upper bound.
        largest = stats.norm.pdf(special.ndtri(found.p_lower))
        np.testing.assert_allclose(found.l2_upper, largest, rtol=1e-12)
        # As if the class probability did not limit the length:
        unlimited = _unlimited(moments)
        width = np.mean(unlimited["l2_upper"] - unlimited["l2_lower"])
        self.assertLessEqual(width, 1.25 * (0.0305 - 0.0225))
        self.assertLessEqual(width, 0.0305 - 0.0225)
        self.assertGreater(np.mean(found.l2_lower), 0.0225)

    def test_tight_is_narrower_than_reference_everywhere(self):
        case = Experiment(interval(-0.8, 1.2), 784, 20_000, 0.5, with_subspace=True)
        part = {"part": Subspace(mask=case.subspace_mask)}
        moments = _draw(case)
        tight, reference = (
            _bounds(moments, alpha=0.001, method=method, subspaces=part)
            for method in budget.METHODS
        )
        for name in ("l2_upper", "l1_upper", "linf_upper"):
            self.assertTrue((getattr(tight, name) < getattr(reference, name)).all())
        self.assertTrue(
            (tight.subspace_upper["part"] < reference.subspace_upper["part"]).all()
        )
        for name in ("l2_lower", "linf_lower"):
            self.assertTrue((getattr(tight, name) > getattr(reference, name)).all())

    def test_bets_pay_where_misses_are_rare(self):
        case = Experiment(_HALF_SPACE, 3072, 50_000)
        with_bets = _draw(case)
        without = with_bets._replace(bets=0 * with_bets.bets)
        better, plain = (
            _bounds(m, alpha=0.001, bounds=["l2_lower"]).l2_lower
            for m in (with_bets, without)
        )
        self.assertTrue((better > plain).all())
        self.assertTrue((plain > 0).all())

    def test_fewer_bounds_are_narrower_and_others_trivial(self):
        case = Experiment(_HALF_SPACE, 784, 20_000, with_subspace=True)
        part = {"part": Subspace(mask=case.subspace_mask)}
        moments = _draw(case)
        every = _bounds(moments, alpha=0.01, subspaces=part)
        largest = stats.norm.pdf(special.ndtri(every.p_lower))
        for bound in ("l2_lower", "linf_lower", "complement_lower:part"):
            alone = _bounds(moments, alpha=0.01, subspaces=part, bounds=[bound])
            np.testing.assert_array_equal(alone.p_lower, every.p_lower)
            name, _, space = bound.partition(":")
            values = [getattr(b, name) for b in (alone, every)]
            values = [v["part"] if space else v for v in values]
            self.assertTrue((values[0] >= values[1]).all())
            np.testing.assert_allclose(alone.l2_upper, largest, rtol=1e-14)
            np.testing.assert_allclose(alone.l1_upper, 28 * largest, rtol=1e-14)
        none = _bounds(moments, alpha=0.01, bounds=[])
        np.testing.assert_array_equal(none.l2_lower, 0)
        np.testing.assert_allclose(none.linf_upper, largest, rtol=1e-14)

    @parameterized.product(baseline=(0.5, 1.0), with_bets=(False, True))
    def test_rounding_widens_every_bound(self, baseline, with_bets):
        """As if the terms were larger, of which float32 may lose a share."""
        for has_first in (True, False):  # the gradient is in the subspace, or outside
            case = Experiment(
                interval(-1.2, 2.0),
                10,
                6_000,
                baseline,
                with_bets,
                with_subspace=True,
                has_first=has_first,
            )
            part = {"part": Subspace(mask=case.subspace_mask)}
            exact = _draw(case)
            rough = exact._replace(sum_squares=exact.sum_squares + 1e7)
            bounds = [
                bound
                for bound in budget.all_bounds(part)
                if bound.startswith("complement_lower") != has_first
            ]
            for bound in bounds:
                sharp, wide = (
                    _one(m, bound, alpha=0.01, subspaces=part) for m in (exact, rough)
                )
                sign = 1 if "upper" in bound else -1
                self.assertTrue((sign * (wide - sharp) > 1e-6).all(), bound)

    @pytest.mark.newest
    def test_bounds_imply_each_other(self):
        case = Experiment(interval(-0.5, 2.0), 10, 5000, 0.5, with_subspace=True)
        part = {"part": Subspace(mask=case.subspace_mask)}
        found = _bounds(_draw(case, 50), alpha=0.1, subspaces=part)
        self.assertTrue((found.linf_upper <= found.l2_upper).all())
        self.assertTrue((found.l1_upper <= np.sqrt(10) * found.l2_upper).all())
        self.assertTrue((found.l2_lower >= found.linf_lower).all())
        self.assertTrue((found.l1_lower >= found.l2_lower).all())
        rest = found.complement_lower["part"]
        total = found.subspace_upper["part"] ** 2 + rest**2
        self.assertTrue((total <= found.l2_upper**2 * (1 + 1e-12)).all())

    def test_rows_with_different_baselines_do_not_mix(self):
        one = _draw(Experiment(_HALF_SPACE, 20, 3000), 2)
        half = _draw(Experiment(_HALF_SPACE, 20, 3000, 0.5), 2)
        both = jax.tree.map(lambda *v: np.concatenate(v), one, half)
        together = _bounds(both, alpha=0.01)
        for rows, moments in ((slice(2), one), (slice(2, 4), half)):
            alone = _bounds(moments, alpha=0.01)
            for name in ("l2_lower", "l2_upper", "l1_upper", "linf_upper", "l2"):
                np.testing.assert_array_equal(
                    getattr(together, name)[rows], getattr(alone, name)
                )

    @parameterized.parameters("tight", "reference")
    def test_a_basis_is_treated_as_its_mask(self, method):
        case = Experiment(_HALF_SPACE, 12, 5000, 0.5, with_subspace=True)
        moments = _draw(case)
        basis = np.eye(12)[:, case.subspace_mask == 1]
        spaces = (Subspace(mask=case.subspace_mask), Subspace(basis=basis))
        found = [
            _bounds(moments, alpha=0.1, method=method, subspaces={"s": s})
            for s in spaces
        ]
        for name in ("subspace_upper", "complement_lower", "subspace"):
            values = [getattr(b, name)["s"] for b in found]
            np.testing.assert_allclose(*values, rtol=1e-9)


class EdgeTest(parameterized.TestCase):
    @parameterized.parameters("tight", "reference")
    def test_a_row_that_is_not_finite_gets_trivial_bounds(self, method):
        moments = _draw(Experiment(_HALF_SPACE, 9, 2000, 0.5, with_subspace=True), 3)
        part = {"part": Subspace(mask=np.eye(9)[0])}
        clean = _bounds(moments, alpha=0.1, method=method, subspaces=part)
        sums = moments.sum_even.copy()
        sums[1, 3] = np.nan
        found = _bounds(
            moments._replace(sum_even=sums), alpha=0.1, method=method, subspaces=part
        )
        largest = stats.norm.pdf(0)
        self.assertEqual(found.p_lower[1], 0)
        self.assertEqual(found.l2_lower[1], 0)
        np.testing.assert_allclose(
            [found.l2_upper[1], found.linf_upper[1], found.subspace_upper["part"][1]],
            largest,
        )
        np.testing.assert_allclose(found.l1_upper[1], 3 * largest)
        for ours, theirs in zip(
            jax.tree.leaves(found), jax.tree.leaves(clean), strict=True
        ):
            self.assertFalse(np.isnan(ours).any())
            np.testing.assert_array_equal(ours[[0, 2]], theirs[[0, 2]])

    def test_no_examples(self):
        moments = _draw(Experiment(_HALF_SPACE, 9, 200), 1)
        none = jax.tree.map(lambda v: v[:0], moments)
        for leaf in jax.tree.leaves(_bounds(none, alpha=0.1)):
            self.assertEqual(leaf.shape, (0,))

    def test_no_misses_at_all(self):
        moments = _moments(
            np.zeros(5), np.zeros(5), num_half=5000, hits=10_000, baseline=1.0
        )
        found = _bounds(moments, alpha=0.001)
        self.assertLess(found.p_lower[0], 1)
        largest = stats.norm.pdf(special.ndtri(found.p_lower[0]))
        self.assertBetween(found.l2_upper[0], 0, largest)
        self.assertEqual(found.l2_lower[0], 0)

    @parameterized.parameters(
        (dict(alpha=1.0), "alpha in .0, 1., got 1.0"),
        (dict(method="loose"), "method 'loose'"),
        (dict(votes="open"), "votes 'open'"),
        (dict(bounds=["l3_upper"]), "bound 'l3_upper'"),
        (dict(bounds=["subspace_upper:red"]), "bound 'subspace_upper:red'"),
        (dict(subspaces={"a": Subspace(mask=np.eye(9)[0])}), "1 for 1 directions"),
    )
    def test_bad_arguments_are_refused(self, wrong, message):
        moments = _draw(Experiment(_HALF_SPACE, 9, 200), 1)
        with self.assertRaisesRegex(ValueError, message):
            _bounds(moments, **(dict(alpha=0.1) | wrong))

    def test_votes_of_the_other_kind_are_refused(self):
        hard = _draw(Experiment(_HALF_SPACE, 9, 500), 2)
        with self.assertRaisesRegex(ValueError, "votes='soft'"):
            _bounds(hard, alpha=0.1, votes="soft")
        soft = _draw(Experiment(soft_plane(1.0, 1.0), 9, 500, 0.5), 2)
        with self.assertRaisesRegex(ValueError, "votes='hard'"):
            hard_votes = np.array([[1000, 0, 0]] * 2)  # class A wins each sample
            _bounds(soft._replace(counts=hard_votes), alpha=0.1)


_OFFSET, _STEEPNESS = 0.9, 3.0


def _plane(direction, x):
    """Of noise 1/2 around 1/2; class 0 wins up to the offset, in units of the noise."""
    score = 2 * jnp.sum((x - 0.5) * direction, axis=(1, 2, 3)) + _OFFSET
    return jnp.stack([_STEEPNESS * score, jnp.zeros_like(score)], axis=1)


class PipelineTest(parameterized.TestCase):
    @parameterized.parameters((0.5, "hard"), (1.0, "hard"), (0.5, "soft"))
    def test_linear_classifier_from_samples_to_bounds(self, baseline, votes):
        shape, num_samples = (4, 4, 3), 30_000
        direction = np.random.default_rng(0).normal(size=shape)
        direction[..., 0] *= 0.3  # little of it in the subspace
        direction /= np.linalg.norm(direction)
        red = np.zeros(shape)
        red[..., 0] = 1
        subspaces = {"red": Subspace(mask=red.ravel().astype(np.float32))}
        moments = class_moments(
            jax.random.key(0),
            jax.tree_util.Partial(_plane, np.float32(direction[None])),
            np.full((1, *shape), 0.5, np.float32),
            sigma=0.5,
            num_samples=num_samples,
            num_classes=2,
            selected=[0],
            baseline=[baseline],
            subspaces=tuple(subspaces.values()),
            votes=votes,
        )
        found = _bounds(moments, alpha=0.001, subspaces=subspaces, votes=votes)
        p, length = stats.norm.cdf(_OFFSET), stats.norm.pdf(_OFFSET)
        if votes == "soft":
            nodes, weights = np.polynomial.hermite_e.hermegauss(80)
            values = special.expit(_STEEPNESS * (nodes + _OFFSET))
            p, length = (
                np.sum(weights * v) / np.sqrt(2 * np.pi)
                for v in (values, values * nodes)
            )
        m = length * direction
        self.assertTrue((found.p_lower < p).all())
        self.assertGreater(found.p_lower.min(), p - 0.02)
        for name, order in (("l2", 2), ("l1", 1), ("linf", np.inf)):
            true = np.linalg.norm(m.ravel(), order)
            lower, upper = (getattr(found, f"{name}_{s}") for s in ("lower", "upper"))
            self.assertTrue((lower < true).all() and (true < upper).all(), name)
            self.assertTrue((lower > 0.5 * true).all() and (upper < 2 * true).all())
        part = np.linalg.norm(m * red)
        upper = found.subspace_upper["red"]
        self.assertTrue(((part < upper) & (upper < 1.5 * part)).all())
        rest = np.sqrt(length**2 - part**2)
        lower = found.complement_lower["red"]
        self.assertTrue(((0.85 * rest < lower) & (lower < rest)).all())
        if votes == "hard":
            hits = np.asarray(moments.counts)[:, 0]
            expected = smoothing.clopper_pearson_lower(hits, num_samples, alpha=0.0005)
            np.testing.assert_array_equal(found.p_lower, expected)


def _one(moments, bound, **options):
    """One bound `[n]`, asked for alone."""
    found = _bounds(moments, bounds=[bound], **options)
    kind, _, name = bound.partition(":")
    return getattr(found, kind)[name] if name else getattr(found, kind)


def _unlimited(moments):
    """Bounds of the length at 2.5e-4 each, not limited by the class probability."""
    from robustjax.smoothing.confidence import tight_bounds

    p_lower = _bounds(moments, alpha=0.001, bounds=[]).p_lower
    return tight_bounds.norm_bounds(
        moment_sums.from_device(moments, votes="hard"),
        p_lower=p_lower,
        largest=np.full(len(p_lower), 0.3989),
        levels={"l2_upper": 2.5e-4, "l2_lower": 2.5e-4},
        subspaces={},
    )


class DualNormTest(parameterized.TestCase):
    @parameterized.parameters(
        ("l1", np.inf),
        ("l2", 2),
        ("linf", 1),
        ("l1.25", 5),
        ("l1.5", 3),
        ("l3", 1.5),
        ("l5", 1.25),
    )
    def test_bounds_the_dual_norm_and_is_sharp_for_flat_vectors(self, norm, dual):
        rng = np.random.default_rng(0)
        dim = 12
        sparse = rng.normal(size=(50, dim)) * (rng.uniform(size=(50, dim)) < 0.3)
        flat = rng.choice([-0.3, 0.3], size=(50, dim))
        for vectors, is_flat in (
            (rng.normal(size=(50, dim)), 0),
            (sparse, 0),
            (flat, 1),
        ):
            upper = _exact(vectors).dual_upper(norm, dim=dim)
            true = np.linalg.norm(vectors, dual, axis=1)
            self.assertTrue((upper >= true * (1 - 1e-12)).all())
            if is_flat:
                np.testing.assert_allclose(upper, true, rtol=1e-12)

    def test_subspace_is_the_length_of_its_part(self):
        bounds = _exact(np.ones((1, 3)))
        self.assertEqual(bounds.dual_upper("subspace:red", dim=3), 0.7)

    def test_a_sharper_length_helps_where_the_l1_bound_is_loose(self):
        bounds = _exact(np.ones((1, 4)) / 2)._replace(l1_upper=np.array([100.0]))
        upper = bounds.dual_upper("l3", dim=4)
        np.testing.assert_allclose(upper, 4 ** (2 / 3) / 2, rtol=1e-12)


def _exact(vectors):
    """Bounds that are the norms themselves."""
    l1, l2, linf = (np.linalg.norm(vectors, p, axis=1) for p in (1, 2, np.inf))
    part = {"red": np.array([0.7])}
    return gradient_norms.GradientBounds(
        l2, l2, l2, l1, l1, linf, linf, part, part, l2, l1, linf, part
    )


if __name__ == "__main__":
    absltest.main()
