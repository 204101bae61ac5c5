"""Loops of a known number of steps and branches, written out as plain operations.

    scan, fori_loop, map:   the body once for each step, its slices as arguments,
    while:                  the body as long as the condition, which has to be known,
    cond, switch:           the branch that is known, else the hull of those possible.

A body is read again for each step, so loops of many steps raise an error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustjax import _validate
from robustjax.bounds.operations import Add, Bounded, UnsupportedError
from robustjax.bounds.rules import affine, logic
from robustjax.bounds.tracing import calls

KINDS = ("scan", "while", "cond")
_MOST_STEPS = 256
Inline = Callable[[Any, Sequence[Any]], list[Any]]


def written_out(
    name: str,
    params: Mapping[str, Any],
    arguments: Sequence[Any],
    *,
    add: Add,
    inline: Inline,
) -> list[Any]:
    """The results of a loop or of branches. [host].

    Args:
        name: one of `KINDS`.
        params: of the primitive.
        arguments: constants and bounded values.
        add: appends an operation.
        inline: the results of a closed jaxpr for such arguments.

    Returns:
        Constants and bounded values.

    Raises:
        UnsupportedError: for a loop of too many steps, or whose number of steps, or a
            branch that, depends on what is not known while tracing.
    """
    if name == "scan":
        return _scan(params, arguments, add=add, inline=inline)
    if name == "while":
        return _while(params, arguments, inline=inline)
    return _branches(params["branches"], arguments, add=add, inline=inline)


def _scan(
    params: Mapping[str, Any], arguments: Sequence[Any], *, add: Add, inline: Inline
) -> list[Any]:
    length, body = params["length"], params["jaxpr"]
    if length > _MOST_STEPS:
        raise UnsupportedError(
            f"Bounds are carried through at most {_MOST_STEPS} steps of a loop, this "
            f"one has {length}."
        )
    num_consts, num_carry = _counts(params)
    consts = list(arguments[:num_consts])
    carry = list(arguments[num_consts : num_consts + num_carry])
    rows = [_rows(add, x, length) for x in arguments[num_consts + num_carry :]]
    collected: list[list[Any]] = []
    order = reversed(range(length)) if params["reverse"] else range(length)
    for step in order:
        found = inline(body, [*consts, *carry, *(row[step] for row in rows)])
        carry = found[:num_carry]
        collected.append(found[num_carry:])
    if params["reverse"]:
        collected.reverse()
    stacked = [
        affine.stacked(add, parts, axis=0) for parts in zip(*collected, strict=True)
    ]
    if not length:
        avals = calls.closed(body).out_avals[num_carry:]
        stacked = [jnp.zeros((0, *aval.shape), aval.dtype) for aval in avals]
    return [*carry, *stacked]


def _counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of constants and of carried values; JAX 0.12 has them as trees."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    trees = params["ft_in"]
    if hasattr(trees, "unpack"):
        consts, carry, _ = trees.unpack()
        return len(consts), len(carry)
    consts, carry, _ = trees
    sizes = [
        len(jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None))
        for tree in (consts, carry)
    ]
    return sizes[0], sizes[1]


def _rows(add: Add, x: Any, length: int) -> list[Any]:
    if isinstance(x, Bounded):
        return affine.slices(add, x, axis=0)
    known = _validate.concrete(x)
    return [(x if known is None else known)[step] for step in range(length)]


def _while(
    params: Mapping[str, Any], arguments: Sequence[Any], *, inline: Inline
) -> list[Any]:
    num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
    of_cond = list(arguments[:num_cond])
    of_body = list(arguments[num_cond : num_cond + num_body])
    carry = list(arguments[num_cond + num_body :])
    for _ in range(_MOST_STEPS + 1):
        (goes_on,) = inline(params["cond_jaxpr"], [*of_cond, *carry])
        known = None if isinstance(goes_on, Bounded) else _validate.concrete(goes_on)
        if known is None or known.size != 1:  # several under `jnp.vectorize`
            raise UnsupportedError(
                "Bounds cannot follow a loop whose number of steps is not known."
            )
        if not known:
            return carry
        carry = inline(params["body_jaxpr"], [*of_body, *carry])
    raise UnsupportedError(
        f"Bounds are carried through at most {_MOST_STEPS} steps of a loop."
    )


def _branches(
    branches: Sequence[Any], arguments: Sequence[Any], *, add: Add, inline: Inline
) -> list[Any]:
    which, *rest = arguments
    if not isinstance(which, Bounded):
        known = _validate.concrete(which)
        if known is None:
            raise UnsupportedError("Bounds cannot follow a branch that is not known.")
        chosen = int(np.clip(int(known), 0, len(branches) - 1))
        return inline(branches[chosen], rest)
    found = [inline(branch, rest) for branch in branches]
    return [logic.hull(add, which, cases) for cases in zip(*found, strict=True)]
