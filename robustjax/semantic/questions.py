"""The settings of a search, by which a result is matched to its search."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.tree_util import Partial

from robustjax.semantic import fingerprints
from robustjax.semantic.attributes import Attribute
from robustjax.semantic.attributes import attribute as named_attribute
from robustjax.semantic.geometry import Sampling


class Question(NamedTuple):
    """What a certified range is about; two searches are one if all of it agrees."""

    attribute: str  # names of the parameters, joined by "+"
    sampling: Sampling
    ranges: tuple[tuple[float, float], ...]  # limits to the left and right, a parameter
    label: int
    targets: str
    relaxation: str
    method: str
    min_share: float
    image: str  # fingerprint
    model: str  # fingerprint

    @property
    def moving(self) -> Attribute:
        """The attribute."""
        return named_attribute(self.attribute, sampling=self.sampling)


def asked(
    fn: Partial,
    image: np.ndarray,
    label: int,
    *,
    attribute: Attribute,
    ranges: Sequence[tuple[float, float]],
    targets: str,
    relaxation: str,
    method: str,
    min_share: float,
) -> Question:
    """The question of a call. [host].

    Args:
        fn: maps one image to logits `[k]`.
        image: `[h, w, c]` float64.
        label: the class.
        attribute: what moves.
        ranges: from `parameter_ranges.resolve`.
        targets: as in `certify`.
        relaxation: as in `certify`.
        method: as in `certify`.
        min_share: as in `certify`.

    Returns:
        The `Question`.
    """
    return Question(
        "+".join(attribute.names),
        attribute.sampling,
        tuple(ranges),
        int(label),
        targets,
        relaxation,
        method,
        float(min_share),
        fingerprints.of_image(image),
        fingerprints.of_model(fn, image),
    )


def check_resumable(before: Question, now: Question) -> None:
    """Raises ValueError naming what differs, unless limits alone have grown. [host]."""
    has_grown = len(before.ranges) == len(now.ranges) and np.all(
        np.array(before.ranges) <= np.array(now.ranges)
    )
    # The ranges are last: those of another attribute do not compare.
    for name in sorted(Question._fields, key="ranges".__eq__):
        old, new = getattr(before, name), getattr(now, name)
        if old == new or (name == "ranges" and has_grown):
            continue
        wanted = "smaller limits" if name == "ranges" else f"the same {name}"
        raise ValueError(
            f"Expected resume= to be a search with {wanted}, got one with {old} for "
            f"{new}."
        )
