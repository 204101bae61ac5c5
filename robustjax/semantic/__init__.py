"""Semantic perturbations: hue, lightness, rotation and more; exact and certified."""

from robustjax.semantic.attributes import Attribute, attribute
from robustjax.semantic.color import (
    brightness,
    brightness_contrast,
    contrast,
    hsl,
    hue,
    lightness,
    saturation,
)
from robustjax.semantic.counterexamples import Attack, attack
from robustjax.semantic.enclosures import enclosure
from robustjax.semantic.exact import ExactRadius, exact_radius
from robustjax.semantic.geometry import (
    Sampling,
    affine,
    rotate,
    scale,
    shear,
    translate,
)
from robustjax.semantic.search import Certification, certify
from robustjax.semantic.splitting import SplitRange, certify_split

__all__ = [
    "Attack",
    "Attribute",
    "Certification",
    "ExactRadius",
    "Sampling",
    "SplitRange",
    "affine",
    "attack",
    "attribute",
    "brightness",
    "brightness_contrast",
    "certify",
    "certify_split",
    "contrast",
    "enclosure",
    "exact_radius",
    "hsl",
    "hue",
    "lightness",
    "rotate",
    "saturation",
    "scale",
    "shear",
    "translate",
]
