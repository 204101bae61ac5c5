"""Certified ranges of attributes by adaptive branch and bound over cells."""

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _callables, _validate, bounds
from robustjax.semantic import (
    attributes,
    cell_margins,
    color,
    counterexamples,
    grids,
    limits,
)
from robustjax.semantic.attributes import Attribute
from robustjax.semantic.counterexamples import Attack

OPEN, PROVEN, UNDECIDED, LOST = range(4)
TARGETS = ("all", "top2")
_METHODS = ("crown", "crown-ibp", "ibp", "alpha", "alpha-all")


class Certification(NamedTuple):
    """What is proven of an attribute; float64 on the host.

    With one parameter left and right are in its unit. With several they are nan, and
    share tells how much of the box of limits is proven, from zero on.
    """

    left: float  # the label wins on (-left, right)
    right: float
    attack_left: float  # it does not at -attack_left; inf: no counterexample is known
    attack_right: float
    share: float  # the box of limits times this is proven
    attack_share: float  # times this it holds a counterexample; inf: none is known
    area: float  # part of the volume of limits that is proven, connected with zero
    attack_area: float  # part of a grid of it that keeps the label
    status: str  # "certified": all; "falsified": no more can be; "unknown": stopped
    cells: np.ndarray  # [n, 2, d]
    states: np.ndarray  # [n]: 0 open, 1 proven, 2 undecided, 3 holds a counterexample
    num_bounded: int  # cells whose margins were bounded
    seconds: float


def certify(
    apply_fn: Callable[[jax.Array], jax.Array],
    image: ArrayLike,
    label: int,
    *,
    attribute: str | Attribute,
    limit: limits.Limit | None = None,
    min_share: float | None = None,
    max_cells: int = 4000,
    time_limit: float = float("inf"),
    relaxation: str = "planes",
    method: str = "crown",
    targets: str = "all",
    batch_size: int | None = None,
    chunk_size: int | None = 32,
    resume: Certification | None = None,
) -> Certification:
    """How far an attribute can move and the model provably keeps the label.

    [host] Cells of the parameters are bounded, a batch at a time: of one parameter the
    nearest to zero first, of several the widest; those that fail are halved. A search
    for counterexamples comes first, beyond which nothing is tried.

    Guarantee:
        In exact arithmetic the label has the largest logit for all moves in the cells
        that are proven, so on (-left, right), or in the box of limits times share.
        Decided in float64, with margins lowered for rounding as in `bounds.verify`.

    Args:
        apply_fn: maps `[n, h, w, c]` to logits `[n, k]`; see `bounds.linear_bounds`.
        image: `[h, w, c]` in [0, 1].
        label: the class, an integer.
        attribute: see `semantic.attribute`.
        limit: how far to go: a number, (left, right), or such a pair a parameter;
            default: those of the parameters.
        min_share: cells no wider than that share of the limits are given up; of several
            parameters those near zero are halved up to five times more. Default: 1/4096
            of one parameter, 1/64 of several.
        max_cells: at most so many cells are bounded.
        time_limit: in seconds, after which no batch is begun.
        relaxation: "planes": affine bounds of pixels; "layers": SP-layers; "both": the
            better for each class; "pixel_box" or "scalar_box": intervals, as baselines.
        method: as in `bounds.linear_bounds`.
        targets: "all" other classes; or "top2", the runner-up of the image alone, as in
            the reference code, which proves less.
        batch_size: cells at a time; default: 4 on a CPU, 64 elsewhere.
        chunk_size: as in `bounds.linear_bounds`.
        resume: an unfinished result of the same call, which goes on.

    Returns:
        A `Certification`; nothing is proven where another class wins at zero.

    Raises:
        ValueError: for an image, attribute, limit or option that does not suit.
        UnsupportedError: if the model has an operation without a rule.

    Example:
        >>> model = lambda x: jnp.stack([x[:, 0, 0, 0], 0.6 - x[:, 0, 0, 0]], axis=-1)
        >>> found = certify(model, np.full((1, 1, 1), 0.5), 0, attribute="brightness")
        >>> print(round(found.left, 3), found.right, found.status)
        0.2 1.0 falsified

    Reference: ours; Mohapatra et al. (2020), arXiv 1912.09533, split uniformly.
    """
    began = time.perf_counter()
    _validate.one_of(cell_margins.RELAXATIONS, relaxation=relaxation)
    _validate.one_of(_METHODS, method=method)
    moving = attributes.resolve(attribute)
    ranges = limits.resolve(moving, limit)
    x = color.on_host(image, is_color=moving.is_color)
    fn = bounds.single(_callables.as_partial(apply_fn))
    spec = margin_spec(fn, x, label, targets=targets)
    found = counterexamples.attack(apply_fn, x, label, attribute=moving, limit=ranges)
    grid = grids.first_cells(moving, ranges)
    how = cell_margins.How(
        moving, grids.straightened_widths(moving, grid), relaxation, method,
        chunk_size=chunk_size,
    )  # fmt: skip
    pool = _Pool(ranges, found, least=min_share or (1 / 4096, 1 / 64)[len(ranges) > 1])
    for cell, state in _starts(grid, resume):
        pool.put(cell, state)
    size = batch_size or (4 if jax.default_backend() == "cpu" else 64)
    num_bounded = 0
    while num_bounded < max_cells and time.perf_counter() - began < time_limit:
        batch = pool.take(size)
        if not len(batch):
            break
        filled = np.resize(batch, (size, *batch.shape[1:]))
        margin = cell_margins.of_cells(fn, x, filled, spec=spec, how=how)[: len(batch)]
        num_bounded += len(batch)
        for cell, is_proven in zip(batch, margin > 0, strict=True):
            pool.settle(cell, bool(is_proven))
    summary = _summary(*pool.everything(), ranges=ranges, found=found)
    if len(ranges) > 1:
        kept = grids.kept_area(apply_fn, x, label, attribute=moving, ranges=ranges)
        summary |= {"attack_area": kept}
    seconds = time.perf_counter() - began
    return Certification(**summary, num_bounded=num_bounded, seconds=seconds)


