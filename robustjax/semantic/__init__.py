"""Semantic perturbations: hue, lightness, rotation and more; exact and certified."""

from robustjax.semantic.attributes import Attribute, attribute
from robustjax.semantic.certificates import Certification, load, save
from robustjax.semantic.checking import Check, check
from robustjax.semantic.color import (
    brightness,
    brightness_contrast,
    contrast,
    hsl,
    hue,
    lightness,
    saturation,
)
from robustjax.semantic.exact.radius import ExactRadius, exact_radius
from robustjax.semantic.export.question_files import Exported, export_onnx
from robustjax.semantic.geometry import (
    Sampling,
    affine,
    rotate,
    scale,
    shear,
    translate,
)
from robustjax.semantic.questions import Question
from robustjax.semantic.relaxations.enclosures import enclosure
from robustjax.semantic.search.branch_and_bound import certify
from robustjax.semantic.search.counterexamples import Attack, attack
from robustjax.semantic.search.uniform_splitting import SplitRange, certify_split

__all__ = [
    "Attack",
    "Attribute",
    "Certification",
    "Check",
    "ExactRadius",
    "Exported",
    "Question",
    "Sampling",
    "SplitRange",
    "affine",
    "attack",
    "attribute",
    "brightness",
    "brightness_contrast",
    "certify",
    "certify_split",
    "check",
    "contrast",
    "enclosure",
    "exact_radius",
    "export_onnx",
    "hsl",
    "hue",
    "lightness",
    "load",
    "rotate",
    "saturation",
    "save",
    "scale",
    "shear",
    "translate",
]
