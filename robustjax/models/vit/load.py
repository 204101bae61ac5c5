"""Pretrained vision transformers from .npz and .safetensors files. [host].

The loaders follow the published layouts and are tested on small networks in each of
them. They have not been run on real pretrained weights: compare the features of the
first image with those of the source before you rely on a file.

Reference:
    Dosovitskiy et al. (2021); Steiner et al. (2022), How to train your ViT (AugReg);
    Caron et al. (2021), DINO; Oquab et al. (2024), DINOv2. Layouts as in the
    repositories google-research/vision_transformer and big_vision,
    huggingface/pytorch-image-models and transformers, facebookresearch/dinov2.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from robustjax import _validate
from robustjax.models.vit.config import ViTConfig
from robustjax.models.vit.layouts import (
    IGNORED,
    LAYOUTS,
    Weights,
    detect,
    position_rule,
    short_keys,
)
from robustjax.models.vit.module import VisionTransformer
from robustjax.models.vit.position_embeddings import (
    RULES,
    effective_rule,
    resize_positions,
)
from robustjax.models.vit.weight_files import open_weights

# Heads by width, for files that do not tell. 1536 is the giant DINOv2.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}
_LISTED = 20  # keys of each kind that a message shows
_HF_GELU = {
    "gelu": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "quick_gelu": "quick",
}


def load_vit(
    path: str | os.PathLike[str],
    *,
    layout: str = "auto",
    resolution: int | None = None,
    resize: str | None = None,
    head: bool = True,
    heads: int | None = None,
    pool: str | None = None,
    gelu: str | None = None,
    ln_eps: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> tuple[ViTConfig, dict[str, Any]]:
    """Reads the weights of a pretrained vision transformer.

    [host] No loader has been run on real pretrained weights yet; each is tested on a
    small network in its layout. Arrays are read one by one, and nothing is unpickled.

    ==========  ========================================================  =============
    layout      file                                                      mean, std
    ==========  ========================================================  =============
    augreg      .npz of vision_transformer, old and new numbering         0.5, 0.5
    big_vision  .npz of big_vision; also stacked blocks, image towers     0.5, 0.5
    timm        .safetensors of timm                                      not known
    dino        as timm                                                   ImageNet
    dinov2      DINOv2, original or timm: layer scale, registers, SwiGLU  ImageNet
    clip        timm with a LN in front of the blocks; `gelu` not known   OpenAI's CLIP
    hf_vit      ViTModel, ViTForImageClassification of transformers       not known
    hf_dinov2   Dinov2Model, Dinov2WithRegistersModel of transformers     ImageNet
    ==========  ========================================================  =============

    A setting comes from the argument, else from `config.json` and
    `preprocessor_config.json` next to a .safetensors file (as timm and transformers
    write them), else from the layout. A setting that none of them has is required,
    because a wrong normalisation or another GELU would go unnoticed.

    Args:
        path: the file.
        layout: one of the table, or "auto": what the keys of the file fit.
        resolution: side of the images in pixels; default: that of the file.
        resize: how position embeddings are resized for another `resolution`:
            "vit_jax", "timm", "timm_npz" (timm's rule for .npz files), "dinov2" (the
            code of DINOv2, with its offset of 0.1 patches) or "transformers" (also
            exports of DINOv2). Default: the rule of the source, where the layout, the
            keys or the files next to it tell. The rule that was applied is
            `config.position_rule`.
        head: False leaves out the head and the layer `pre_logits` before it.
        heads: number of attention heads, where the width is not a standard one.
        pool: "cls", "gap", "map" or "fc_norm", where the keys do not tell.
        gelu: "tanh", "erf" or "quick".
        ln_eps: of all layer normalisations.
        mean: subtracted from images in [0, 1], one value or one a channel.
        std: divides them afterwards.

    Returns:
        (config, params), for `vit_features` or `VisionTransformer`. Params are float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read, fits no layout, or its keys or shapes
            are not those of the layout (all are listed), or if a setting is not known.

    Example:
        >>> config, params = load_vit("B_16.npz", head=False)  # doctest: +SKIP
        >>> vit_features(config, params)(images).shape  # doctest: +SKIP
        (32, 768)
    """
    path = pathlib.Path(path)
    _validate.one_of(("auto", *LAYOUTS), layout=layout)
    if resize is not None:
        _validate.one_of(RULES, resize=resize)
    given = dict(heads=heads, pool=pool, gelu=gelu, ln_eps=ln_eps, mean=mean, std=std)
    given = {name: value for name, value in given.items() if value is not None}
    with open_weights(path) as file:
        try:
            if layout == "auto":
                layout = detect(short_keys(file.names))
            weights = Weights(file, LAYOUTS[layout])
            settings = _settings_beside(path)
            rule = settings.pop("resize", None) or position_rule(layout, weights.keys)
            config = _config(weights, settings | given, head=head)
            params = _arrays(weights, config, head=head)
        except ValueError as error:
            raise ValueError(f"{path}, layout {layout}: {error}") from None
    if resolution is not None and resolution != config.resolution:
        config, params = _resized(path, config, params, resolution, resize or rule)
    on_device = {name: jnp.asarray(params.pop(name)) for name in list(params)}
    return config, traverse_util.unflatten_dict(on_device, sep="/")


def _settings_beside(path: pathlib.Path) -> dict[str, Any]:
    """What timm and transformers say about a .safetensors file in files next to it."""
    found: dict[str, Any] = {}
    for name in ("config.json", "preprocessor_config.json"):
        file = path.with_name(name)
        if path.suffix == ".safetensors" and file.is_file():
            try:
                found |= json.loads(file.read_text())
            except json.JSONDecodeError as error:
                raise ValueError(f"cannot read {file}: {error}.") from None
    of_timm = found.get("pretrained_cfg", {})
    settings = {
        "heads": found.get("num_attention_heads"),
        "ln_eps": found.get("layer_norm_eps"),
        "mean": of_timm.get("mean", found.get("image_mean")),
        "std": of_timm.get("std", found.get("image_std")),
        "resize": "timm" if of_timm else None,
    }
    if "hidden_act" in found:
        _validate.one_of(tuple(_HF_GELU), hidden_act=found["hidden_act"])
        settings["gelu"] = _HF_GELU[found["hidden_act"]]
    return {name: value for name, value in settings.items() if value is not None}


def _config(weights: Weights, settings: dict[str, Any], *, head: bool) -> ViTConfig:
    """The model that the shapes of some arrays, and the settings, tell."""
    layout, block = weights.layout, "Transformer/encoderblock_0/"
    patch, _, _, width = _shape(weights, "embedding/kernel", 4)
    mlp, _ = _shape(weights, f"{block}MlpBlock_0/Dense_1/kernel", 2)
    (hidden,) = _shape(weights, f"{block}MlpBlock_0/Dense_0/bias", 1)
    pool = "cls" if weights.has("cls") else "gap"
    if weights.has("MAPHead_0/probe"):
        pool = "map"
    elif weights.key("Transformer/encoder_norm/scale").startswith("fc_norm"):
        pool = "fc_norm"
    told = {
        "heads": _HEADS.get(width) if layout.torch else _heads_of_kernel(weights),
        "pool": pool,
        "gelu": layout.gelu,
        "ln_eps": layout.ln_eps,
        "mean": layout.mean,
        "std": layout.std,
    } | settings
    unknown = [name for name, value in told.items() if value is None]
    if unknown:
        raise ValueError(f"nothing tells {', '.join(unknown)}; pass {unknown[0]}=...")
    for name in ("mean", "std"):
        told[name] = tuple(float(value) for value in np.atleast_1d(told[name]))
    with_head = head and weights.has("head/bias")
    with_registers = weights.has("registers")
    return ViTConfig(
        width=width,
        mlp=mlp,
        depth=weights.depth,
        patch=patch,
        resolution=_grid(weights) * patch,
        class_token=weights.has("cls"),
        registers=_shape(weights, "registers", 3)[1] if with_registers else 0,
        norm_pre=weights.has("norm_pre/scale"),
        layer_scale=weights.has(f"{block}LayerScale_0"),
        swiglu=hidden == 2 * mlp,
        pre_logits=head and weights.has("pre_logits/kernel"),
        num_classes=_shape(weights, "head/bias", 1)[0] if with_head else 0,
        **told,
    )


def _shape(weights: Weights, target: str, num_axes: int) -> tuple[int, ...]:
    """Shape of an array in our axis order."""
    if not weights.has(target):
        raise ValueError(f"the key {weights.key(target)!r} is missing.")
    shape = weights.converted(target, ()).shape
    if len(shape) != num_axes:
        key = weights.key(target)
        raise ValueError(f"expected {key!r} to have {num_axes} axes, got {shape}.")
    return shape


def _heads_of_kernel(weights: Weights) -> int:
    query = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
    return _shape(weights, query, 3)[1]


def _grid(weights: Weights) -> int:
    """Patches along a side, from N rows of the position table or N + 1 with a class."""
    rows = _shape(weights, "pos_embedding", 3)[1]
    for num_patches in (rows, rows - 1):
        if num_patches and math.isqrt(num_patches) ** 2 == num_patches:
            return math.isqrt(num_patches)
    key = weights.key("pos_embedding")
    raise ValueError(f"expected {key!r} to have N or N + 1 rows, N square; got {rows}.")


def _arrays(
    weights: Weights, config: ViTConfig, *, head: bool
) -> dict[str, np.ndarray]:
    """All parameters of the model by flat name, converted and checked."""
    shapes = _expected_shapes(config)
    _check_keys(weights, list(shapes), head=head)
    arrays: dict[str, np.ndarray] = {}
    for target in sorted(shapes, key=weights.key):  # each key is read once
        with contextlib.suppress(ValueError):  # what cannot be converted is missing
            arrays[target] = weights.converted(target, shapes[target])
    positions = weights.stored("pos_embedding")
    arrays["pos_embedding"] = positions[:, -(config.grid**2) :]
    mismatches = [
        f"{weights.key(target)} {weights.stored(target).shape} for {target} {shape}"
        for target, shape in shapes.items()
        if target not in arrays or arrays[target].shape != shape
    ]
    if mismatches:
        raise ValueError(f"shapes differ from the model's: {'; '.join(mismatches)}.")
    if config.class_token and positions.shape[1] > config.grid**2:
        arrays["cls"] = arrays["cls"] + positions[:, :1]
    return arrays


@functools.cache
def _expected_shapes(config: ViTConfig) -> Mapping[str, tuple[int, ...]]:
    side = config.resolution
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    init = VisionTransformer(config).init
    variables = jax.eval_shape(init, jax.random.key(0), image)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    return {name: array.shape for name, array in flat.items()}


def _check_keys(weights: Weights, targets: list[str], *, head: bool) -> None:
    """Raises ValueError unless the file holds the targets and nothing else."""
    wanted = {weights.key(target) for target in targets}
    left_out = set() if head else {"head", "pre_logits"}
    known = {
        weights.key(f"{m}/{leaf}") for m in left_out for leaf in ("kernel", "bias")
    }
    missing = wanted - weights.keys.keys()
    unexpected = weights.keys.keys() - wanted - known - {*IGNORED}
    if missing or unexpected:
        raise ValueError(
            f"missing keys: {_listed(missing)}; unexpected keys: {_listed(unexpected)}."
        )


def _listed(keys: set[str]) -> str:
    first, others = sorted(keys)[:_LISTED], len(keys) - _LISTED
    more = f" and {others} more" if others > 0 else ""
    return (", ".join(first) or "none") + more


def _resized(
    path: pathlib.Path,
    config: ViTConfig,
    params: dict[str, np.ndarray],
    resolution: int,
    rule: str | None,
) -> tuple[ViTConfig, dict[str, np.ndarray]]:
    """The model for images of another size."""
    if rule is None:
        raise ValueError(
            f"{path} is for images of {config.resolution} pixels, and nothing tells "
            f"how its source resizes positions; {resolution=} needs resize=, one of "
            f"{', '.join(RULES)}."
        )
    rule = effective_rule(rule, registers=config.registers)
    config = dataclasses.replace(config, resolution=resolution, position_rule=rule)
    table = resize_positions(params["pos_embedding"], config.grid, rule=rule)
    return config, {**params, "pos_embedding": table}
