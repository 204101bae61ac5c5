"""One property of one network in VNN-LIB: an attack, bounds, and branch and bound.

All cases of a property are arguments of the same programs, filled up to few sizes, so
that a second property of a network compiles nothing. A network is known by the content
of its file.
"""

import dataclasses
import hashlib
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from robustjax import attacks, bounds, data, models
from robustjax._precision import float64_on_cpu

_FEW_INPUTS = 16  # maximum number of inputs for branch and bound
_MANY_CASES = 64  # bounded before they are attacked, which excludes most
_SLOTS = (16, 256)  # starts of PGD at a time, filled up to one of these
_MOST_NETWORKS = 64  # that are kept in memory
_NETWORKS: dict[str, models.OnnxModel] = {}  # by the digest of their files


@dataclasses.dataclass(frozen=True)
class Effort:
    """Limits of the search."""

    method: str  # of the bounds
    num_steps: int  # of method alpha
    max_boxes: int  # for each box of few inputs
    attack_steps: int
    attack_restarts: int  # of each case
    seed: int


@dataclasses.dataclass(frozen=True)
class Problem:
    """A property together with its network, and when to stop."""

    network: Partial  # one example to a flat output
    of: data.Property
    shape: tuple[int, ...]  # of an input
    deadline: float  # as time.perf_counter

    def seconds_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.perf_counter()

    def cases(self) -> list[data.Case]:
        """Cases of the property, with boxes of the shape of an input."""
        return [
            case._replace(
                lower=case.lower.reshape(self.shape),
                upper=case.upper.reshape(self.shape),
            )
            for case in self.of.cases
        ]


def digest(path: pathlib.Path) -> str:
    """SHA-256 of the content of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: pathlib.Path, content: str) -> models.OnnxModel:
    """The network in a file with this digest: one object for the same content."""
    if content not in _NETWORKS:
        model = models.load_onnx(path)
        if digest(path) != content:
            raise ValueError(f"{path} changed while it was read.")
        if len(_NETWORKS) >= _MOST_NETWORKS:
            del _NETWORKS[next(iter(_NETWORKS))]  # the oldest
        _NETWORKS[content] = model
    return _NETWORKS[content]


def problem(model: models.OnnxModel, of: data.Property, deadline: float) -> Problem:
    """A property of a network.

    Raises:
        ValueError: if they have other numbers of inputs or outputs.
    """
    sizes = math.prod(model.input_shape), math.prod(model.output_shape)
    if sizes != (of.num_inputs, of.num_outputs):
        raise ValueError(
            f"the network has {sizes[0]} inputs and {sizes[1]} outputs, "
            f"the property has {of.num_inputs} and {of.num_outputs}."
        )
    network = Partial(_flat_output, model.apply_fn)
    return Problem(network, of, model.input_shape, deadline)


def decide(given: Problem, effort: Effort) -> bounds.PropertyResult:
    """Whether any case of a property has a counterexample.

    "unsat" holds for the property as it is written, with its numbers in exact
    arithmetic. "sat": x is in a box of the property, and its output is unsafe in
    float64. Where a box allows no float64 at some entries, x is next to it, and all
    inputs next to x that are allowed are proven to be counterexamples.
    """
    cases = given.cases()
    if not cases:  # no input satisfies the property
        return bounds.PropertyResult("unsat", None, 0)
    is_small = math.prod(given.shape) <= _FEW_INPUTS
    method = "crown" if is_small else effort.method

    def exclude(
        of: Sequence[int], method: str, max_boxes: int
    ) -> bounds.PropertyResult:
        found = bounds.verify_cases(
            given.network,
            [cases[i] for i in of],
            method=method,
            num_steps=effort.num_steps,
            max_boxes=max_boxes,
            time_limit=given.seconds_left(),
            confirm=lambda i, x: _confirmed(given, of[i], x),
        )
        return found._replace(open_cases=tuple(of[i] for i in found.open_cases))

    still_open: Sequence[int] = range(len(cases))
    num_bounded = 0
    if len(cases) > _MANY_CASES:
        found = exclude(still_open, "crown", 1)
        if found.status != "unknown":
            return found
        still_open, num_bounded = found.open_cases, found.num_bounded
    x = _attacked(given, effort, [(i, cases[i]) for i in still_open])
    if x is not None:
        return bounds.PropertyResult("sat", x, num_bounded)
    found = exclude(still_open, method, effort.max_boxes if is_small else 1)
    return found._replace(num_bounded=num_bounded + found.num_bounded)


def _flat_output(apply_fn: Partial, x: jax.Array) -> jax.Array:
    return apply_fn(x[None]).reshape(-1)


def _confirmed(given: Problem, at: int, x: np.ndarray) -> np.ndarray | None:
    """An input next to x that meets a case exactly as it is written, if there is one.

    Where no float64 lies between the limits of an entry, bounds over the float64 next
    to them have to show that every input there is unsafe.
    """
    outer, inner = given.of.cases[at], given.of.inner[at]
    has_float = inner.lower <= inner.upper
    flat = np.clip(x.reshape(-1), outer.lower, outer.upper)
    flat = np.where(has_float, np.clip(flat, inner.lower, inner.upper), flat)
    point = flat.reshape(given.shape)
    with float64_on_cpu(), np.errstate(invalid="ignore", over="ignore"):
        if has_float.all():
            values = np.asarray(_output(given.network, point))
            sides = inner.rows @ values + inner.offsets
        else:
            box = (
                np.where(has_float, flat, side).reshape(given.shape)
                for side in (outer.lower, outer.upper)
            )
            low, high = (np.asarray(v) for v in _output_bounds(given.network, *box))
            sides = _largest(inner, low, high)
    return point if np.isfinite(sides).all() and np.all(sides <= 0) else None


def _largest(case: data.Case, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Upper bounds of rows @ y + offsets for low <= y <= high, rounding covered."""
    terms = np.maximum(case.rows * low, case.rows * high)
    sizes = np.abs(terms).sum(axis=1) + np.abs(case.offsets)
    slack = (len(low) + 4) * np.finfo(np.float64).eps * sizes
    return terms.sum(axis=1) + case.offsets + slack


