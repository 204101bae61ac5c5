"""Settings of the whole suite, which must be set before jax starts.

Most of the time of the suite is XLA's, which compiles thousands of small programs that
run once. So it optimises less; with ROBUSTJAX_OPTIMIZE=1, as in `make test-slow`, tests
run the programs that users run.
"""

import importlib.metadata
import os

_flags = ["--xla_force_host_platform_device_count=4"]
if os.environ.get("ROBUSTJAX_OPTIMIZE", "0") == "0":
    _flags.append("--xla_backend_optimization_level=0")
    _flags.append("--xla_llvm_disable_expensive_passes=true")
    if int(importlib.metadata.version("jaxlib").split(".")[1]) < 11:
        _flags.append("--xla_cpu_use_fusion_emitters=false")  # later ones lack it
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_flags])
os.environ.setdefault("MPLBACKEND", "Agg")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """With ROBUSTJAX_ONE_IN=5 every fifth test, some of all files among them."""
    items[:] = items[:: int(os.environ.get("ROBUSTJAX_ONE_IN", "1"))]
