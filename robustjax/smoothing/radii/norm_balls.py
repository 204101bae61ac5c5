"""First-order radii of whole balls: which component of the gradient a norm exposes.

With U an upper bound of the dual norm of m, l a lower bound of |m|_2 (for a subspace,
of its part outside) and k the l2 circumradius of the unit ball of the norm,

    R = R_1(p, parallel, perpendicular) / k,                             (1)
    parallel = -exposed,   exposed = U / k,                              (2)
    perpendicular = sqrt(max(0, l^2 - exposed^2)),   for a subspace l,   (3)

where R_1 is `first_order_radius`. Why one radius covers the ball:
`docs/papers/higher_order_proof.md`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from robustjax import _validate, norms
from robustjax.smoothing.radii.ball_cover import cell_radius
from robustjax.smoothing.radii.first_order import first_order_radius

FORMS = ("box", "cells", "unproven")


def norm_radius(
    p_lower: ArrayLike,
    dual_upper: ArrayLike,
    length_lower: ArrayLike,
    *,
    norm: str = "l2",
    dim: int | None = None,
    sigma: ArrayLike = 1.0,
    form: str = "box",
) -> jax.Array | NDArray[np.float64]:
    """Radius of a norm's ball in which the class is certified, from gradient norms.

    m = sigma * (gradient of the probability of class A). In a ball with l2 circumradius
    k, no perturbation of l2 length k R meets more of the gradient than R times its
    dual norm: `parallel` = -dual_upper / k, and the rest of the gradient is orthogonal
    to it. Elementwise; [host] or [device] as `first_order_radius`.

    Guarantee:
        "box": the smoothed classifier predicts A at every x + delta with norm(delta)
        below the radius, if the bounds hold. The proof needs no monotonicity: one dual
        value at the circumradius covers the ball (see the page of the paper).
        "cells": the same, proved for every component that the ball can meet, cell by
        cell (`ball_cover.cell_radius`); larger, slower, host only.
        "unproven": larger still; rests on a monotonicity that was seen in numbers.
        In a subspace all three are "box".

    Args:
        p_lower: lower bounds of the probability of class A, any shape.
        dual_upper: upper bounds of the dual norm of m: its l2 norm for l2, linf for l1,
            l1 for linf, lq for lp; its l2 norm inside a subspace.
        length_lower: lower bounds of the l2 norm of m; for a subspace, of the part of
            m orthogonal to it.
        norm: "l2", "l1", "linf", "l" and a number, or "subspace:NAME".
        dim: number of input coordinates, needed for p > 2.
        sigma: noise level, positive; the radius has its units.
        form: "box", "cells" or "unproven"; see `first_order_radius`.

    Returns:
        Radii >= 0.

    Raises:
        ValueError: if an argument is unknown or out of range, and for JAX arrays with
            form="cells".

    Example:
        >>> print(f"{norm_radius(0.99, 0.0028, 0.0225, norm='l1'):.4f}")
        2.8889

    Reference: Mohapatra et al. (2020), arXiv 2010.06651, for l1, l2, linf and
        subspaces; lp and the proof for whole balls are ours,
        `docs/papers/higher_order_proof.md`, "Theorem".
    """
    _validate.one_of(FORMS, form=form)
    circumradius = norms.l2_circumradius(norm, dim)
    is_device = any(
        isinstance(v, jax.Array) for v in (p_lower, dual_upper, length_lower)
    )
    xp: Any = jnp if is_device else np
    exposed = xp.asarray(dual_upper) / circumradius  # (2)
    if norms.subspace_name(norm) is not None:
        along = first_order_radius(p_lower, -exposed, length_lower, sigma=sigma)
    elif form == "cells":
        if is_device:
            raise ValueError("Expected NumPy arrays for form='cells', got JAX arrays.")
        along = cell_radius(p_lower, exposed, length_lower, sigma=sigma)
    else:
        # (3)
        rest = xp.sqrt(xp.maximum(xp.square(length_lower) - xp.square(exposed), 0.0))
        along = first_order_radius(p_lower, -exposed, rest, sigma=sigma, form=form)
    return along / circumradius  # (1)
