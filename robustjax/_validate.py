"""Named checks of user input: each raises with the argument's name and value.

Every check takes its subjects as keyword arguments, so that a message always tells
which argument was wrong: `_validate.positive(sigma=sigma)`.
"""

import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None while JAX traces it."""
    import jax  # here, so that tools on result files start without it

    try:
        array = np.asarray(value)
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
    except jax.errors.TracerArrayConversionError:
        return None


def positive(**named: Any) -> None:
    """Raises ValueError unless all numbers in every value are finite and above zero.

    Values that JAX traces pass: they have no value yet.
    """
    for name, value in named.items():
        array = concrete(value)
        if array is None:
            continue
        if (
            array.dtype.kind not in "iuf"
            or not (np.isfinite(array) & (array > 0)).all()
        ):
            raise ValueError(f"Expected {name} to be positive and finite, got {value}.")


def at_least(minimum: float, **named: Any) -> None:
    """Raises ValueError unless all numbers in every value are finite and >= minimum."""
    for name, value in named.items():
        array = concrete(value)
        if array is None:
            continue
        if not (np.isfinite(array) & (array >= minimum)).all():
            raise ValueError(f"Expected {name} >= {minimum}, got {value}.")


def open_interval(low: float, high: float, **named: Any) -> None:
    """Raises ValueError unless all numbers lie strictly between low and high."""
    for name, value in named.items():
        array = concrete(value)
        if array is None:
            continue
        if not ((low < array) & (array < high)).all():
            raise ValueError(f"Expected {name} in ({low}, {high}), got {value}.")


def closed_interval(low: float, high: float, **named: Any) -> None:
    """Raises ValueError unless all numbers lie between low and high, or are one."""
    for name, value in named.items():
        array = concrete(value)
        if array is None:
            continue
        if not ((low <= array) & (array <= high)).all():
            raise ValueError(f"Expected {name} in [{low}, {high}], got {value}.")


def half_open(low: float, high: float, **named: Any) -> None:
    """Raises ValueError unless all numbers are at least low and below high."""
    for name, value in named.items():
        array = concrete(value)
        if array is None:
            continue
        if not ((low <= array) & (array < high)).all():
            raise ValueError(f"Expected {name} in [{low}, {high}), got {value}.")


def integer(minimum: int, **named: Any) -> None:
    """Raises TypeError for a non-integer, ValueError for one below the minimum."""
    for name, value in named.items():
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"Expected {name} to be an integer, got {value}.") from None
        if number < minimum:
            raise ValueError(f"Expected {name} >= {minimum}, got {value}.")


def seed(**named: Any) -> None:
    """Raises unless every value is an integer in [0, 2**32), so that keys differ."""
    integer(0, **named)
    for name, value in named.items():
        if value >= 2**32:
            raise ValueError(f"Expected {name} < 2**32, got {value}.")


def one_of(choices: Collection[str], **named: str) -> None:
    """Raises ValueError unless every value is one of the choices, which it lists."""
    for name, value in named.items():
        if value not in choices:
            known = ", ".join(choices)
            raise ValueError(f"Unknown {name} {value!r}; choose one of: {known}.")


def unit_interval(**named: Any) -> None:
    """Raises ValueError unless every array holds floats in [0, 1].

    Integers are told to divide; values that JAX traces pass.
    """
    for name, value in named.items():
        array = concrete(value)
        if array is None:
            continue
        if array.dtype.kind in "iub":
            raise ValueError(
                f"Expected {name} as floats in [0, 1], got {array.dtype}; "
                f"divide by 255 first: {name}.astype('float32') / 255."
            )
        outside = ~((array >= 0) & (array <= 1))  # true for NaN as well
        if outside.any():
            worst = array[outside].flat[0]
            raise ValueError(f"Expected {name} in [0, 1], got a value {worst}.")


def labels(num_classes: int, **named: Any) -> None:
    """Raises ValueError unless all values are integers in [0, num_classes)."""
    for name, value in named.items():
        array = concrete(value)
        if array is None:
            continue
        if array.dtype.kind not in "iu":
            raise ValueError(f"Expected {name} to be integers, got {array.dtype}.")
        outside = (array < 0) | (array >= num_classes)
        if outside.any():
            worst = array[outside].flat[0]
            raise ValueError(f"Expected {name} in [0, {num_classes}), got {worst}.")


def same_length(**named: Sequence[Any] | np.ndarray) -> None:
    """Raises ValueError unless all values have one length."""
    lengths = {name: len(value) for name, value in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Expected equal lengths, got {lengths}.")
