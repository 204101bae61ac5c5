"""Breakpoints of pixels along one parameter, and bounds of the curvature between.

The source of a pixel at distance r from the centre goes from one cell between four
pixels to the next where its row or column is an integer. Inside a cell, with gradient
g and mixed difference D of the four pixels, angles in radians,

    rotation:        |v''| <= |g| r + |D| r^2,     (1)
    straight paths:  |v''| = 2 |D row' column'|.   (2)
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from robustjax.semantic import color, geometry
from robustjax.semantic.attributes import CONTRAST, HSL, TRANSLATION, Attribute
from robustjax.semantic.geometry import Sampling


class Path(NamedTuple):
    """The way of the sources of all pixels through an image, for one parameter."""

    read: Callable[[jax.Array, jax.Array], jax.Array]
    """(image, parameters [h, w]) -> pixels [h, w, c]."""
    crossings: Callable[..., jax.Array]
    """(low, high, max_width) -> [j, h, w], where sources go from one cell between four
    pixels to the next; numbers beyond the ends mean nothing."""
    bend: Callable[[jax.Array, jax.Array], jax.Array]
    """(image, parameters [h, w]) -> [h, w, c], a bound of the second derivative of
    pixels while the source stays in the cell it is in."""


_MOST_KNOTS = 4096  # of a pixel over a cell


def hue_knots(
    parts: color.Parts, low: jax.Array | float, *, max_width: float
) -> jax.Array:
    """Where the channels of pixels bend: hues of whole sextants, from low turns on."""
    first = jnp.ceil(parts.hue + 6 * low)
    sextants = first[None] + _places(6 * max_width, "hue", like=first)
    return (sextants - parts.hue[None]) / 6


def _places(length: float, name: str, *, like: jax.Array) -> jax.Array:
    """0, 1, ..., as many as there are integers in an interval, `[j, 1, 1]`. [host]."""
    if not length < _MOST_KNOTS:
        raise ValueError(
            f"Expected a range of {name} that passes fewer than {_MOST_KNOTS} pixels "
            f"or sextants, got one of {length:g}; divide it."
        )
    return jnp.arange(math.ceil(length) + 1, dtype=like.dtype)[:, None, None]


def saturation_knots(parts: color.Parts) -> jax.Array:
    """Where saturation reaches its ends."""
    return jnp.stack([-parts.saturation, 1 - parts.saturation])


def lightness_knots(parts: color.Parts) -> jax.Array:
    """Where lightness reaches its ends and its middle."""
    return jnp.stack([place - parts.lightness for place in (0.0, 0.5, 1.0)])


def color_knots(
    x: jax.Array, names: tuple[str, ...], *, low: jax.Array | float, max_width: float
) -> jax.Array | None:
    """Where pixels bend along one attribute of colour, `[j, h, w]` or `[j, h, w, c]`.

    [device]

    Args:
        x: `[h, w, c]`.
        names: of what moves.
        low: where knots begin that go on without end, those of hue.
        max_width: how far those go.

    Returns:
        The knots; None of other attributes, and of several at once.
    """
    if len(names) > 1:
        return None
    if names == ("brightness",):
        return jnp.stack([-x, 1 - x])
    if names == ("contrast",):
        away = x - 0.5
        reach = 0.5 / jnp.where(away == 0, 1.0, away)
        return jnp.stack(
            [jnp.where(away == 0, 0.0, -1 + side * reach) for side in (-1, 1)]
        )
    if names == ("hue",):
        return hue_knots(color.parts_of(x), low, max_width=max_width)
    own = {"saturation": saturation_knots, "lightness": lightness_knots}
    return own[names[0]](color.parts_of(x)) if names[0] in own else None


def straightened(
    cell: Mapping[str, tuple[jax.Array, jax.Array]],
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The cell in parameters whose paths are straight: 1 / (1 + scale). [device]."""
    return {
        name: (1 / (1 + high), 1 / (1 + low)) if name == "scale" else (low, high)
        for name, (low, high) in cell.items()
    }


