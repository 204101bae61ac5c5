"""Settings of verify_semantic.py."""

import dataclasses
import math

from robustjax_experiments.configs.fields import setting
from robustjax_experiments.configs.images import ImageRunConfig

from robustjax import _validate, semantic
from robustjax.semantic import attributes, parameter_ranges

_MODES = ("auto", "exact", "search")


@dataclasses.dataclass(frozen=True)
class SemanticConfig(ImageRunConfig):
    """Settings of a run; raises an error that names a bad value."""

    attributes: tuple[str, ...] = setting(
        ("brightness", "contrast", "rotation"),
        f"attributes: {', '.join(attributes.NAMES)}, or several joined by +",
    )
    limit: tuple[str, ...] = setting(
        (), "limits, name:number,...; default: those of robustjax.semantic"
    )
    padding: str = setting(
        "zero", "padding of spatial attributes: zero, edge or reflect"
    )
    mode: str = setting("auto", "exact, search, or auto (exact where possible)")
    relaxation: str = setting(
        "planes", "relaxation of the search, see robustjax.semantic.certify"
    )
    targets: str = setting(
        "all", "classes that the label is compared with: all, or top2"
    )
    max_cells: int = setting(
        2000, "maximum number of cells for each image and attribute"
    )
    time_limit: float = setting(
        0.0, "time limit of each search in seconds (0 = no limit)"
    )
    batch_size: int = setting(0, "cells per batch (0 = 4 on a CPU, 64 elsewhere)")
    show: int = setting(2, "number of images in ends.png")

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        super().__post_init__()
        _validate.integer(0, show=self.show, batch_size=self.batch_size)
        _validate.integer(1, max_cells=self.max_cells)
        _validate.at_least(0, time_limit=self.time_limit)
        _validate.one_of(_MODES, mode=self.mode)
        if not self.attributes or len(set(self.attributes)) < len(self.attributes):
            text = ",".join(self.attributes)
            raise ValueError(f"Expected attributes, each once, got {text!r}.")
        for attribute in self.moving():
            parameter_ranges.resolve(attribute, self.limit_of(attribute))
        self.check_source()

    def moving(self) -> list[semantic.Attribute]:
        """The attributes."""
        sampling = semantic.Sampling(self.padding)
        return [semantic.attribute(a, sampling=sampling) for a in self.attributes]

    def limit_of(self, attribute: semantic.Attribute) -> list[tuple[float, float]]:
        """Limit of each parameter of an attribute."""
        given = {}
        names = {name for a in self.moving() for name in (a.name, *a.names)}
        for text in self.limit:
            name, _, number = text.partition(":")
            try:
                given[name] = float(number)
            except ValueError:
                given[name] = math.nan
            if name not in names or not math.isfinite(given[name]):
                raise ValueError(
                    f"Expected --limit as name:number of attributes that move, got "
                    f"{text!r}."
                )
        whole = given.get(attribute.name)
        return [
            (radius, radius)
            for parameter in attribute.parameters
            for radius in [given.get(parameter.name, whole or parameter.limit)]
        ]
