"""Readers of image data sets in their official formats, as NumPy arrays in [0, 1].

`load` reads a data set by name; the readers behind it are the modules `idx`, `cifar`,
`gtsrb`, `image_folder`, `npz`, `digits` and `huggingface`. Nothing is downloaded
except by `hf:` names, and nothing is ever unpickled. `read_vnnlib` and `read_instances`
read what verifiers are asked about networks.
"""

from robustjax.data.dataset import Dataset, fingerprint, from_arrays
from robustjax.data.loading import load
from robustjax.data.vnnlib import (
    Case,
    Instance,
    Property,
    read_instances,
    read_vnnlib,
)

__all__ = [
    "Case",
    "Dataset",
    "Instance",
    "Property",
    "fingerprint",
    "from_arrays",
    "load",
    "read_instances",
    "read_vnnlib",
]
