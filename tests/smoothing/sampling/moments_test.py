"""First-order moments against a plain float64 loop; what they may not depend on."""

import itertools
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import special, stats

from robustjax import smoothing
from robustjax.smoothing.sampling import moments, subspaces, vote_counts

_SHAPE, _DIM, _CLASSES = (5, 4, 2), 40, 6
_SIGMA = 0.5
_KEY = jax.random.key(11)
_WEIGHT = jax.random.normal(jax.random.key(5), (_DIM, _CLASSES), "float32")
_X = jax.random.uniform(jax.random.key(6), (3, *_SHAPE), "float32")
_SELECTED, _BASELINE = np.array([0, 4, 2]), np.array([0.5, 1.0, 1.0])
_BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(_DIM, 7)))[0]
_PROJECTORS = (
    np.diag(np.tile([1.0, 0.0], 20)),  # channel 0
    _BASIS @ _BASIS.T,
    np.eye(_DIM),
)
_SUBSPACES = (
    subspaces.named_subspace("channel0", shape=_SHAPE),
    subspaces.subspace(_BASIS, shape=_SHAPE),
    subspaces.subspace(np.ones(_SHAPE), shape=_SHAPE),
)
_SUMS = ("misses_even", "misses_odd", "sum_even", "sum_odd", "sum_squares")
_PRECISION = 1e-6  # of the sum of the sizes of the terms


def _linear(weight: jax.Array, limit: float, x: jax.Array) -> jax.Array:
    """Linear logits, one of them not finite where one of three pixels is above a limit.

    A softmax of the others is finite where that one is minus infinity.
    """
    bad = jnp.where(x[:, 0, 0, 0] > limit, jnp.nan, 0.0)
    bad = jnp.where(x[:, 0, 1, 0] > limit, jnp.inf, bad)
    bad = jnp.where(x[:, 0, 2, 0] > limit, -jnp.inf, bad)
    return (x.reshape(len(x), -1) @ weight).at[:, 3].add(bad)


_APPLY = jax.tree_util.Partial(_linear, _WEIGHT, np.inf)
_APPLY_WITH_BAD_LOGITS = jax.tree_util.Partial(_linear, _WEIGHT, 1.0)


def _moments(x=_X, apply_fn=_APPLY, *, key=_KEY, num_samples=1100, **options):
    defaults = {
        "sigma": _SIGMA,
        "num_classes": _CLASSES,
        "selected": _SELECTED[: len(x)],
        "baseline": _BASELINE[: len(x)],
        "subspaces": _SUBSPACES if x.shape[1:] == _SHAPE else (),
    }
    return jax.tree.map(
        np.asarray,
        moments.class_moments(
            key, apply_fn, x, num_samples=num_samples, **defaults | options
        ),
    )


def _mesh(num_devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (num_devices,),
        ("samples",),
        devices=jax.devices()[:num_devices],
        axis_types=(jax.sharding.AxisType.Auto,),
    )


