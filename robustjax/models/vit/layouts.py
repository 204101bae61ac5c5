"""How each family of vision transformers names and lays out its arrays.

Everything is asked for by its name in our module (`VisionTransformer`), the target, and
found in the file under the name, the key, that the layout gives it.
"""

import dataclasses
import functools
import re
from collections.abc import Collection, Mapping

import numpy as np

from robustjax.models.vit.weight_files import WeightFile

_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/")
_SCAN = "Transformer/encoderblock/"  # all blocks stacked along a leading axis
ATTENTION = "MultiHeadDotProductAttention_0"
PARTS = ("query", "key", "value")
_HALF = (0.5,)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_LEGACY_ATTENTION = "MultiHeadDotProductAttention_1"
_LEGACY_KEYS = {  # before Linen, flax numbered all modules of a block together
    "LayerNorm_1": "LayerNorm_2",
    **{f"{ATTENTION}/{p}": f"{_LEGACY_ATTENTION}/{p}" for p in (*PARTS, "out")},
    **{f"MlpBlock_0/Dense_{i}": f"MlpBlock_3/Dense_{i}" for i in (0, 1)},
}
_TIMM_KEYS = {
    "cls": "cls_token",
    "pos_embedding": "pos_embed",
    "registers": "register_tokens",
    "embedding": "patch_embed.proj",
    "Transformer/encoder_norm": "norm",
    "pre_logits": "pre_logits.fc",
    "LayerNorm_0": "norm1",
    "LayerNorm_1": "norm2",
    "LayerScale_0": "ls1.gamma",
    "LayerScale_1": "ls2.gamma",
    **{f"{ATTENTION}/{part}": "attn.qkv" for part in PARTS},
    f"{ATTENTION}/out": "attn.proj",
    "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
}
_HF_KEYS = {
    "cls": "embeddings.cls_token",
    "pos_embedding": "embeddings.position_embeddings",
    "registers": "embeddings.register_tokens",
    "embedding": "embeddings.patch_embeddings.projection",
    "Transformer/encoder_norm": "layernorm",
    "pre_logits": "pooler.dense",
    "head": "classifier",
    **{f"{ATTENTION}/{part}": f"attention.attention.{part}" for part in PARTS},
    f"{ATTENTION}/out": "attention.output.dense",
}
_HF_VIT_KEYS = _HF_KEYS | {
    "LayerNorm_0": "layernorm_before",
    "LayerNorm_1": "layernorm_after",
    "MlpBlock_0/Dense_0": "intermediate.dense",
    "MlpBlock_0/Dense_1": "output.dense",
}
_HF_DINOV2_KEYS = _HF_KEYS | {
    "LayerNorm_0": "norm1",
    "LayerNorm_1": "norm2",
    "LayerScale_0": "layer_scale1.lambda1",
    "LayerScale_1": "layer_scale2.lambda1",
    "MlpBlock_0/Dense_0": "mlp.fc1",
    "MlpBlock_0/Dense_1": "mlp.fc2",
}
_OTHER_NAMES = {  # of the same arrays in some files of a layout
    "register_tokens": ("reg_token",),
    "norm": ("fc_norm",),
    "mlp.fc1": ("mlp.w12", "mlp.weights_in"),
    "mlp.fc2": ("mlp.w3", "mlp.weights_out"),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names, axis order and settings that go with them."""

    keys: Mapping[str, str]  # of modules and arrays, where they differ from ours
    block: str  # what stands before the names of block {}
    torch: bool  # kernels are transposed and heads are not split
    gelu: str | None
    ln_eps: float
    mean: tuple[float, ...] | None  # None: files of this layout differ
    std: tuple[float, ...] | None

    def key(self, target: str, keys: Collection[str]) -> str:
        """What an array is called in a file with these keys, be it there or not."""
        block = _BLOCK.match(target)
        before = self.block.format(block[1]) if block else ""
        path, leaf = split_leaf(target[block.end() :] if block else target)
        path = self.keys.get(path, path)
        if not self.torch:
            return before + path + (f"/{leaf}" if leaf else "")
        after = {"": "", "bias": ".bias"}.get(leaf, ".weight")
        names = [f"{before}{p}{after}" for p in (path, *_OTHER_NAMES.get(path, ()))]
        return next((name for name in names if name in keys), names[0])


_JAX_BLOCK = "Transformer/encoderblock_{}/"
_AUGREG_KEYS = {"pos_embedding": "Transformer/posembed_input/pos_embedding"}
LAYOUTS = {
    "augreg": Layout(_AUGREG_KEYS, _JAX_BLOCK, False, "tanh", 1e-6, _HALF, _HALF),
    "big_vision": Layout({}, _JAX_BLOCK, False, "tanh", 1e-6, _HALF, _HALF),
    "timm": Layout(_TIMM_KEYS, "blocks.{}.", True, "erf", 1e-6, None, None),
    "dino": Layout(_TIMM_KEYS, "blocks.{}.", True, "erf", 1e-6, *_IMAGENET),
    "dinov2": Layout(_TIMM_KEYS, "blocks.{}.", True, "erf", 1e-6, *_IMAGENET),
    "clip": Layout(_TIMM_KEYS, "blocks.{}.", True, None, 1e-5, *_CLIP),
    "hf_vit": Layout(_HF_VIT_KEYS, "encoder.layer.{}.", True, "erf", 1e-12, None, None),
    "hf_dinov2": Layout(
        _HF_DINOV2_KEYS, "encoder.layer.{}.", True, "erf", 1e-6, *_IMAGENET
    ),
}
_RULES = {
    "augreg": "vit_jax",
    "big_vision": "vit_jax",
    "hf_vit": "transformers",
    "hf_dinov2": "transformers",
}
IGNORED = ("mask_token", "embeddings.mask_token")  # for training only


def short_keys(names: Collection[str]) -> dict[str, str]:
    """Names in the file by their keys: without the prefix of the model or of chunks."""
    for prefix in ("opt/target/", "params/img/", "params/"):
        if f"{prefix}embedding/kernel" in names:
            return {n.removeprefix(prefix): n for n in names if n.startswith(prefix)}
    prefixes = re.compile(r"^(?:vit|dinov2|dinov2_with_registers)\.")
    chunks = re.compile(r"^blocks\.\d+\.(\d+)\.")
    return {chunks.sub(r"blocks.\1.", prefixes.sub("", name)): name for name in names}


def position_rule(layout: str, keys: Collection[str]) -> str | None:
    """Rule by which the source of a file resizes positions, see `resize_positions`.

    Args:
        layout: one of `LAYOUTS`.
        keys: those of the file.

    Returns:
        The rule; None where several sources share the layout and no key tells them
        apart. Of DINOv2, timm leaves out the mask token and renames the registers.
    """
    if layout != "dinov2":
        return _RULES.get(layout)
    if "reg_token" in keys:
        return "timm"
    return "dinov2" if {"mask_token", "register_tokens"} & {*keys} else None


def detect(keys: Collection[str]) -> str:
    """The name of the layout that keys belong to; ValueError where none fits."""
    if "embedding/kernel" in keys:
        return "big_vision" if "pos_embedding" in keys else "augreg"
    if "patch_embed.proj.weight" in keys:
        if "norm_pre.weight" in keys:
            return "clip"
        return "dinov2" if "blocks.0.ls1.gamma" in keys else "timm"
    if "embeddings.patch_embeddings.projection.weight" in keys:
        dinov2 = "encoder.layer.0.norm1.weight" in keys
        return "hf_dinov2" if dinov2 else "hf_vit"
    some = ", ".join(sorted(keys)[:5])
    raise ValueError(
        f"its {len(keys)} keys fit no layout of {', '.join(LAYOUTS)}; they are "
        f"{some}, ..."
    )


class Weights:
    """A weight file seen through its layout: arrays by the names of our module."""

    def __init__(self, file: WeightFile, layout: Layout) -> None:
        """Takes an open file."""
        self.keys = short_keys(file.names)
        self._file = file
        self._scan = any(key.startswith(_SCAN) for key in self.keys)
        if self._scan:
            layout = dataclasses.replace(layout, block=_SCAN)
        if any("/LayerNorm_2/" in key for key in self.keys):
            layout = dataclasses.replace(layout, keys={**layout.keys, **_LEGACY_KEYS})
        self.layout = layout

    @functools.cached_property
    def depth(self) -> int:
        """Number of blocks."""
        if self._scan:
            stacked = min(key for key in self.keys if key.startswith(_SCAN))
            return len(self._file.read(self.keys[stacked]))
        before, after = map(re.escape, self.layout.block.split("{}"))
        pattern = re.compile(rf"{before}(\d+){after}")
        found = [int(m[1]) for key in self.keys if (m := pattern.match(key))]
        return max(found, default=-1) + 1

    def has(self, target: str) -> bool:
        """Whether the file holds the array."""
        return self.key(target) in self.keys

    def key(self, target: str) -> str:
        """What the file calls an array, or would call it."""
        return self.layout.key(target, self.keys)

    def stored(self, target: str) -> np.ndarray:
        """The array as the file holds it; KeyError if it does not."""
        return self._file.read(self.keys[self.key(target)])

    def converted(self, target: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array in our axis order.

        Raises:
            ValueError: if it cannot take the axes of the shape; its lengths may differ.
        """
        array = self.stored(target)
        block = _BLOCK.match(target)
        if self._scan and block:
            array = np.split(array, self.depth)[int(block[1])].squeeze(0)
        if not self.layout.torch:
            return array
        path, leaf = split_leaf(target)
        module = path.rpartition("/")[2]
        if ".qkv." in self.key(target):  # the rows of q, then k, then v
            array = np.split(array, 3)[PARTS.index(module)]
        if leaf == "kernel":
            array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else None)
        if module in PARTS:  # heads are the slower axis within the width
            return array.reshape(*array.shape[:-1], *shape[-2:])
        if module == "out" and leaf == "kernel":
            return array.reshape(*shape[:2], array.shape[-1])
        return array


def split_leaf(target: str) -> tuple[str, str]:
    """("a/b", "kernel") of "a/b/kernel"; ("cls", "") of an array without a module."""
    path, _, leaf = target.rpartition("/")
    return (path, leaf) if leaf in ("kernel", "bias", "scale") else (target, "")