def path(
    name: str,
    shape: tuple[int, ...],
    *,
    sampling: Sampling,
    dtype: jax.typing.DTypeLike,
) -> Path:
    """The path of a spatial parameter, straightened. [device].

    Args:
        name: one of `SPATIAL`.
        shape: of the image, `[h, w, c]`.
        sampling: how it is read.
        dtype: of parameters and pixels.

    Returns:
        The `Path`.

    Raises:
        ValueError: if the image is not read bilinearly.
    """
    if sampling.interpolation != "bilinear":
        raise ValueError(
            f"Only bilinear interpolation can be enclosed, got "
            f"{sampling.interpolation!r}."
        )
    rows, columns = geometry.grid(shape, sampling, dtype)
    rows, columns = jnp.broadcast_arrays(rows, columns)
    center = geometry.center_of(shape, sampling)
    if name == "rotation":
        return _rotation(rows, columns, center, sampling)
    zero = jnp.zeros_like(rows)
    starts, speeds = {
        "translation_rows": ((rows, columns), (zero - 1, zero)),
        "translation_columns": ((rows, columns), (zero, zero - 1)),
        "shear": ((rows, columns), (zero, -rows)),
        "scale": ((zero, zero), (rows, columns)),
    }[name]
    fastest = {"shear": center[0] + 1, "scale": max(center) + 1}.get(name, 1.0)
    line = _Line(*starts, *speeds)
    return _straight(name, line, center, sampling, fastest=fastest)


def _rotation(
    rows: jax.Array, columns: jax.Array, center: tuple[float, float], sampling: Sampling
) -> Path:
    """A circle: |v''| <= |gradient| r + |cross| r**2, for angles in radians."""
    radius, phase = jnp.hypot(rows, columns), jnp.arctan2(columns, rows)
    largest = math.hypot(*center) + 1.0  # centres are within half a pixel of the middle
    unit = math.pi / 180

    def source(degrees: jax.Array) -> tuple[jax.Array, jax.Array]:
        return geometry.rotation_source(rows, columns, jnp.deg2rad(degrees))

    def read(x: jax.Array, degrees: jax.Array) -> jax.Array:
        return geometry.read(x, *source(degrees), sampling=sampling)

    def crossings(low: jax.Array, high: jax.Array, *, max_width: float) -> jax.Array:
        if not max_width <= 360 * (1 + 1e-9):
            raise ValueError(
                f"Expected a cell of rotations at most 360 degrees wide, got "
                f"{max_width:g}; divide it."
            )
        places = _places(largest * max_width * unit, "rotation", like=radius)
        low, high = jnp.deg2rad(low), jnp.deg2rad(high)
        found = [
            _turning(radius, phase - turn, offset, (low, high), places)
            for turn, offset in zip((0.0, math.pi / 2), center, strict=True)
        ]
        return jnp.rad2deg(jnp.concatenate(found))

    def bend(x: jax.Array, degrees: jax.Array) -> jax.Array:
        gradient, cross = _steepness(x, source(degrees), center, sampling)
        far = radius[..., None] * unit
        return gradient * far * unit + cross * far * far  # (1)

    return Path(read, crossings, bend)


def _turning(
    radius: jax.Array,
    phase: jax.Array,
    offset: float,
    ends: tuple[jax.Array, jax.Array],
    places: jax.Array,
) -> jax.Array:
    """Angles at which offset + radius cos(angle + phase) is an integer."""
    low, high = ends
    middle = 0.5 * (low + high)
    cosines = [jnp.cos(end + phase) for end in ends]
    turns_back = jnp.abs(_wrapped(jnp.pi - phase - middle)) <= 0.5 * (high - low)
    least = jnp.where(turns_back, -1.0, jnp.minimum(*cosines))
    first = jnp.ceil(offset + radius * least)
    integer = first[None] + places
    reach = (integer - offset) / jnp.where(radius > 0, radius, 1.0)[None]
    angle = jnp.arccos(jnp.clip(reach, -1.0, 1.0))
    both = jnp.concatenate([angle, -angle]) - phase[None]
    return middle + _wrapped(both - middle)


