"""Programs that bound one function for many boxes, specifications and methods.

A program is compiled for each method and set of options, and for each number of boxes
and of rows. These are filled up to 1, 2, 4, 8, and beyond to four sizes for each
factor of two: 10, 12, 14, 16, 20, 24, ... What is filled in is cut off again.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from robustjax import _callables, _validate
from robustjax.bounds import boxes
from robustjax.bounds.methods import Bounds, linear_bounds

# With these, JAX 0.10 compiles bounds for a CPU in half of the time, and runs them as
# fast.
_CPU_OPTIONS = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 1,
}


class Compiled(NamedTuple):
    """A function whose bounds come from programs that are kept: see `compiled`."""

    fn: Callable[[jax.Array], jax.Array]
    shape: tuple[int, ...]  # of an example
    dtype: Any  # of boxes

    def linear_bounds(
        self,
        lower: ArrayLike,
        upper: ArrayLike,
        *,
        spec: ArrayLike | None = None,
        method: str = "crown",
        **options: Any,
    ) -> Bounds:
        """Bounds of the function on each box, as `bounds.linear_bounds` gives them.

        [host]

        Args:
            lower: `[..., *shape]` lower corners; leading axes are of boxes.
            upper: `[..., *shape]` upper corners.
            spec: `[s, k]`, or `[..., s, k]` with the leading axes of the boxes.
            method: as in `bounds.linear_bounds`.
            **options: further ones of `bounds.linear_bounds`: num_steps, capacity,
                chunk_size, casts, rounding.

        Returns:
            `Bounds` `[..., s]`, or `[..., *shape of the output]` without a spec.

        Raises:
            ValueError: as `bounds.linear_bounds`, and if a corner does not end with
                the shape of an example.
            UnsupportedError: if a primitive has no rule.
        """
        low, high = (np.asarray(end) for end in (lower, upper))
        boxes.check(low, high)
        low = _rounded(low, self.dtype, towards=-np.inf)
        high = _rounded(high, self.dtype, towards=np.inf)
        num_axes = low.ndim - len(self.shape)
        if num_axes < 0 or low.shape[num_axes:] != self.shape:
            raise ValueError(
                f"Expected corners [..., {', '.join(map(str, self.shape))}], got "
                f"{low.shape}."
            )
        batch = low.shape[:num_axes]
        num_boxes = math.prod(batch)
        low, high = (end.reshape(num_boxes, *self.shape) for end in (low, high))
        rows = num_rows = None
        if spec is not None:
            rows = jnp.asarray(spec, self.dtype)
            if rows.ndim < 2 or rows.shape[:-2] not in ((), batch):
                raise ValueError(
                    f"Expected spec [s, k] or {[*batch]} + [s, k], got {rows.shape}."
                )
            num_rows = rows.shape[-2]
            rows = jnp.broadcast_to(rows, (*batch, *rows.shape[-2:]))
            rows = _filled(rows.reshape(num_boxes, *rows.shape[-2:]), axis=1)
            rows = _filled(rows, axis=0)
        how = tuple(sorted({"method": method, **options}.items()))
        found = _program()(
            _callables.as_partial(self.fn),
            _filled(low, axis=0),
            _filled(high, axis=0),
            rows,
            how=how,
        )
        if num_rows is not None:
            found = Bounds(*(end[:, :num_rows] for end in found))
        shape = (*batch, *found.lower.shape[1:])
        return Bounds(*(end[:num_boxes].reshape(shape) for end in found))

    def interval_bounds(self, lower: ArrayLike, upper: ArrayLike) -> Bounds:
        """As `linear_bounds` by intervals alone. [host]."""
        return self.linear_bounds(lower, upper, method="ibp")


def compiled(
    fn: Callable[[jax.Array], jax.Array],
    shape: tuple[int, ...],
    *,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Compiled:
    """A function that is to be bounded many times, ready for it.

    [host] What `bounds.linear_bounds` computes under `jax.jit`, but boxes and
    specifications may come in any number: a second specification of the same network,
    or another label, compiles nothing. Arrays of a `jax.tree_util.Partial` are
    arguments of the programs, so networks of one architecture share them.

    Guarantee:
        As `bounds.linear_bounds`.

    Args:
        fn: maps one example to an array; see `single`.
        shape: of an example.
        dtype: of boxes and bounds.

    Returns:
        A `Compiled`, with the methods `linear_bounds` and `interval_bounds`.

    Raises:
        ValueError: if dtype is no float.

    Example:
        >>> network = compiled(lambda x: jnp.abs(x) + x, (2,))
        >>> low, high = jnp.ones((3, 2)), 2 * jnp.ones((3, 2))  # three boxes
        >>> found = network.linear_bounds(low, high, spec=[[1.0, -1.0]])
        >>> print(found.lower.T, found.upper.T)
        [[-2. -2. -2.]] [[2. 2. 2.]]

    Reference: ours.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"Expected a dtype of floats, got {jnp.dtype(dtype)}.")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"Expected JAX_ENABLE_X64=1 for dtype {jnp.dtype(dtype)}.")
    for size in shape:
        _validate.integer(0, shape=size)
    return Compiled(fn, tuple(shape), jnp.dtype(dtype))


def _rounded(corner: np.ndarray, dtype: Any, *, towards: float) -> np.ndarray:
    """A corner in a dtype, no number of it moved into the box."""
    if corner.dtype == dtype:
        return corner
    found = corner.astype(dtype)
    is_inside = (found < corner) if towards > 0 else (found > corner)
    return np.where(is_inside, np.nextafter(found, dtype.type(towards)), found)


def _filled(array: ArrayLike, *, axis: int) -> jax.Array:
    """An array whose last entry along an axis is repeated up to the next size."""
    array = jnp.asarray(array)
    size = array.shape[axis]
    most = _next_size(size)
    index = jnp.minimum(jnp.arange(most), size - 1)
    return array if most == size else jnp.take(array, index, axis=axis)


def _next_size(size: int) -> int:
    """The next power of two up to 8, then the next quarter of one."""
    if size <= 1:
        return size
    step = 2 ** math.ceil(math.log2(size))
    if size > 8:
        step //= 8
    return -(-size // step) * step


def _bounded(
    fn: Partial, lower: jax.Array, upper: jax.Array, spec: Any, *, how: Any
) -> Bounds:
    def one(low: jax.Array, high: jax.Array, rows: Any) -> Bounds:
        return linear_bounds(fn, low, high, spec=rows, **dict(how))

    if len(lower) == 1:  # half as long to trace
        alone = one(lower[0], upper[0], None if spec is None else spec[0])
        return Bounds(alone.lower[None], alone.upper[None])
    return jax.vmap(one, in_axes=(0, 0, None if spec is None else 0))(
        lower, upper, spec
    )


@functools.cache
def _program() -> Callable[..., Bounds]:
    return jax.jit(_bounded, static_argnames=("how",), compiler_options=_options())


def _options() -> dict[str, Any]:
    """How programs are compiled: those options that this version of XLA knows."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in _CPU_OPTIONS.items() if _is_known(name)}


def _is_known(name: str) -> bool:
    option = {name: _CPU_OPTIONS[name]}
    try:
        jax.jit(lambda: 0, compiler_options=option).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