def margin_spec(
    fn: Callable[[jax.Array], jax.Array],
    image: np.ndarray,
    label: int,
    *,
    targets: str,
) -> np.ndarray:
    """Rows that turn logits into the margins that have to be positive. [host].

    Args:
        fn: maps one image to logits `[k]`.
        image: `[h, w, c]`.
        label: the class.
        targets: "all" or "top2".

    Returns:
        `[s, k]`.

    Raises:
        ValueError: if the label is no class.
    """
    _validate.one_of(TARGETS, targets=targets)
    logits = np.asarray(jax.jit(lambda f, x: f(x))(fn, jnp.asarray(image)))
    _validate.labels(len(logits), label=label)
    rows = np.asarray(bounds.margin_rows(label, num_classes=len(logits)), np.float64)
    if targets == "all":
        return rows
    others = np.where(np.arange(len(logits)) == label, -np.inf, logits)
    return rows[rows[:, int(np.argmax(others))] < 0]


class _Pool:
    """Cells that wait, and what became of the others.

    Of one parameter the nearest to zero is next; of several the widest, which adds most
    to the area, and of those the nearest.
    """

    def __init__(
        self, ranges: list[tuple[float, float]], found: Attack, *, least: float
    ) -> None:
        self.ranges, self.found, self.least = ranges, found, least
        self.sizes = np.array([max(left + right, 1e-300) for left, right in ranges])
        self.heap: list[tuple[float, float, int, np.ndarray]] = []
        self.order = itertools.count()  # of cells at one distance
        self.done: list[tuple[np.ndarray, int]] = []
        self.blocked = {-1: np.inf, 0: np.inf, 1: np.inf}  # by side, of one parameter
        if len(ranges) == 1:
            shares = limits.share_of(found.witnesses, ranges)
            for move, share in zip(found.witnesses[:, 0], shares, strict=True):
                for side in (-1, 1):
                    if side * move >= 0:
                        self.blocked[side] = min(self.blocked[side], float(share))

    def put(self, cell: np.ndarray, state: int) -> None:
        """Adds a cell; open ones wait for their turn."""
        if state == OPEN:
            distance = float(nearest_share(cell[None], self.ranges)[0])
            size = 0.0 if len(self.ranges) == 1 else -float(self._widths(cell).max())
            heapq.heappush(self.heap, (size, distance, next(self.order), cell))
        else:
            self.done.append((cell, state))

    def take(self, count: int) -> np.ndarray:
        """The next cells that may be proven; others are split on the way."""
        taken: list[np.ndarray] = []
        while self.heap and len(taken) < count:
            _, distance, _, cell = heapq.heappop(self.heap)
            if distance >= self.blocked[self._side(cell)]:
                self.done.append((cell, UNDECIDED))
            elif self._holds_witness(cell):
                self._split(cell, LOST)
            else:
                taken.append(cell)
        return np.array(taken)

    def settle(self, cell: np.ndarray, is_proven: bool) -> None:
        """Keeps a cell, or splits it."""
        if is_proven:
            self.done.append((cell, PROVEN))
        else:
            self._split(cell, UNDECIDED)

    def everything(self) -> tuple[np.ndarray, np.ndarray]:
        """Cells and states."""
        done = self.done + [(cell, OPEN) for *_, cell in self.heap]
        return np.array([cell for cell, _ in done]), np.array([s for _, s in done])

    def _split(self, cell: np.ndarray, state: int) -> None:
        width = self._widths(cell)
        axis = int(np.argmax(width))
        if width[axis] <= self._least_width(cell):
            self.done.append((cell, state))
            side = self._side(cell)
            if side:
                share = float(nearest_share(cell[None], self.ranges)[0])
                self.blocked[side] = min(self.blocked[side], share)
            return
        middle = 0.5 * (cell[0, axis] + cell[1, axis])
        for end in (0, 1):
            half = cell.copy()
            half[1 - end, axis] = middle
            self.put(half, OPEN)

    def _widths(self, cell: np.ndarray) -> np.ndarray:
        """Of each parameter, as a share of its limits."""
        return (cell[1] - cell[0]) / self.sizes

    def _least_width(self, cell: np.ndarray) -> float:
        """Of one parameter the same anywhere; of several finer near zero."""
        if len(self.ranges) == 1:
            return self.least
        distance = float(nearest_share(cell[None], self.ranges)[0])
        return float(np.clip(distance / 8, self.least / 32, self.least))

    def _side(self, cell: np.ndarray) -> int:
        if len(self.ranges) > 1:
            return 0
        return -1 if cell[1, 0] <= 0 else 1

    def _holds_witness(self, cell: np.ndarray) -> bool:
        moves = self.found.witnesses
        return bool(np.any(np.all((cell[0] <= moves) & (moves <= cell[1]), axis=1)))


