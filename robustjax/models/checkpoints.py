"""Checkpoints: a folder with the variables (Orbax) and a JSON that rebuilds the model.

::

    <path>/variables/   Orbax, written first
    <path>/model.json   name, options, input shape, training facts, file digests

The folder gets its name only when it is complete, so an interrupted `save` leaves
nothing that could be taken for a checkpoint. Digests are compared before anything is
read, so a truncated file is named. All functions are [host].
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from robustjax.models import registry

_FORMAT = 1
_MANIFEST = "model.json"
_VARIABLES = "variables"
_FIELDS = ("name", "options", "input_shape", "training", "fingerprint")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model with its weights and its history."""

    module: nn.Module
    variables: dict[str, Any]
    name: str  # of the architecture
    num_classes: int
    input_shape: tuple[int, ...]  # of one example
    training: dict[str, Any]  # facts such as sigma and dataset, as given to `save`
    fingerprint: str  # of the variables

    @property
    def apply_fn(self) -> jax.tree_util.Partial:
        """The function from inputs to logits, see `robustjax.models.classifier`."""
        return registry.classifier(self.module, self.variables)


def save(
    path: str | os.PathLike[str],
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    training: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a checkpoint folder; it appears under its name only when complete.

    [host]

    Args:
        path: the folder to make; its parents are made too.
        module: a module from `robustjax.models.create`.
        variables: its collections, `{"params": ..., "batch_stats": ...}`.
        input_shape: shape of one example, for example (28, 28, 1).
        training: facts to keep, as JSON values: sigma, dataset, epochs, accuracy.

    Returns:
        The absolute path.

    Raises:
        FileExistsError: if `path` exists: a checkpoint is never overwritten.
        ValueError: if the module is not one that `create` makes.

    Example:
        >>> import tempfile
        >>> module = registry.create("mlp", num_classes=3, features=())
        >>> head = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
        >>> variables = {"params": {"head": head}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(f"{folder}/a", module, variables, input_shape=(4,))
        ...     print(sorted(file.name for file in path.iterdir()))
        ['model.json', 'variables']
    """
    import orbax.checkpoint as ocp

    path = pathlib.Path(path).absolute()
    if path.exists():
        raise FileExistsError(f"Checkpoint {path} exists; choose another path.")
    description = describe(
        module, variables, input_shape=input_shape, training=training
    )
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    alone = this_process_alone("save")
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
        checkpointer.save(partial / _VARIABLES, jax.device_get(_plain(variables)))
    description |= {"format": _FORMAT, "files": _digests(partial)}
    (partial / _MANIFEST).write_text(json.dumps(description, indent=1) + "\n")
    partial.rename(path)
    return path


def load(path: str | os.PathLike[str], *, expect: str | None = None) -> Checkpoint:
    """Reads a checkpoint and rebuilds its model; training code is not needed.

    [host]

    Args:
        path: a folder that `save` made.
        expect: the architecture asked for; None takes any.

    Returns:
        The `Checkpoint`, with its variables on the default device.

    Raises:
        FileNotFoundError: if there is no checkpoint at `path`.
        ValueError: if it is truncated, of another architecture or of another format.

    Example:
        >>> import tempfile
        >>> module = registry.create("mlp", num_classes=3, features=())
        >>> head = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
        >>> variables = {"params": {"head": head}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(f"{folder}/a", module, variables, input_shape=(4,))
        ...     print(load(path).variables["params"]["head"]["bias"])
        [0. 0. 0.]
    """
    import orbax.checkpoint as ocp

    path = pathlib.Path(path).absolute()
    description = manifest(path)
    check_architecture(path, description, expect)
    _check_digests(path, description["files"])
    alone = this_process_alone("load")
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
        variables = checkpointer.restore(path / _VARIABLES)
    return rebuild(path, description, variables)


def manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the content of model.json, without reading the weights.

    [host]

    Args:
        path: a folder that `save` made.

    Returns:
        "name" of the architecture, its "options", "input_shape", "training" facts,
        "fingerprint" of the variables, "format" and "files" with their digests.

    Raises:
        FileNotFoundError: if there is no checkpoint at `path`.
        ValueError: if model.json is not readable or of another format.

    Example:
        >>> import tempfile
        >>> module = registry.create("mlp", num_classes=3, features=())
        >>> head = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}
        >>> variables = {"params": {"head": head}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(f"{folder}/a", module, variables, input_shape=(4,))
        ...     print(manifest(path)["name"], manifest(path)["input_shape"])
        mlp [4]
    """
    file = pathlib.Path(path) / _MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}: {_MANIFEST} is missing.")
    description = parse_description(file, file.read_text(errors="replace"))
    if description.get("format") != _FORMAT or "files" not in description:
        found = description.get("format")
        raise ValueError(f"Checkpoint {path} has format {found}, expected {_FORMAT}.")
    return description


def fingerprint(variables: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of all arrays, in hex.

    [host]

    Args:
        variables: nested mappings of arrays.

    Returns:
        64 hexadecimal digits, which do not depend on the order of the mappings.

    Example:
        >>> fingerprint({"params": {"kernel": np.zeros(3, np.float32)}})[:8]
        'c2de43b8'
    """
    digest = hashlib.sha256()
    for name, array in sorted(flatten(variables).items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def this_process_alone(name: str) -> Any:
    """Orbax options under which a process waits for no other one. [host].

    Without them Orbax expects every process of `jax.distributed` to make the same
    calls, while here one trains and saves and each loads when it likes.

    Args:
        name: what is done, one name for each place that does it.
    """
    import orbax.checkpoint as ocp

    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=f"{name}{index}",
    )


def flatten(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Host arrays by flat name: 'params/Conv_0/kernel'."""
    return jax.device_get(traverse_util.flatten_dict(_plain(variables), sep="/"))


def describe(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    training: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What rebuilds the model, as JSON values."""
    name, options = registry.describe(module)
    values = (name, options, input_shape, training or {}, fingerprint(variables))
    return dict(zip(_FIELDS, values, strict=True))


def parse_description(source: object, text: str) -> dict[str, Any]:
    """Parses what `describe` made; ValueError names the source where it cannot."""
    try:
        description = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"Cannot read {source}: {error}.") from None
    missing = [field for field in _FIELDS if field not in description]
    if missing:
        raise ValueError(f"Cannot read {source}: it lacks {', '.join(missing)}.")
    return description


def check_architecture(
    source: object, description: Mapping[str, Any], expect: str | None
) -> None:
    """Raises ValueError if another architecture is stored than the one asked for."""
    if expect is not None and description["name"] != expect:
        raise ValueError(
            f"{source} holds a model {description['name']!r}, not {expect!r}."
        )


def rebuild(
    source: object, description: Mapping[str, Any], variables: Mapping[str, Any]
) -> Checkpoint:
    """Makes the module and checks names and shapes of all arrays against it.

    Raises:
        ValueError: naming the source and the first array that differs.
    """
    module = registry.create(description["name"], **description["options"])
    input_shape = tuple(description["input_shape"])
    _check_arrays(source, flatten(variables), _expected_shapes(module, input_shape))
    if fingerprint(variables) != description["fingerprint"]:
        raise ValueError(f"{source} is corrupt: its arrays are not those saved.")
    return Checkpoint(
        module=module,
        variables=jax.tree.map(jnp.asarray, _plain(variables)),
        name=description["name"],
        num_classes=description["options"]["num_classes"],
        input_shape=input_shape,
        training=description["training"],
        fingerprint=description["fingerprint"],
    )


def _plain(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Nested plain dicts, whatever mappings came in."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else value
        for key, value in variables.items()
    }


def _expected_shapes(
    module: nn.Module, input_shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    example = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), example)
    flat = traverse_util.flatten_dict(variables, sep="/")
    return {name: array.shape for name, array in flat.items()}


def _check_arrays(
    source: object,
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    for name in sorted({*arrays, *expected}):
        if name not in expected:
            raise ValueError(f"{source} holds {name!r}, which the model has not.")
        if name not in arrays:
            raise ValueError(f"{source} lacks {name!r} of the model.")
        found, shape = arrays[name].shape, expected[name]
        if found != shape:
            raise ValueError(f"{source} holds {name!r} {found}, expected {shape}.")


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file below the folder, by relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): _sha256(file)
        for file in files
        if file.name != _MANIFEST
    }


def _check_digests(folder: pathlib.Path, expected: Mapping[str, str]) -> None:
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"Checkpoint {folder} lacks its file {name}.")
        if _sha256(file) != digest:
            raise ValueError(f"Checkpoint {folder}: {name} is truncated or corrupt.")


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