def _wrapped(angle: jax.Array) -> jax.Array:
    return jnp.mod(angle + jnp.pi, 2 * jnp.pi) - jnp.pi


class _Line(NamedTuple):
    """Sources that move at one speed."""

    row: jax.Array  # [h, w], at zero
    column: jax.Array
    row_speed: jax.Array
    column_speed: jax.Array


def _straight(
    name: str,
    line: _Line,
    center: tuple[float, float],
    sampling: Sampling,
    *,
    fastest: float,
) -> Path:
    """Start + parameter * speed: |v''| = 2 |cross| |speed of rows| |of columns|."""
    starts, speeds = line[:2], line[2:]

    def source(parameter: jax.Array) -> tuple[jax.Array, jax.Array]:
        return starts[0] + parameter * speeds[0], starts[1] + parameter * speeds[1]

    def read(x: jax.Array, parameter: jax.Array) -> jax.Array:
        return geometry.read(x, *source(parameter), sampling=sampling)

    def crossings(low: jax.Array, high: jax.Array, *, max_width: float) -> jax.Array:
        places = _places(fastest * max_width, name, like=low)
        found = []
        for start, speed, offset in zip(starts, speeds, center, strict=True):
            first = offset + start + jnp.minimum(low * speed, high * speed)
            integer = jnp.ceil(first)[None] + places
            way = integer - offset - start[None]
            is_still = speed == 0
            found.append(
                jnp.where(
                    is_still[None], low, way / jnp.where(is_still, 1.0, speed)[None]
                )
            )
        return jnp.concatenate(found)

    def bend(x: jax.Array, parameter: jax.Array) -> jax.Array:
        _, cross = _steepness(x, source(parameter), center, sampling)
        return 2 * cross * jnp.abs(speeds[0] * speeds[1])[..., None]  # (2)

    return Path(read, crossings, bend)


def _steepness(
    x: jax.Array,
    source: tuple[jax.Array, jax.Array],
    center: tuple[float, float],
    sampling: Sampling,
) -> tuple[jax.Array, jax.Array]:
    """The largest gradient in the cells of sources, and |p11 - p10 - p01 + p00|."""
    top, left = (
        jnp.floor(s + offset) for s, offset in zip(source, center, strict=True)
    )
    a, b, c, d = geometry.cell_corners(x, top, left, padding=sampling.padding)
    gradient = jnp.hypot(
        jnp.maximum(jnp.abs(c - a), jnp.abs(d - b)),
        jnp.maximum(jnp.abs(b - a), jnp.abs(d - c)),
    )
    return gradient, jnp.abs(d - c - b + a)


def is_linear(name: str) -> bool:
    """Whether pixels are piecewise linear along an attribute. [host]."""
    return name in (*HSL, *CONTRAST, *TRANSLATION, "shear")


def all_knots(
    attribute: Attribute, x: jax.Array, limit: jax.Array | float, *, max_limit: float
) -> jax.Array:
    """Where any pixel bends along a piecewise linear attribute, in no order. [device].

    Args:
        attribute: of one parameter.
        x: `[h, w, c]`.
        limit: how far it goes to both sides.
        max_limit: at least that; fixes the number of knots.

    Returns:
        `[n]`, all that are inside of the limit, and others.

    Raises:
        ValueError: for limits past 4096 pixels.
    """
    (name,) = attribute.names
    low, high = jnp.asarray(-limit, x.dtype), jnp.asarray(limit, x.dtype)
    width = 2 * max_limit
    knots = color_knots(x, attribute.names, low=low, max_width=width)
    if knots is None:
        way = path(name, x.shape, sampling=attribute.sampling, dtype=x.dtype)
        knots = way.crossings(low, high, max_width=width)
    return knots.ravel()
