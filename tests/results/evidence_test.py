"""What counts and bounds of gradients can be, against all that there are."""

import itertools

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from robustjax import norms, smoothing
from robustjax.results import logs
from robustjax.results.checks import evidence
from robustjax.results.checks import run as runs
from robustjax.smoothing import moments


def _run(**columns):
    """A run of rows with these columns, of one length, and others that are plain."""
    size = max(np.size(values) for values in columns.values())
    plain = {"order": 1, "failed": 0, "predict": 0, "alpha": 0.001, "bound": "betting"}
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
                count=count, runner_up_count=rival, num_invalid=invalid,
                num_estimation=n, num_classes=num_classes, predict=-int(abstains),
            )  # fmt: skip
            expected = [(*row, abstains) not in possible for row in grid]
            np.testing.assert_array_equal(_wrong(evidence.counts(run)), expected)

    def test_absurd_counts_do_not_overflow(self):
        huge = 2**62
        run = _run(
            count=huge, runner_up_count=huge, num_invalid=huge, num_estimation=huge,
            num_classes=huge,
        )  # fmt: skip
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
                dim=dim, p_lower=p_lower, norm=norm,
                **{f"dual_upper_{norm}": upper, f"length_lower_{norm}": lower},
            )  # fmt: skip
            return _wrong(evidence.gradients(run))

        self.assertFalse(wrong(upper, lower).any())
        limit = longest * norms.l2_circumradius(norm, dim)
        self.assertTrue(wrong(np.full(3, 1.001 * limit), lower[:3]).all())
        self.assertTrue(wrong(upper, np.full(len(m), 1.001 * longest)).all())
        self.assertTrue(wrong(-upper - 1e-9, lower).all())
        if norm != "subspace:red":  # shorter than the shortest of this length
            least = upper.min() if norm in ("l1", "l1.5") else longest
            self.assertTrue(wrong(np.full(3, 0.999 * least), lower[:3]).all())


if __name__ == "__main__":
    absltest.main()
