"""Processes that tests start import this checkout and share its compiled programs."""

import os
import pathlib
import socket

ROOT = pathlib.Path(__file__).parent.parent


def environment(*folders: str | os.PathLike[str], **changes: str) -> dict[str, str]:
    """Variables of a child on the CPU.

    Args:
        *folders: where else the child finds modules, before this checkout.
        **changes: further variables.
    """
    places = [*map(str, folders), str(ROOT), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, places))
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path} | changes


def free_port() -> int:
    """A port of this machine on which nobody listens now."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
