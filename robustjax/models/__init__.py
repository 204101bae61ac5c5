"""Flax Linen classifiers that normalise inside, and their checkpoints.

Inputs live in [0, 1]; sigma, epsilon and radii are in input units because the
normalisation is the model's first operation. Logits are float32 in any compute dtype.
"""

from robustjax.models.checkpoints import Checkpoint, fingerprint, load, manifest, save
from robustjax.models.registry import classifier, create, describe, names
from robustjax.models.tensors import export_safetensors, import_safetensors

__all__ = [
    "Checkpoint",
    "classifier",
    "create",
    "describe",
    "export_safetensors",
    "fingerprint",
    "import_safetensors",
    "load",
    "manifest",
    "names",
    "save",
]
