"""The history of benchmark results: one JSON file a run, with facts of the machine."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax

import robustjax

FOLDER = pathlib.Path(__file__).parent / "history"


def machine() -> dict[str, Any]:
    """Facts that speed depends on. Names of hosts and users are not among them."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.device_count(),
        "cpu_count": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": importlib.metadata.version("numpy"),
        "robustjax": robustjax.__version__,
    }


def add(results: Mapping[str, Any], *, folder: pathlib.Path = FOLDER) -> pathlib.Path:
    """Writes results and the machine to a new file, never over an older one.

    Args:
        results: tables by name; values that JSON can hold.
        folder: where the history is kept.

    Returns:
        The path, named by date, device and JAX version.
    """
    facts = machine()
    device = "-".join(facts["device"].lower().split())
    stem = f"{facts['date']}_{device}_jax{facts['jax']}"
    text = json.dumps({"machine": facts, "results": results}, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        suffix = f"_{number}" if number > 1 else ""
        path = folder / f"{stem}{suffix}.json"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            number += 1
        else:
            return path
