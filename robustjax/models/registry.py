"""Models by name: build one, describe one, turn one into an `apply_fn`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from robustjax import _validate
from robustjax.models.mlp_cnn import CNN, MLP
from robustjax.models.resnets import ResNet20, ResNet50, ResNet110

_MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "resnet20": ResNet20,
    "resnet110": ResNet110,
    "resnet50": ResNet50,
}
_DTYPES = ("float32", "bfloat16")
_PRECISIONS = ("default", "high", "highest")
_SHARED = ("num_classes", "mean", "std", "dtype", "precision")


def names() -> tuple[str, ...]:
    """Names that `create` accepts. [host].

    Returns:
        The names of the architectures.

    Example:
        >>> names()
        ('mlp', 'cnn', 'resnet20', 'resnet110', 'resnet50')
    """
    return tuple(_MODELS)


def create(
    name: str,
    *,
    num_classes: int,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    dtype: Any = "float32",
    precision: str | None = None,
    **options: Any,
) -> nn.Module:
    """A classifier that takes inputs in [0, 1] and normalises them itself.

    [host] to make it, [device] to apply it: `module.apply(variables, x, train=False)`
    gives float32 logits `[n, k]`.

    Args:
        name: one of `names()`.
        num_classes: number of logits, at least 2.
        mean: subtracted from the input, in input units; one value or one a channel.
        std: divides the centred input, positive; one value or one a channel.
        dtype: compute dtype, float32 or bfloat16. Parameters are float32 in both.
        precision: of convolutions and products: None, "default", "high", "highest".
        **options: of the architecture: mlp `features`; cnn `features`, `hidden`;
            resnet20, resnet110 `num_blocks`, `width`; resnet50 `stage_sizes`, `width`.

    Returns:
        A Flax Linen module with `__call__(x, *, train=False)`.

    Raises:
        ValueError: if the model, an option or a value is not known, by name.

    Example:
        >>> module = create("mlp", num_classes=10, features=(32,))
        >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        >>> jax.jit(module.apply)(variables, jnp.zeros((5, 8, 8, 1))).shape
        (5, 10)
    """
    _validate.one_of(names(), model=name)
    _validate.integer(2, num_classes=num_classes)
    _check_options(name, options)
    dtype = jnp.dtype(dtype).name
    _validate.one_of(_DTYPES, dtype=dtype)
    if precision is not None:
        _validate.one_of(_PRECISIONS, precision=precision)
    return _MODELS[name](
        num_classes=int(num_classes),
        mean=_numbers("mean", mean),
        std=_numbers("std", std, above=0.0),
        dtype=dtype,
        precision=precision,
        **{key: _hashable(value) for key, value in options.items()},
    )


def describe(module: nn.Module) -> tuple[str, dict[str, Any]]:
    """Returns the name and the options that rebuild a module by `create`. [host].

    Args:
        module: a module from `create`.

    Returns:
        (name, options), the latter as keyword arguments of `create`.

    Raises:
        ValueError: if the module is not one that `create` makes.

    Example:
        >>> name, options = describe(create("mlp", num_classes=3, features=(16,)))
        >>> name, options["num_classes"], options["features"]
        ('mlp', 3, (16,))
    """
    for name, kind in _MODELS.items():
        if type(module) is kind:
            fields = (*_SHARED, *_options(name))
            return name, {field: getattr(module, field) for field in fields}
    known = ", ".join(_MODELS)
    raise ValueError(
        f"Expected module to be one of robustjax.models ({known}), "
        f"got {type(module).__name__}."
    )


def classifier(
    module: nn.Module, variables: Mapping[str, Any]
) -> jax.tree_util.Partial:
    """The inference function of a module, as the `apply_fn` that all methods take.

    [device] Its variables are leaves of the returned `Partial`, so that `jit` takes
    them as arguments: other weights of the same module do not compile again.

    Args:
        module: a Linen module with `__call__(x, *, train)`, as from `create`.
        variables: its collections, `{"params": ..., "batch_stats": ...}`.

    Returns:
        A function from `[n, ...]` in [0, 1] to float32 logits `[n, k]`.

    Example:
        >>> module = create("mlp", num_classes=3, features=())
        >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 4)))
        >>> jax.jit(classifier(module, variables))(jnp.zeros((2, 4))).shape
        (2, 3)
    """
    return jax.tree_util.Partial(_Inference(module), variables)


def features_of(
    module: nn.Module, variables: Mapping[str, Any]
) -> jax.tree_util.Partial:
    """The representation inside of a classifier: what its last layer takes.

    [device] As `classifier`, whose logits are an affine function of these features.

    Args:
        module: a module from `create`.
        variables: its collections, `{"params": ..., "batch_stats": ...}`.

    Returns:
        A function from `[n, ...]` in [0, 1] to float32 features `[n, p]`.

    Example:
        >>> module = create("mlp", num_classes=3, features=(16,))
        >>> variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 4)))
        >>> jax.jit(features_of(module, variables))(jnp.zeros((2, 4))).shape
        (2, 16)
    """
    return jax.tree_util.Partial(_Representation(module), variables)


@dataclasses.dataclass(frozen=True)
class _Representation:
    """Static part of `features_of`."""

    module: nn.Module

    def __call__(self, variables: Mapping[str, Any], x: jax.Array) -> jax.Array:
        _, found = self.module.apply(
            variables, x, train=False, mutable=["intermediates"]
        )
        return jnp.asarray(found["intermediates"]["features"][0], jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Inference:
    """Static part of a classifier: equal modules are equal to the jit cache."""

    module: nn.Module

    def __call__(self, variables: Mapping[str, Any], x: jax.Array) -> jax.Array:
        logits = self.module.apply(variables, x, train=False)
        return jnp.asarray(logits, jnp.float32)


def _options(name: str) -> list[str]:
    """Fields of the architecture alone."""
    ours = (*_SHARED, "parent", "name")
    fields = dataclasses.fields(_MODELS[name])
    return [field.name for field in fields if field.name not in ours]


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    known = _options(name)
    for option in options:
        if option not in known:
            raise ValueError(
                f"Unknown option {option!r} of model {name!r}; it has: "
                f"{', '.join(known)}."
            )


def _numbers(
    name: str, values: float | Sequence[float], *, above: float = -math.inf
) -> tuple[float, ...]:
    """A tuple of finite floats, from one number or a sequence."""
    listed = values if isinstance(values, Sequence) else [values]
    numbers = tuple(float(value) for value in listed)
    if not numbers or not all(math.isfinite(v) and v > above for v in numbers):
        raise ValueError(f"Expected {name} to be finite and > {above}, got {values}.")
    return numbers


def _hashable(value: Any) -> Any:
    """Lists, as JSON gives them, become tuples, so that the module can be hashed."""
    return tuple(value) if isinstance(value, list) else value
