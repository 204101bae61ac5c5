"""Corrections for release 1.0 of jax_verify: rules that are missing or wrong.

Bounds pass through an affine operation z = J x + b of bounded operands:

    forward:    x >= A x0 + a  becomes  z >= J A x0 + J a + b   where J >= 0,
    backward:   c . z + d      becomes  (J^T c) . x + (c . b + d).

Operations that move, repeat or add values have J >= 0. Both J and its transpose come
from JAX's derivatives, so that one rule serves all.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Operations that move, repeat or add values, of one bound or several.
MOVING = (
    lax.broadcast_in_dim_p,
    lax.concatenate_p,
    lax.cumsum_p,
    lax.gather_p,
    lax.pad_p,
    lax.rev_p,
    lax.select_n_p,
    lax.slice_p,
    lax.squeeze_p,
    lax.transpose_p,
)
_BINARY = (lax.add_p, lax.sub_p, lax.mul_p, lax.div_p, lax.max_p)
_AFFINE = (
    *_BINARY[:-1],
    lax.reshape_p,
    lax.reduce_sum_p,
    lax.dot_general_p,
    lax.conv_general_dilated_p,
    *MOVING,
)


def _correct_intervals(ibp: Any) -> None:
    table = ibp._primitive_transform
    _ignore_parameters(table)
    for primitive in MOVING:
        through = ibp._make_ibp_passthrough_primitive(primitive)
        table[primitive] = functools.partial(_without_index, through)


def _correct_forward_rules(fastlin: Any) -> None:
    for table in (
        fastlin.fastlin_primitive_transform,
        fastlin._crown_primitive_transform,
    ):
        _ignore_parameters(table)
        for primitive in MOVING:
            table[primitive] = functools.partial(_forward, fastlin, primitive)


def _correct_backward_rules(crown_ibp: Any) -> None:
    """Gives its backward pass one sound rule for all affine primitives.

    The rules of 1.0 call JAX's transposition rules with operands of a form that is
    gone, add a constant that should be subtracted (x - c), and count the offset of a
    sum of two bounds once for each.
    """
    table = crown_ibp._primitive_transform
    for primitive in _AFFINE:
        table[primitive] = functools.partial(_backward, crown_ibp, primitive)
    rule = table[lax.max_p]
    table[lax.max_p] = functools.partial(_backward_max, crown_ibp, rule)


def _ignore_parameters(table: dict[Any, Callable[..., Any]]) -> None:
    """Lets the rules of binary operations pass over parameters that came later."""
    for primitive in _BINARY:
        rule = table[primitive]
        table[primitive] = lambda i, x, y, rule=rule, **_: rule(i, x, y)


def _without_index(
    rule: Callable[..., Any], _: int, *values: Any, **params: Any
) -> Any:
    return rule(*values, **params)


def _backward_max(
    crown_ibp: Any, rule: Callable[..., Any], index: int, out: Any, *values: Any
) -> Any:
    """NaN through all that uses ReLU of what is not finite: 1.0 takes it for zero."""
    x, _ = values
    forms, none = rule(index, out, *values)
    is_known = jnp.isfinite(x.lower) & jnp.isfinite(x.upper)
    for side in ("lower_lin", "upper_lin"):
        form, used = getattr(forms, side), getattr(out, side).lin_coeffs
        lead = (len(is_known),) + (1,) * (used.ndim - is_known.ndim)
        known = is_known.reshape(*lead, *is_known.shape[1:])
        axes = tuple(range(form.offset.ndim, used.ndim))
        missing = jnp.sum(jnp.where(known | (used == 0), 0.0, jnp.nan), axis=axes)
        offset = form.offset + missing
        setattr(forms, side, crown_ibp.LinearExpression(form.lin_coeffs, offset))
    return forms, none


def _of_bounded(
    primitive: Any, operands: Any, params: dict[str, Any]
) -> tuple[list[int], Callable[..., jax.Array]]:
    """Which operands are bounded, and the primitive as a function of these."""
    bounded = [i for i, v in enumerate(operands) if hasattr(v, "lower")]

    def forward(*values: jax.Array) -> jax.Array:
        known = dict(enumerate(operands)) | dict(zip(bounded, values, strict=True))
        result: jax.Array = primitive.bind(*known.values(), **params)
        return result

    return bounded, forward


def _forward(
    fastlin: Any, primitive: Any, _: int, *operands: Any, **params: Any
) -> Any:
    """Linear forms of the result of an operation that moves values."""
    bounded, forward = _of_bounded(primitive, operands, params)
    inner = [operands[i].unwrap() for i in bounded]

    def through(side: str) -> Any:
        forms = [getattr(bound, side) for bound in inner]
        offset, push = jax.linearize(forward, *[form.offset for form in forms])
        coefficients = [form.lin_coeffs for form in forms]
        pushed = jax.vmap(push, in_axes=1, out_axes=1)(*coefficients)
        return fastlin.LinearExpression(pushed, offset)

    return fastlin.LinearBound(
        through("lower_lin"), through("upper_lin"), inner[0].reference
    )


def _backward(
    crown_ibp: Any, primitive: Any, _: int, out: Any, *operands: Any, **params: Any
) -> list[Any]:
    """Linear forms of the result of an affine primitive as forms of its operands.

    The interval pass has already raised an error for products of two bounds.
    """
    bounded, forward = _of_bounded(primitive, operands, params)
    zeros = [jnp.zeros_like(operands[i].lower) for i in bounded]
    constant, pull = jax.vjp(forward, *zeros)

    def through(form: Any) -> list[Any]:
        num_output_axes = form.offset.ndim - 1
        coefficients = form.lin_coeffs.reshape(
            len(form.lin_coeffs), -1, *constant.shape[1:]
        )
        pulled = jax.vmap(pull, in_axes=1, out_axes=1)(coefficients)
        added = jnp.sum(
            coefficients * constant[:, None], axis=tuple(range(2, coefficients.ndim))
        ).reshape(form.offset.shape)
        offsets = [form.offset + added] + [jnp.zeros_like(added)] * (len(bounded) - 1)
        lead = form.lin_coeffs.shape[: 1 + num_output_axes]
        return [
            crown_ibp.LinearExpression(p.reshape(*lead, *p.shape[2:]), offset)
            for p, offset in zip(pulled, offsets, strict=True)
        ]

    forms = map(
        crown_ibp.CrownBackwardBound, through(out.lower_lin), through(out.upper_lin)
    )
    found = dict(zip(bounded, forms, strict=True))
    return [found.get(i) for i in range(len(operands))]


# What is done to a module after its import, by its name.
CORRECTIONS: dict[str, Callable[[Any], None]] = {
    "jax_verify.src.ibp": _correct_intervals,
    "jax_verify.src.fastlin": _correct_forward_rules,
    "jax_verify.src.crown_ibp": _correct_backward_rules,
}
