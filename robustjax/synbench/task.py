"""Configuration of a SynBench run: the Gaussian data and the rules estimated from it.

    x = center +- s direction + noise,   P(+) = prior,   for each scale s,
    radius of a rule = relative_epsilon times |m|,

with m half the difference of the class means of the features.
"""

import dataclasses
import functools
import hashlib
import json
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from robustjax import _validate
from robustjax._precision import float64_on_cpu
from robustjax.synbench import (
    bayes_rule,
    expected_margins,
    gaussian_pair,
    tradeoff_curves,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BATCH = 256  # of the public script, whose bounds are means over batches of this size
REFERENCE_CUT = 1e-6  # of eigenvalues, absolute, in the public script


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Inputs of two Gaussian classes at several scales, and the rules made of them.

    Attributes:
        input_shape: of one input, as (224, 224, 3).
        scales: half distances of the class means.
        relative_epsilons: radii of the robust rules in units of the half distance of
            the class means of the features, in [0, 1).
        num_train: training inputs of each scale.
        num_test: test inputs of each scale.
        prior: P(y = 1).
        center: midpoint of the class means, a number or one a channel.
        direction: of the class means, of the input's shape; None for a change of
            brightness, the same everywhere. It is scaled to length 1.
        variances: of the noise, a number or of the input's shape.
        valid_range: clips the inputs; None does not.
        is_stratified: classes get their shares exactly instead of by chance.
        pixel_mean: subtracted from the inputs, a number or one a channel.
        pixel_std: divides the centred inputs, a number or one a channel.
        shrinkage: of the covariance towards the mean variance: a number in [0, 1], or
            "oas" for `oas_shrinkage`.
        cut: rules leave out directions where the eigenvalue of the covariance is at or
            below it, as the public script does with 1e-6; None: directions whose noise
            is below rounding (p times the machine epsilon of the largest eigenvalue)
            are used where they separate the classes.
        mode: "exact" areas, or sums over the "grid" of the public script.
        batch_means: whether bounds are means over batches of 256, as in the public
            script, instead of over all test inputs.
        is_prior_known: whether the rules are those of the prior; the public script
            takes 1/2 for it.
    """

    input_shape: tuple[int, ...]
    scales: tuple[float, ...] = tradeoff_curves.SCALES
    relative_epsilons: tuple[float, ...] = (0.0,)
    num_train: int = 2048
    num_test: int = 2048
    prior: float = 0.5
    center: float | tuple[float, ...] = (0.5,)
    direction: np.ndarray | None = None
    variances: float | np.ndarray = 1.0
    valid_range: tuple[float, float] | None = None
    is_stratified: bool = False
    pixel_mean: float | tuple[float, ...] = (0.0,)
    pixel_std: float | tuple[float, ...] = (1.0,)
    shrinkage: float | str = 0.0
    cut: float | None = None
    mode: str = "exact"
    batch_means: bool = False
    is_prior_known: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad value."""
        if not self.input_shape or min(self.input_shape) < 1:
            raise ValueError(f"Expected input_shape of sizes, got {self.input_shape}.")
        _validate.positive(
            scales=self.scales, pixel_std=self.pixel_std, variances=self.variances
        )
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"Expected scales, each once, got {self.scales}.")
        epsilons = np.asarray(self.relative_epsilons, float)
        if not len(epsilons) or not ((epsilons >= 0) & (epsilons < 1)).all():
            raise ValueError(
                f"Expected relative_epsilons in [0, 1), got {self.relative_epsilons}; "
                "they are in units of the half distance of the class means."
            )
        if len(set(self.relative_epsilons)) < len(epsilons):
            raise ValueError(
                f"Expected relative_epsilons, each once, got {self.relative_epsilons}."
            )
        _validate.integer(4, num_train=self.num_train)
        _validate.integer(1, num_test=self.num_test)
        _validate.open_interval(0, 1, prior=self.prior)
        _validate.one_of(("exact", "grid"), mode=self.mode)
        share = self.shrinkage
        if share != "oas" and not (isinstance(share, Real) and 0 <= share <= 1):
            raise ValueError(
                f'Expected shrinkage as a number in [0, 1] or "oas", got {share!r}.'
            )
        if self.cut is not None:
            _validate.at_least(0, cut=self.cut)
        self._check_arrays()
        self._set_channels()

    def _check_arrays(self) -> None:
        """Raises ValueError for a direction, variances or a range that do not suit."""
        for name in ("direction", "variances"):
            shape = np.shape(getattr(self, name))
            if shape not in ((), tuple(self.input_shape)):
                raise ValueError(
                    f"Expected {name} of shape {self.input_shape}, got {shape}."
                )
        length = 1.0 if self.direction is None else np.linalg.norm(self.direction)
        if not 0 < length < np.inf:
            raise ValueError(f"Expected direction of finite length, got {length}.")
        low, high = self.valid_range or (0, 1)
        if not low < high:
            raise ValueError(f"Expected valid_range with low < high, got {low, high}.")

    def _set_channels(self) -> None:
        """Makes tuples of what is a number or one a channel."""
        channels = self.input_shape[-1]
        for name in ("center", "pixel_mean", "pixel_std"):
            value = getattr(self, name)
            numbers = np.atleast_1d(np.asarray(value, float))
            if numbers.shape not in ((1,), (channels,)):
                raise ValueError(
                    f"Expected {name} as a number or of length 1 or {channels}, got "
                    f"{value}."
                )
            if not np.isfinite(numbers).all():
                raise ValueError(f"Expected {name} to be finite, got {value}.")
            object.__setattr__(self, name, tuple(numbers.tolist()))

    @property
    def unit_direction(self) -> np.ndarray:
        """The direction with length 1, float64."""
        shape = self.input_shape
        raw = np.ones(shape) if self.direction is None else np.asarray(self.direction)
        return raw.astype(float) / np.linalg.norm(raw)

    @functools.cached_property
    def _identity(self) -> str:
        return json.dumps(self.facts())

    def __eq__(self, other: object) -> bool:
        """Whether all settings are equal."""
        return isinstance(other, Task) and self._identity == other._identity

    def __hash__(self) -> int:
        """Equal for equal tasks."""
        return hash(self._identity)

    def facts(self) -> dict[str, Any]:
        """All settings as JSON values; arrays by shape and digest."""
        return {
            field.name: _json(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }

    def reference(self) -> "Task":
        """This task with the conventions of the public script. [host].

        Its grid, its absolute cut of eigenvalues and its means over batches; the
        normalisation stays what it is, since the script uses that of ImageNet for every
        model: see `IMAGENET_MEAN` and `IMAGENET_STD`.

        Returns:
            A `Task`.
        """
        return dataclasses.replace(
            self,
            mode="grid",
            cut=REFERENCE_CUT,
            batch_means=True,
            is_prior_known=False,
        )

    @property
    def rule_prior(self) -> float:
        """The prior of the rules."""
        return self.prior if self.is_prior_known else 0.5

    @functools.cached_property
    def inputs(self) -> "Inputs":
        """What `Inputs.draw` needs: nothing of rules, radii and numbers of inputs."""
        return Inputs(
            direction=self.unit_direction.astype(np.float32),
            variances=np.asarray(self.variances, np.float32),
            prior=self.prior,
            center=self._channels(self.center),
            pixel_mean=self._channels(self.pixel_mean),
            pixel_std=self._channels(self.pixel_std),
            valid_range=self.valid_range,
            is_stratified=self.is_stratified,
        )

    def draw(
        self, key: jax.Array, scale: jax.Array, *, start: jax.Array, num_samples: int
    ) -> gaussian_pair.Sample:
        """Normalised inputs of one scale and their classes. [device]."""
        return self.inputs.draw(key, scale, start=start, num_samples=num_samples)

    def _channels(self, values: float | tuple[float, ...]) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.float32), (self.input_shape[-1],))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "direction",
        "variances",
        "prior",
        "center",
        "pixel_mean",
        "pixel_std",
        "valid_range",
    ],
    meta_fields=["is_stratified"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """Two Gaussian classes as arrays, so that tasks of one shape share programs."""

    direction: ArrayLike  # of the input's shape, of length 1
    variances: ArrayLike  # a number, or of the input's shape
    prior: ArrayLike
    center: ArrayLike  # [channels]
    pixel_mean: ArrayLike  # [channels]
    pixel_std: ArrayLike  # [channels]
    valid_range: tuple[ArrayLike, ArrayLike] | None
    is_stratified: bool

    def draw(
        self, key: jax.Array, scale: jax.Array, *, start: jax.Array, num_samples: int
    ) -> gaussian_pair.Sample:
        """Normalised inputs of one scale and their classes. [device]."""
        direction = jnp.asarray(self.direction)

        def on_inputs(values: ArrayLike) -> jax.Array:
            return jnp.broadcast_to(jnp.asarray(values), direction.shape)

        x, y = gaussian_pair.sample(
            key,
            scale * direction,
            num_samples=num_samples,
            start=start,
            covariance=self.variances,
            prior=self.prior,
            center=on_inputs(self.center),
            valid_range=self.valid_range,
            is_stratified=self.is_stratified,
        )
        mean, std = (on_inputs(v)[None] for v in (self.pixel_mean, self.pixel_std))
        return gaussian_pair.Sample((x - mean) / std, y)


class RawCurves:
    """The best rules on the inputs themselves, by their formulas; float64."""

    def __init__(self, task: Task) -> None:
        """Computes accuracy and bound `[e, s]` and the signal `[s]` at epsilon 0."""
        if np.ndim(task.variances) == 0:  # the other dimensions hold no signal
            direction, variances = np.ones(1), np.full(1, float(task.variances))
        else:
            direction = task.unit_direction.ravel()
            variances = np.asarray(task.variances, float).ravel()
        with float64_on_cpu():
            found = _raw_rules(
                np.asarray(task.scales, float),
                direction,
                variances,
                relative_epsilons=np.asarray(task.relative_epsilons, float),
                prior=task.rule_prior,
            )
            self.accuracy, self.bound = (np.asarray(part).T for part in found)
        length = np.sqrt(np.sum(direction**2 / variances))
        self.signal = np.asarray(task.scales) * length


@jax.jit
def _raw_rules(
    scales: jax.Array,
    direction: jax.Array,
    variances: jax.Array,
    *,
    relative_epsilons: jax.Array,
    prior: float,
) -> tuple[ArrayLike, ArrayLike]:
    """Accuracy and mean scaled bound `[s, e]` of the rules, a scale at a time."""

    def of_scale(scale: jax.Array) -> tuple[ArrayLike, ...]:
        mean = scale * direction
        rules = bayes_rule.robust_bayes(
            mean, variances, epsilon=scale * relative_epsilons, prior=prior
        )
        bounds = jax.vmap(
            lambda w, b: (
                expected_margins.expected_margin(
                    w, mean, variances, offset=b, prior=prior
                ).scaled
            )
        )(rules.weight, rules.offset)
        return rules.standard_accuracy, bounds

    return jax.lax.map(of_scale, scales)


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} {digest[:16]}"
    return list(value) if isinstance(value, tuple) else value