def nearest_share(cells: np.ndarray, ranges: list[tuple[float, float]]) -> np.ndarray:
    """Which share of the limits the nearest move of each cell takes. [host]."""
    return limits.share_of(np.clip(0.0, cells[:, 0], cells[:, 1]), ranges)


def _starts(grid: np.ndarray, resume: Certification | None) -> Any:
    if resume is None:
        return [(cell, OPEN) for cell in grid]
    return list(zip(resume.cells, resume.states, strict=True))


def _summary(
    cells: np.ndarray,
    states: np.ndarray,
    *,
    ranges: list[tuple[float, float]],
    found: Attack,
) -> dict[str, Any]:
    """What cells prove, as fields of a `Certification`."""
    is_proven = states == PROVEN
    missing = cells[~is_proven]
    sides = [np.nan, np.nan]
    if len(ranges) == 1:
        sides = []
        for side, limit in zip((-1, 1), ranges[0], strict=True):
            own = missing[np.sign(missing.sum(axis=(1, 2))) == side]
            sides.append(min(np.abs(own).min(axis=(1, 2)), default=limit))
    if is_proven.all():
        status = "certified"
    elif len(found.witnesses) and not (states == OPEN).any():
        status = "falsified"
    else:
        status = "unknown"
    return {
        "left": float(sides[0]),
        "right": float(sides[1]),
        "attack_left": found.left,
        "attack_right": found.right,
        "share": float(min(nearest_share(missing, ranges), default=1.0)),
        "attack_share": found.share,
        "area": grids.connected_area(cells[is_proven], ranges),
        "attack_area": np.nan,
        "status": status,
        "cells": cells,
        "states": states,
    }
