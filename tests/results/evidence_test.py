"""What counts and bounds of gradients can be, against all that there are."""

import itertools

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import norms, smoothing
from robustjax.results import logs
from robustjax.results.checks import evidence
from robustjax.results.checks import run as runs
from robustjax.smoothing.sampling import moments


def _run(**columns):
    """A run of rows with these columns, of one length, and others that are plain."""
    size = max(np.size(values) for values in columns.values())
    plain = {"order": 1, "failed": 0, "predict": 0, "alpha": 0.001, "bound": "betting"}
    plain |= {"num_estimation": 1000, "dim": 16}
    plain |= {"idx": 0, "radius": 0.0, "correct": 1, "label": 0, "norm": "l2"}
    table = {k: np.broadcast_to(v, size) for k, v in (plain | columns).items()}
    return runs.Run(logs.Log("run", table), {}, {}, None, "")


def _wrong(faults):
    """Whether any fault is found, row by row."""
    return np.any([mask for mask, _ in faults], axis=0)


class CountsTest(parameterized.TestCase):
    @pytest.mark.newest
    @parameterized.parameters((2, 5), (3, 4), (4, 3))
    def test_all_votes_of_few_samples(self, num_classes, n):
        """A row is possible if and only if some votes of n samples give it."""
        possible = set()
        for votes in itertools.product(range(n + 1), repeat=num_classes + 1):
            if sum(votes) != n:
                continue
            for selected in range(num_classes + 1):
                rival = max(v for i, v in enumerate(votes) if i != selected)
                row = (votes[selected], rival, votes[-1])
                possible |= {(*row, True), (*row, selected == num_classes)}
        grid = list(itertools.product(range(-1, n + 2), repeat=3))
        count, rival, invalid = np.array(grid).T
        for abstains in (False, True):
            run = _run(
                count=count,
                runner_up_count=rival,
                num_invalid=invalid,
                num_estimation=n,
                num_classes=num_classes,
                predict=-int(abstains),
            )
            expected = [(*row, abstains) not in possible for row in grid]
            np.testing.assert_array_equal(_wrong(evidence.counts(run)), expected)

    def test_absurd_counts_do_not_overflow(self):
        huge = 2**62
        run = _run(
            count=huge,
            runner_up_count=huge,
            num_invalid=huge,
            num_estimation=huge,
            num_classes=huge,
        )
        self.assertTrue(_wrong(evidence.counts(run)).all())


class SoftVotesTest(absltest.TestCase):
    def test_no_softmax_probabilities_are_suspected(self):
        """Also those that are as large as the hard votes allow."""
        rng = np.random.default_rng(0)
        n = 400
        bets = np.asarray(moments.SOFT_BETS, np.float64)
        rows = []
        for share, sharpness in itertools.product((0.5, 0.9, 1.0), (0.0, 0.7, 1.0)):
            wins = rng.uniform(size=n) < share
            low = np.where(wins, 0.51, 0.0)
            high = np.where(wins, 1.0, 0.5)
            soft = low + sharpness * (high - low)
            sums = np.log1p(-np.outer(1 - soft, bets)).sum(axis=0)
            lower = smoothing.bounded_mean_lower(
                sums, bets, num_samples=n, alpha=0.0005
            )
            rows.append((int(wins.sum()), float(lower)))
        count, lower = np.array(rows).T
        kept = {"count": count.astype(int), "num_estimation": n, "num_invalid": 0}
        run = _run(p_lower=lower, **kept)
        self.assertFalse(_wrong(evidence.soft_votes(run)).any())
        # No mean that the votes allow has a bound above its own value.
        most = (n + kept["count"]) / (2 * n)
        run = _run(p_lower=np.minimum(most, 1), **kept)
        self.assertTrue(_wrong(evidence.soft_votes(run)).all())


class GradientsTest(parameterized.TestCase):
    @parameterized.parameters("l1", "l1.5", "l2", "l3", "linf", "subspace:red")
    def test_no_gradient_is_suspected(self, norm):
        """Not even the longest, along an axis or along the diagonal."""
        dim, p_lower = 16, 0.9
        longest = 0.17549833193248685  # density of the normal quantile of 0.9
        rng = np.random.default_rng(0)
        vectors = [np.eye(dim)[0], np.ones(dim), *rng.normal(size=(20, dim))]
        m = np.stack([v / np.linalg.norm(v) for v in vectors]) * longest
        q = 2.0
        if norms.subspace_name(norm) is None:
            q = norms.dual_exponent(norms.exponent(norm))
        upper = np.linalg.norm(m, ord=q, axis=1)
        lower = np.full(len(m), longest)
        if norms.subspace_name(norm) is not None:
            upper, lower = m[:, 0], np.linalg.norm(m[:, 1:], axis=1)
            upper = np.abs(upper)

        def wrong(upper, lower):
            run = _run(
                dim=dim,
                p_lower=p_lower,
                norm=norm,
                **{f"dual_upper_{norm}": upper, f"length_lower_{norm}": lower},
            )
            return _wrong(evidence.gradients(run))

        self.assertFalse(wrong(upper, lower).any())
        limit = longest * norms.l2_circumradius(norm, dim)
        self.assertTrue(wrong(np.full(3, 1.001 * limit), lower[:3]).all())
        self.assertTrue(wrong(upper, np.full(len(m), 1.001 * longest)).all())
        self.assertTrue(wrong(-upper - 1e-9, lower).all())
        if norm != "subspace:red":  # shorter than the shortest of this length
            least = upper.min() if norm in ("l1", "l1.5") else longest
            self.assertTrue(wrong(np.full(3, 0.999 * least), lower[:3]).all())


