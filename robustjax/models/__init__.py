"""Flax Linen classifiers and vision transformers, their weights, and ONNX networks.

Inputs live in [0, 1]; sigma, epsilon and radii are in input units because the
normalisation is the model's first operation. Logits are float32 in any compute dtype.
An ONNX network takes the inputs that its file asks for.
"""

from robustjax.models.checkpoints import Checkpoint, fingerprint, load, manifest, save
from robustjax.models.onnx.importer import OnnxModel, load_onnx
from robustjax.models.registry import (
    classifier,
    create,
    describe,
    features_of,
    names,
)
from robustjax.models.safetensors_files import export_safetensors, import_safetensors
from robustjax.models.vit.config import ViTConfig, vit_config
from robustjax.models.vit.load import load_vit
from robustjax.models.vit.module import VisionTransformer, vit_features
from robustjax.models.vit.save import save_vit

__all__ = [
    "Checkpoint",
    "OnnxModel",
    "ViTConfig",
    "VisionTransformer",
    "classifier",
    "create",
    "describe",
    "export_safetensors",
    "features_of",
    "fingerprint",
    "import_safetensors",
    "load",
    "load_onnx",
    "load_vit",
    "manifest",
    "names",
    "save",
    "save_vit",
    "vit_config",
    "vit_features",
]
