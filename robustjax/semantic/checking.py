"""The check of a certified range: its cells are bounded again, one by one."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from robustjax import bounds
from robustjax._precision import as_run
from robustjax.semantic import certificates, color, fingerprints
from robustjax.semantic.certificates import LOST, PROVEN, UNDECIDED, Certification
from robustjax.semantic.search import cell_bounds, cell_grids, counterexamples

_ROUNDING = 1e-9  # of margins between two machines, relative
_CLAIMS = ("left", "right", "share", "area")
_ATTACKS = ("attack_left", "attack_right", "attack_share")


class Check(NamedTuple):
    """What holds of a certified range; all does if it `is_confirmed`."""

    is_same_image: bool  # by fingerprint
    is_same_model: bool  # by fingerprint, which another version of JAX may change
    are_cells_proven: bool  # every cell said to be proven has a positive margin again
    is_covered: bool  # the cells cover the limits
    are_claims_met: bool  # left, right, share, area and status follow from the cells
    is_attack_met: bool  # the model loses the label where said, and attack_* follow
    margins: np.ndarray  # [n], of the cells said to be proven; nan: of the others

    @property
    def is_confirmed(self) -> bool:
        """Whether all of it holds."""
        return all(self[:6])


def check(
    certification: Certification,
    apply_fn: Callable[[jax.Array], jax.Array],
    image: ArrayLike,
    *,
    batch_size: int | None = None,
    chunk_size: int | None = 32,
) -> Check:
    """Tests a certified range: bounds its cells again, and all that follows from them.

    [host] The counterexamples and the grid of attack_area are evaluated again, and
    every cell that is said to hold a counterexample has to hold one of them. The status
    has to be the one that follows from the cells; left, right, share, area and margins
    may be smaller than what follows.

    What depends on the course of the search is not tested: num_bounded, seconds,
    min_share, the margins of cells that are not proven, and whether these are open or
    undecided, on which it depends whether the status is "unknown" or "falsified".

    Guarantee:
        If `are_cells_proven`, the label wins on every cell said to be proven, of the
        model and the image given here, as in `certify`.

    Args:
        certification: from `certify` or `load`.
        apply_fn: maps `[n, h, w, c]` to logits `[n, k]`.
        image: `[h, w, c]` in [0, 1].
        batch_size: cells at a time; default: as in `certify`.
        chunk_size: as in `bounds.linear_bounds`.

    Returns:
        A `Check`.

    Raises:
        ValueError: if the arrays of the result do not fit together, the image does not
            suit the attribute, or the label is no class.
        UnsupportedError: if the model has an operation without a rule.

    Example:
        >>> from robustjax import semantic
        >>> model = lambda x: x[:, 0, 0] - 0.25
        >>> image = np.array([[[0.75, 0.25]]])
        >>> found = semantic.certify(model, image, 0, attribute="brightness", limit=0.1)
        >>> check(found, model, image).is_confirmed
        True
        >>> check(found._replace(right=0.2), model, image).are_claims_met
        False

    Reference: ours.
    """
    certificates.check_arrays(certification)
    question = certification.question
    moving = question.moving
    x = color.on_host(image, is_color=moving.is_color)
    fn: Any = as_run(bounds.single(apply_fn))
    how = cell_bounds.How(
        moving,
        cell_grids.bounded_widths(moving),
        question.relaxation,
        question.method,
        chunk_size=chunk_size,
    )
    rows = cell_bounds.margin_spec(fn, x, question.label, targets=question.targets)
    bound = functools.partial(cell_bounds.of_cells, fn, x, spec=rows, how=how)
    margins = _again(bound, certification, cell_bounds.batch_size_of(batch_size))
    claimed = certification.states == PROVEN
    model = counterexamples.Model(fn, moving, x, question.label)
    return Check(
        is_same_image=fingerprints.of_image(x) == question.image,
        is_same_model=fingerprints.of_model(fn, x) == question.model,
        are_cells_proven=bool((margins[claimed] > 0).all()),
        is_covered=cell_grids.covers(certification.cells, question.ranges),
        are_claims_met=_are_claims_met(certification, margins),
        is_attack_met=_is_attack_met(certification, model)
        and _is_area_met(certification, apply_fn, x),
        margins=margins,
    )


def _again(
    bound: Callable[[np.ndarray], np.ndarray], certification: Certification, size: int
) -> np.ndarray:
    """The margins of the cells said to be proven, a batch at a time."""
    cells = np.asarray(certification.cells, np.float64)
    margins = np.full(len(cells), np.nan)
    claimed = np.flatnonzero(certification.states == PROVEN)
    for first in range(0, len(claimed), size):
        own = claimed[first : first + size]
        filled = np.resize(cells[own], (size, *cells.shape[1:]))
        margins[own] = bound(filled)[: len(own)]
    return margins


def _is_attack_met(certification: Certification, model: counterexamples.Model) -> bool:
    """Whether the label is lost at all moves, and each LOST cell holds one of them."""
    moves = np.asarray(certification.witnesses, np.float64)
    found = counterexamples.nearest(model, certification.question.ranges, moves)
    low, high = certification.cells[certification.states == LOST].swapaxes(0, 1)
    holds = (low[:, None] <= moves[None]) & (moves[None] <= high[:, None])
    return (
        len(found.witnesses) == len(moves)
        and found[:3] == tuple(getattr(certification, name) for name in _ATTACKS)
        and bool(holds.all(axis=2).any(axis=1).all())
    )


def _is_area_met(
    certification: Certification,
    apply_fn: Callable[[jax.Array], jax.Array],
    image: np.ndarray,
) -> bool:
    """Whether attack_area is what `certify` gives: of one parameter nan."""
    question = certification.question
    if len(question.ranges) == 1:
        return bool(np.isnan(certification.attack_area))
    again = cell_grids.kept_area(
        apply_fn,
        image,
        question.label,
        attribute=question.moving,
        ranges=question.ranges,
    )
    return abs(certification.attack_area - again) <= _ROUNDING


def _are_claims_met(certification: Certification, margins: np.ndarray) -> bool:
    """Whether no more is claimed than follows from the cells that were proven again."""
    states = certification.states
    claimed = states == PROVEN
    room = _ROUNDING * (1 + np.abs(margins[claimed]))
    if not (certification.margins[claimed] <= margins[claimed] + room).all():
        return False
    confirmed = np.where(claimed & ~(margins > 0), UNDECIDED, states)
    left, right, share = (getattr(certification, name) for name in _ATTACKS)
    moves = certification.witnesses
    found = counterexamples.Attack(left, right, share, moves, np.full(len(moves), -1))
    try:
        again = certificates.of_cells(
            certification.cells,
            confirmed,
            ranges=certification.question.ranges,
            found=found,
        )
    except RuntimeError:  # beyond a counterexample
        return False
    claims = np.array([[getattr(certification, n), again[n]] for n in _CLAIMS])
    is_met = (claims[:, 0] <= claims[:, 1]) | np.isnan(claims).all(axis=1)
    return bool(is_met.all()) and certification.status == again["status"]
