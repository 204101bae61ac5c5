"""float64 for numbers, the dtype of the user for JAX arrays."""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

_Function = TypeVar("_Function", bound=Callable[..., Any])
_NARROWER: dict[str, Any] = {"float64": jnp.float32, "int64": jnp.int32}


def float64_for_numbers(function: _Function) -> _Function:
    """Computes a JAX function in float64 on the CPU if no argument is a JAX array.

    Python and NumPy numbers then give NumPy results, whatever the x64 flag. With a JAX
    array among the arguments the function is called as it is.
    """

    @functools.wraps(function)
    def compute(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(v, jax.Array) for v in jax.tree.leaves((args, kwargs))):
            return function(*args, **kwargs)
        # Numbers are numbers also inside of jit.
        with jax.ensure_compile_time_eval(), float64_on_cpu():
            return jax.tree.map(
                lambda leaf: np.asarray(leaf)[()], function(*args, **kwargs)
            )

    return compute  # type: ignore[return-value]


@contextlib.contextmanager
def float64_on_cpu() -> Iterator[None]:
    """Within it JAX has float64 and computes on the CPU: where a proof is checked."""
    with jax.enable_x64(True), jax.default_device(cpu()):
        yield


def has_x64() -> bool:
    """Whether JAX has float64 here."""
    return bool(jax.config.read("jax_enable_x64"))


def as_run(fn: Partial) -> Partial:
    """A function as it is called here, to be traced where float64 is on. [host].

    Without x64 its constants are what JAX makes of them here: NumPy's float64 are
    float32, integers have 32 bits, random numbers are those of float32. With x64 on,
    JAX takes the one or the other, whichever it happens to remember.

    Args:
        fn: of one array.

    Returns:
        It, or a function that turns x64 off while it is traced.
    """
    if has_x64():
        return fn
    fixed = jax.tree.map(
        lambda leaf: _Whole(leaf) if type(leaf) in (bool, int) else leaf, fn
    )
    return Partial(_without_x64, fixed)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Whole:
    """A number of Python in a Partial: as an array it would widen other integers."""

    value: int


def _without_x64(fn: Partial, x: jax.Array) -> jax.Array:
    with jax.enable_x64(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype")
        # Casts of floats are left out: arguments of a Partial stay what they are.
        run = jax.tree.map(_narrower, fn, is_leaf=lambda leaf: isinstance(leaf, _Whole))
        return run(_narrower(x))


def _narrower(leaf: Any) -> Any:
    if isinstance(leaf, _Whole):
        return leaf.value
    dtype = _NARROWER.get(str(getattr(leaf, "dtype", "")))
    return leaf if dtype is None else jax.lax.convert_element_type(leaf, dtype)


def own_copies(tree: Any) -> Any:
    """A tree whose NumPy arrays JAX has not seen, and so takes in their own dtype."""

    def copy(leaf: Any) -> Any:
        return leaf.copy() if isinstance(leaf, np.ndarray) else leaf

    return jax.tree.map(copy, tree)


def cpu() -> jax.Device:
    """The first CPU device."""
    return jax.local_devices(backend="cpu")[0]


def as_floats(*values: Any) -> list[jax.Array]:
    """Arrays of one shape and one floating dtype: that of the JAX arrays among them.

    It is at least float32, and the widest enabled float type if no value is an array.
    """
    dtypes = [value.dtype for value in values if isinstance(value, jax.Array)]
    dtype = jnp.result_type(jnp.float32, *dtypes) if dtypes else jnp.result_type(float)
    return list(jnp.broadcast_arrays(*(jnp.asarray(v, dtype) for v in values)))


def settled(x: jax.Array) -> jax.Array:
    """The same numbers, computed once: all that use them see equal ones. [device].

    A compiler may evaluate an expression again for each use, with other roundings. If
    it holds a decision (a floor, the better of two lines), two uses may then see
    different decisions, and a slope goes with the offset of another line. XLA does not
    fuse a sort into its uses, so the result is the smaller of two copies; it removes an
    optimization barrier before it fuses on a CPU. Seen on a CPU only.
    """
    return jax.lax.sort(jnp.stack([x, x]), dimension=0)[0]
