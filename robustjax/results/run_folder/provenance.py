"""What a run is: its flags, its data and model, the software that made it."""

import datetime
import functools
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import robustjax
from robustjax.results.run_folder import atomic, checkout

FILE_NAME = "versions.json"
# What may change numbers. Where the package lies in no checkout, git is empty.
_DECISIVE = ("robustjax", "jax", "jaxlib", "numpy", "scipy", "device_kind", "git")


class Identity(NamedTuple):
    """What decides the rows of a run, and where they were computed."""

    flags: dict[str, str]  # name -> value, all flags
    facts: dict[str, str]  # fingerprints of data and model, and the like
    operational: tuple[str, ...]  # flags that do not change the rows
    range_flags: tuple[str, ...]  # flags that choose which examples
    versions: dict[str, Any]  # software, devices, date


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
            flags=_texts(content.pop("flags")),
            facts=_texts(content.pop("facts")),
            operational=tuple(map(str, content.pop("operational"))),
            range_flags=tuple(map(str, content.pop("range_flags"))),
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


def changed_versions(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Software and hardware that may change numbers and differs, one phrase each.

    The noise depends on neither; logits may differ in the last bits, near ties
    may be decided differently, and another robustjax may compute other bounds.

    Args:
        there: versions of an earlier start; what it does not tell is passed over.
        here: versions of this start.

    Returns:
        Phrases such as "jax was 0.10.1 and is now 0.10.2".
    """
    return [
        f"{name} was {there[name] or 'unknown'} and is now {here[name] or 'unknown'}"
        for name in _DECISIVE
        if name in there and there[name] != here[name]
    ]


def _texts(values: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in dict(values).items()}


def _unequal(
    there: Mapping[str, str], here: Mapping[str, str], ignored: Collection[str]
) -> list[str]:
    return [
        f"{name} is {there.get(name, 'unset') or 'empty'} there and "
        f"{here.get(name, 'unset') or 'empty'} here"
        for name in sorted({*there, *here} - {*ignored})
        if there.get(name) != here.get(name)
    ]


@functools.cache  # the code of this process does not change with the checkout
def _git_commit() -> str:
    """Code of the checkout this package lies in; empty if it lies in none."""
    return checkout.describe(pathlib.Path(robustjax.__file__).parent.parent)
