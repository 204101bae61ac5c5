"""The attributes of an image that can move: parameters, units and transforms.

    g(t) = contrast and brightness of (colour of (image read at the sources of t)),

in this order for an attribute of several parameters; g(0) is the image. The equations
of the parts are in `color` and `geometry`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from robustjax.semantic import color, geometry
from robustjax.semantic.geometry import BILINEAR, Sampling


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One number that moves; zero is the image as it is."""

    name: str
    unit: str
    limit: float  # as far as is looked by default, to both sides
    least: float = -float("inf")  # the number must be above


_PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter("hue", "turns", 0.5),
        Parameter("saturation", "saturation", 1.0),
        Parameter("lightness", "lightness", 1.0),
        Parameter("brightness", "brightness", 1.0),
        Parameter("contrast", "factor - 1", 1.0),
        Parameter("rotation", "degrees", 30.0),
        Parameter("translation_rows", "pixels", 3.0),
        Parameter("translation_columns", "pixels", 3.0),
        Parameter("scale", "factor - 1", 0.3, least=-1.0),
        Parameter("shear", "columns per row", 0.3),
    )
}
# What stands for several, and what may be joined by "+".
_JOINT = {
    "brightness_contrast": ("brightness", "contrast"),
    "translation": ("translation_rows", "translation_columns"),
}
HSL = ("hue", "saturation", "lightness")
CONTRAST = _JOINT["brightness_contrast"]
TRANSLATION = _JOINT["translation"]
SPATIAL = ("rotation", *TRANSLATION, "scale", "shear")
NAMES = (*_PARAMETERS, *_JOINT)


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Some numbers of an image that move together.

    Spatial ones come first, then those of colour at once, then brightness and contrast.
    """

    name: str
    parameters: tuple[Parameter, ...]
    sampling: Sampling = BILINEAR

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def is_color(self) -> bool:
        """Whether the image must have three channels."""
        return any(name in HSL for name in self.names)

    def __call__(self, image: ArrayLike, delta: ArrayLike) -> jax.Array:
        """The image moved by delta, `[d]`, in the order of the parameters. [device]."""
        x = color.as_image(image, is_color=self.is_color)
        moves: Any = jnp.asarray(delta, x.dtype)
        if moves.shape != (len(self.names),):
            raise ValueError(
                f"Expected {len(self.names)} numbers for {self.name}, got shape "
                f"{moves.shape}."
            )
        return self.moved(x, dict(zip(self.names, moves, strict=True)))

    def moved(self, x: jax.Array, moves: Mapping[str, jax.Array]) -> jax.Array:
        """The image by numbers, or by `[h, w]` or `[h, w, c]` numbers, one a pixel."""
        x = _moved_in_space(x, moves, self.sampling)
        x = _moved_in_color(x, moves)
        if not moves.keys() & set(CONTRAST):
            return x
        more, factor = (moves.get(name, 0.0) for name in CONTRAST)
        return jnp.clip(x + more + factor * (x - 0.5), 0.0, 1.0)


def _moved_in_space(
    x: jax.Array, moves: Mapping[str, jax.Array], sampling: Sampling
) -> jax.Array:
    if not moves.keys() & set(SPATIAL):
        return x
    rows, columns = geometry.grid(x.shape, sampling, x.dtype)
    if "rotation" in moves:
        angle = jnp.deg2rad(moves["rotation"])
        source = geometry.rotation_source(rows, columns, angle)
    else:
        down, right = (moves.get(name, 0.0) for name in TRANSLATION)
        factor, lean = 1 + moves.get("scale", 0.0), moves.get("shear", 0.0)
        source = (rows - down) / factor, (columns - right - lean * rows) / factor
    places = (jnp.broadcast_to(s, x.shape[:2]) for s in source)
    return geometry.read(x, *places, sampling=sampling)


def _moved_in_color(x: jax.Array, moves: Mapping[str, jax.Array]) -> jax.Array:
    moving = moves.keys() & set(HSL)
    if not moving:
        return x
    if len(moving) > 1:
        return color.hsl(x, **{name: moves[name] for name in sorted(moving)})
    (name,) = moving
    single = {
        "hue": color.hue,
        "saturation": color.saturation,
        "lightness": color.lightness,
    }
    return single[name](x, moves[name])


def attribute(text: str, *, sampling: Sampling = BILINEAR) -> Attribute:
    """The attribute of a name, or of names joined by "+".

    [host]

    Args:
        text: "hue", "saturation", "lightness", "brightness", "contrast", "rotation",
            "translation_rows", "translation_columns", "scale", "shear";
            "brightness_contrast" or "translation", two numbers each; or some of them,
            as "rotation+brightness": one spatial one, then any others, or any that
            are not spatial.
        sampling: how spatial ones read the image between and beyond its pixels.

    Returns:
        The `Attribute`.

    Raises:
        ValueError: if a name is unknown or there twice, or names do not go together.

    Example:
        >>> attribute("rotation+brightness").names
        ('rotation', 'brightness')

    Reference: Mohapatra et al. (2020), arXiv 1912.09533, but for translation, scale and
        shear; joint HSL moves and the order of joint ones are ours.
    """
    names: list[str] = []
    for part in text.split("+"):
        if part not in NAMES:
            known = ", ".join(NAMES)
            raise ValueError(f"Unknown attribute {part!r}; choose one of: {known}.")
        names += _JOINT.get(part, (part,))
    if len(set(names)) < len(names):
        raise ValueError(f"Expected every attribute once, got {text!r}.")
    spatial = [name for name in names if name in SPATIAL]
    if len(spatial) > 1 and set(spatial) != set(TRANSLATION):
        raise ValueError(f"Expected one spatial attribute at most, got {text!r}.")
    if spatial and set(names) & set(HSL):
        raise ValueError(
            f"Hue, saturation and lightness go with no spatial attribute, got {text!r}."
        )
    order = (*SPATIAL, *HSL, *CONTRAST)
    names.sort(key=order.index)
    return Attribute(text, tuple(_PARAMETERS[name] for name in names), sampling)


def resolve(named: str | Attribute) -> Attribute:
    """The attribute itself, or that of a name. [host]."""
    return attribute(named) if isinstance(named, str) else named
