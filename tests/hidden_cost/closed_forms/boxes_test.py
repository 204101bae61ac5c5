"""Boxes, slabs, half-spaces and the line under noise: tables, SciPy and the laws."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, stats

from robustjax import hidden_cost

# Cuts -1, .5, 2 and labels 0 1 2 0. {(x, sigma): class probabilities}. The method note
# misprints .2028877651 in the first row, which has to add up to one.
_LINE = {
    (-2.0, 2.0): (0.7142125932, 0.2028877651, 0.0828996417),
    (-0.2, 0.25): (0.0006871379, 0.9967577317, 0.0025551303),
    (0.5, 1.0): (0.1336144025, 0.4331927987, 0.4331927987),
    (0.5, 2.0): (0.4532547048, 0.2733726476, 0.2733726476),
    (1.3, 1.0): (0.2526877622, 0.2011312886, 0.5461809492),
}
_CUTS, _LABELS = (-1.0, 0.5, 2.0), (0, 1, 2, 0)

# Labels B|A|C with A = (-1, 1). {sigma: half-width of the region where A is first}.
_PLURALITY_HALF_WIDTH = {0.5: 0.999980, 1.0: 0.969343, 1.5: 0.777276, 2.3: 0.027788}


_SHAPE = (500, 3)


@jax.jit
def _box_program(x, lower, upper, sigma):
    return hidden_cost.box_class_probability(x, lower=lower, upper=upper, sigma=sigma)


def _box(x, *, lower, upper, sigma):
    """`box_class_probability` of float64 arrays, one program for all of `_SHAPE`."""
    ends = (np.broadcast_to(v, _SHAPE).astype(np.float64) for v in (x, lower, upper))
    with jax.enable_x64(True):
        return np.asarray(_box_program(*ends, np.broadcast_to(sigma, _SHAPE[:1]) * 1.0))


@functools.partial(jax.jit, static_argnames="num_classes")
def _line_program(x, cuts, labels, sigma, *, num_classes):
    return hidden_cost.line_class_probabilities(
        x, cuts=cuts, labels=labels, num_classes=num_classes, sigma=sigma
    )


def _line(x, *, cuts, labels, num_classes, sigma):
    """`line_class_probabilities` of float64 arrays."""
    with jax.enable_x64(True):
        arrays = (np.asarray(v, np.float64) for v in (x, cuts))
        labels, sigma = np.asarray(labels), np.asarray(sigma, np.float64)
        return np.asarray(
            _line_program(*arrays, labels, sigma, num_classes=num_classes)
        )


def _random_boxes(rng):
    """Boxes of which a third of the sides are open."""
    lower = rng.normal(size=_SHAPE)
    upper = lower + rng.exponential(2.0, size=_SHAPE)
    is_open = rng.uniform(size=(2, *_SHAPE)) < 1 / 3
    return np.where(is_open[0], -np.inf, lower), np.where(is_open[1], np.inf, upper)


class BoxTest(parameterized.TestCase):
    def test_against_scipy(self):
        rng = np.random.default_rng(0)
        lower, upper = _random_boxes(rng)
        x, sigma = rng.normal(size=_SHAPE), rng.uniform(0.2, 3.0, _SHAPE[0])
        actual = _box(x, lower=lower, upper=upper, sigma=sigma)
        normal = stats.norm(x, sigma[:, None])
        expected = np.prod(normal.cdf(upper) - normal.cdf(lower), axis=-1)
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-15)
        single = _box_program(*(np.float32(v) for v in (x, lower, upper, sigma)))
        self.assertEqual(single.dtype, jnp.float32)
        np.testing.assert_allclose(single, expected, rtol=0, atol=1e-5)

    def test_by_sampling(self):
        center = np.array([0.3, -0.2, 0.0])
        draws = center + 0.7 * np.random.default_rng(0).standard_normal((200_000, 3))
        lower, upper = np.array([-0.5, -0.5, -2.0]), np.array([np.inf, 0.7, 0.3])
        inside = np.mean(((draws > lower) & (draws < upper)).all(axis=-1))
        p = hidden_cost.box_class_probability(
            center, lower=lower, upper=upper, sigma=0.7
        )
        self.assertLess(abs(inside - p), 4 * np.sqrt(p * (1 - p) / len(draws)))

    @pytest.mark.newest
    def test_small_probabilities_are_right_on_both_sides(self):
        rest = (-np.inf, -np.inf), (np.inf, np.inf)
        for ends in ((10.0, 11.0), (-11.0, -10.0)):
            lower, upper = (
                (end, *others) for end, others in zip(ends, rest, strict=True)
            )
            p = hidden_cost.box_class_probability(
                [0.0, 0.0, 0.0], lower=lower, upper=upper, sigma=1.0
            )
            expected = stats.norm.sf(10.0) - stats.norm.sf(11.0)
            self.assertAlmostEqual(p / expected, 1.0, delta=1e-12)

    @parameterized.parameters(
        ([-np.inf] * 3, [np.inf] * 3, 1.0),
        ([1.0, -1.0, -9.0], [1.0, 1.0, 9.0], 0.0),
        ([1.0, 1.0, -9.0], [-1.0, -1.0, 9.0], 0.0),  # two inverted sides are no box
    )
    def test_open_and_empty_boxes(self, lower, upper, expected):
        p = hidden_cost.box_class_probability(
            [0.0, 0.0, 0.0], lower=lower, upper=upper, sigma=0.5
        )
        self.assertEqual(p, expected)

    def test_one_box_and_many_points(self):
        """Points, boxes and noise levels broadcast, whatever JAX promotes."""
        x = np.random.default_rng(1).normal(size=_SHAPE)
        box = dict(lower=np.array([-1.0, -np.inf, 0]), upper=np.array([1, 0.3, np.inf]))
        many = _box(x, **box, sigma=0.7)
        with jax.enable_x64(True):
            broadcast = _box_program(x, **box, sigma=0.7)
        np.testing.assert_allclose(broadcast, many, rtol=1e-14)
        one = hidden_cost.box_class_probability(x[7], **box, sigma=0.7)
        self.assertAlmostEqual(many[7], one, delta=1e-15)
        for point, sigma in ((x[7], np.ones(4)), (x[:4], np.ones(4)), (x[:4], 1.0)):
            out = jax.eval_shape(
                lambda v, sigma=sigma: hidden_cost.box_class_probability(
                    v, **box, sigma=sigma
                ),
                jnp.asarray(point, jnp.float32),
            )
            self.assertEqual((out.shape, out.dtype), ((4,), jnp.float32))

    def test_cube(self):
        sigma = hidden_cost.cube_vanishing_sigma(2.0, dim=3, threshold=0.3)
        inside = functools.partial(
            hidden_cost.box_class_probability,
            lower=[-2.0] * 3,
            upper=[2.0] * 3,
            sigma=sigma,
        )
        self.assertAlmostEqual(inside([0.0, 0.0, 0.0]), 0.3, delta=1e-14)
        self.assertLess(inside([0.1, 0.0, 0.0]), 0.3)

    def test_vanishing_sigma_of_cubes(self):
        vanishing = hidden_cost.cube_vanishing_sigma
        table = {1: 1.4826022185, 2: 0.9507548355, 10: 0.5458827010}
        for dim, expected in table.items():
            self.assertAlmostEqual(vanishing(1.0, dim=dim), expected, delta=1e-10)
            single = vanishing(jnp.float32(1.0), dim=dim)
            self.assertAlmostEqual(float(single) / expected, 1.0, delta=1e-5)
        for dim in (1, 10, 784, 150528):
            by_scipy = -1 / stats.norm.ppf(-0.5 * np.expm1(np.log(0.1) / dim))
            own = vanishing(1.0, dim=dim, threshold=0.1)
            self.assertAlmostEqual(own / by_scipy, 1.0, delta=1e-12)
        # The cube lies between its inscribed and circumscribed balls.
        for d in (2, 100, 3072):
            inner = stats.chi2.ppf(0.5, d) ** -0.5
            self.assertBetween(vanishing(1.0, dim=d), inner, np.sqrt(d) * inner)


class LawTest(parameterized.TestCase):
    @parameterized.parameters(0.3, 0.8, 2.0)
    def test_log_concave(self, sigma):
        rng = np.random.default_rng(0)
        lower, upper = _random_boxes(rng)
        x, y = rng.normal(scale=4.0, size=(2, *_SHAPE))
        share = rng.uniform(size=_SHAPE[0])
        share[:200] = 0.5  # midpoints
        between = share[:, None] * x + (1 - share[:, None]) * y
        p = np.array(
            [_box(v, lower=lower, upper=upper, sigma=sigma) for v in (x, y, between)]
        )
        is_known = (p > 1e-280).all(axis=0)
        self.assertGreater(is_known.mean(), 0.5)
        log_p, share = np.log(p[:, is_known]), share[is_known]
        gap = log_p[2] - share * log_p[0] - (1 - share) * log_p[1]
        self.assertGreater(gap.min(), -1e-9)
        self.assertGreater(gap.max(), 1.0)

    def test_smaller_boxes_have_smaller_probabilities(self):
        rng = np.random.default_rng(0)
        lower, upper = _random_boxes(rng)
        width = np.where(np.isfinite(upper - lower), upper - lower, 1.0)
        share = rng.uniform(0, 0.5, size=(2, *_SHAPE))
        x, sigma = rng.normal(size=_SHAPE), rng.uniform(0.2, 3.0, _SHAPE[0])
        inside = functools.partial(_box, x, sigma=sigma)
        p = inside(lower=lower, upper=upper)
        less = inside(lower=lower + share[0] * width, upper=upper - share[1] * width)
        self.assertTrue((less <= p + 1e-15).all())
        self.assertGreater((p - less).max(), 0.1)

    @parameterized.parameters(0.01, 7.0)
    def test_scaling(self, k):
        rng = np.random.default_rng(0)
        lower, upper = _random_boxes(rng)
        x = rng.normal(size=_SHAPE)
        p = _box(x, lower=lower, upper=upper, sigma=0.5)
        scaled = _box(k * x, lower=k * lower, upper=k * upper, sigma=k * 0.5)
        np.testing.assert_allclose(scaled, p, rtol=1e-11)
        for dim in (1, 100):
            self.assertAlmostEqual(
                hidden_cost.cube_vanishing_sigma(k, dim=dim) / k,
                hidden_cost.cube_vanishing_sigma(1.0, dim=dim),
                delta=1e-14,
            )

    @parameterized.parameters(1e-3, 0.5, 40.0)
    def test_half_spaces_do_not_move(self, sigma):
        self.assertEqual(
            hidden_cost.half_space_class_probability(0.0, sigma=sigma), 0.5
        )
        edge = hidden_cost.box_class_probability(
            [0.7, 9.0, -3.0], lower=[0.7, -np.inf, -np.inf], upper=[np.inf] * 3,
            sigma=sigma,
        )  # fmt: skip
        self.assertEqual(edge, 0.5)

    def test_half_spaces_of_random_directions(self):
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((100_000, 6))
        for sigma in (0.3, 1.0, 5.0):
            weight, bias, x = rng.normal(size=6), rng.normal(), rng.normal(size=6)
            on_plane = x - (weight @ x + bias) / (weight @ weight) * weight
            for point in (x, on_plane):
                distance = (weight @ point + bias) / np.linalg.norm(weight)
                p = hidden_cost.half_space_class_probability(distance, sigma=sigma)
                inside = np.mean((point + sigma * noise) @ weight + bias > 0)
                self.assertLess(abs(inside - p), 4 * 0.5 / np.sqrt(len(noise)))
            self.assertAlmostEqual(p, 0.5, delta=1e-13)

    def test_scores_of_a_network_are_1_lipschitz(self):
        """A network of the plane, constant on the cells of a grid: p is exact."""
        rng = np.random.default_rng(3)
        weights = rng.normal(size=(2, 32)), rng.normal(size=32), rng.normal(size=32)
        ends = np.concatenate([[-np.inf], np.linspace(-3, 3, 61), [np.inf]])
        middle = np.clip(0.5 * (ends[:-1] + ends[1:]), -3.05, 3.05)
        cells = np.stack(np.meshgrid(middle, middle, indexing="ij"), axis=-1)
        logits = np.maximum(cells @ weights[0] + weights[1], 0) @ weights[2]
        is_class = logits > np.median(logits)
        steps = np.diff(is_class, axis=0).sum() + np.diff(is_class, axis=1).sum()
        self.assertGreater(steps, 60)  # a boundary to speak of

        sigma, num_points = 0.4, 200
        points = rng.uniform(-3, 3, size=(num_points, 2))
        points[1::2] = points[::2] + 0.1 * rng.normal(size=(num_points // 2, 2))
        with jax.enable_x64(True):
            sides = ends[:-1, None], ends[1:, None]
            columns = [
                np.asarray(_box_program(points[:, None, k, None], *sides, sigma))
                for k in range(2)
            ]
        for column in columns:
            np.testing.assert_allclose(column.sum(axis=-1), 1.0, rtol=1e-13)
        p = np.einsum("ni,ij,nj->n", columns[0], is_class, columns[1])
        self.assertTrue((p < 0.4).any() and (p > 0.6).any())
        score = sigma * stats.norm.ppf(p)
        pairs = np.array(list(itertools.combinations(range(num_points), 2))).T
        distance = np.linalg.norm(points[pairs[0]] - points[pairs[1]], axis=1)
        slope = np.abs(score[pairs[0]] - score[pairs[1]]) / distance
        self.assertLessEqual(slope.max(), 1 + 1e-9)
        self.assertGreater(slope.max(), 0.7)


class LineTest(parameterized.TestCase):
    @parameterized.parameters(*_LINE.items())
    def test_table(self, at, expected):
        x, sigma = at
        line = functools.partial(
            hidden_cost.line_class_probabilities,
            cuts=_CUTS,
            labels=_LABELS,
            num_classes=3,
            sigma=sigma,
        )
        np.testing.assert_allclose(line(x), expected, rtol=0, atol=1e-10)
        single = _line_program(
            *(np.float32(v) for v in (x, _CUTS)),
            np.array(_LABELS),
            np.float32(sigma),
            num_classes=3,
        )
        self.assertEqual(single.dtype, jnp.float32)
        np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)

    def test_many_points(self):
        x = np.array(list(_LINE))[:, 0].reshape(5, 1)
        sigma = np.array(list(_LINE))[:, 1].reshape(5, 1)
        p = _line(x, cuts=_CUTS, labels=_LABELS, num_classes=4, sigma=sigma)
        self.assertEqual(p.shape, (5, 1, 4))
        np.testing.assert_allclose(p[:, 0, :3], list(_LINE.values()), atol=1e-10)
        np.testing.assert_array_equal(p[..., 3], 0.0)
        np.testing.assert_allclose(p.sum(axis=-1), 1.0, rtol=1e-14)

    def test_random_lines_by_counting(self):
        rng = np.random.default_rng(0)
        cuts, labels = np.sort(rng.normal(size=6)), rng.integers(0, 4, size=7)
        draws = 0.3 + 0.9 * rng.standard_normal(400_000)
        shares = np.bincount(labels[np.searchsorted(cuts, draws)], minlength=4)
        p = _line(0.3, cuts=cuts, labels=labels, num_classes=4, sigma=0.9)
        np.testing.assert_allclose(shares / len(draws), p, rtol=0, atol=4e-3)
        self.assertLess(np.abs(shares / len(draws) - p).max(), 4 * 0.5 / 632)

    def test_plurality_outlives_majority(self):
        def lead(x, sigma):
            p = _line(x, cuts=[-1.0, 1.0], labels=[0, 1, 2], num_classes=3, sigma=sigma)
            return p[1] - max(p[0], p[2])

        for sigma, expected in _PLURALITY_HALF_WIDTH.items():
            width = optimize.brentq(lead, 0.0, 2.0, args=(sigma,), xtol=1e-12)
            self.assertAlmostEqual(width, expected, delta=6e-7)
        majority = hidden_cost.ball_vanishing_sigma(1.0, dim=1)
        plurality = hidden_cost.ball_vanishing_sigma(1.0, dim=1, threshold=1 / 3)
        self.assertAlmostEqual(plurality, 2.3216545634, delta=1e-10)
        self.assertGreater(lead(0.0, majority * 1.01), 0.1)
        self.assertGreater(lead(0.0, plurality - 1e-6), 0)
        self.assertLess(lead(0.0, plurality + 1e-6), 0)
        self.assertAlmostEqual(1 / stats.norm.ppf(2 / 3), plurality, delta=1e-12)

    def test_an_interval_is_a_ball_and_a_box(self):
        p = _line(0.4, cuts=[-1.0, 1.0], labels=[0, 1, 0], num_classes=3, sigma=0.8)
        ball = stats.ncx2.cdf(0.8**-2, 1, (0.4 / 0.8) ** 2)
        box = hidden_cost.box_class_probability(
            [0.4, 0.0, 0.0],
            lower=[-1.0, -np.inf, -np.inf],
            upper=[1.0, np.inf, np.inf],
            sigma=0.8,
        )
        np.testing.assert_allclose(p, [1 - ball, ball, 0], atol=1e-12)
        self.assertAlmostEqual(p[1], box, delta=1e-15)


def _of_four_numbers(v):
    """A box, a line, a cube and a half-space, from x, a threshold and sigma."""
    return (
        hidden_cost.box_class_probability(
            v[:3], lower=[-1.0, 0.5, -np.inf], upper=[0.7, np.inf, np.inf], sigma=v[3]
        ),
        hidden_cost.line_class_probabilities(
            v[0], cuts=_CUTS, labels=_LABELS, num_classes=3, sigma=v[3]
        )[1],
        hidden_cost.cube_vanishing_sigma(v[0], dim=20, threshold=v[1]),
        hidden_cost.half_space_class_probability(v[0], sigma=v[3]),
    )


_POINT = np.array([0.2, 0.3, 5.0, 0.6])


def _difference(function, step=1e-5):
    """Central differences in each of the four numbers."""
    return [
        (np.array(function(_POINT + e)) - np.array(function(_POINT - e))) / (2 * step)
        for e in step * np.eye(4)
    ]


class DerivativeTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(jax.enable_x64(True))

    def test_against_differences(self):
        """In sigma where a side is open too."""
        slope = jax.jit(jax.jacrev(_of_four_numbers))(_POINT)
        np.testing.assert_allclose(
            np.transpose(slope), _difference(_of_four_numbers), rtol=1e-7, atol=1e-9
        )

    @pytest.mark.slow
    def test_second_derivatives(self):
        slope = jax.jit(jax.jacrev(_of_four_numbers))
        curvature = jax.jit(jax.jacfwd(jax.jacfwd(_of_four_numbers)))(_POINT)
        expected = np.moveaxis(_difference(slope), 0, -1)
        np.testing.assert_allclose(curvature, expected, rtol=1e-7, atol=1e-8)


_OF_ONE_NUMBER = (
    lambda v: hidden_cost.box_class_probability(
        [0.1, 0.2, 0.3], lower=[-1.0, -np.inf, 0.0], upper=[1.0, 2.0, 1.0], sigma=v
    ),
    lambda v: hidden_cost.cube_vanishing_sigma(v, dim=10),
    lambda v: hidden_cost.half_space_class_probability(v, sigma=0.3),
    lambda v: hidden_cost.line_class_probabilities(
        v, cuts=_CUTS, labels=_LABELS, num_classes=3, sigma=0.7
    ),
)


class ContractTest(parameterized.TestCase):
    @parameterized.parameters(*_OF_ONE_NUMBER)
    def test_numbers_are_float64_and_arrays_keep_their_dtype(self, function):
        for x64, dtype in ((False, jnp.float32), (True, jnp.float32), (True, float)):
            with jax.enable_x64(x64):
                own = function(0.5)
                self.assertIsInstance(own, np.float64 | np.ndarray)
                self.assertEqual(own.dtype, np.float64)
                kept = jax.eval_shape(function, jnp.asarray(0.5, dtype))
                self.assertEqual((kept.shape, kept.dtype), (own.shape, dtype))

    @parameterized.parameters(*_OF_ONE_NUMBER)
    def test_jit_and_vmap(self, function):
        at = jnp.array([0.2, 0.5, 0.9])
        mapped = jax.jit(jax.vmap(function))(at)
        alone = [function(float(v)) for v in at]
        np.testing.assert_allclose(mapped, alone, rtol=1e-5)

    @parameterized.parameters(
        (dict(sigma=0.0), "Expected sigma "),
        (dict(num_classes=1), "Expected num_classes "),
        (dict(cuts=[0.5, -1.0, 2.0]), "Expected cuts to increase"),
        (dict(cuts=[-1.0, -1.0, 2.0]), "Expected cuts to increase"),
        (dict(cuts=[-1.0, np.nan, 2.0]), "Expected cuts to increase"),
        (dict(cuts=[-1.0, 2.0]), "Expected cuts .* one more label"),
        (dict(cuts=[[-1.0, 0.0, 2.0]]), "Expected cuts .* one more label"),
        (dict(labels=[0, 1, 2]), "Expected cuts .* one more label"),
        (dict(labels=[0, 1, 3, 0]), "Expected labels "),
        (dict(labels=[0, 1, -1, 0]), "Expected labels "),
        (dict(labels=[0.0, 1.0, 2.0, 0.0]), "Expected labels "),
    )
    def test_line_refuses(self, bad, text):
        good = dict(cuts=_CUTS, labels=_LABELS, num_classes=3, sigma=1.0)
        with self.assertRaisesRegex(ValueError, text):
            hidden_cost.line_class_probabilities(0.0, **(good | bad))

    def test_the_others_refuse(self):
        with self.assertRaisesRegex(ValueError, "Expected sigma .* got -1"):
            hidden_cost.box_class_probability([0.0], lower=[0], upper=[1], sigma=-1.0)
        with self.assertRaisesRegex(ValueError, "Expected sigma "):
            hidden_cost.half_space_class_probability(0.0, sigma=0.0)
        for bad, name in (
            (dict(half_side=0.0), "half_side"),
            (dict(dim=0), "dim"),
            (dict(threshold=1.0), "threshold"),
            (dict(threshold=0.0), "threshold"),
        ):
            arguments = dict(half_side=1.0, dim=2) | bad
            with self.assertRaisesRegex(ValueError, f"Expected {name} "):
                hidden_cost.cube_vanishing_sigma(
                    arguments.pop("half_side"), **arguments
                )


if __name__ == "__main__":
    absltest.main()
