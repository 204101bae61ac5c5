"""What a run is: its flags, its data and model, the software that made it."""

import datetime
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import robustjax
from robustjax.results import atomic

FILE_NAME = "versions.json"
_COMPARED_VERSIONS = ("robustjax", "jax", "jaxlib", "device_kind")


class Identity(NamedTuple):
    """What decides the rows of a run, and where they were computed."""

    flags: dict[str, str]  # name -> value, all flags
    facts: dict[str, str]  # fingerprints of data and model, and the like
    operational: tuple[str, ...]  # flags that do not change the rows
    range_flags: tuple[str, ...]  # flags that choose which examples
    versions: dict[str, Any]  # software, devices, date: not compared on resume


def environment() -> dict[str, Any]:
    """Versions of the software, the devices and the date."""
    import jax

    packages = ("jax", "jaxlib", "numpy", "scipy")
    versions: dict[str, Any] = {"robustjax": robustjax.__version__}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    versions["python"] = platform.python_version()
    versions["platform"] = platform.platform()
    versions["device_kind"] = jax.devices()[0].device_kind
    versions["num_devices"] = jax.device_count()
    versions["num_processes"] = jax.process_count()
    versions["git"] = _git_commit()
    versions["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return versions


def write_identity(folder: pathlib.Path, identity: Identity) -> None:
    """Writes `versions.json`, which makes the folder a run."""
    parts = identity._asdict()
    content = {**parts.pop("versions"), **parts}
    atomic.write_text(folder / FILE_NAME, json.dumps(content, indent=2) + "\n")


def read_identity(folder: pathlib.Path) -> Identity:
    """Reads `versions.json` of a run folder.

    [host]

    Raises:
        FileNotFoundError: if the folder holds none.
        ValueError: if the file is not one that robustjax wrote.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run: it holds no {FILE_NAME}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Identity(
            flags=dict(content.pop("flags")),
            facts=dict(content.pop("facts")),
            operational=tuple(content.pop("operational")),
            range_flags=tuple(content.pop("range_flags")),
            versions=content,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} does not describe a robustjax run.") from None


def differences(
    there: Identity, here: Identity, *, ignored: Collection[str] = ()
) -> list[str]:
    """Flags and facts in which two runs differ, one phrase each."""
    flags = _unequal(there.flags, here.flags, ignored)
    facts = _unequal(there.facts, here.facts, ())
    return [f"--{text}" for text in flags] + facts


def changed_versions(there: Identity, here: Identity) -> list[str]:
    """Software and hardware that changed since the run began, one phrase each.

    Rows may then differ in the last bits; the noise does not.
    """
    return [
        f"{name} was {there.versions.get(name)} and is now {here.versions[name]}"
        for name in _COMPARED_VERSIONS
        if there.versions.get(name) != here.versions[name]
    ]


def _unequal(
    there: Mapping[str, str], here: Mapping[str, str], ignored: Collection[str]
) -> list[str]:
    return [
        f"{name} is {there.get(name, 'unset') or 'empty'} there and "
        f"{here.get(name, 'unset') or 'empty'} here"
        for name in sorted({*there, *here} - {*ignored})
        if there.get(name) != here.get(name)
    ]


def _git_commit() -> str:
    """Commit of the checkout this package lies in; empty if it lies in none."""
    root = pathlib.Path(robustjax.__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "--no-optional-locks", "-C", str(root), "describe"]
    command += ["--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()
