"""Checkpoints as one safetensors file, to share weights with other tools.

Arrays carry flat names such as 'params/Conv_0/kernel'; what rebuilds the model is JSON
in the file's metadata under "robustjax".
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from robustjax.models import checkpoints

_METADATA = "robustjax"


def export_safetensors(
    path: str | os.PathLike[str],
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    input_shape: tuple[int, ...],
    training: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes one file with all arrays.

    [host]

    Args:
        path: the file to make, in a folder that exists.
        module: a module from `robustjax.models.create`.
        variables: its collections, `{"params": ..., "batch_stats": ...}`.
        input_shape: shape of one example, for example (28, 28, 1).
        training: facts to keep, as JSON values.

    Returns:
        The absolute path.

    Raises:
        FileExistsError: if the file exists.
        ValueError: if the module is not one that `create` makes.

    Example:
        >>> import tempfile
        >>> from robustjax import models
        >>> module = models.create("mlp", num_classes=3, features=())
        >>> head = {"kernel": np.ones((4, 3)), "bias": np.zeros(3)}
        >>> variables = {"params": {"head": head}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/a.safetensors"
        ...     path = export_safetensors(file, module, variables, input_shape=(4,))
        ...     print(path.name)
        a.safetensors
    """
    from safetensors import numpy as safetensors_numpy

    path = pathlib.Path(path).absolute()
    if path.exists():
        raise FileExistsError(f"File {path} exists; choose another path.")
    description = checkpoints.describe(
        module, variables, input_shape=input_shape, training=training
    )
    flat = checkpoints.flatten(variables)
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    partial = path.with_name(path.name + ".partial")
    metadata = {_METADATA: json.dumps(description)}
    safetensors_numpy.save_file(arrays, partial, metadata=metadata)
    partial.rename(path)
    return path


def import_safetensors(
    path: str | os.PathLike[str], *, expect: str | None = None
) -> checkpoints.Checkpoint:
    """Reads a file that `export_safetensors` wrote and rebuilds its model.

    [host]

    Args:
        path: the file.
        expect: the architecture asked for; None takes any.

    Returns:
        A `Checkpoint`, with its variables on the default device.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, without our metadata, of another architecture,
            or if an array's name or shape is not the model's (the first is named).

    Example:
        >>> import tempfile
        >>> from robustjax import models
        >>> module = models.create("mlp", num_classes=3, features=())
        >>> head = {"kernel": np.ones((4, 3)), "bias": np.zeros(3)}
        >>> variables = {"params": {"head": head}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = f"{folder}/a.safetensors"
        ...     path = export_safetensors(file, module, variables, input_shape=(4,))
        ...     print(import_safetensors(path).variables["params"]["head"]["bias"])
        [0. 0. 0.]
    """
    import safetensors

    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No safetensors file at {path}.")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"Cannot read {path}: {error}.") from None
    if _METADATA not in metadata:
        raise ValueError(f"Cannot read {path}: no {_METADATA!r} metadata in it.")
    description = checkpoints.parse_description(path, metadata[_METADATA])
    checkpoints.check_architecture(path, description, expect)
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    return checkpoints.rebuild(path, description, variables)
