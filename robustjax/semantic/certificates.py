"""Certified ranges: the cells that prove them, and what they prove; kept in files.

    right = the smallest |t| of a move t > 0 in a cell that is not proven, or the limit,
    share = the smallest share of the limits that meets such a cell, or 1.

left is as right, of moves t < 0.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from robustjax.semantic.geometry import Sampling
from robustjax.semantic.questions import Question
from robustjax.semantic.search import cell_grids
from robustjax.semantic.search.counterexamples import Attack

OPEN, PROVEN, UNDECIDED, LOST = range(4)
_FORMAT = "robustjax.semantic.Certification 1"
_ARRAYS = ("cells", "states", "margins", "witnesses")
_FLOATS = (
    "left", "right", "attack_left", "attack_right", "share", "attack_share", "area",
    "attack_area", "seconds",
)  # fmt: skip


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
    cells: np.ndarray  # [n, 2, d], which cover the limits
    states: np.ndarray  # [n]: 0 open, 1 proven, 2 undecided, 3 holds a counterexample
    num_bounded: int  # cells whose margins were bounded
    seconds: float
    margins: np.ndarray  # [n], lower bounds of the minimum margin; nan: not bounded
    witnesses: np.ndarray  # [m, d], the moves of the counterexamples
    question: Question  # what was asked, of which image and model


def of_cells(
    cells: np.ndarray,
    states: np.ndarray,
    *,
    ranges: Sequence[tuple[float, float]],
    found: Attack,
) -> dict[str, Any]:
    """What cells prove, as the first fields of a `Certification`. [host].

    Args:
        cells: `[n, 2, d]`, which cover the limits.
        states: `[n]`.
        ranges: from `parameter_ranges.resolve`.
        found: the counterexamples that are known.

    Returns:
        The fields by name, but for the area of the attack.

    Raises:
        RuntimeError: if a counterexample lies in what is proven.
    """
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
    share = float(min(cell_grids.nearest_share(missing, ranges), default=1.0))
    for name, proven, attacked in (
        ("left", sides[0], found.left),
        ("right", sides[1], found.right),
        ("share", share, found.share),
    ):
        if proven > attacked:
            raise RuntimeError(
                f"Certified beyond a counterexample, which is a defect: {name} "
                f"{proven} is more than {attacked}."
            )
    return {
        "left": float(sides[0]),
        "right": float(sides[1]),
        "attack_left": found.left,
        "attack_right": found.right,
        "share": share,
        "attack_share": found.share,
        "area": cell_grids.connected_area(cells[is_proven], ranges),
        "status": status,
        "cells": cells,
        "states": states,
        "witnesses": found.witnesses,
    }


def save(certification: Certification, path: str | os.PathLike[str]) -> None:
    """Writes a certified range with its cells and margins to a file.

    [host]

    Args:
        certification: from `certify`.
        path: of the file, by custom `*.npz`; replaced if it is there.

    Raises:
        OSError: if it cannot be written.

    Example:
        >>> import tempfile
        >>> from robustjax import semantic
        >>> model = lambda x: x[:, 0, 0] - 0.25
        >>> image = np.array([[[0.75, 0.25]]])
        >>> found = semantic.certify(
        ...     model, image, 0, attribute="brightness", limit=0.1, max_cells=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(found, f"{folder}/range.npz")
        ...     print(load(f"{folder}/range.npz").status)  # no cell was bounded
        unknown

    Reference: ours.
    """
    numbers = {
        name: value
        for name, value in certification._asdict().items()
        if name not in (*_ARRAYS, "question")
    }
    question = certification.question
    asked = question._asdict() | {"sampling": question.sampling._asdict()}
    header = json.dumps({"format": _FORMAT, **numbers, "question": asked})
    arrays = {name: getattr(certification, name) for name in _ARRAYS}
    with open(path, "wb") as file:
        np.savez_compressed(file, header=np.array(header), **arrays)


def load(path: str | os.PathLike[str]) -> Certification:
    """Reads a file of `save`; `check` tells whether what it says is so.

    [host]

    Args:
        path: of the file.

    Returns:
        The `Certification`.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with open(f"{folder}/notes.txt", "w") as file:
        ...         _ = file.write("hue: certified")
        ...     load(f"{folder}/notes.txt")
        Traceback (most recent call last):
        ValueError: Expected ...notes.txt to be a file of semantic.save.

    Reference: ours.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _ARRAYS}
            header = json.loads(str(file["header"]))
        if not all(isinstance(header[name], float) for name in _FLOATS):
            raise TypeError
        form = header.pop("format")
        asked = header.pop("question")
        asked["sampling"] = Sampling(**asked["sampling"])
        asked["ranges"] = tuple((float(a), float(b)) for a, b in asked["ranges"])
        found = Certification(**header, **arrays, question=Question(**asked))
    except (KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile):
        raise ValueError(f"Expected {path} to be a file of semantic.save.") from None
    if form != _FORMAT:
        raise ValueError(f"Expected {path} in the format {_FORMAT!r}, got {form!r}.")
    try:
        check_cells(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return found


def check_arrays(certification: Certification) -> None:
    """Raises ValueError unless arrays of a certified range fit together. [host].

    Args:
        certification: any.
    """
    cells, states, margins, witnesses = (
        np.asarray(getattr(certification, name)) for name in _ARRAYS
    )
    dimension = len(certification.question.ranges)
    if (
        cells.shape != (states.size, 2, dimension)
        or states.ndim != 1
        or margins.shape != states.shape
        or witnesses.shape[1:] != (dimension,)
    ):
        raise ValueError(
            f"Expected cells [n, 2, {dimension}] with n states and margins, and "
            f"witnesses [m, {dimension}], got {cells.shape}, {states.shape}, "
            f"{margins.shape} and {witnesses.shape}."
        )
    if any(v.dtype.kind not in "fiu" for v in (cells, states, margins, witnesses)):
        raise ValueError("Expected cells, states, margins and witnesses as numbers.")
    if not np.isin(states, range(4)).all():
        raise ValueError("Expected states from 0 to 3.")


def check_cells(certification: Certification) -> None:
    """Raises ValueError unless cells cover the limits, with positive margins. [host].

    Args:
        certification: any.
    """
    check_arrays(certification)
    cells, states, margins = (
        np.asarray(getattr(certification, name)) for name in _ARRAYS[:3]
    )
    ranges = certification.question.ranges
    if not cell_grids.covers(cells, ranges):
        raise ValueError(f"Expected cells that cover the limits {ranges}.")
    if not (margins[states == PROVEN] > 0).all():
        raise ValueError("Expected proven cells with margins above zero.")
