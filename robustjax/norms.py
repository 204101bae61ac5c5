"""Norms by name: "l1", "l2", "linf", "l" and a number ("l1.5"), "subspace:NAME".

For the norm lp in d dimensions, the exponent q of the dual norm and the maximum l2 norm
k_p in its unit ball are

    1 / p + 1 / q = 1,   k_p = d^(1/2 - 1/p) for p >= 2, and 1 for p <= 2.
"""

import math

_SUBSPACE = "subspace"


def exponent(norm: str) -> float:
    """The exponent p >= 1 of a norm given by name.

    [host]

    Args:
        norm: "linf", or "l" followed by a number >= 1.

    Returns:
        p as a float, inf for "linf".

    Raises:
        ValueError: if the name is not that of a norm.

    Example:
        >>> exponent("l1.5"), exponent("linf")
        (1.5, inf)
    """
    try:
        p = float(norm.removeprefix("l")) if norm.startswith("l") else math.nan
    except ValueError:
        p = math.nan
    if not p >= 1:
        raise ValueError(
            f"Unknown norm {norm!r}; expected l1, l2, linf, lp with a number p >= 1, "
            "or subspace:NAME."
        )
    return p


def canonical(norm: str) -> str:
    """Returns the one spelling of a norm under which results are kept.

    [host] "l2", "l2.0" and "l+2" are one norm, and so are "subspace" and "subspace:".

    Args:
        norm: name of a norm.

    Returns:
        "linf", "l" and the shortest decimal of p, "subspace" or "subspace:NAME".

    Raises:
        ValueError: if the name is not that of a norm.

    Example:
        >>> canonical("l2.0"), canonical("l1.50"), canonical("linfinity")
        ('l2', 'l1.5', 'linf')
    """
    name = subspace_name(norm)
    if name is not None:
        return f"{_SUBSPACE}:{name}" if name else _SUBSPACE
    p = exponent(norm)
    return f"l{int(p)}" if p.is_integer() else f"l{p!r}"


def dual_exponent(p: float) -> float:
    """The exponent q of the dual norm, 1/p + 1/q = 1.

    [host]

    Args:
        p: an exponent >= 1; inf is allowed.

    Returns:
        q, an exponent >= 1.

    Example:
        >>> dual_exponent(1.0), dual_exponent(2.0), dual_exponent(math.inf)
        (inf, 2.0, 1.0)
    """
    if p == 1:
        return math.inf
    return 1.0 if math.isinf(p) else p / (p - 1)


def subspace_name(norm: str) -> str | None:
    """The NAME of "subspace:NAME", "" for "subspace" alone, None for other norms.

    [host]

    Args:
        norm: name of a norm.

    Returns:
        The name, or None.

    Example:
        >>> subspace_name("subspace:red"), subspace_name("l2")
        ('red', None)
    """
    kind, _, name = norm.partition(":")
    return name if kind == _SUBSPACE else None


def l2_circumradius(norm: str, dim: int | None) -> float:
    """Largest l2 length in the unit ball of a norm: d^(1/2 - 1/p) for p >= 2, else 1.

    [host] Inside a subspace perturbations are measured in l2, so it gives 1.

    Args:
        norm: name of the norm, or "subspace:NAME".
        dim: number of input coordinates d, needed for p > 2.

    Returns:
        The circumradius, a float >= 1.

    Raises:
        ValueError: if the norm is unknown, or if it needs `dim` and has none.

    Example:
        >>> l2_circumradius("linf", 784)
        28.0
    """
    p = exponent(norm) if subspace_name(norm) is None else 2.0
    if p <= 2:
        return 1.0
    if dim is None or dim < 1:
        raise ValueError(f"Expected dim >= 1 for norm={norm!r}, got dim={dim}.")
    return float(dim) ** (0.5 - 1 / p)
