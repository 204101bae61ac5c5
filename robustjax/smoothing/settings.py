"""Settings of a certification, validated."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from robustjax import _validate, norms
from robustjax.smoothing.confidence import binomial, budget
from robustjax.smoothing.radii import norm_balls
from robustjax.smoothing.sampling import moments, subspaces

_MIN_TWO_HALVES = 129  # the odd blocks start at sample 128


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a certification; raises an error that names a bad setting.

    Raises:
        ValueError: for the first setting that is out of range.
        TypeError: for a count that is not an integer.
    """

    sigma: float
    shape: tuple[int, ...]
    num_classes: int
    num_selection: int
    num_estimation: int
    alpha: float
    order: int = 0
    norms: tuple[str, ...] = ("l2",)
    runner_up: str = "complement"
    simultaneous: bool = True
    votes: str = "hard"
    form: str = "box"
    method: str = "tight"
    masks: Mapping[str, ArrayLike] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks every setting."""
        _validate.open_interval(0, 1, alpha=self.alpha)
        _validate.integer(
            1, num_selection=self.num_selection, num_estimation=self.num_estimation
        )
        smallest = binomial.min_num_estimation(
            alpha=self.alpha / 2 if self.order == 1 else self.alpha,
            num_classes=self.num_classes,
            runner_up=self.runner_up,
        )
        if max(self.num_selection, self.num_estimation) >= 2**31:
            raise ValueError(
                f"Expected num_selection and num_estimation < 2**31, got "
                f"{self.num_selection} and {self.num_estimation}."
            )
        if self.order not in (0, 1):
            raise ValueError(f"Expected order 0 or 1, got {self.order}.")
        if self.gradient_samples:
            smallest = max(smallest, _MIN_TWO_HALVES)
        if self.num_estimation < smallest:
            raise ValueError(
                f"Expected num_estimation >= {smallest}, the smallest number that can "
                f"ever certify at alpha={self.alpha} and order={self.order}, got "
                f"{self.num_estimation}."
            )
        _validate.one_of(moments.VOTES, votes=self.votes)
        _validate.one_of(norm_balls.FORMS, form=self.form)
        _validate.one_of(budget.METHODS, method=self.method)
        if self.gradient_samples and self.runner_up != "complement":
            raise ValueError(
                f"Expected runner_up='complement' at order 1 and for soft votes, got "
                f"{self.runner_up!r}."
            )
        self._check_norms()

    def _check_norms(self) -> None:
        if not self.norms:
            raise ValueError("Expected at least one norm, got none.")
        if len(set(self.norms)) < len(self.norms):
            raise ValueError(f"Expected distinct norms, got {', '.join(self.norms)}.")
        for norm in self.norms:
            if norm != norm.lower():
                raise ValueError(f"Expected names of norms in lower case, got {norm}.")
            norms.l2_circumradius(norm, self.dim)
            if norm != (spelling := norms.canonical(norm)):
                raise ValueError(f"Expected the norm {spelling!r}, got {norm!r}.")
        if self.order == 1 and "" in map(norms.subspace_name, self.norms):
            raise ValueError("Expected subspace:NAME at order 1, got subspace.")
        unused = sorted(set(self.masks) - set(map(norms.subspace_name, self.norms)))
        if unused:
            raise ValueError(
                f"Expected a norm subspace:NAME for each mask, got none for "
                f"{', '.join(unused)}."
            )
        len(self.subspaces)  # constructing a Subspace validates the mask

    @property
    def dim(self) -> int:
        """Number of input coordinates."""
        return math.prod(self.shape)

    @property
    def gradient_samples(self) -> bool:
        """Whether the samples are weighted instead of only counted."""
        return self.order == 1 or self.votes == "soft"

    @functools.cached_property
    def subspaces(self) -> dict[str, subspaces.Subspace]:
        """The subspaces that the norms name, given or known by name."""
        names = [norms.subspace_name(norm) for norm in self.norms]
        return subspaces.by_name(
            [name for name in names if name], masks=self.masks, shape=self.shape
        )


def as_norms(norms: str | Sequence[str]) -> tuple[str, ...]:
    """The norms of a certification as a tuple, also of one alone. [host]."""
    return (norms,) if isinstance(norms, str) else tuple(norms)
