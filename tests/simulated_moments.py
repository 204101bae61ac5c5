"""Moments of classifiers of few coordinates, drawn exactly, without all the noise.

A classifier of the first k coordinates leaves the others independent of its outcome:
given the outcomes, their sums are normal, and so are the projections of each sample on
the direction of such a sum. A ball is known by the first coordinate and the length of
the rest; there the rest is a length times a uniform direction, drawn for misses only.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import integrate, optimize, sparse, special, stats

from robustjax.smoothing.sampling.moments import (
    MAX_PROJECTION,
    NUM_BETS,
    SOFT_BETS,
    Moments,
)


class Classifier(NamedTuple):
    """f in [0, 1] of `[..., k]` coordinates, with p = E f and m = E[z f] `[k]`."""

    name: str
    f: Callable[..., np.ndarray]
    p: float
    m: np.ndarray
    sees_length: bool = False  # f(z, squared length of the rest)


def interval(low: float, high: float) -> Classifier:
    """1 where z_1 is in (low, high): a half-space or a slab."""

    def f(z):
        return ((z[..., 0] > low) & (z[..., 0] < high)).astype(float)

    p = special.ndtr(high) - special.ndtr(low)
    m = stats.norm.pdf(low) - stats.norm.pdf(high)
    return Classifier(f"interval({low:g},{high:g})", f, p, np.array([m]))


def network(seed: int, *, p: float) -> Classifier:
    """A random ReLU network of two coordinates with about this p; m by a fine grid."""
    rng = np.random.default_rng(seed)
    first, shift, last = (rng.normal(size=size) for size in ((2, 8), 8, 8))

    def score(z):
        return np.maximum(z @ first + shift, 0) @ last

    axis = (np.arange(1200) + 0.5) / 100 - 6
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    weight = np.outer(stats.norm.pdf(axis), stats.norm.pdf(axis))
    weight /= weight.sum()
    values = score(grid)
    order = np.argsort(values, axis=None)
    rank = np.searchsorted(np.cumsum(weight.ravel()[order]), 1 - p)
    threshold = values.ravel()[order[rank]]
    inside = np.where(values > threshold, weight, 0)
    m = np.array([np.sum(inside * grid[..., i]) for i in range(2)])

    def f(z):
        return (score(z) > threshold).astype(float)

    return Classifier(f"network({seed})", f, inside.sum(), m)


def ball(dim: int, *, offset: float, p: float) -> Classifier:
    """1 within a ball of probability p, its centre `offset` along the first axis."""

    def moment(square, power):
        def density(z1):
            inside = special.gammainc((dim - 1) / 2, np.maximum(room(z1), 0) / 2)
            return z1**power * stats.norm.pdf(z1) * inside

        def room(z1):
            return square - (z1 - offset) ** 2

        return integrate.quad(density, -9, 9, limit=200)[0]

    middle = dim + offset**2
    square = optimize.brentq(lambda r: moment(r, 0) - p, middle / 2, middle * 4)

    def f(z, rest):
        return ((z[..., 0] - offset) ** 2 + rest < square).astype(float)

    m = np.array([moment(square, 1)])
    return Classifier(f"ball({dim})", f, p, m, sees_length=True)


def soft_plane(slope: float, offset: float) -> Classifier:
    """The soft vote Phi(slope z_1 + offset)."""

    def f(z):
        return special.ndtr(slope * z[..., 0] + offset)

    length = np.hypot(1, slope)
    p = special.ndtr(offset / length)
    m = slope / length * stats.norm.pdf(offset / length)
    return Classifier(f"soft({slope:g},{offset:g})", f, p, np.array([m]))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """How moments are drawn.

    The subspace is the last third of the coordinates, with or without the first one. A
    dense gradient is made by the reflection that turns the first axis to the diagonal.
    """

    classifier: Classifier
    dim: int
    num_half: int
    baseline: float = 1.0
    with_bets: bool = True
    with_subspace: bool = False
    has_first: bool = True  # the subspace has the first coordinate
    is_dense: bool = False

    @property
    def subspace_mask(self) -> np.ndarray:
        """1 for the coordinates of the subspace `[d]`."""
        mask = np.zeros(self.dim)
        mask[-(self.dim // 3) :] = 1
        mask[0] = self.has_first
        return mask

    @property
    def masks(self) -> list[np.ndarray]:
        """The coordinates of each direction that is bet on."""
        mask, ones = self.subspace_mask, np.ones(self.dim)
        return [ones, mask, 1 - mask] if self.with_subspace else [ones]

    @property
    def gradient(self) -> np.ndarray:
        """The true m `[d]`."""
        m = np.zeros((1, self.dim))
        m[0, : len(self.classifier.m)] = self.classifier.m
        return self._turn(m)[0]

    def moments(self, rng: np.random.Generator, *, num_runs: int) -> Moments:
        """Moments of independent runs, one an example."""
        odd, even = (_Half(self, rng, num_runs=num_runs) for _ in range(2))
        bets = np.zeros((num_runs, NUM_BETS))
        wealth = np.zeros((num_runs, len(self.masks), 2, NUM_BETS))
        if self.with_bets:
            bets = _bets(self, odd.misses)
            for v, projection in enumerate(even.project(odd.sums, rng)):
                x = np.where(np.abs(projection) > MAX_PROJECTION, 0, projection)
                for k, stake in enumerate((even.s * x)[None] * bets[even.run].T):
                    wealth[:, v, 0, k] = even.total(np.log1p(stake))
                    wealth[:, v, 1, k] = even.total(np.log1p(-stake))
        num = np.full(num_runs, self.num_half)
        misses = np.rint(even.misses + odd.misses).astype(int)
        return Moments(
            counts=np.stack([2 * num - misses, misses, 0 * num], axis=1),
            num_even=num,
            num_odd=num,
            misses_even=even.misses,
            misses_odd=odd.misses,
            sum_squares=self._squares(even, odd, rng),
            sum_even=self._turn(even.sums),
            sum_odd=self._turn(odd.sums),
            log_wealth=wealth,
            bets=bets,
            baseline=np.full(num_runs, self.baseline),
            selected=0 * num,
            soft_log_wealth=even.soft_log_wealth + odd.soft_log_wealth,
        )

    def _squares(self, even: "_Half", odd: "_Half", rng) -> np.ndarray:
        """Zeros for baseline 1/2: only the rounding of float32 sums depends on them."""
        if self.baseline != 1:
            return np.zeros_like(even.sums)
        return even.squares(rng) + odd.squares(rng)

    def _turn(self, vectors: np.ndarray) -> np.ndarray:
        if not self.is_dense:
            return vectors
        normal = np.full(self.dim, -1 / np.sqrt(self.dim))
        normal[0] += 1
        along = vectors @ normal / (normal @ normal)
        return vectors - 2 * along[:, None] * normal


class _Half:
    """One half of the samples of all runs; those with s = 0 are dropped."""

    def __init__(self, case: Experiment, rng, *, num_runs: int):
        self.case, self.num_runs = case, num_runs
        self.k, rest_dim = len(case.classifier.m), case.dim - len(case.classifier.m)
        z = rng.normal(size=(num_runs, case.num_half, self.k))
        sees_length = case.classifier.sees_length
        square = rng.chisquare(rest_dim, size=z.shape[:2]) if sees_length else None
        e = 1 - (case.classifier.f(z, square) if sees_length else case.classifier.f(z))
        s = 1 - e - case.baseline
        self.run, sample = np.nonzero(s)
        self.z, self.s = z[self.run, sample], s[self.run, sample]
        self.misses = e.sum(axis=1)
        self.soft_log_wealth = np.zeros((num_runs, len(SOFT_BETS)))
        if not np.isin(e, (0, 1)).all():
            for j, bet in enumerate(SOFT_BETS):
                self.soft_log_wealth[:, j] = np.log1p(-bet * e).sum(axis=1)
        self.rest = None
        if sees_length:
            rest = rng.normal(size=(len(self.run), rest_dim))
            length = np.sqrt(square[self.run, sample])
            self.rest = rest * (length / np.linalg.norm(rest, axis=1))[:, None]
            rest_sums = self._sum_rows(self.s, self.rest)
        else:
            scale = np.sqrt(self.total(self.s**2))[:, None]
            rest_sums = scale * rng.normal(size=(num_runs, rest_dim))
        known = [self.total(self.s * self.z[:, i]) for i in range(self.k)]
        self.sums = np.concatenate([np.stack(known, axis=1), rest_sums], axis=1)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sums of values of samples over each run."""
        return np.bincount(self.run, weights=values, minlength=self.num_runs)

    def _sum_rows(self, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
        index = (self.run, np.arange(len(self.run)))
        shape = (self.num_runs, len(self.run))
        return sparse.csr_array((weights, index), shape=shape) @ rows

    def project(self, other: np.ndarray, rng) -> list[np.ndarray]:
        """Projections of the samples on the parts of vectors, consistent with the sums.

        In each group of the other coordinates a sample has one normal projection g on
        the vector's direction u there, and the sums have the component sum s g.
        """
        masks, k = self.case.masks, self.k
        parts = [other * mask for mask in masks]
        units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in parts]
        projections = [np.sum(self.z * v[self.run, :k], axis=1) for v in units]
        if self.rest is not None:
            return [
                projection + np.sum(self.rest * v[self.run, k:], axis=1)
                for projection, v in zip(projections, units, strict=True)
            ]
        for group in masks[1:] or masks:
            u = other[:, k:] * group[k:]
            u = u / np.linalg.norm(u, axis=1, keepdims=True)
            g = rng.normal(size=len(self.run))
            rest = self.sums[:, k:]
            shift = self.total(self.s * g) - np.sum(rest * u, axis=1)
            self.sums[:, k:] = rest + shift[:, None] * u
            for i, v in enumerate(units):
                projections[i] += np.sum(v[:, k:] * u, axis=1)[self.run] * g
        return projections

    def squares(self, rng) -> np.ndarray:
        """Sums of (s z)^2; of the other coordinates given their sums, for one |s|."""
        known = [self.total((self.s * self.z[:, i]) ** 2) for i in range(self.k)]
        if self.rest is not None:
            rest = self._sum_rows(self.s**2, self.rest**2)
        else:
            num = np.bincount(self.run, minlength=self.num_runs)[:, None]
            rest = self.sums[:, self.k :]
            free = rng.chisquare(np.maximum(num - 1, 1), size=rest.shape) * (num > 1)
            rest = rest**2 / np.maximum(num, 1) + np.abs(self.s).max() ** 2 * free
        return np.concatenate([np.stack(known, axis=1), rest], axis=1)


def _bets(case: Experiment, misses: np.ndarray) -> np.ndarray:
    """Bets for the even half from the misses of the odd one, like the kernel's."""
    low = (misses + 1) / (case.num_half + 2)
    high = np.minimum(low * (1 - 2 * np.log(low)), 1)
    if case.baseline != 1:
        low = high = np.full_like(low, 0.25)
    scale = np.sqrt(20 / case.num_half)
    first, last = 0.7 * scale / np.sqrt(high), 1.4 * scale / np.sqrt(low)
    bets = np.geomspace(first, last, NUM_BETS, axis=1)
    return np.minimum(bets, 0.9 / (MAX_PROJECTION * case.baseline))
