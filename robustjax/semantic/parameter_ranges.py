"""Limits of the moves of attributes: given by the user, and defaults.

    share of a move t = max_i |t_i| / limit_i,

the smallest factor by which the box of limits has to be scaled to contain the move.
"""

from collections.abc import Sequence

import numpy as np

from robustjax.semantic.attributes import Attribute

Limit = float | tuple[float, float] | Sequence[tuple[float, float]]


def resolve(attribute: Attribute, limit: Limit | None) -> list[tuple[float, float]]:
    """How far each parameter goes to the left and to the right. [host].

    Args:
        attribute: what moves.
        limit: a number for all, (left, right) for all, or a pair a parameter; default:
            those of the parameters.

    Returns:
        (left, right) a parameter, both >= 0.

    Raises:
        ValueError: if they are negative, not finite, or go where the attribute has no
            meaning.
    """
    parameters = attribute.parameters
    if limit is None:
        pairs = np.array([[p.limit, p.limit] for p in parameters])
    else:
        try:
            pairs = np.broadcast_to(np.asarray(limit, np.float64), (len(parameters), 2))
        except ValueError:
            raise ValueError(
                "Expected limit as a number, (left, right), or a pair for each of "
                f"{', '.join(attribute.names)}, got {limit}."
            ) from None
    if not (np.isfinite(pairs) & (pairs >= 0)).all():
        raise ValueError(f"Expected limit >= 0 and finite, got {limit}.")
    all_there = {"saturation", "lightness"}  # each is a number in [0, 1], clipped
    if "contrast" not in attribute.names:
        all_there.add("brightness")
    for parameter, (left, right) in zip(parameters, pairs, strict=True):
        if parameter.name in all_there and max(left, right) > 1:
            raise ValueError(
                f"Nothing changes beyond a {parameter.name} of 1: "
                f"expected a limit of at most 1, got {max(left, right):g}."
            )
        if -left <= parameter.least:
            raise ValueError(
                f"Expected {parameter.name} above {parameter.least:g}, got a limit of "
                f"{left:g} to the left."
            )
        if parameter.name == "hue" and max(left, right) > 0.5:
            raise ValueError(
                f"Half a turn to either side is every hue: expected a limit of at most "
                f"0.5, got {max(left, right):g}."
            )
    return [(float(left), float(right)) for left, right in pairs]


def share_of(moves: np.ndarray, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """How far the box of limits must grow from zero to hold moves. [host].

    Args:
        moves: `[n, d]`.
        ranges: from `resolve`.

    Returns:
        `[n]`, the largest over the parameters; 0 of no move, inf beyond a limit of 0.
    """
    left, right = np.array(ranges).T
    way, limit = np.abs(moves), np.where(moves < 0, left, right)
    share = np.where(way > 0, np.inf, 0.0)
    np.divide(way, limit, out=share, where=(way > 0) & (limit > 0))
    return share.max(axis=1)
