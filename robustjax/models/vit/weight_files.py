"""Weight files, opened lazily: names first, each array when it is asked for. [host].

Pickled content raises an error, in any kind of file.
"""

import contextlib
import dataclasses
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass
class WeightFile:
    """The arrays of one open file by name; the last one read is kept."""

    path: pathlib.Path
    names: frozenset[str]
    fetch: Callable[[str], np.ndarray]
    _kept: tuple[str, np.ndarray] | None = None

    def read(self, name: str) -> np.ndarray:
        """The array of that name, in float32 whatever the file holds."""
        if self._kept is None or self._kept[0] != name:
            self._kept = name, _float32(self._fetch(name))
        return self._kept[1]

    def _fetch(self, name: str) -> np.ndarray:
        with _errors_name(self.path):
            return self.fetch(name)


@contextlib.contextmanager
def open_weights(path: pathlib.Path) -> Iterator[WeightFile]:
    """Opens a .npz or .safetensors file, until the context ends.

    Args:
        path: the file.

    Yields:
        The `WeightFile`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind, or cannot be read, naming it.
    """
    openers = {".npz": _open_npz, ".safetensors": _open_safetensors}
    if path.suffix not in openers:
        raise ValueError(f"Expected {path} to end in {' or '.join(openers)}.")
    if not path.is_file():
        raise FileNotFoundError(f"No weight file at {path}.")
    with contextlib.ExitStack() as stack:
        with _errors_name(path):
            names, fetch = openers[path.suffix](path, stack)
        yield WeightFile(path, frozenset(names), fetch)


_Opened = tuple[list[str], Callable[[str], np.ndarray]]


def _open_npz(path: pathlib.Path, stack: contextlib.ExitStack) -> _Opened:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is truncated, or no zip archive")
    archive = stack.enter_context(np.load(path, allow_pickle=False))
    return archive.files, archive.__getitem__


def _open_safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> _Opened:
    import safetensors

    try:
        file = stack.enter_context(safetensors.safe_open(path, framework="np"))
    except safetensors.SafetensorError as error:
        raise ValueError(error) from None
    return list(file.keys()), file.get_tensor


@contextlib.contextmanager
def _errors_name(path: pathlib.Path) -> Iterator[None]:
    """Turns the errors of a damaged file into a ValueError that names it."""
    try:
        yield
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"Cannot read {path}: {error}.") from None


def _float32(array: np.ndarray) -> np.ndarray:
    """In float32; two raw bytes are bfloat16, which NumPy's own format cannot name."""
    if array.dtype == np.dtype("V2"):
        array = array.view(jnp.bfloat16)
    return np.asarray(array, np.float32)
