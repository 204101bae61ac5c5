"""The compatibility layer with which jax_verify runs on current JAX.

Its modules are executed with an `__import__` of their own, which hands them overlays of
`jax` and some of its modules: the real modules with the names of 2021 or 2023 on top.
JAX itself is never changed. Traced functions reach jax_verify as programs, flat lists
of equations without calls.
"""

import builtins
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import abc, machinery
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from robustjax.bounds.jax_verify import programs

_PACKAGE = "jax_verify"
Corrections = Mapping[str, Callable[[Any], None]]


def import_package(corrections: Corrections) -> ModuleType:
    """Imports jax_verify so that it sees the overlays. [host].

    Args:
        corrections: what is done to a module of it after its import, by its name.

    Raises:
        ImportError: if jax_verify was imported before by other means.
    """
    with _finder(corrections):
        module = importlib.import_module(_PACKAGE)
    if not isinstance(module.__loader__, _Loader):
        raise ImportError(
            "jax_verify is imported already and not by robustjax: call "
            "robustjax.bounds.jax_verify.load() first."
        )
    return module


class _Overlay:
    """A module with further names on top."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Gone:
    """A primitive that no program contains."""

    def def_impl(self, _: Callable[..., Any]) -> None:
        """Takes how the primitive would be computed."""


class _Loader(machinery.SourceFileLoader):
    """Runs a module with an `__import__` of its own and corrections it."""

    def __init__(self, name: str, path: str, *, corrections: Corrections) -> None:
        super().__init__(name, path)
        self._corrections = corrections

    def exec_module(self, module: ModuleType) -> None:
        """Executes the module."""
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": _import}
        super().exec_module(module)
        correct = self._corrections.get(module.__name__)
        if correct is not None:
            correct(module)


class _Finder(abc.MetaPathFinder):
    """Finds jax_verify as usual, for `_Loader`."""

    def __init__(self, corrections: Corrections) -> None:
        self._corrections = corrections

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> machinery.ModuleSpec | None:
        """The spec of a module of jax_verify, None for all others."""
        if fullname.partition(".")[0] != _PACKAGE:
            return None
        spec = machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, corrections=self._corrections)
        return spec


@contextmanager
def _finder(corrections: Corrections) -> Iterator[None]:
    finder = _Finder(corrections)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _import(name: str, *scopes: Any) -> Any:
    """`__import__` as the import statement calls it, with overlays for JAX."""
    _, _, names, _ = scopes
    top, *rest = name.split(".")
    if top != "jax":
        return builtins.__import__(name, *scopes)
    return functools.reduce(getattr, rest, _jax()) if names else _jax()


@functools.cache
def _jax() -> _Overlay:
    """JAX as jax_verify knew it, release and head in one."""
    numpy = _Overlay(jnp, clip=_clip)
    shortened = {f"{p.name}_p": short for p, short in programs.shortened().items()}
    overlay = _Overlay(
        lax,
        select_p=_Gone(),
        standard_naryop=lambda *_: _Gone(),
        **shortened,
    )
    core = SimpleNamespace(
        Var=programs.Var,
        Literal=programs.Literal,
        Jaxpr=programs.Program,
        ClosedJaxpr=_Gone,
        JaxprEqn=programs.Equation,
        Primitive=object,
        ShapedArray=jax.ShapeDtypeStruct,
        new_jaxpr_eqn=_equation,
        eval_jaxpr=programs.evaluate,
        no_effects=frozenset(),
    )
    # Programs contain no calls, and none is compiled with primitives of jax_verify.
    mlir = SimpleNamespace(lower_fun=_nothing, register_lowering=_nothing)
    derivatives = {"custom_jvp_call_jaxpr_p": _Gone(), "custom_jvp_call_p": _Gone()}
    return _Overlay(
        jax,
        lax=overlay,
        numpy=numpy,
        core=core,
        make_jaxpr=programs.make_jaxpr,
        tree_map=jax.tree.map,
        interpreters=SimpleNamespace(
            ad=None,  # of rules that are replaced
            mlir=mlir,
            pxla=SimpleNamespace(xla_pmap_p=_Gone()),
        ),
        experimental=SimpleNamespace(pjit=SimpleNamespace(pjit_p=_Gone())),
        xla=SimpleNamespace(xla_call_p=_Gone()),
        custom_derivatives=SimpleNamespace(**derivatives),
    )


def _equation(
    operands: Any, results: Any, primitive: Any, params: Any, *_: Any
) -> programs.Equation:
    return programs.Equation(primitive, params, list(operands), list(results))


def _clip(x: Any, a_min: Any = None, a_max: Any = None) -> jax.Array:
    return jnp.clip(x, a_min, a_max)


def _nothing(*_: Any, **__: Any) -> None:
    pass
