"""Pixels of an image while an attribute moves inside a cell: intervals and planes.

For a pixel v(t) of the moved image and all t in the cell,

    lower <= v(t) <= upper,
    lower_slope . t + lower_offset <= v(t) <= upper_slope . t + upper_offset.

A pixel is followed along a single parameter by its knots: between two of them, w apart,
it is a line, or at most M w^2 / 8 away from it where its second derivative is at most
M. Two lines of least area then enclose the knots. Where several parameters meet, planes
are composed.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax.bounds import AffineInputs
from robustjax.semantic import color
from robustjax.semantic.attributes import CONTRAST, HSL, SPATIAL, Attribute
from robustjax.semantic.relaxations import pixel_paths, pixel_planes
from robustjax.semantic.relaxations.pixel_planes import Sheet

_NUM_ROUNDINGS = 16  # of each number, at most
_Cell = Mapping[str, tuple[jax.Array, jax.Array]]


def enclosure(
    attribute: Attribute,
    image: jax.Array,
    cell: ArrayLike,
    *,
    max_widths: tuple[float, ...] | None = None,
    num_samples: int = 9,
) -> tuple[jax.Array, jax.Array, AffineInputs]:
    """Intervals and planes that enclose every pixel over a cell.

    [device] Pure, jittable, vmappable over image and cell.

    Guarantee:
        lower <= attribute(image, delta) <= upper, and every plane on its side, for all
        delta in the cell, up to rounding of the dtype. For one parameter but rotation
        and scale the intervals are exact, and the planes those of least area. All is
        NaN where that cannot be promised: for a cell wider than max_widths; for a
        translation along rows and columns across an edge of pixels; for a traced cell
        that is reversed, not finite or reaches a scale of -1.

    Args:
        attribute: what moves.
        image: `[h, w, c]` in [0, 1].
        cell: `[2, d]`, its lower and its upper corner, finite. Any hues, saturations,
            lightnesses and contrasts are fine, scales above -1, rotations over at most
            360 degrees.
        max_widths: `[d]`, no cell is wider, in the parameters of the planes; they fix
            the number of knots of spatial parameters and hue. Default: the widths of
            the cell, if they are known.
        num_samples: additional breakpoints on a rotation or scaling.

    Returns:
        lower and upper `[h, w, c]`, and `AffineInputs` over the parameters; those of
        "scale" are over 1 / (1 + delta), in which the planes say their corners are.

    Raises:
        ValueError: for an interpolation that is not bilinear; for a known cell that is
            reversed, not finite or reaches a scale of -1; for rotations over more than
            360 degrees, and paths of a pixel past 4096 others.

    Example:
        >>> from robustjax import semantic
        >>> image, cell = jnp.array([[[0.25], [0.875]]]), jnp.array([[-0.125], [0.25]])
        >>> fn = jax.jit(enclosure, static_argnums=0, static_argnames="max_widths")
        >>> brightness = semantic.attribute("brightness")
        >>> lower, upper, _ = fn(brightness, image, cell, max_widths=(0.5,))
        >>> print(lower.ravel(), upper.ravel())
        [0.125 0.75 ] [0.5 1. ]

    Reference: ours; `docs/papers/semantify.md`, "Certificates".
    """
    x = color.as_image(image, is_color=attribute.is_color)
    _check(attribute, cell)
    if max_widths is None:
        max_widths = _own_widths(attribute, cell)
    corners = jnp.asarray(cell, x.dtype)
    own = {
        name: (corners[0, i], corners[1, i]) for i, name in enumerate(attribute.names)
    }
    is_valid = _is_valid(attribute, corners)
    own = pixel_paths.straightened(own)
    widths = dict(zip(attribute.names, max_widths, strict=True))
    sheet = _whole(attribute, x, own, widths, num_samples)
    low, high = (jnp.stack([own[n][side] for n in attribute.names]) for side in (0, 1))
    is_valid &= jnp.all(high - low <= _with_rounding(max_widths, low, high))
    known = Sheet(*(jnp.where(is_valid, leaf, jnp.nan) for leaf in sheet))
    return known.lower, known.upper, AffineInputs(*known[2:], low, high)


def _check(attribute: Attribute, cell: ArrayLike) -> None:
    """Raises ValueError for a cell without a meaning, if it is known."""
    known = _validate.concrete(cell)
    if known is None:
        return
    parameters = attribute.parameters
    if known.shape != (2, len(parameters)):
        raise ValueError(
            f"Expected a cell [2, {len(parameters)}] of {attribute.name}, got shape "
            f"{known.shape}."
        )
    least = np.array([parameter.least for parameter in parameters])
    is_fine = (known[0] > least) & (known[0] <= known[1]) & np.isfinite(known).all(0)
    for parameter, corners, fine in zip(parameters, known.T, is_fine, strict=True):
        if not fine:
            raise ValueError(
                f"Expected low <= high, finite and above {parameter.least:g}, of "
                f"{parameter.name}, got a cell from {corners[0]:g} to {corners[1]:g}."
            )


def _own_widths(attribute: Attribute, cell: ArrayLike) -> tuple[float, ...]:
    known = _validate.concrete(cell)
    if known is None:
        raise ValueError("Expected max_widths for a traced cell, got None.")
    own = pixel_paths.straightened(dict(zip(attribute.names, known.T, strict=True)))
    return tuple(float(high - low) for low, high in own.values())


def _is_valid(attribute: Attribute, corners: jax.Array) -> jax.Array:
    """Whether a traced cell is one that `_check` takes."""
    least = jnp.array([parameter.least for parameter in attribute.parameters])
    is_fine = (corners[0] > least) & (corners[0] <= corners[1])
    return jnp.all(is_fine & jnp.all(jnp.isfinite(corners), axis=0))


def _with_rounding(
    max_widths: Sequence[float], low: jax.Array, high: jax.Array
) -> jax.Array:
    """Widths that a cell may have: its corners were rounded; knots allow for it."""
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    widths = jnp.array(max_widths, low.dtype)
    return widths * (1 + 1e-6) + 4 * jnp.finfo(low.dtype).eps * size


def covered(
    attribute: Attribute,
    image: jax.Array,
    found: tuple[jax.Array, jax.Array, AffineInputs],
) -> tuple[jax.Array, jax.Array, AffineInputs]:
    """An enclosure widened by what the roundings of its dtype can add up to. [device].

    Args:
        attribute: what moves.
        image: `[h, w, c]`.
        found: by `enclosure`.

    Returns:
        The same, each bound moved outward.
    """
    lower, upper, planes = found
    ends = jnp.maximum(jnp.abs(planes.low), jnp.abs(planes.high))
    size = image.shape[0] + image.shape[1]
    # Roundings of a source are as large as its way from the centre; a pixel changes by
    # at most sqrt(2) from one source to the next.
    reach = jnp.prod(1 + jnp.array(_reaches(attribute, size)) * (1 + ends))
    slack = _NUM_ROUNDINGS * jnp.finfo(image.dtype).eps * reach

    def size_of(slope: jax.Array, offset: jax.Array) -> jax.Array:
        return jnp.abs(offset) + jnp.tensordot(ends, jnp.abs(slope), axes=1)

    below, above = (size_of(*planes[side : side + 2]) for side in (0, 2))
    widened = planes._replace(
        lower_offset=planes.lower_offset - slack * (1 + below),
        upper_offset=planes.upper_offset + slack * (1 + above),
    )
    # No pixel leaves [0, 1], and some models have no value beyond.
    return jnp.clip(lower - slack, 0.0, 1.0), jnp.clip(upper + slack, 0.0, 1.0), widened


def _reaches(attribute: Attribute, size: int) -> list[float]:
    """How much of a pixel's rounding a parameter stands for, per unit."""
    known = {"rotation": size, "scale": size, "shear": size, "hue": 6.0}
    return [float(known.get(name, 1.0)) for name in attribute.names]


