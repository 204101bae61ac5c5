"""The l2 certificate: a perturbation along the gradient itself.

With nothing orthogonal to the perturbation the worst case is an interval of the line,
f = 1 on [z_low, z_high], with the radius R in units of sigma = 1:

    Phi(z_high) - Phi(z_low) = p,             (1)
    phi(z_low) - phi(z_high) = parallel,      (2)
    Phi(z_high - R) - Phi(z_low - R) = 1/2.   (3)

Reference: Mohapatra et al. (2020), arXiv 2010.06651; Levine et al. (2020), arXiv
    2010.10549, give the same certificate. `docs/papers/higher_order_proof.md`, "Nothing
    orthogonal: l2".
"""

from typing import Any, NamedTuple

from robustjax.smoothing.radii.dual import ArrayNamespace, bisect
from robustjax.special.normal import normal_pdf

_STEPS = 64  # halves 40 down to 2e-18


class Interval(NamedTuple):
    """The worst case on a line, and the radius that it leaves."""

    low: Any
    high: Any
    radius: Any


def worst_interval(q: Any, parallel: Any, arrays: ArrayNamespace) -> Interval:
    """Interval and radius for q = 1 - p < 1/2 and parallel <= 0, elementwise.

    Each bisection returns its safe end: the gradient it stands for is at least as
    harmful as `parallel`, and the radius no larger than the exact one.
    """
    xp = arrays.xp
    tiny = xp.finfo(q.dtype).tiny

    def upper(low: Any) -> Any:
        return -arrays.ndtri(xp.maximum(q - arrays.ndtr(low), tiny))  # (1)

    def is_left(low: Any) -> Any:
        return (  # (2)
            normal_pdf(low, xp=arrays.xp) - normal_pdf(upper(low), xp=arrays.xp)
            < parallel
        )

    farthest = xp.full_like(q, -37.0)
    middle = arrays.ndtri(0.5 * q)  # where parallel = 0
    low, _ = bisect(is_left, farthest, middle, steps=_STEPS, arrays=arrays)
    high = upper(low)

    def keeps_majority(r: Any) -> Any:
        return arrays.ndtr(high - r) - arrays.ndtr(low - r) >= 0.5  # (3)

    center = xp.maximum(0.5 * (low + high), 0.0)
    radius, _ = bisect(keeps_majority, center, high, steps=_STEPS, arrays=arrays)
    return Interval(low, high, radius)
