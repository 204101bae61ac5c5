"""The settings of a certification run that decide its rows, read from its flags."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_SWITCH = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the rows of a run; the flags of `certify.py` have these names."""

    workdir: str
    dataset: str
    data_dir: str
    split: str
    start: int
    skip: int
    max_examples: int
    model: str
    checkpoint: str
    apply_fn: str
    onnx: str
    dtype: str
    train: tuple[str, ...]
    sigma: float
    alpha: float
    num_selection: int
    num_estimation: int
    norms: tuple[str, ...]
    order: int
    simultaneous: bool
    runner_up: str
    votes: str
    form: str
    method: str
    masks: tuple[str, ...]
    target_radius: float
    max_samples: int
    seed: int
    chunk_size: int
    devices: int

    @property
    def most_samples(self) -> int:
        """Largest number of estimation samples of an image."""
        return self.max_samples or self.num_estimation

    def load_masks(self) -> dict[str, np.ndarray]:
        """Reads the arrays of `masks`.

        Returns:
            Name -> array.

        Raises:
            ValueError: if an entry is not NAME=FILE.npy.
            OSError: if a file cannot be read.
        """
        entries = [entry.partition("=") for entry in self.masks]
        if not all(name and path for name, _, path in entries):
            raise ValueError(
                f"Expected masks as NAME=FILE, got {','.join(self.masks)}."
            )
        names = [name for name, _, _ in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected each mask once, got {','.join(self.masks)}.")
        return {name: np.load(path, allow_pickle=False) for name, _, path in entries}


def from_flags(flags: Mapping[str, str]) -> Settings:
    """Parses the flags of a run.

    [host]

    Args:
        flags: name -> text, as in `versions.json`; others than those of `Settings`
            are passed over.

    Returns:
        The settings.

    Raises:
        ValueError: if a flag is missing or its text does not parse; it is named.
    """
    kinds = typing.get_type_hints(Settings)
    missing = [name for name in kinds if name not in flags]
    if missing:
        raise ValueError(
            f"Expected the flags of a certification run, got none named {missing[0]}."
        )
    return Settings(**{name: _parse(name, flags[name], kinds[name]) for name in kinds})


def unreadable(flags: Mapping[str, str]) -> Iterator[str]:
    """A line for each flag of `Settings` whose text does not parse.

    [host]

    Args:
        flags: name -> text; flags that are not there are passed over.

    Yields:
        Lines such as "versions.json: Expected --skip as int, got 'abc'."
    """
    kinds = typing.get_type_hints(Settings)
    for name in (name for name in kinds if name in flags):
        try:
            _parse(name, flags[name], kinds[name])
        except ValueError as error:
            yield f"versions.json: {error}"


def noise_fingerprint(seed: int) -> str:
    """First random bits of the estimation stream: other bits mean other noise.

    [host]

    Args:
        seed: of the run.

    Returns:
        Six words in hexadecimal.
    """
    import jax

    from robustjax.smoothing.sampling import streams

    key = jax.random.fold_in(jax.random.key(seed), streams.ESTIMATE)
    bits = np.asarray(jax.random.bits(key, (2, 3), "uint32"))
    return " ".join(f"{word:08x}" for word in bits.ravel())


def _parse(name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return _SWITCH[text]
        if kind in (int, float, str):
            return kind(text)
        return tuple(part for part in text.split(",") if part)
    except (KeyError, ValueError):
        word = getattr(kind, "__name__", str(kind))
        raise ValueError(f"Expected --{name} as {word}, got {text!r}.") from None
