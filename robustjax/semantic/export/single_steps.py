"""Functions that are one primitive of JAX, as that primitive with its operands."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from robustjax.bounds import tracing


class Step(NamedTuple):
    """One primitive, its operands constants or numbers of inputs."""

    name: str
    params: Mapping[str, Any]
    operands: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the operands
    shape: tuple[int, ...]  # of the result


def single(
    point: Callable[..., jax.Array], inputs: Sequence[jax.ShapeDtypeStruct]
) -> Step | None:
    """The primitive that a function is; None if it is made of several. [host]."""
    closed = jax.make_jaxpr(point)(*inputs)
    steps: list[Step] = []
    (result,) = _results(closed.jaxpr, closed.consts, range(len(inputs)), steps)
    return steps[0] if len(steps) == 1 and result is steps[0] else None


def _results(
    jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], steps: list[Step]
) -> list[Any]:
    """The results of a jaxpr: constants, numbers of inputs, and steps, collected."""
    known = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    known |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return np.asarray(atom.val) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        operands = tuple(read(atom) for atom in equation.invars)
        if name in tracing.CALLS:
            inner = next(params[key] for key in tracing.CALLED if key in params)
            body, own = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            results = _results(body, own, operands, steps)
        elif any(isinstance(operand, int | Step) for operand in operands):
            shapes = [
                tuple(atom.aval.shape for atom in atoms)
                for atoms in (equation.invars, equation.outvars)
            ]
            steps.append(Step(name, params, operands, shapes[0], shapes[1][0]))
            results = [steps[-1]] * len(equation.outvars)
        else:
            found = equation.primitive.bind(*operands, **params)
            is_list = equation.primitive.multiple_results
            results = [np.asarray(each) for each in (found if is_list else [found])]
        known |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]
