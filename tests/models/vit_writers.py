"""The network of `vit_reference` as files of other tools, written independently."""

import pathlib
import tempfile

import numpy as np
import vit_reference
from absl.testing import parameterized
from safetensors import numpy as safetensors_numpy

from robustjax import models

RAW = dict(mean=0.0, std=1.0)  # the reference takes its images as they are
_ATTENTION = "MultiHeadDotProductAttention_0"


def augreg(arrays, *, legacy=True, prefix=""):
    """The .npz of vision_transformer, before or after Linen's numbering."""
    in_blocks = {
        "LayerNorm_1": "LayerNorm_2",
        "MlpBlock_0": "MlpBlock_3",
        _ATTENTION: "MultiHeadDotProductAttention_1",
    }

    def key(name):
        for ours, theirs in in_blocks.items():
            if legacy and "encoderblock" in name:
                name = name.replace(ours, theirs)
        return prefix + name.replace(
            "pos_embedding", "Transformer/posembed_input/pos_embedding"
        )

    return {key(name): array for name, array in arrays.items()}


def big_vision(arrays, *, prefix="params/", scan=False):
    """The .npz of big_vision: positions of patches alone, blocks apart or stacked."""
    arrays = dict(arrays)
    table = arrays["pos_embedding"]
    arrays["pos_embedding"] = table[:, 1:]
    if "cls" in arrays:
        arrays["cls"] = arrays["cls"] + table[:, :1]
    if scan:
        first = "Transformer/encoderblock_0/"
        for name in [name for name in arrays if name.startswith(first)]:
            rest = name.removeprefix(first)
            blocks = [f"Transformer/encoderblock_{i}/{rest}" for i in (0, 1)]
            stacked = np.stack([arrays.pop(block) for block in blocks])
            arrays[f"Transformer/encoderblock/{rest}"] = stacked
    return {prefix + name: array for name, array in arrays.items()}


def _linear(stored, ours, theirs, arrays, *, width=None):
    """A dense layer as PyTorch keeps it; `width` joins the heads of its inputs."""
    kernel, bias = arrays[f"{ours}/kernel"], arrays[f"{ours}/bias"]
    stored[f"{theirs}.weight"] = kernel.reshape(width or len(kernel), -1).T.copy()
    stored[f"{theirs}.bias"] = bias.reshape(-1)


def _norm(stored, ours, theirs, arrays):
    stored[f"{theirs}.weight"] = arrays[f"{ours}/scale"]
    stored[f"{theirs}.bias"] = arrays[f"{ours}/bias"]


def timm(arrays, *, block="blocks.{}.", norm="norm", mlp=("mlp.fc1", "mlp.fc2"),
          registers="register_tokens"):  # fmt: skip
    """The .safetensors of timm and of DINO, DINOv2."""
    kernel = arrays["embedding/kernel"]
    stored = {
        "pos_embed": arrays["pos_embedding"],
        "patch_embed.proj.weight": kernel.transpose(3, 2, 0, 1).copy(),
        "patch_embed.proj.bias": arrays["embedding/bias"],
        "mask_token": np.zeros((1, 8), np.float32),
    }
    for ours, theirs in (("cls", "cls_token"), ("registers", registers)):
        if ours in arrays:
            stored[theirs] = arrays[ours]
    _norm(stored, "Transformer/encoder_norm", norm, arrays)
    _linear(stored, "head", "head", arrays)
    if "norm_pre/scale" in arrays:
        _norm(stored, "norm_pre", "norm_pre", arrays)
    for index in range(vit_reference.DEPTH):
        ours, theirs = f"Transformer/encoderblock_{index}/", block.format(index)
        _norm(stored, f"{ours}LayerNorm_0", f"{theirs}norm1", arrays)
        _norm(stored, f"{ours}LayerNorm_1", f"{theirs}norm2", arrays)
        parts = {}
        for part in ("query", "key", "value"):
            _linear(parts, f"{ours}{_ATTENTION}/{part}", part, arrays)
        for leaf in ("weight", "bias"):
            rows = [parts[f"{part}.{leaf}"] for part in ("query", "key", "value")]
            stored[f"{theirs}attn.qkv.{leaf}"] = np.concatenate(rows)
        out = f"{ours}{_ATTENTION}/out"
        _linear(stored, out, f"{theirs}attn.proj", arrays, width=8)
        _linear(stored, f"{ours}MlpBlock_0/Dense_0", f"{theirs}{mlp[0]}", arrays)
        _linear(stored, f"{ours}MlpBlock_0/Dense_1", f"{theirs}{mlp[1]}", arrays)
        for scale in (0, 1):
            if f"{ours}LayerScale_{scale}" in arrays:
                gamma = arrays[f"{ours}LayerScale_{scale}"]
                stored[f"{theirs}ls{scale + 1}.gamma"] = gamma
    return stored


def hf(arrays, *, prefix="", dinov2=False, swiglu=False):
    """The .safetensors of transformers."""
    kernel = arrays["embedding/kernel"].transpose(3, 2, 0, 1).copy()
    stored = {
        "embeddings.cls_token": arrays["cls"],
        "embeddings.position_embeddings": arrays["pos_embedding"],
        "embeddings.patch_embeddings.projection.weight": kernel,
        "embeddings.patch_embeddings.projection.bias": arrays["embedding/bias"],
    }
    if "registers" in arrays:
        stored["embeddings.register_tokens"] = arrays["registers"]
    _norm(stored, "Transformer/encoder_norm", "layernorm", arrays)
    norms = ("norm1", "norm2") if dinov2 else ("layernorm_before", "layernorm_after")
    mlp = ("mlp.fc1", "mlp.fc2") if dinov2 else ("intermediate.dense", "output.dense")
    mlp = ("mlp.weights_in", "mlp.weights_out") if swiglu else mlp
    for index in range(vit_reference.DEPTH):
        ours, theirs = f"Transformer/encoderblock_{index}/", f"encoder.layer.{index}."
        for place in (0, 1):
            _norm(stored, f"{ours}LayerNorm_{place}", theirs + norms[place], arrays)
            dense = f"{ours}MlpBlock_0/Dense_{place}"
            _linear(stored, dense, theirs + mlp[place], arrays)
            if dinov2:
                factor = arrays[f"{ours}LayerScale_{place}"]
                stored[f"{theirs}layer_scale{place + 1}.lambda1"] = factor
        for part in ("query", "key", "value"):
            name = f"{theirs}attention.attention.{part}"
            _linear(stored, f"{ours}{_ATTENTION}/{part}", name, arrays)
        name = f"{theirs}attention.output.dense"
        _linear(stored, f"{ours}{_ATTENTION}/out", name, arrays, width=8)
    if "pre_logits/kernel" in arrays:
        _linear(stored, "pre_logits", "pooler.dense", arrays)
    stored = {prefix + name: array for name, array in stored.items()}
    if prefix:
        _linear(stored, "head", "classifier", arrays)
    return stored


class FilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def write(self, stored, name=None):
        """A file of the kind that goes with the names of the arrays."""
        is_npz = any("/" in key for key in stored)
        path = self.folder / (name or ("model.npz" if is_npz else "model.safetensors"))
        if is_npz:
            np.savez(path, **stored)
        else:
            safetensors_numpy.save_file(stored, path)
        return path

    def load(self, stored, **options):
        torch = {} if any("/" in key for key in stored) else {"heads": 2}
        return models.load_vit(self.write(stored), **{**RAW, **torch, **options})
