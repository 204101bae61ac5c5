"""Vision transformers written for other tools, in the layouts that `load_vit` reads."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import rearrange

from robustjax import _validate
from robustjax.models import checkpoints
from robustjax.models.vit.config import ViTConfig
from robustjax.models.vit.layouts import LAYOUTS, PARTS, Layout, split_leaf

_LAYOUTS = ("augreg", "big_vision", "timm")
_TORCH_ONLY = ("registers", "layer_scale", "swiglu", "norm_pre")


def save_vit(
    path: str | os.PathLike[str],
    config: ViTConfig,
    params: Mapping[str, Any],
    *,
    layout: str,
) -> pathlib.Path:
    """Writes the weights of a vision transformer as one file in another tool's layout.

    [host] The file holds arrays alone, in float32: GELU, normalisation and number of
    heads (which "timm" does not show) must be known to whoever reads it. A class token
    keeps its position within itself; its own row of the position table, where the
    layout has one, is zero.

    Args:
        path: the file to make: .npz for "augreg" (with Linen's numbering) and
            "big_vision", .safetensors for "timm" (also DINO, DINOv2).
        config: the model.
        params: its weights.
        layout: "augreg", "big_vision" or "timm".

    Returns:
        The absolute path.

    Raises:
        FileExistsError: if the file exists: it is never overwritten.
        ValueError: if the path ends otherwise, or the layout has no place for a part.

    Example:
        >>> import tempfile
        >>> import jax
        >>> from robustjax.models import VisionTransformer
        >>> config = ViTConfig(width=8, heads=2, mlp=16, depth=1, patch=4, resolution=8)
        >>> init_fn, images = VisionTransformer(config).init, np.zeros((1, 8, 8, 3))
        >>> shapes = jax.eval_shape(init_fn, jax.random.key(0), images)["params"]
        >>> params = jax.tree.map(lambda array: np.zeros(array.shape), shapes)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_vit(f"{folder}/vit.npz", config, params, layout="augreg")
        ...     with np.load(path) as file:
        ...         print(len(file.files), file["embedding/kernel"].shape)
        22 (4, 4, 3, 8)
    """
    path = pathlib.Path(path).absolute()
    _validate.one_of(_LAYOUTS, layout=layout)
    suffix = ".safetensors" if LAYOUTS[layout].torch else ".npz"
    if path.suffix != suffix:
        raise ValueError(f"Expected {path} to end in {suffix} for {layout=}.")
    if path.exists():
        raise FileExistsError(f"File {path} exists; choose another path.")
    _check_place(config, layout)
    arrays = checkpoints.flatten(params)
    if config.class_token and layout != "big_vision":
        table = arrays["pos_embedding"]
        arrays["pos_embedding"] = np.pad(table, ((0, 0), (1, 0), (0, 0)))
    stored = _stored(arrays, LAYOUTS[layout], config)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        if LAYOUTS[layout].torch:
            from safetensors import numpy as safetensors_numpy

            stream.write(safetensors_numpy.save(stored))
        else:
            np.savez(stream, allow_pickle=False, **stored)
    partial.rename(path)
    return path


def _check_place(config: ViTConfig, layout: str) -> None:
    """Raises ValueError for a part of the model that the layout does not know."""
    torch_only = [field for field in _TORCH_ONLY if getattr(config, field)]
    if torch_only and layout != "timm":
        raise ValueError(f"{layout=} has no place for {', '.join(torch_only)}.")
    pools = {"timm": ("cls", "gap", "fc_norm"), "big_vision": ("cls", "gap", "map")}
    _validate.one_of(pools.get(layout, ("cls", "gap")), pool=config.pool)


def _stored(
    arrays: Mapping[str, np.ndarray], layout: Layout, config: ViTConfig
) -> dict[str, np.ndarray]:
    """The arrays by key, in the layout's axis order."""
    keys = {"fc_norm.weight", "fc_norm.bias"} if config.pool == "fc_norm" else set()
    parts: dict[str, list[np.ndarray]] = {}
    for target in sorted(arrays, key=_place):
        array = np.asarray(arrays[target], np.float32)
        array = _torch_axes(target, array) if layout.torch else array
        parts.setdefault(layout.key(target, keys), []).append(array)
    return {
        key: np.ascontiguousarray(np.concatenate(rows)) for key, rows in parts.items()
    }


def _place(target: str) -> int:
    """Query, key and value come in this order where they share one array."""
    module = split_leaf(target)[0].rpartition("/")[2]
    return PARTS.index(module) if module in PARTS else 0


def _torch_axes(target: str, array: np.ndarray) -> np.ndarray:
    """Heads joined, and the outputs of a kernel first."""
    path, leaf = split_leaf(target)
    module = path.rpartition("/")[2]
    if module in PARTS:
        array = rearrange(array, "... head d -> ... (head d)")
    if module == "out" and leaf == "kernel":
        array = rearrange(array, "head d out -> (head d) out")
    if leaf == "kernel":
        array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else None)
    return array