def _outcomes(row, num_samples, *, votes, bad):
    """Noise and outcome of every sample in float64, and which blocks are odd."""
    num_blocks = -(-num_samples // 128)
    draws = [
        vote_counts.noise_block(_KEY, row, b, shape=_SHAPE) for b in range(num_blocks)
    ]
    z = np.concatenate([np.asarray(d, np.float64) for d in draws])[:num_samples]
    stimuli = np.asarray(_X[row], np.float64) + _SIGMA * z
    logits = stimuli.reshape(num_samples, -1) @ np.asarray(_WEIGHT, np.float64)
    if votes == "hard":
        f = np.argmax(logits, axis=1) == _SELECTED[row]
    else:
        f = special.softmax(logits, axis=1)[:, _SELECTED[row]]
    if bad:
        f = np.where((stimuli[:, 0, :3, 0] > 1).any(axis=1), 0.0, f)
    is_odd = np.arange(num_samples) // 128 % 2 == 1
    return z.reshape(num_samples, -1), f.astype(np.float64), is_odd


def _loop(num_samples, *, votes="hard", bad=False, log_bets=None):
    """Sums by definition, and the sums of the sizes of their terms, per example."""
    rows = []
    for row in range(len(_X)):
        z, f, is_odd = _outcomes(row, num_samples, votes=votes, bad=bad)
        e, sz = 1 - f, (f - _BASELINE[row])[:, None] * z
        y = sz[is_odd].sum(axis=0)
        directions = [y]
        for projector in _PROJECTORS:
            directions += [projector @ y, y - projector @ y]
        directions = [v / np.linalg.norm(v) if v.any() else v for v in directions]
        terms = {
            "misses_even": e[~is_odd],
            "misses_odd": e[is_odd],
            "sum_even": sz[~is_odd].reshape(-1, *_SHAPE),
            "sum_odd": sz[is_odd].reshape(-1, *_SHAPE),
            "sum_squares": (sz**2).reshape(-1, *_SHAPE),
            "soft_log_wealth": np.log1p(-np.outer(e, moments.SOFT_BETS.astype(float))),
        }
        if log_bets is not None:
            along = z[~is_odd] @ np.transpose(directions)
            assert np.abs(along).max() < 5  # truncation has a test of its own
            x = (f[~is_odd] - _BASELINE[row])[:, None] * along
            signed = np.stack([x, -x], axis=-1)[..., None]
            terms["log_wealth"] = np.log1p(signed * log_bets[row].astype(float))
        rows.append(terms)
    names = rows[0]
    sums = {n: np.stack([r[n].sum(axis=0) for r in rows]) for n in names}
    sizes = {n: np.stack([np.abs(r[n]).sum(axis=0) for r in rows]) for n in names}
    return sums, sizes


def _size(m: moments.Moments) -> dict[str, np.ndarray]:
    """Upper estimates of the sums of sizes, by the inequality of Cauchy-Schwarz."""
    num = (m.num_even + m.num_odd).astype(float)
    root = np.sqrt(m.sum_squares * num.reshape(-1, *[1] * (m.sum_squares.ndim - 1)))
    return {
        "misses_even": num,
        "misses_odd": num,
        "sum_even": root,
        "sum_odd": root,
        "sum_squares": m.sum_squares,
        "soft_log_wealth": np.abs(m.soft_log_wealth),
        "log_wealth": num[:, None, None, None] * m.bets[:, None, None],
    }


class LoopTest(parameterized.TestCase):
    @parameterized.parameters(
        (300, "hard", False),
        (1100, "hard", False),
        (300, "soft", False),
        (1100, "soft", False),
        (1100, "soft", True),
    )
    def test_sums_match_a_plain_loop(self, num_samples, votes, bad):
        actual = _moments(
            apply_fn=_APPLY_WITH_BAD_LOGITS if bad else _APPLY,
            num_samples=num_samples,
            votes=votes,
        )
        self.assertEqual(actual.log_wealth.shape, (3, 7, 2, 8))
        sums, sizes = _loop(num_samples, votes=votes, bad=bad, log_bets=actual.bets)
        names = [
            *_SUMS,
            "log_wealth",
            *(["soft_log_wealth"] if votes == "soft" else []),
        ]
        for name in names:
            value = getattr(actual, name)
            self.assertEqual(value.dtype, np.float32)
            error = np.abs(value - sums[name])
            self.assertLess(np.max(error / (sizes[name] + 1e-30)), _PRECISION, name)
        if votes == "hard":
            np.testing.assert_array_equal(actual.misses_even, sums["misses_even"])
            np.testing.assert_array_equal(actual.soft_log_wealth, 0)
        np.testing.assert_array_equal(actual.log_wealth[:, 6], 0)  # nothing is left
        self.assertTrue((actual.log_wealth[:, :6] != 0).all())

    @parameterized.parameters((129, 128, 1), (300, 172, 128), (1100, 588, 512))
    def test_halves_are_even_and_odd_blocks(self, num_samples, num_even, num_odd):
        actual = _moments(num_samples=num_samples)
        np.testing.assert_array_equal(actual.num_even, num_even)
        np.testing.assert_array_equal(actual.num_odd, num_odd)

    @parameterized.parameters(129, 256, 300, 1100)
    def test_counts_are_those_of_class_counts(self, num_samples):
        counts = smoothing.class_counts(
            _KEY,
            _APPLY_WITH_BAD_LOGITS,
            _X,
            sigma=_SIGMA,
            num_samples=num_samples,
            num_classes=_CLASSES,
        )
        hard = _moments(apply_fn=_APPLY_WITH_BAD_LOGITS, num_samples=num_samples)
        soft = _moments(
            apply_fn=_APPLY_WITH_BAD_LOGITS, num_samples=num_samples, votes="soft"
        )
        np.testing.assert_array_equal(hard.counts, counts)
        np.testing.assert_array_equal(soft.counts, counts)
        wins = np.take_along_axis(np.asarray(counts), _SELECTED[:, None], axis=1)
        misses = hard.misses_even + hard.misses_odd
        np.testing.assert_array_equal(num_samples - misses, wins[:, 0])

    def test_invalid_samples_can_be_the_selected_class(self):
        options = {"apply_fn": _APPLY_WITH_BAD_LOGITS, "selected": [_CLASSES] * 3}
        hard, soft = _moments(**options), _moments(votes="soft", **options)
        wins = 1100 - hard.misses_even - hard.misses_odd
        np.testing.assert_array_equal(wins, hard.counts[:, -1])
        self.assertTrue((wins > 100).all())
        np.testing.assert_array_equal(soft.misses_even, soft.num_even)

    def test_bets_follow_from_the_odd_half(self):
        """A grid around sqrt(2 l / (n s^2)), and never above 0.9 / max |x|."""
        for num_samples in (300, 1100, 8_000):
            actual = _moments(num_samples=num_samples)
            rate = (actual.misses_odd + 1) / (actual.num_odd + 2)
            high = np.minimum(rate * (1 + 2 * np.log(1 / rate)), 1)
            for row, baseline in enumerate(_BASELINE):
                low, top, cap = (
                    (rate[row], high[row], 0.18)
                    if baseline == 1
                    else (0.25, 0.25, 0.36)
                )
                ends = np.sqrt(20 / actual.num_even[row] / np.array([top, low]))
                grid = np.geomspace(0.7 * ends[0], 1.4 * ends[1], 8)
                expected = np.minimum(grid, cap)
                np.testing.assert_allclose(actual.bets[row], expected, rtol=1e-5)
            largest = actual.bets.max(axis=1) * 5 * _BASELINE
            self.assertTrue((largest <= 0.9 * (1 + 1e-6)).all())
        self.assertTrue((largest < 0.89).all())  # the cap was reached before only

    def test_long_projections_count_as_zero(self):
        """With the limit at 1 instead of 5, along one known direction."""

        def apply_fn(x):
            return jnp.stack([x[:, 0], 0.5 - x[:, 0]], axis=1)

        with mock.patch.object(moments, "MAX_PROJECTION", 1.0):
            actual = _moments(
                np.full((1, 1), 0.5, np.float32),
                apply_fn,
                num_classes=2,
                selected=[0],
                baseline=[0.5],
            )
        draws = [vote_counts.noise_block(_KEY, 0, b, shape=(1,)) for b in range(9)]
        z = np.concatenate(draws).astype(float).ravel()[:1100]
        z = z[np.arange(1100) // 128 % 2 == 0]
        x = np.where(np.abs(z) <= 1, np.where(0.5 + z / 2 >= 0.25, 0.5, -0.5) * z, 0)
        expected = np.log1p(np.outer(x, actual.bets[0].astype(float))).sum(axis=0)
        np.testing.assert_allclose(actual.log_wealth[0, 0, 0], expected, rtol=1e-5)

    @pytest.mark.newest
    def test_mean_is_the_gradient_of_a_half_space(self):
        """E[z f] = phi(t) w for f = 1 where <z, w> > -t, whatever the baseline."""
        w = np.array([0.6, -0.8, 0.0, 0.0], np.float32)

        def apply_fn(x):
            margin = (x - 0.5) @ w + _SIGMA * 1.2  # t = 1.2 at the center
            return jnp.stack([margin, -margin], axis=1)

        actual = _moments(
            np.full((2, 4), 0.5, np.float32),
            apply_fn,
            num_samples=40_000,
            num_classes=2,
            selected=[0, 0],
            baseline=[1.0, 0.5],
        )
        expected = np.tile(stats.norm.pdf(1.2) * w, (2, 1))
        spread = np.sqrt(actual.sum_squares / 40_000 / 20_000)
        self.assertLess(spread.max(), 0.005)
        for total, num in (
            (actual.sum_even, actual.num_even),
            (actual.sum_odd, actual.num_odd),
        ):
            deviation = np.abs(total / num[:, None] - expected)
            self.assertLess(np.max(deviation / spread), 4)
        self.assertGreater(spread[1, 2], 1.1 * spread[0, 2])  # few samples miss


class IndependenceTest(parameterized.TestCase):
    def _assert_equal(self, actual, expected, *, precision=_PRECISION):
        for name, size in _size(expected).items():
            error = np.abs(getattr(actual, name) - getattr(expected, name))
            self.assertLessEqual(np.max(error / (size + 1e-30)), precision, name)
        for name in ("counts", "num_even", "num_odd", "baseline", "selected"):
            np.testing.assert_array_equal(
                getattr(actual, name), getattr(expected, name)
            )
        np.testing.assert_allclose(actual.bets, expected.bets, rtol=1e-6)

    def test_sums_do_not_depend_on_the_chunk(self):
        actual = _moments(chunk_size=640, votes="soft")
        self._assert_equal(actual, _moments(votes="soft"))

    def test_sums_do_not_depend_on_the_devices(self):
        self._assert_equal(
            _moments(mesh=_mesh(4), votes="soft"), _moments(votes="soft")
        )

    @parameterized.parameters((1, True), (2, True), (3, True), (2, False))
    @pytest.mark.slow
    def test_sums_do_not_depend_on_any_number_of_devices(self, num_devices, with_bets):
        options = {"with_bets": with_bets, "num_samples": 3000}
        actual = _moments(mesh=_mesh(num_devices), **options)
        self._assert_equal(actual, _moments(**options))

    def test_sums_do_not_depend_on_the_batch(self):
        ids = np.array([7, 4_000_000_000, 0])
        together = _moments(example_ids=ids)
        for i in range(3):
            alone = _moments(
                _X[i : i + 1],
                example_ids=ids[i : i + 1],
                selected=_SELECTED[i : i + 1],
                baseline=_BASELINE[i : i + 1],
            )
            expected = jax.tree.map(lambda a, i=i: a[i : i + 1], together)
            self._assert_equal(alone, expected)

    def test_sums_do_not_depend_on_the_x64_flag(self):
        with jax.enable_x64(not jax.config.jax_enable_x64):
            actual = _moments()
        dtypes = {a.dtype for a in jax.tree.leaves(actual)}
        self.assertEqual(dtypes, {np.dtype("float32"), np.dtype("int32")})
        self._assert_equal(actual, _moments())

    def test_stages_add_up(self):
        options = {"votes": "soft", "with_bets": False}
        edges = (0, 512, 768, 1100)
        stages = [
            _moments(first_sample=first, num_samples=end, **options)
            for first, end in itertools.pairwise(edges)
        ]
        whole = _moments(**options)
        same = {n: getattr(whole, n) for n in ("bets", "baseline", "selected")}
        total = jax.tree.map(lambda *parts: sum(parts), *stages)._replace(**same)
        self._assert_equal(total, whole)
        np.testing.assert_array_equal(whole.bets, 0)
        np.testing.assert_array_equal(whole.log_wealth, 0)
        self.assertEqual(whole.log_wealth.shape, (3, 7, 2, 8))
        with_bets = _moments(votes="soft")
        zeros = {"bets": whole.bets, "log_wealth": whole.log_wealth}
        self._assert_equal(with_bets._replace(**zeros), whole)

    @pytest.mark.slow
    def test_works_under_jit_and_vmap(self):
        jitted = jax.jit(lambda key, x, selected, baseline: moments.class_moments(
            key, _APPLY, x, sigma=_SIGMA, num_samples=300, num_classes=_CLASSES,
            selected=selected, baseline=baseline, subspaces=_SUBSPACES,
        ))  # fmt: skip
        actual = jitted(_KEY, _X, _SELECTED, _BASELINE)
        actual = jax.tree.map(np.asarray, actual)
        self._assert_equal(actual, _moments(num_samples=300))
        keys = jax.random.split(_KEY, 2)
        batched = jax.vmap(jitted, in_axes=(0, None, None, None))
        batched = batched(keys, _X, _SELECTED, _BASELINE)
        second = jax.tree.map(lambda a: np.asarray(a[1]), batched)
        self._assert_equal(second, _moments(key=keys[1], num_samples=300))

    def test_no_examples(self):
        actual = _moments(_X[:0])
        self.assertEqual(actual.counts.shape, (0, _CLASSES + 1))
        self.assertEqual(actual.sum_odd.shape, (0, *_SHAPE))


class CompilationTest(absltest.TestCase):
    def test_one_trace_for_other_weights_samples_and_classes(self):
        chex.clear_trace_counter()

        @chex.assert_max_traces(n=1)
        def apply_fn(weight, x):
            return _linear(weight, np.inf, x)

        for scale in (1.0, 2.0):
            partial = jax.tree_util.Partial(apply_fn, scale * _WEIGHT)
            for first, num_samples in ((0, 300), (0, 1000), (512, 1000)):
                _moments(
                    apply_fn=partial,
                    num_samples=num_samples,
                    first_sample=first,
                    with_bets=False,
                    sigma=scale,
                    selected=np.array([1, 1, first // 256]),
                    baseline=np.array([1, 0.5 * scale, 1]),
                )

    def test_program_does_not_depend_on_the_number_of_samples(self):
        def program(num_samples):
            jaxpr = jax.make_jaxpr(lambda x: moments.class_moments(
                _KEY, _APPLY, x, sigma=_SIGMA, num_samples=num_samples,
                num_classes=_CLASSES, selected=_SELECTED, baseline=_BASELINE,
                subspaces=_SUBSPACES,
            ))(_X)  # fmt: skip
            self.assertIn(f"{num_samples}:i32[]", str(jaxpr))
            return str(jaxpr).replace(f"{num_samples}:i32[]", "number")

        self.assertEqual(program(12_347), program(123_470_011))

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_samples(self):
        def temporary(num_samples):
            function = jax.jit(lambda x: moments.class_moments(
                _KEY, _APPLY, x, sigma=_SIGMA, num_samples=num_samples,
                num_classes=_CLASSES, selected=_SELECTED, baseline=_BASELINE,
            ))  # fmt: skip
            return function.lower(_X).compile().memory_analysis().temp_size_in_bytes

        small, large = temporary(1000), temporary(100_000)
        self.assertGreater(small, 0)
        self.assertLessEqual(abs(large / small - 1), 0.05)


class RefusalTest(parameterized.TestCase):
    @parameterized.parameters(
        (dict(num_samples=128), "num_samples > 128"),
        (dict(num_samples=600, first_sample=512, with_bets=False), "num_samples > 640"),
        (dict(first_sample=512), "first_sample.*with_bets"),
        (dict(first_sample=128, with_bets=False), "first_sample.*256"),
        (dict(first_sample=1280, with_bets=False), "first_sample.*1280"),
        (dict(selected=[0, 1]), "selected"),
        (dict(selected=[0, 1, 7]), "selected"),
        (dict(selected=[0, 1, -1]), "selected"),
        (dict(selected=[0, 1, 1.5]), "selected"),
        (dict(selected=0), "selected"),
        (dict(baseline=[1.0, 0.5]), "baseline"),
        (dict(baseline=[1.0, 0.5, 0.0]), "baseline"),
        (dict(baseline=[1.0, 0.5, np.nan]), "baseline"),
        (dict(votes="firm"), "votes"),
        (dict(subspaces=("red",)), "subspace"),
        (dict(subspaces=(np.ones(40),)), "subspace"),
        (
            dict(subspaces=(subspaces.subspace(np.ones(39), shape=(39,)),)),
            "of 40 coordinates",
        ),
        (dict(chunk_size=100), "chunk_size"),
        (dict(chunk_size=5248), "chunk_size <= 5120 for moments, got 5248"),
        (dict(sigma=0.0), "sigma"),
        (dict(x=2 * _X), "x in"),
        (dict(apply_fn=lambda x: x), "apply_fn"),
    )
    def test_refuses(self, arguments, text):
        with self.assertRaisesRegex(ValueError, text):
            _moments(**arguments)


if __name__ == "__main__":
    absltest.main()