@jax.jit
def _output(network: Partial, x: jax.Array) -> jax.Array:
    return network(x)


@jax.jit
def _output_bounds(network: Partial, low: jax.Array, high: jax.Array) -> Any:
    return bounds.linear_bounds(
        network, low, high, method="ibp", casts="ignore", rounding="cover"
    )


def _attacked(
    given: Problem, effort: Effort, cases: Sequence[tuple[int, data.Case]]
) -> np.ndarray | None:
    """A counterexample that PGD finds, of any case."""
    key = jax.random.key(effort.seed)
    for number, slots in enumerate(_rounds(cases, effort.attack_restarts)):
        if given.seconds_left() <= 0:
            break
        stacked = _stacked([case for _, case in slots])
        with np.errstate(over="ignore"):
            floats = data.Case(*(part.astype(np.float32) for part in stacked))
        found = _pgd(
            jax.random.fold_in(key, number),
            given.network,
            floats,
            num_steps=effort.attack_steps,
        )
        margin, share = (np.asarray(v, np.float64) for v in (found.margin, found.x))
        x = _between(stacked, share)
        for at in np.argsort(margin, kind="stable"):
            point = _confirmed(given, slots[at][0], x[at])
            if point is not None:
                return point
            if margin[at] > 0:  # float32 may be off: the best one is always checked
                break
    return None


def _rounds(
    cases: Sequence[tuple[int, data.Case]], num_restarts: int
) -> Iterator[list[tuple[int, data.Case]]]:
    """Batches of an attack: each case at least as often as there are starts."""
    for first in range(0, len(cases), _SLOTS[-1]):
        part = cases[first : first + _SLOTS[-1]]
        size = next(size for size in _SLOTS if len(part) <= size)
        slots = [part[i % len(part)] for i in range(size)]
        for _ in range(-(-num_restarts // (size // len(part)))):
            yield slots


def _between(boxes: data.Case, share: Any) -> Any:
    """The way from lower to upper; at 0 and 1 the corners themselves."""
    return boxes.lower * (1.0 - share) + boxes.upper * share


def _stacked(cases: Sequence[data.Case]) -> data.Case:
    """Cases along a first axis; their numbers of inequalities are made equal."""
    most = max(len(case.offsets) for case in cases)
    size = 1 << max(most - 1, 0).bit_length()
    filled = [
        case._replace(
            rows=np.resize(case.rows, (size, case.rows.shape[1])),
            offsets=np.resize(case.offsets, size),
        )
        for case in cases
    ]
    return data.Case(*(np.stack(part) for part in zip(*filled, strict=True)))


def _pgd(
    key: jax.Array, network: Partial, cases: data.Case, *, num_steps: int
) -> attacks.AttackResult:
    """One start for each case; x is the share of the way through its box."""
    return attacks.pgd(
        key,
        Partial(_worst, network, cases),
        jnp.full(cases.lower.shape, 0.5),
        labels=jnp.zeros(len(cases.lower), int),
        epsilon=0.5,
        num_steps=num_steps,
    )


def _worst(network: Partial, cases: data.Case, share: jax.Array) -> jax.Array:
    """The inequality that fails most, as a margin over a constant logit."""
    y = jax.vmap(network)(_between(cases, share))
    sides = jnp.einsum("nmk,nk->nm", cases.rows, y, precision="highest")
    highest = jnp.max(sides + cases.offsets, axis=1)
    return jnp.stack([highest, jnp.zeros_like(highest)], axis=1)
