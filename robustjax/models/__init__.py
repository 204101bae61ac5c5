"""Flax Linen classifiers that normalise inside, their checkpoints, and ONNX networks.

Inputs live in [0, 1]; sigma, epsilon and radii are in input units because the
normalisation is the model's first operation. Logits are float32 in any compute dtype.
An ONNX network takes the inputs that its file asks for.
"""

from robustjax.models.checkpoints import Checkpoint, fingerprint, load, manifest, save
from robustjax.models.onnx import OnnxModel, load_onnx
from robustjax.models.registry import classifier, create, describe, names
from robustjax.models.tensors import export_safetensors, import_safetensors

__all__ = [
    "Checkpoint",
    "OnnxModel",
    "classifier",
    "create",
    "describe",
    "export_safetensors",
    "fingerprint",
    "import_safetensors",
    "load",
    "load_onnx",
    "manifest",
    "names",
    "save",
]
