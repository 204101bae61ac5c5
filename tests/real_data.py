"""Finds the folder of real data, or skips the test with the reason."""

import os
import pathlib

import pytest


def folder(name: str) -> pathlib.Path:
    """The sub-folder `name` of ROBUSTJAX_DATA_DIR; skips where it is missing."""
    root = os.environ.get("ROBUSTJAX_DATA_DIR")
    path = pathlib.Path(root or ".") / name
    if not root or not path.is_dir():
        pytest.skip(f"set ROBUSTJAX_DATA_DIR to a folder with {name}/")
    return path
