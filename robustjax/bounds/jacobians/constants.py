"""Bounds of Jacobians on a box, and the local Lipschitz constants that follow.

With m_ij >= |d f_i / d x_j| everywhere in a convex set of inputs,

    |f(x) - f(y)|_p <= L |x - y|_p  for all x, y in it,   L = |m|_p,

as f(x) - f(y) is the mean of the Jacobian on the way from y to x, times x - y. On a
kink, say where z = 0 in relu(z), z does not move for almost all of the time, so that
any derivative of relu will do.

Reference:
    Clarke (1983), Optimization and Nonsmooth Analysis, section 2.3, for functions with
    kinks. Zhang, Zhang and Hsieh (2019), RecurJac, arXiv 1810.11783, bound Jacobians of
    networks by rules of their own; these here are those of `linear_bounds`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.bounds import boxes, ibp, tracing
from robustjax.bounds.input_sets import NORMS, InputSet, UnionOfBoxes
from robustjax.bounds.jacobians import conditions, operator_norms
from robustjax.bounds.methods import Bounds, linear_bounds


class Lipschitz(NamedTuple):
    """Local Lipschitz constants; inf where none is known."""

    constant: jax.Array  # of the function, in one norm for inputs and outputs
    of_entries: jax.Array  # [...] as the output, of each entry alone
    jacobian: Bounds  # shape of the output, then that of the input


def jacobian_bounds(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    input_set: InputSet = None,
    method: str = "crown",
    chunk_size: int | None = None,
    rounding: str = "ignore",
) -> Bounds:
    """Bounds of all derivatives of a function on a box.

    [device] Pure, jittable, vmappable over the box, differentiable.

    Guarantee:
        lower <= d f_i / d x_j <= upper at every x in the box, and in `input_set` if
        that is given, for the derivatives that `jax.jacrev` computes in exact
        arithmetic, up to rounding as in `linear_bounds`. At a kink this is the
        derivative of one side or a mean of both, and the bounds hold for all of them.

    Args:
        fn: maps one example, an array, to an array; see `linear_bounds`.
        lower: lower corner of the box.
        upper: upper corner.
        input_set: as in `linear_bounds`.
        method: as in `linear_bounds`; "crown" bounds each entry of every matrix that
            the chain rule multiplies, which "ibp" takes for independent.
        chunk_size: as in `linear_bounds`.
        rounding: as in `linear_bounds`.

    Returns:
        `Bounds`, `[*shape of the output, *shape of the input]`.

    Raises:
        ValueError: as `linear_bounds`; lower and upper are arrays.
        UnsupportedError: if a primitive of fn or of its derivative has no rule.

    Example:
        >>> bound_fn = jax.jit(
        ...     lambda low, high: jacobian_bounds(lambda x: x**2, low, high))
        >>> found = bound_fn(jnp.array([1.0]), jnp.array([3.0]))
        >>> print(found.lower, found.upper)
        [[2.]] [[6.]]

    Reference: ours; the bounds are those of `linear_bounds`.
    """
    box = boxes.checked(lower, upper)
    struct = jax.ShapeDtypeStruct(box[0].shape, box[0].dtype)
    jaxpr, output = jax.make_jaxpr(fn, return_shape=True)(struct)
    is_wide = output.size <= struct.size or conditions.is_reverse_only(jaxpr.jaxpr)
    derivative = jax.jacrev(fn) if is_wide else jax.jacfwd(fn)
    return linear_bounds(
        derivative,
        *box,
        input_set=input_set,
        method=method,
        chunk_size=chunk_size,
        rounding=rounding,
    )


def lipschitz(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    norm: str = "l2",
    input_set: InputSet = None,
    method: str = "crown",
    is_trusted: bool = False,
    chunk_size: int | None = None,
    rounding: str = "ignore",
) -> Lipschitz:
    """Upper bounds on the Lipschitz constants of a function on a box.

    [device] Pure, jittable, vmappable over the box, differentiable.

    Guarantee:
        `|fn(x) - fn(y)| <= constant |x - y|` in the norm, and
        `|fn(x)_i - fn(y)_i| <= of_entries_i |x - y|`, for all x and y in the box, and
        in `input_set` if that is given. This is about fn in exact arithmetic, without
        casts to narrower floats, and up to rounding as in `linear_bounds`. Kinks are
        allowed, as of relu and max.
        The constants are inf where fn may be NaN, and where it may jump or its
        derivative may be another one than JAX computes: by a comparison, a count, a
        sort, floor, ceil, round, sign, a remainder or the cut of atan2 that the box
        does not decide, by `jax.lax.stop_gradient`, `jax.lax.reduce_precision` or a
        derivative rule that JAX does not come with.
        Primitives that you `register` are taken to be continuous.

    Args:
        fn: maps one example, an array, to an array; see `linear_bounds`.
        lower: lower corner of the box.
        upper: upper corner.
        norm: "l2", "l1" or "linf", of inputs and outputs alike.
        input_set: as in `linear_bounds`, a convex one.
        method: as in `jacobian_bounds`.
        is_trusted: fn is known to be continuous, as `jnp.where(x > 0, x, 0.1 * x)` is,
            and its derivative rules to be right, which is not checked.
        chunk_size: as in `linear_bounds`.
        rounding: as in `linear_bounds`.

    Returns:
        A `Lipschitz`.

    Raises:
        ValueError: as `linear_bounds`, for an unknown norm, and for `UnionOfBoxes`.
        UnsupportedError: as `jacobian_bounds`.

    Example:
        >>> weight = jnp.array([[3.0, 0.0], [4.0, 1.0]])
        >>> fn = lambda x: jax.nn.relu(x @ weight)
        >>> found = jax.jit(lambda low, high: lipschitz(fn, low, high))(
        ...     jnp.zeros(2), jnp.ones(2))
        >>> print(found.constant.round(2), found.of_entries)
        5.06 [5. 1.]

    Reference: ours, by the mean value theorem; Clarke (1983), section 2.3.
    """
    _validate.one_of(NORMS, norm=norm)
    if isinstance(input_set, UnionOfBoxes):
        raise ValueError("Expected a convex input_set, got UnionOfBoxes.")
    box = boxes.checked(lower, upper)
    found = jacobian_bounds(
        fn,
        *box,
        input_set=input_set,
        method=method,
        chunk_size=chunk_size,
        rounding=rounding,
    )
    struct = jax.ShapeDtypeStruct(box[0].shape, box[0].dtype)
    graph = tracing.trace(fn, struct)
    intervals = ibp.propagate(graph, box)
    is_sound = ~jnp.any(ibp.is_unknown(intervals[graph.output]))
    if not is_trusted:
        is_sound &= conditions.never_jumps(graph, intervals)
        is_sound &= not conditions.has_own_rules(jax.make_jaxpr(fn)(struct).jaxpr)
    shape = graph.shape_of(graph.output)
    size = ibp.magnitude(found).reshape(math.prod(shape), -1)
    size = jnp.where(jnp.isnan(size) | ~is_sound, jnp.inf, size)
    constant = operator_norms.largest(size, norm)
    of_entries = jax.vmap(lambda row: operator_norms.largest(row[None], norm))(size)
    if rounding == "cover":
        slack = 4 * (sum(size.shape) + 16) * jnp.finfo(size.dtype).eps
        constant, of_entries = constant * (1 + slack), of_entries * (1 + slack)
    return Lipschitz(constant, of_entries.reshape(shape), found)
