"""Certified ranges of attributes by adaptive branch and bound over cells.

A cell C of moves is proven if

    min over j != y and t in C of f_y(g(t)) - f_j(g(t)) > 0,

bounded from below by `cell_bounds`; a cell that fails is halved. With one parameter the
cell nearest to zero comes first; with several the widest, ties to the nearest.
"""

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate, bounds
from robustjax._precision import as_run
from robustjax.semantic import (
    attributes,
    certificates,
    color,
    parameter_ranges,
    questions,
)
from robustjax.semantic.attributes import TRANSLATION, Attribute
from robustjax.semantic.certificates import (
    LOST,
    OPEN,
    PROVEN,
    UNDECIDED,
    Certification,
)
from robustjax.semantic.search import cell_bounds, cell_grids, counterexamples
from robustjax.semantic.search.counterexamples import Attack

_METHODS = ("crown", "crown-ibp", "ibp", "alpha", "alpha-all")


def certify(
    apply_fn: Callable[[jax.Array], jax.Array],
    image: ArrayLike,
    label: int,
    *,
    attribute: str | Attribute,
    limit: parameter_ranges.Limit | None = None,
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
        Logits that are or may be infinite or NaN prove nothing.

    Args:
        apply_fn: maps `[n, h, w, c]` to logits `[n, k]`; see `bounds.linear_bounds`.
        image: `[h, w, c]` in [0, 1].
        label: the class, an integer.
        attribute: see `semantic.attribute`.
        limit: how far to go: a number, (left, right), or such a pair a parameter;
            default: those of the parameters.
        min_share: cells no wider than that share of the limits, in (0, 1], are given
            up; of several parameters those near zero are halved up to five times more.
            Default: 1/4096 of one parameter, 1/64 of several.
        max_cells: number of bounded cells after which no batch is begun.
        time_limit: in seconds, after which no batch is begun.
        relaxation: "planes": affine bounds of pixels; "layers": SP-layers; "both": the
            better for each class; "pixel_box" or "scalar_box": intervals, as baselines.
        method: as in `bounds.linear_bounds`.
        targets: "all" other classes; or "top2", the runner-up of the image alone, as in
            the reference code, which proves less.
        batch_size: cells at a time; default: 4 on a CPU, 64 elsewhere.
        chunk_size: as in `bounds.linear_bounds`.
        resume: a result of the same call, which goes on; or of one with smaller
            limits, whose cells are kept.

    Returns:
        A `Certification`; nothing is proven where another class wins at zero.

    Raises:
        ValueError: for an image, attribute, limit or option that does not suit; names
            what differs if `resume` is of another search.
        UnsupportedError: if the model has an operation without a rule.
        RuntimeError: if a counterexample lies in what is proven, a defect.

    Example:
        >>> import jax.numpy as jnp
        >>> model = lambda x: jnp.stack([x[:, 0, 0, 0], 0.6 - x[:, 0, 0, 0]], axis=-1)
        >>> found = certify(model, np.full((1, 1, 1), 0.5), 0, attribute="brightness")
        >>> print(round(found.left, 3), found.right, found.status)
        0.2 1.0 falsified

    Reference: ours; Mohapatra et al. (2020), arXiv 1912.09533, split uniformly.
    """
    began = time.perf_counter()
    _validate.one_of(cell_bounds.RELAXATIONS, relaxation=relaxation)
    _validate.one_of(_METHODS, method=method)
    _validate.integer(0, max_cells=max_cells)
    _validate.closed_interval(0.0, float("inf"), time_limit=time_limit)
    size = cell_bounds.batch_size_of(batch_size)
    moving = attributes.resolve(attribute)
    ranges = parameter_ranges.resolve(moving, limit)
    if min_share is None:
        min_share = (1 / 4096, 1 / 64)[len(ranges) > 1]
    _validate.half_open(0.0, 1.0, **{"1 - min_share": 1 - min_share})
    x = color.on_host(image, is_color=moving.is_color)
    fn: Any = as_run(bounds.single(apply_fn))
    spec = cell_bounds.margin_spec(fn, x, label, targets=targets)
    question = questions.asked(
        fn,
        x,
        label,
        attribute=moving,
        ranges=ranges,
        targets=targets,
        relaxation=relaxation,
        method=method,
        min_share=min_share,
    )
    moving = question.moving  # by one name, so that programs are found again
    found = counterexamples.attack(apply_fn, x, label, attribute=moving, limit=ranges)
    if resume is not None:
        questions.check_resumable(resume.question, question)
        certificates.check_cells(resume)
        model = counterexamples.Model(fn, moving, x, int(label))
        moves = np.concatenate([found.witnesses, resume.witnesses])
        found = counterexamples.nearest(model, ranges, np.unique(moves, axis=0))
    how = cell_bounds.How(
        moving,
        cell_grids.bounded_widths(moving),
        relaxation,
        method,
        chunk_size=chunk_size,
    )
    pool = _Pool(moving, ranges, found, least=min_share)
    for cell, state, margin in _starts(moving, ranges, resume):
        pool.put(cell, state, margin)
    num_bounded = 0
    while num_bounded < max_cells and time.perf_counter() - began < time_limit:
        batch = pool.take(size)
        if not len(batch):
            break
        filled = np.resize(batch, (size, *batch.shape[1:]))
        margins = cell_bounds.of_cells(fn, x, filled, spec=spec, how=how)[: len(batch)]
        num_bounded += len(batch)
        for cell, margin in zip(batch, margins, strict=True):
            pool.settle(cell, float(margin))
    cells, states, margins = pool.everything()
    known = certificates.of_cells(cells, states, ranges=ranges, found=found)
    known["attack_area"] = np.nan
    if len(ranges) > 1:
        known["attack_area"] = cell_grids.kept_area(
            apply_fn, x, label, attribute=moving, ranges=ranges
        )
    seconds = time.perf_counter() - began
    return Certification(
        **known,
        margins=margins,
        num_bounded=num_bounded,
        seconds=seconds,
        question=question,
    )


def _starts(
    attribute: Attribute,
    ranges: list[tuple[float, float]],
    resume: Certification | None,
) -> list[tuple[np.ndarray, int, float]]:
    """Cells with states and margins: those that are known, and others beyond them."""
    if resume is None:
        cells = cell_grids.first_cells(attribute, ranges)
        return [(cell, OPEN, np.nan) for cell in cells]
    known = zip(resume.cells, resume.states, resume.margins, strict=True)
    beyond = cell_grids.first_cells(attribute, ranges, known=resume.question.ranges)
    return [*known, *((cell, OPEN, np.nan) for cell in beyond)]


class _Pool:
    """Cells that wait, and what became of the others.

    With one parameter, cells are processed in order of distance from zero. With
    several, the widest cell comes first; ties go to the cell nearest to zero.
    """

    def __init__(
        self,
        attribute: Attribute,
        ranges: list[tuple[float, float]],
        found: Attack,
        *,
        least: float,
    ) -> None:
        self.ranges, self.found, self.least = ranges, found, least
        self.is_pixels = [name in TRANSLATION for name in attribute.names]
        self.sizes = np.array([max(left + right, 1e-300) for left, right in ranges])
        self.heap: list[tuple[float, float, int, np.ndarray]] = []
        self.order = itertools.count()  # of cells at one distance
        self.done: list[tuple[np.ndarray, int, float]] = []
        self.blocked = {-1: np.inf, 0: np.inf, 1: np.inf}  # by side, of one parameter
        if len(ranges) == 1:
            shares = parameter_ranges.share_of(found.witnesses, ranges)
            for move, share in zip(found.witnesses[:, 0], shares, strict=True):
                for side in (-1, 1):
                    if side * move >= 0:
                        self.blocked[side] = min(self.blocked[side], float(share))

    def put(self, cell: np.ndarray, state: int, margin: float = np.nan) -> None:
        """Adds a cell; open ones wait for their turn."""
        if state == PROVEN:
            self.done.append((cell, state, margin))
        elif state == OPEN:
            size = 0.0 if len(self.ranges) == 1 else -float(self._widths(cell).max())
            place = size, self._distance(cell), next(self.order), cell
            heapq.heappush(self.heap, place)
        else:
            self._give_up(cell, state, margin)

    def take(self, count: int) -> np.ndarray:
        """The next cells that may be proven; others are split on the way."""
        taken: list[np.ndarray] = []
        while self.heap and len(taken) < count:
            _, distance, _, cell = heapq.heappop(self.heap)
            if distance >= self.blocked[self._side(cell)]:
                self.done.append((cell, UNDECIDED, np.nan))
            elif self._holds_witness(cell):
                self._split(cell, LOST, np.nan)
            else:
                taken.append(cell)
        return np.array(taken)

    def settle(self, cell: np.ndarray, margin: float) -> None:
        """Keeps a cell whose margin is positive, or splits it."""
        if margin > 0:
            self.done.append((cell, PROVEN, margin))
        else:
            self._split(cell, UNDECIDED, margin)

    def everything(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells, states and margins."""
        waiting = [(cell, OPEN, np.nan) for *_, cell in self.heap]
        cells, states, margins = zip(*self.done, *waiting, strict=True)
        return np.array(cells), np.array(states), np.array(margins)

    def _split(self, cell: np.ndarray, state: int, margin: float) -> None:
        width = self._widths(cell)
        axis = int(np.argmax(width))
        if width[axis] <= self._least_width(cell):
            self._give_up(cell, state, margin)
            return
        middle = 0.5 * (cell[0, axis] + cell[1, axis])
        if self.is_pixels[axis] and cell[1, axis] - cell[0, axis] > 1:
            middle = np.round(middle)  # cells across an edge of pixels have no bounds
        for end in (0, 1):
            half = cell.copy()
            half[1 - end, axis] = middle
            self.put(half, OPEN)

    def _give_up(self, cell: np.ndarray, state: int, margin: float) -> None:
        """Keeps a cell that is not proven; nothing behind it helps, on one side."""
        self.done.append((cell, state, margin))
        side = self._side(cell)
        if side:
            self.blocked[side] = min(self.blocked[side], self._distance(cell))

    def _distance(self, cell: np.ndarray) -> float:
        """Which share of the limits its nearest move takes."""
        return float(cell_grids.nearest_share(cell[None], self.ranges)[0])

    def _widths(self, cell: np.ndarray) -> np.ndarray:
        """Widths of a cell by parameter, as shares of the limits."""
        return (cell[1] - cell[0]) / self.sizes

    def _least_width(self, cell: np.ndarray) -> float:
        """Minimum width: constant for one parameter, finer near zero for several."""
        if len(self.ranges) == 1:
            return self.least
        distance = self._distance(cell)
        return float(np.clip(distance / 8, self.least / 32, self.least))

    def _side(self, cell: np.ndarray) -> int:
        if len(self.ranges) > 1:
            return 0
        return -1 if cell[1, 0] <= 0 else 1

    def _holds_witness(self, cell: np.ndarray) -> bool:
        moves = self.found.witnesses
        return bool(np.any(np.all((cell[0] <= moves) & (moves <= cell[1]), axis=1)))
