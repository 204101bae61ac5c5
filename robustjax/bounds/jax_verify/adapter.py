"""The jax_verify package as a second engine for bounds.

Two layouts of it run on JAX 0.10 and 0.12 and are recognised by their files: release
1.0, the only one on the package index, and the head of its repository (2023), if that
comes first on the path. Nothing happens before a call, and JAX is never changed.

"ibp" and "crown-ibp" are the methods of `robustjax.bounds` and give the same numbers on
ReLU networks. "crown" of the head is backward CROWN as ours. "crown" of 1.0 is another:
it carries the lines forward from layer to layer, which is equal for one hidden layer
and looser for more (2.5 times on a 784-256-256-10 net).
"""

import functools
import importlib.metadata
import importlib.util
import pathlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from robustjax.bounds import boxes, ibp
from robustjax.bounds.jax_verify import compat, head, programs, release, translation
from robustjax.bounds.operations import Interval

_VERSION = "1.0"
_LOCK = threading.Lock()


class _Layout(NamedTuple):
    """One of the forms in which jax_verify exists."""

    name: str
    file: str  # that this one alone has
    corrections: compat.Corrections
    methods: dict[str, str]  # from loose to tight: the name in jax_verify
    rules: translation.Rules
    interval_rules: translation.Rules  # for "ibp", instead


_RELEASE = _Layout(
    name=f"release {_VERSION}",
    file="src/fastlin.py",
    corrections=release.CORRECTIONS,
    methods={
        "ibp": "interval_bound_propagation",
        "crown-ibp": "crownibp_bound_propagation",
        "crown": "crown_bound_propagation",
    },
    rules={},
    interval_rules={
        "abs": translation.interval_abs,
        "max": translation.interval_max,
        "min": translation.interval_min,
    },
)
_HEAD = _Layout(
    name="the head of its repository",
    file="src/linear/backward_crown.py",
    corrections=head.CORRECTIONS,
    methods={
        "ibp": "interval_bound_propagation",
        "crown-ibp": "crownibp_bound_propagation",
        "crown": "backward_crown_bound_propagation",
    },
    rules={
        name: translation.elementwise(function)
        for name, function in (
            ("abs", lax.abs),
            ("exp", lax.exp),
            ("logistic", lax.logistic),
            ("tanh", lax.tanh),
        )
    },
    interval_rules={},
)


def load() -> ModuleType:
    """The module `jax_verify`, able to run on current JAX.

    [host] For code that was written for jax_verify: release 1.0, or the head of its
    repository (2023) if that comes first on the path. The first call imports it, later
    ones return the same module. Bounds have a batch axis in front, and with 1.0 the
    function must keep it there, or what comes back is wrong: 1.0 does not check.

    Guarantee:
        `jax` and its modules are the same before and after: the names that JAX no
        longer has live in the modules of jax_verify.

        The methods of 1.0 run on dense and convolutional ReLU networks with operations
        that move values; softplus is not recognised. The backward rules of
        `crownibp_bound_propagation` are ours: those of 1.0 are wrong where a constant
        is subtracted or two bounds are added. `sdp_verify` is left as it is.

        The nine methods that `__init__` of the head exports run. Four rules of it are
        corrected: chords above convex functions, which rounding made wrong in narrow
        intervals; CROWN of tanh and softplus, which was NaN; tangents of tanh and
        sigmoid; and lines of exp, which are NaN where its argument may exceed 12.
        Extensions, branching and the solver of linear programs are left as they are.

    Returns:
        The module.

    Raises:
        ImportError: if jax_verify or a package that it imports is missing, if it is
            neither of the two, or was imported before by other means.

    Example:
        >>> fn, x = jax.nn.relu, jnp.ones((1, 1))
        >>> jv = load()
        >>> box = jv.IntervalBound(-x, x)
        >>> print(jv.interval_bound_propagation(fn, box).upper)
        [[1.]]
    """
    with _LOCK:
        return compat.import_package(_installed().corrections)


def bounds(
    fn: Callable[[jax.Array], jax.Array],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    method: str,
) -> Interval:
    """Bounds of a function on a box, computed by jax_verify.

    [device] Pure, jittable, vmappable over the box; map it over a batch. Every method
    gives the intersection with the cheaper ones. Matrix products and convolutions run
    in the highest precision.

    Guarantee:
        lower <= fn(x) <= upper for every x in the box, up to rounding of the dtype of
        the largest number inside. An operation without a rule is an error, never
        skipped. Where intervals are NaN, the bounds are -inf and inf; a linear bound
        that is NaN is ignored.

    Args:
        fn: maps one example, an array, to an array, by dense layers, convolutions of
            one image, ReLU, minimum and maximum, absolute value, clipping, sums,
            scaling and shifting by constants, and operations that move or repeat
            values: all SP-layers with the networks behind them. With the head also
            exp, tanh and sigmoid.
        lower: lower corner of the box, of the shape of an example, finite.
        upper: upper corner.
        method: "ibp", "crown-ibp", or "crown": forward with 1.0, backward with the
            head.

    Returns:
        Lower and upper bounds of the shape of the output.

    Raises:
        ImportError: as `load`.
        NotImplementedError: if jax_verify has no such method.
        TypeError: if the function does not return one array.
        UnsupportedError: if it does not know an operation, which is named.
        ValueError: if shapes differ or the box is empty or not finite.

    Example:
        >>> x = jnp.ones(1)
        >>> print(*bounds(jax.nn.relu, -x, x, method="ibp"))
        [0.] [1.]
    """
    jax_verify, layout = load(), _installed()
    if method not in layout.methods:
        raise NotImplementedError(
            f"jax_verify, {layout.name}, has no method {method!r}; it has: "
            f"{', '.join(layout.methods)}."
        )
    low, high = boxes.checked(lower, upper)
    program = _program(fn, low)
    shape, dtype = program.outvars[0].aval.shape, jnp.result_type(float)
    box = jax_verify.IntervalBound(
        *(corner.reshape(1, -1).astype(dtype) for corner in (low, high))
    )
    names = tuple(layout.methods)
    found = []
    for name in names[: names.index(method) + 1]:
        special = layout.interval_rules if name == "ibp" else {}
        batched = translation.batched(program, {**layout.rules, **special})
        bound = getattr(jax_verify, layout.methods[name])(batched, box)
        found.append(_numbers(bound.lower.reshape(shape), bound.upper.reshape(shape)))
    return functools.reduce(ibp.narrowed, found)


def _numbers(lower: jax.Array, upper: jax.Array) -> Interval:
    """Bounds, -inf and inf where one of the two is NaN or beyond all numbers."""
    return ibp.narrowed((lower, upper), (lower, upper))


def _installed() -> _Layout:
    spec = importlib.util.find_spec("jax_verify")
    if spec is None or spec.origin is None:
        raise ImportError(
            'jax_verify is not installed: pip install "robustjax[verify]".'
        )
    folder = pathlib.Path(spec.origin).parent
    if (folder / _HEAD.file).exists():
        return _HEAD
    version = importlib.metadata.version("jax_verify")
    is_release = (folder / _RELEASE.file).exists()
    if version != _VERSION or not is_release:
        layout = "" if is_release else " in a layout that is neither of these"
        raise ImportError(
            f"robustjax works with the release {_VERSION} of jax_verify and with the "
            f"head of its repository of 2023, found {version}{layout}."
        )
    return _RELEASE


def _program(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> programs.Program:
    program = programs.flat_program(jax.make_jaxpr(fn)(x))
    if len(program.outvars) != 1:
        raise TypeError(f"Expected fn to return one array, got {len(program.outvars)}.")
    return program