def _whole(
    attribute: Attribute,
    x: jax.Array,
    cell: _Cell,
    widths: Mapping[str, float],
    num_samples: int,
) -> Sheet:
    names = attribute.names
    start, max_width = cell[names[0]][0], widths[names[0]]
    knots = pixel_paths.color_knots(x, names, low=start, max_width=max_width)
    if knots is not None:
        along = _inside(knots, *cell[names[0]])
        values = jax.vmap(lambda t: attribute.moved(x, {names[0]: t}))(along)
        return pixel_planes.of_curve(along, values)
    spatial = [name for name in names if name in SPATIAL]
    colors = [name for name in names if name in HSL]
    if spatial:
        sheet = _in_space(attribute, x, cell, widths, num_samples)
    elif colors:
        sheet = _in_color(x, cell, names, widths)
    else:
        sheet = pixel_planes.constant(x, num_parameters=len(names))
    return _with_contrast(sheet, x, cell, names)


def _in_space(
    attribute: Attribute,
    x: jax.Array,
    cell: _Cell,
    widths: Mapping[str, float],
    num_samples: int,
) -> Sheet:
    names = attribute.names
    moving = [name for name in names if name in SPATIAL]
    if len(moving) == 2:
        return pixel_planes.lifted(_translated(attribute, x, cell), (0, 1), len(names))
    (name,) = moving
    low, high = cell[name]
    path = pixel_paths.path(name, x.shape, sampling=attribute.sampling, dtype=x.dtype)
    samples = jnp.linspace(low, high, num_samples, dtype=x.dtype)
    crossings = path.crossings(low, high, max_width=widths[name])
    samples = jnp.broadcast_to(samples[:, None, None], (num_samples, *x.shape[:2]))
    along = _inside(jnp.concatenate([samples, crossings]), low, high)
    values = jax.vmap(lambda p: path.read(x, p))(along)
    bend = jax.vmap(lambda p: path.bend(x, p))(0.5 * (along[1:] + along[:-1]))
    step = (along[1:] - along[:-1])[..., None]
    slack = bend * step * step / 8
    none = jnp.zeros_like(slack[:1])
    slack = jnp.maximum(jnp.concatenate([none, slack]), jnp.concatenate([slack, none]))
    sheet = pixel_planes.of_curve(along, values, slack=slack)
    return pixel_planes.lifted(sheet, (names.index(name),), len(names))


