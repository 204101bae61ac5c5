"""Probes against scikit-learn, SciPy, exact rationals and sampled shifts."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, special, stats

from robustjax import probes

_robust_loss = jax.jit(probes.robust_loss)
_loss_and_slope = jax.jit(jax.value_and_grad(probes.robust_loss))


_fit = jax.jit(probes.linear_probe, static_argnames="num_classes")


@jax.jit
def _robust_fits(several_x, y, penalties, epsilons):
    """Robust probes of three classes, with their losses and derivatives."""

    def fit(x, l2, epsilon):
        found = probes.linear_probe(x, y, num_classes=3, l2=l2, epsilon=epsilon)
        loss = functools.partial(probes.robust_loss, epsilon=epsilon)
        return found, *jax.value_and_grad(loss)(found.probe, x, y)

    return jax.vmap(fit)(several_x, penalties, epsilons)


@functools.partial(jax.jit, static_argnames="k")
def _ridges(several_x, y, l2, *, k):
    """Ridge probes in several dtypes."""
    options = dict(num_classes=k, l2=l2, method="ridge")
    return [probes.linear_probe(x, y, **options) for x in several_x]


def _data(n, p, k):
    rng, y = np.random.default_rng(0), np.arange(n) % k
    return rng.normal(size=(n, p)) + rng.normal(size=(k, p))[y], y


def _probe(p, k):
    rng = np.random.default_rng(1)
    return probes.LinearProbe(rng.normal(size=(p, k)), rng.normal(size=k))


def _loss_by_pairs(weight, bias, x, y, epsilon):
    apart = weight[:, None] - weight[:, :, None]  # [p, label, other class]
    worst = bias - bias[:, None] + epsilon * np.linalg.norm(apart, axis=0)
    gaps = np.einsum("np,pno->no", x, apart[:, y]) + worst[y]
    return special.logsumexp(gaps, axis=1).mean()


class LinearProbeTest(parameterized.TestCase):
    """The first three tests need one compiled program of each kind."""

    @pytest.mark.slow
    def test_logistic_is_that_of_scikit_learn(self):
        x, y = _data(60, 3, 2)
        x = 100 + x * [1, 10, 0.1]
        for l2 in (1e-3, 0.1, 3.0):
            with jax.enable_x64(True):
                fit = probes.linear_probe(x, y, num_classes=2, l2=l2, tolerance=1e-9)
            self._check_logistic(fit, x, y, l2)
        x, y = _data(30, 2, 3)
        with jax.enable_x64(True):
            fit = _fit(x, y, num_classes=3, l2=0.02, epsilon=0.0, tolerance=1e-9)
        self._check_logistic(fit, x, y, 0.02)

    def _check_logistic(self, fit, x, y, l2):
        from sklearn import linear_model  # slow to import: not at collection

        self.assertTrue(fit.is_converged)
        halves = 2 if max(y) == 1 else 1  # of the weights, in one logit
        own, c = x - x.mean(axis=0), halves / (len(x) * l2)
        model = linear_model.LogisticRegression(C=c, tol=1e-10, solver="newton-cg")
        shares = model.fit(own, y).predict_proba(own)
        logits = x @ np.asarray(fit.probe.weight) + np.asarray(fit.probe.bias)
        np.testing.assert_allclose(special.softmax(logits, 1), shares, atol=1e-4)
        value = -np.log(shares[np.arange(len(x)), y]).mean()
        value += l2 / 2 * (model.coef_**2).sum() / halves
        np.testing.assert_allclose(fit.loss, value, rtol=1e-7)

    def test_robust_minimum_is_that_of_scipy(self):
        x, y = _data(30, 2, 3)

        def loss(v):
            value = _loss_by_pairs(v[:6].reshape(2, 3), v[6:], x, y, 0.4)
            return value + 0.01 * (v[:6] ** 2).sum()

        best = optimize.minimize(loss, _probe(3, 3).weight.ravel(), method="BFGS")
        with jax.enable_x64(True):
            fit = _fit(x, y, num_classes=3, l2=0.02, epsilon=0.4, tolerance=1e-9)
        own = loss(np.concatenate([np.ravel(v) for v in fit.probe]))
        self.assertTrue(fit.is_converged)
        self.assertBetween(own - best.fun, -1e-9, 1e-5)
        self.assertBetween(float(fit.loss) - own, 0, 1e-5)  # smoothed upwards
        weight = best.x[:6].reshape(2, 3)
        np.testing.assert_allclose(fit.probe.weight, weight, atol=2e-3)

    def test_says_where_it_did_not_converge(self):
        x, y = _data(60, 3, 2)
        options = dict(num_classes=2, max_steps=1, tolerance=1e-9)
        for own in (x, np.where(x > 1, np.nan, x)):
            with jax.enable_x64(True), pytest.warns(UserWarning, match="max_steps"):
                fit = probes.linear_probe(own, y, **options)
            self.assertEqual((bool(fit.is_converged), int(fit.num_steps)), (False, 1))

    @pytest.mark.slow
    def test_far_from_zero_and_with_rows_to_leave_out(self):
        x, y = _data(40, 3, 3)
        padded = np.concatenate([x, np.full((2, 3), np.nan)]).astype(np.float32)
        labels, penalties, epsilons = (
            np.append(y, [-1, 3]),
            [0.01, 0.01, 0.5],
            [0.2] * 3,
        )
        several = np.stack([padded, padded + 1e4, padded])
        found = _robust_fits(
            several, labels, np.float32(penalties), np.float32(epsilons)
        )
        (near, loss, slope), (far, far_loss, _), (small, small_loss, small_slope) = (
            jax.tree.map(lambda v, i=i: np.asarray(v)[i], found) for i in range(3)
        )
        self.assertEqual(near.probe.weight.dtype, np.float32)
        for fit, own_loss, own_slope, l2, epsilon in (
            (near, loss, slope, 0.01, 0.2),
            (small, small_loss, small_slope, 0.5, 0.2),
        ):
            weight, bias = map(np.float64, fit.probe)
            expected = _loss_by_pairs(weight, bias, x, y, epsilon)
            np.testing.assert_allclose(own_loss, expected, rtol=1e-5)
            np.testing.assert_allclose(own_slope.weight, -l2 * weight, atol=1e-3)
        np.testing.assert_allclose(far_loss, loss, rtol=1e-2)
        np.testing.assert_allclose(far.loss, near.loss, rtol=1e-3)
        np.testing.assert_allclose(far.probe.weight, near.probe.weight, atol=1e-2)
        self.assertTrue(found[0].is_converged.all())

    @parameterized.parameters(2, 5)
    def test_robust_loss_is_not_below_the_worst_sampled_shift(self, k):
        (x, y), probe, turn = _data(20, 2, k), _probe(2, k), np.linspace(0, 6.3, 1000)
        shifts = 0.5 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        logits = (x[:, None] + shifts[None]) @ probe.weight + probe.bias
        losses = special.logsumexp(logits, axis=2) - logits[np.arange(20), :, y]
        worst = losses.max(axis=1).mean()
        for is_double, rtol in ((True, 1e-12), (False, 1e-5)):
            with jax.enable_x64(is_double):
                found = float(_robust_loss(probe, x, y, epsilon=0.5))
            expected = _loss_by_pairs(*probe, x, y, 0.5)
            np.testing.assert_allclose(found, expected, rtol=rtol)
            self.assertGreaterEqual(found, worst - rtol)
        if k == 2:
            np.testing.assert_allclose(found, worst, rtol=1e-5)
            flat = probes.LinearProbe(np.zeros((2, k)), np.zeros(k))  # equal weights
            _, slope = _loss_and_slope(flat, x, y, epsilon=0.5)
            self.assertTrue(np.isfinite(slope.weight).all())

    @pytest.mark.newest
    def test_ridge_is_that_of_scikit_learn(self):
        for n, p, l2 in ((50, 7, 0.1), (20, 40, 1e-9), (50, 7, 0.0)):
            with self.subTest(f"{n} {p} {l2}"):
                self._check_ridge(n, p, l2)

    def _check_ridge(self, n, p, l2):
        from sklearn import linear_model

        x, y = _data(n, p, 3)
        if l2 == 0:  # the least weights of many
            x[:, 5], x[:, 6] = x[:, 0], 1
        ridge = linear_model.Ridge(alpha=n * l2, solver="svd")
        model = ridge if l2 > 0 else linear_model.LinearRegression()
        model.fit(x, np.eye(3)[y])
        half = 0.5 * ((model.predict(x) - np.eye(3)[y]) ** 2).sum(axis=1).mean()
        loss = half + l2 / 2 * (model.coef_**2).sum()
        with jax.enable_x64(True):
            found = _ridges([x.astype(np.float32), x], y, l2, k=3)
        for fit, dtype, atol in zip(found, "fd", (1e-4, 1e-6), strict=True):
            self.assertEqual(fit.probe.weight.dtype, np.dtype(dtype))
            self.assertTrue(fit.is_converged)
            np.testing.assert_allclose(fit.probe.weight, model.coef_.T, atol=atol)
            np.testing.assert_allclose(fit.probe.bias, model.intercept_, atol=atol)
            np.testing.assert_allclose(fit.loss, loss, atol=atol)

    def test_labels_of_few_bits(self):
        x, y = _data(600, 2, 256)
        options = dict(num_classes=300, method="ridge")
        wide = probes.linear_probe(x, y, **options)
        narrow = probes.linear_probe(x, y.astype(np.uint8), **options)
        self.assertEqual(wide.loss, narrow.loss)


class RadiusTest(parameterized.TestCase):
    def test_not_above_the_exact_distance(self):
        rng, exact = np.random.default_rng(0), np.vectorize(Fraction, otypes=[object])
        for trial in range(500):
            p, k = rng.integers(1, 5), rng.integers(2, 5)
            weight, bias, x = (rng.normal(size=size) for size in ((p, k), k, (1, p)))
            if trial % 5 == 1:  # ties
                weight, bias, x = (np.round(v) for v in (weight, bias, x))
            elif trial % 5 == 2:  # cancellation
                weight, x = 1e3 + 1e-9 * weight, 1e3 * x
            elif trial % 5 == 3:
                weight, x = (v * 10.0 ** rng.integers(-300, 150) for v in (weight, x))
            elif trial % 5 == 4:  # subnormal weights, or differences that overflow
                weight, x = (5e-324, 1e308)[trial % 2] * np.sign(weight), 1e300 * x
                bias, x = 0 * bias, x * (1, 1e-301)[trial % 2]
            probe = probes.LinearProbe(weight, bias)
            found = probes.certified_feature_radius(probe, x, [0])[0]
            weight = exact(weight)
            logits = exact(x[0]) @ weight + exact(bias)
            gaps = logits[0] - logits[1:]
            squares = ((weight[:, :1] - weight[:, 1:]) ** 2).sum(axis=0)
            if min(gaps) <= 0 or np.isinf(found):
                self.assertEqual(found, 0 if min(gaps) <= 0 else np.inf)
                self.assertTrue(found == 0 or not any(squares))
                continue
            self.assertTrue(all(Fraction(found) ** 2 * squares <= gaps**2))
            if trial % 5 == 0:
                nearest = float(min(gaps**2 / squares)) ** 0.5
                np.testing.assert_allclose(found, nearest, rtol=1e-9, atol=1e-13)

    def test_is_the_closest_point_of_another_class(self):
        (x, _), probe = _data(12, 3, 4), _probe(3, 4)
        y = (x @ probe.weight + probe.bias).argmax(axis=1)
        radii = probes.certified_feature_radius(probe, x, y)
        for row, own, radius in zip(x, y, radii, strict=True):
            apart = np.delete(probe.weight - probe.weight[:, [own]], own, axis=1).T
            least = np.delete(probe.bias[own] - probe.bias, own) - apart @ row
            lengths = []
            for a, b in zip(apart, least, strict=True):
                rule = optimize.LinearConstraint(a, lb=b)
                found = optimize.minimize(lambda d: d @ d, a, constraints=rule)
                lengths.append(np.linalg.norm(found.x))
            np.testing.assert_allclose(radius, min(lengths), rtol=1e-5)

    def test_edge_cases_and_accuracy(self):
        probe = probes.LinearProbe(jnp.array([[0.0, 1, 1]]), jnp.array([0.0, 1, 0]))
        x = jnp.array([[1.0], [-3.0], [-1.0], [np.nan], [np.inf]])
        found = probes.certified_feature_radius(probe, x, [1, 1, 1, 1, 1])
        np.testing.assert_allclose(found, [2, 0, 0, 0, 0], rtol=1e-12)
        alone = probes.LinearProbe(probe.weight[:, 1:], probe.bias[1:])
        found = probes.certified_feature_radius(alone, x[:2], [0, 1])
        np.testing.assert_array_equal(found, [np.inf, 0])
        (x, y), probe = _data(300, 4, 3), _probe(4, 3)
        shares = probes.robust_probe_accuracy(probe, x, y, epsilons=[[0, 0.5], [1, 9]])
        radius = probes.certified_feature_radius(probe, x, y)
        right = (x @ probe.weight + probe.bias).argmax(axis=1) == y
        expected = [[right.mean(), (radius > 0.5).mean()], [(radius > 1).mean(), 0]]
        np.testing.assert_array_equal(shares, expected)


class NeighborsTest(parameterized.TestCase):
    @parameterized.parameters(("l2", 1024), ("l2", 7), ("cosine", 32))
    def test_is_that_of_scikit_learn(self, metric, block_size):
        from sklearn import neighbors

        x, y = _data(200, 5, 4)
        options = dict(num_neighbors=7, metric=metric, block_size=block_size)
        for far in (0, 1000) if metric == "l2" else (0,):
            own = np.round(x, 2)[:150] + far, y[:150], np.round(x, 2)[150:] + far
            found = probes.nearest_neighbors(*own, num_classes=4, **options)
            name = "euclidean" if metric == "l2" else metric
            model = neighbors.KNeighborsClassifier(7, metric=name, algorithm="brute")
            expected = model.fit(*own[:2]).predict(own[2])
            np.testing.assert_array_equal(found, expected)

    def test_edge_cases(self):
        x = np.array([[0.0, 0], [2, 0], [2, 0], [1, 1], [np.nan, 1], [1, 0], [-1, 0]])
        queries = [[1.0, 0], [2, 0], [np.inf, 0], [0, np.nan], [0, 0], [-9, 0]]

        def votes(y, metric, count):
            return probes.nearest_neighbors(
                x, y, queries, num_classes=3, num_neighbors=count, metric=metric
            )

        y = np.array([2, 1, 0, 1, 0, 3, -1])  # the last two are traced, thus no classes
        found = jax.jit(
            lambda y: [
                votes(y, "l2", 1),
                votes(y, "cosine", 1),
                votes(y, "l2", 3),
                votes(0 * y + 7, "l2", 3),
            ]
        )(y)
        np.testing.assert_array_equal(found[0], [2, 1, -1, -1, 2, 2])
        np.testing.assert_array_equal(found[1], [1, 1, -1, -1, 2, 2])
        np.testing.assert_array_equal(found[2], [0, 1, -1, -1, 1, 1])
        np.testing.assert_array_equal(found[3], [-1] * 6)


class CorrelationsTest(parameterized.TestCase):
    def test_are_those_of_scipy(self):
        rng = np.random.default_rng(0)
        for n in (4, 5, 9, 40):
            x, y = rng.normal(size=(2, n)) + rng.normal(size=n)
            x = np.round(2 * x) / 2  # with ties
            found = probes.correlations(x, y, confidence=0.9)
            expected = stats.pearsonr(x, y)
            self.assertEqual(found.pearson.num_pairs, n)
            ours = (*found.pearson[:3], found.spearman.value, found.kendall.value)
            interval = expected.confidence_interval(0.9)
            ranks = stats.spearmanr(x, y).statistic, stats.kendalltau(x, y).statistic
            np.testing.assert_allclose(ours, [expected.statistic, *interval, *ranks])
            for unit in (2.0**1022 / abs(x).max(), 2.0**-1060):  # no overflow, no loss
                other = probes.correlations(unit * x, y, confidence=0.9)
                np.testing.assert_allclose(other, found, rtol=1e-4)
            other = probes.correlations(2.0**52 + 2 * x, y, confidence=0.9)
            np.testing.assert_allclose(other, found, rtol=1e-12)

    def test_intervals_cover(self):
        rng, r, hits = np.random.default_rng(0), 0.6, np.zeros(3)
        rho, tau = 6 / np.pi * np.arcsin(r / 2), 2 / np.pi * np.arcsin(r)
        for _ in range(1500):
            x, noise = rng.normal(size=(2, 20))
            found = probes.correlations(x, r * x + np.sqrt(1 - r**2) * noise)
            pairs = zip(found, (r, rho, tau), strict=True)
            hits += [own.lower <= value <= own.upper for own, value in pairs]
        np.testing.assert_allclose(hits / 1500, 0.95, atol=0.02)

    def test_edge_cases(self):
        for values in ([1.0], [2, 2, 2, 2, 2], []):
            for found in probes.correlations(values, np.arange(len(values))):
                self.assertTrue(np.isnan(found[:3]).all())
        found = probes.correlations([1, 2, 3], [3, 1, 4])
        self.assertTrue(all(np.isnan(c.lower) and c.value > 0 for c in found))
        found = probes.correlations([1, 2, 3, 5], [3, 1, 4, 5])
        self.assertEqual(found.kendall[1:3], (-1, 1))
        x, swapped = np.arange(8.0), np.array([1, 0, 2, 3, 4, 5, 6, 7])
        perfect, nearly = probes.correlations(x, x), probes.correlations(x, swapped)
        self.assertEqual(perfect.pearson[:3], (1, 1, 1))
        for one, other in zip(perfect[1:], nearly[1:], strict=True):
            self.assertEqual((one.value, one.upper), (1, 1))
            self.assertBetween(one.lower, other.lower, 1 - 1e-3)
        mirrored, (_, lower, _, _) = probes.correlations(x, -x).kendall, perfect.kendall
        np.testing.assert_allclose(mirrored[:3], (-1, -1, -lower))


_X, _Y = np.ones((4, 2)), np.arange(4) % 2
_PROBE = probes.LinearProbe(np.ones((2, 3)), np.ones(3))
_ONE_CLASS = {"probe": probes.LinearProbe(np.ones((2, 1)), np.ones(1))}
_ARGUMENTS = {
    "linear_probe": dict(features=_X, labels=_Y, num_classes=2),
    "robust_loss": dict(probe=_PROBE, features=_X, labels=_Y),
    "certified_feature_radius": dict(probe=_PROBE, features=_X, labels=_Y),
    "nearest_neighbors": dict(features=_X, labels=_Y, queries=_X, num_classes=2),
    "correlations": dict(scores=[1, 2], accuracies=[1, 2]),
}


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        ("linear_probe", r"features \[n, p\]", {"features": np.ones((4, 0))}),
        ("linear_probe", r"labels \[n\]", {"labels": _Y[:3]}),
        ("linear_probe", r"labels in \[0, 2\), got 2", {"labels": _Y + 1}),
        ("linear_probe", "l2 to be one number", {"l2": np.ones(2)}),
        ("linear_probe", "epsilon = 0 for", {"method": "ridge", "epsilon": 0.1}),
        ("robust_loss", r"weight \[p, k\]", {"features": _X[:, :1]}),
        ("certified_feature_radius", r"weight \[p, 3\]", {"features": _X[:0]}),
        ("certified_feature_radius", r"bias \[k\] with k >= 2, .*\(1,\)", _ONE_CLASS),
        ("certified_feature_radius", r"in \[0, 3\), got 3", {"labels": _Y + 2}),
        ("certified_feature_radius", r"labels \[n\] for", {"labels": _Y[:3]}),
        ("nearest_neighbors", r"features \[n, p\]", {"features": np.ones((4, 0))}),
        ("nearest_neighbors", r"got shape \(4, 1\)", {"queries": _X[:, :1]}),
        ("nearest_neighbors", "num_neighbors <= 4, .* 5", {"num_neighbors": 5}),
        ("correlations", "scores to be finite", {"scores": [np.nan, 1]}),
        ("correlations", r"got \(2,\) and \(3,\)", {"accuracies": [1, 2, 3]}),
        ("correlations", r"confidence in \(0, 1\)", {"confidence": 1.0}),
    )
    def test_names_what_is_wrong(self, name, text, changed):
        with self.assertRaisesRegex(ValueError, text):
            getattr(probes, name)(**(_ARGUMENTS[name] | changed))


if __name__ == "__main__":
    absltest.main()