_NORMS = ("l2", "l1", "linf", "l1.5", "l3", "subspace:top")


def _dual(vectors, norm):
    """Dual norms of vectors `[n, d]`, in a subspace of the first half of them."""
    if norm == "subspace:top":
        return np.linalg.norm(vectors[:, : vectors.shape[1] // 2], axis=1)
    return np.linalg.norm(vectors, ord=_dual_exponent(norm), axis=1)


def _dual_exponent(norm):
    return norms.dual_exponent(norms.exponent(norm))


def _of_lengths(lengths, norm):
    """The estimate of a norm from those of l2, l1, linf and the subspace."""
    if norm in lengths:
        return lengths[norm]
    q = _dual_exponent(norm)  # Lyapunov's inequality
    if q > 2:
        return lengths["l2"] ** (2 / q) * lengths["l1"] ** (1 - 2 / q)
    return lengths["linf"] ** (2 / q - 1) * lengths["l2"] ** (2 - 2 / q)


class EstimatesTest(parameterized.TestCase):
    """Estimates of dual norms, from samples of half-spaces."""

    def _wrong(self, upper, estimates, **columns):
        named = {f"radius_{norm}": 0.0 for norm in _NORMS[1:]}
        named |= {f"dual_upper_{norm}": value for norm, value in upper.items()}
        named |= {f"length_lower_{norm}": 0.0 for norm in _NORMS}
        named |= {f"dual_norm_{norm}": value for norm, value in estimates.items()}
        return _wrong(evidence.gradients(_run(**columns, **named)))

    @parameterized.parameters((16, 150), (400, 150), (64, 4000))
    def test_no_estimate_of_samples_is_suspected(self, dim, n):
        """Even where noise makes them larger than all gradients, as l1 norms do."""
        p_lower, threshold, size = 0.9, 1.2815515655446004, 0.17549833193248685
        rng = np.random.default_rng(0)
        directions = [np.eye(dim)[0], np.ones(dim), *rng.normal(size=(6, dim))]
        w = np.stack([v / np.linalg.norm(v) for v in directions])
        z = rng.normal(size=(len(w), n, dim))
        s = np.einsum("knd,kd->kn", z, w) > threshold  # the other class
        is_odd = (np.arange(n) // 128) % 2 == 1
        x, y = (
            -np.einsum("kn,knd->kd", s[:, half], z[:, half]) / half.sum()
            for half in (~is_odd, is_odd)
        )
        mean = -np.einsum("kn,knd->kd", s, z) / n
        half = dim // 2
        lengths = {
            "l2": np.sqrt(np.maximum((x * y).sum(1), 0)),
            "l1": np.abs(mean).max(axis=1),
            "linf": np.abs(mean).sum(axis=1),
            "subspace:top": np.sqrt(np.maximum((x * y)[:, :half].sum(1), 0)),
        }
        upper = {norm: _dual(size * w, norm) for norm in _NORMS}
        estimates = {norm: _of_lengths(lengths, norm) for norm in _NORMS}
        self.assertTrue((estimates["linf"] > upper["linf"]).any())
        how = {"dim": dim, "num_estimation": n, "p_lower": p_lower}
        self.assertFalse(self._wrong(upper, estimates, **how).any())
        for norm in _NORMS:
            forged = estimates | {norm: estimates[norm] + 2.0 * dim}
            self.assertTrue(self._wrong(upper, forged, **how).all(), norm)

    def test_estimates_are_norms_of_one_vector(self):
        """Rows of a vector that reaches a limit, with one norm moved beyond it."""
        dim = 16
        axis, diagonal = np.eye(dim)[:1] / 10, np.ones((1, dim)) / 40
        block = (np.arange(dim)[None] < 4) / 20
        how = {"dim": dim, "num_estimation": 256, "p_lower": 0.9}
        upper = dict.fromkeys(_NORMS, 0.1)
        for vector, norm, factor in (
            (axis, "linf", 0.99),
            (axis, "l2", 1.01),
            (axis, "subspace:top", 1.01),
            (diagonal, "linf", 1.01),
            (diagonal, "l1", 0.99),
            (diagonal, "l2", 1.01),
            (block, "l2", 1.01),
            (block, "l1", 0.99),
            (block, "linf", 0.99),
        ):
            sound = {name: _dual(vector, name) for name in _NORMS}
            self.assertFalse(self._wrong(upper, sound, **how).any())
            forged = sound | {norm: factor * sound[norm]}
            self.assertTrue(self._wrong(upper, forged, **how).all(), (norm, factor))


if __name__ == "__main__":
    absltest.main()
