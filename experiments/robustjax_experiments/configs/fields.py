"""The settings of a script: one frozen dataclass, whose fields become flags."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)


def setting(default: Any, help_text: str) -> Any:
    """A field of a configuration: its default and the text of `--help`."""
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What all runs have: a folder."""

    workdir: str = setting("", "folder of the run; an existing run in it is resumed")

    def check_workdir(self) -> None:
        """Raises ValueError unless the run has a folder."""
        if not self.workdir:
            raise ValueError("Expected --workdir to name a folder, got ''.")


def numbers(name: str, texts: Sequence[str]) -> tuple[float, ...]:
    """Returns the numbers of a list flag.

    Raises:
        ValueError: if an item is not a number.
    """
    return tuple(_number(float, name, text) for text in texts)


def integers(name: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Returns the integers of a list flag.

    Raises:
        ValueError: if an item is not a number.
    """
    return tuple(_number(int, name, text) for text in texts)


def non_negative(name: str, texts: Sequence[str]) -> list[float]:
    """Returns the numbers of a list flag, which may be 0 but not negative.

    Raises:
        ValueError: if an item is not such a number.
    """
    try:
        found = [float(text) for text in texts]
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(number) and number >= 0 for number in found):
        raise ValueError(f"Expected {name} as numbers >= 0, got {','.join(texts)}.")
    return found


def flags_of(config: RunConfig) -> dict[str, str]:
    """Every setting as the text that its flag would be given."""
    return {
        field.name: _text(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def flags_text(config: RunConfig) -> str:
    """The settings as `--name=value` lines, which `--flagfile` reads back."""
    return "".join(f"--{name}={text}\n" for name, text in flags_of(config).items())


def _number(kind: Callable[[str], Number], name: str, text: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        what = "integers" if kind is int else "numbers"
        raise ValueError(f"Expected --{name} as {what}, got {text!r}.") from None


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
