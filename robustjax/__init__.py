"""robustjax: provable and measurable robustness of neural networks in JAX.

Sub-packages load on first use, so that `import robustjax` stays light.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "attacks",
    "bounds",
    "contrastive",
    "data",
    "hidden_cost",
    "metrics",
    "models",
    "norms",
    "plotting",
    "probes",
    "results",
    "semantic",
    "smoothing",
    "special",
    "synbench",
]


def __getattr__(name: str) -> ModuleType:
    """Imports a sub-package on first use: `robustjax.smoothing`."""
    if name in __all__:
        return importlib.import_module(f"robustjax.{name}")
    raise AttributeError(f"module 'robustjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Lists the sub-packages for completion."""
    return sorted([*__all__, "__version__"])
