"""The bounds that a certified radius rests on, and the failure probability of each.

[host] With G groups of events of the gradient,

    alpha = alpha / 2 (p_lower)  +  G times alpha / (2 G) (one for each group).

`docs/confidence_budget.md`, "Event by event", has the table of the events.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from robustjax import _validate, norms

METHODS = ("tight", "reference")
_WHOLE = ("l2_upper", "l2_lower", "linf_upper", "linf_lower", "l1_upper", "l1_lower")
_OF_SUBSPACE = ("subspace_upper", "complement_lower")


class Budget(NamedTuple):
    """Failure probabilities that add up to alpha."""

    probability: float  # of the bound of the class probability
    gradient: dict[str, float]  # of each bound of the gradient, by name


def all_bounds(subspaces: Iterable[str]) -> tuple[str, ...]:
    """Names of all one-sided bounds of a gradient.

    [host]

    Args:
        subspaces: names of the subspaces.

    Returns:
        "l2_upper", "l2_lower" and so on; "subspace_upper:NAME" and
        "complement_lower:NAME" of each subspace.

    Example:
        >>> all_bounds(["red"])[-2:]
        ('subspace_upper:red', 'complement_lower:red')
    """
    parts = (f"{kind}:{name}" for name in subspaces for kind in _OF_SUBSPACE)
    return (*_WHOLE, *parts)


def needed_bounds(norm_names: Sequence[str]) -> tuple[str, ...]:
    """The one-sided bounds of the gradient on which radii in these norms rest.

    [host] A radius takes an upper bound of the dual norm of the gradient and a lower
    bound of its length (of the part orthogonal to the subspace); that in l2 the upper
    bound of the length alone. Dual norms between two others are interpolated.

    Args:
        norm_names: "l2", "l1", "linf", "l" and a number, "subspace:NAME".

    Returns:
        Names of bounds, each once.

    Raises:
        ValueError: for a norm that is not known, or a subspace without a name.

    Example:
        >>> needed_bounds(["l1", "l2"])
        ('l2_upper', 'l2_lower', 'linf_upper')
        >>> needed_bounds(["subspace:red"])
        ('subspace_upper:red', 'complement_lower:red')
    """
    needed = {bound for norm in norm_names for bound in _needed_by(norm)}
    names = [norms.subspace_name(norm) for norm in norm_names]
    known = all_bounds(dict.fromkeys(name for name in names if name))
    return tuple(bound for bound in known if bound in needed)


def num_events(bound: str, *, method: str = "tight") -> int:
    """Number of groups of events that a bound's failure probability is shared by.

    [host] In the method "reference" bounds of lengths take two, all others take one.

    Args:
        bound: its name, as in `all_bounds`.
        method: "tight" or "reference".

    Returns:
        1 or 2.

    Raises:
        ValueError: for another method.

    Example:
        >>> num_events("l2_upper"), num_events("l2_upper", method="reference")
        (1, 2)
    """
    _validate.one_of(METHODS, method=method)
    is_length = bound.startswith(("l2", *_OF_SUBSPACE))
    return 2 if method == "reference" and is_length else 1


def split(bounds: Collection[str], *, alpha: float, method: str = "tight") -> Budget:
    """The failure probability of each bound, if these are all that is asked for.

    [host] alpha / 2 for the class probability, the rest in equal parts for every
    group of events.

    Args:
        bounds: names of bounds of the gradient, each once.
        alpha: failure probability of everything together.
        method: "tight" or "reference".

    Returns:
        A `Budget` that adds up to alpha.

    Example:
        >>> split(["l2_upper"], alpha=0.001)
        Budget(probability=0.0005, gradient={'l2_upper': 0.0005})
    """
    events = {bound: num_events(bound, method=method) for bound in bounds}
    total = sum(events.values())
    gradient = {bound: alpha * k / (2 * total) for bound, k in events.items()}
    return Budget(probability=alpha / 2, gradient=gradient)


def events(
    norm_names: Sequence[str],
    *,
    alpha: float,
    simultaneous: bool = True,
    method: str = "tight",
) -> dict[str, Budget]:
    """The budget behind the radius of each norm.

    [host] With `simultaneous` one budget pays for the bounds of all norms, so that all
    radii hold together with probability 1 - alpha. Without it each norm has a budget of
    its own, and each radius by itself holds with probability 1 - alpha.

    Args:
        norm_names: as in `needed_bounds`.
        alpha: failure probability.
        simultaneous: whether the radii are to hold together.
        method: "tight" or "reference".

    Returns:
        A `Budget` for each norm.

    Raises:
        ValueError: for a norm or a method that is not known.

    Example:
        >>> for norm, budget in events(["l2", "l1"], alpha=0.01).items():
        ...     print(norm, {k: round(v, 5) for k, v in budget.gradient.items()})
        l2 {'l2_upper': 0.00167, 'l2_lower': 0.00167, 'linf_upper': 0.00167}
        l1 {'l2_upper': 0.00167, 'l2_lower': 0.00167, 'linf_upper': 0.00167}
    """
    if simultaneous:
        together = split(needed_bounds(norm_names), alpha=alpha, method=method)
        return dict.fromkeys(norm_names, together)
    return {
        norm: split(needed_bounds([norm]), alpha=alpha, method=method)
        for norm in norm_names
    }


def _needed_by(norm: str) -> tuple[str, ...]:
    name = norms.subspace_name(norm)
    if name == "":
        raise ValueError(f"Expected a name, such as subspace:red, got {norm!r}.")
    if name is not None:
        return tuple(f"{kind}:{name}" for kind in _OF_SUBSPACE)
    p = norms.exponent(norm)
    if p == 1:
        return ("linf_upper", "l2_lower")
    if p == 2:
        return ("l2_upper",)
    if p < 2:
        return ("l2_upper", "linf_upper", "l2_lower")
    return ("l1_upper", "l2_upper", "l2_lower")