def _translated(attribute: Attribute, x: jax.Array, cell: _Cell) -> Sheet:
    """A move along rows and columns: a bilinear function inside a cell of pixels."""
    (top, bottom), (left, right) = (cell[name] for name in attribute.names[:2])
    corners = [
        attribute.moved(x, {attribute.names[0]: r, attribute.names[1]: c})
        for r in (top, bottom)
        for c in (left, right)
    ]
    sheet = pixel_planes.bilinear(corners, (top, bottom), (left, right))
    is_split = (jnp.floor(top) + 1 >= bottom) & (jnp.floor(left) + 1 >= right)
    return jax.tree.map(lambda leaf: jnp.where(is_split, leaf, jnp.nan), sheet)


def _in_color(
    x: jax.Array, cell: _Cell, names: tuple[str, ...], widths: Mapping[str, float]
) -> Sheet:
    """Hue, saturation and lightness at once: the product of three curves."""
    parts = color.parts_of(x)
    nothing = jnp.zeros((), x.dtype)

    def curve(name: str, knots: jax.Array, function: pixel_planes.Curve) -> Sheet:
        low, high = cell.get(name, (nothing, nothing))
        along = _inside(knots, low, high)
        sheet = pixel_planes.of_curve(along, jax.vmap(function)(along))
        return pixel_planes.lifted(
            sheet, (names.index(name),) if name in names else (), len(names)
        )

    def lighter(t: jax.Array) -> jax.Array:
        return jnp.clip(parts.lightness + t, 0.0, 1.0)[..., None]

    light_knots = pixel_paths.lightness_knots(parts)
    light = curve("lightness", light_knots, lighter)
    space = curve("lightness", light_knots, lambda t: color.room(lighter(t)))
    full = curve(
        "saturation",
        pixel_paths.saturation_knots(parts),
        lambda t: jnp.where(
            parts.chroma > 0, jnp.clip(parts.saturation + t, 0.0, 1.0), 0.0
        )[..., None],
    )
    wheel = curve(
        "hue",
        pixel_paths.hue_knots(
            parts,
            cell.get("hue", (nothing, nothing))[0],
            max_width=widths.get("hue", 0.0),
        ),
        lambda t: color.color_wheel(parts.hue + 6 * t) - 0.5,
    )
    low, high = (jnp.stack([cell[n][side] for n in names]) for side in (0, 1))
    chroma = pixel_planes.product(full, wheel, corners=(low, high))
    found = pixel_planes.plus(
        light, pixel_planes.product(space, chroma, corners=(low, high))
    )
    return found._replace(
        lower=jnp.maximum(found.lower, _extreme(light, chroma.lower, -1)),
        upper=jnp.minimum(found.upper, _extreme(light, chroma.upper, 1)),
    )


def _extreme(light: Sheet, chroma: jax.Array, side: int) -> jax.Array:
    """The extreme of L + (1 - |2 L - 1|) chroma over the lightnesses of a cell."""
    middle = jnp.clip(0.5, light.lower, light.upper)
    ends = [at + color.room(at) * chroma for at in (light.lower, middle, light.upper)]
    larger = jnp.maximum if side > 0 else jnp.minimum
    return larger(larger(ends[0], ends[1]), ends[2])


def _with_contrast(
    sheet: Sheet, x: jax.Array, cell: _Cell, names: tuple[str, ...]
) -> Sheet:
    """clip(v + b + c (v - 1/2), 0, 1) of the pixels v."""
    moving = [name for name in names if name in CONTRAST]
    if not moving:
        return sheet
    low, high = (jnp.stack([cell[n][side] for n in names]) for side in (0, 1))
    moved = sheet
    if "contrast" in moving:
        factor = pixel_planes.parameter(names.index("contrast"), low, high, like=x)
        away = pixel_planes.plus(
            sheet,
            pixel_planes.constant(-0.5 * jnp.ones_like(x), num_parameters=len(names)),
        )
        moved = pixel_planes.plus(
            moved, pixel_planes.product(factor, away, corners=(low, high))
        )
    if "brightness" in moving:
        more = pixel_planes.parameter(names.index("brightness"), low, high, like=x)
        moved = pixel_planes.plus(moved, more)
    return pixel_planes.clipped(pixel_planes.narrowed(moved, low, high))


def _inside(knots: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """The knots in order, with both ends; those beyond an end are moved there."""
    ends = [jnp.broadcast_to(end, knots[:1].shape) for end in (low, high)]
    return jnp.sort(jnp.clip(jnp.concatenate([*ends, knots]), low, high), axis=0)
