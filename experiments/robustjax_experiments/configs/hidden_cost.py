"""Settings of hidden_cost.py."""

import dataclasses
from collections.abc import Sequence

from robustjax_experiments.configs.fields import non_negative, setting
from robustjax_experiments.configs.images import ImageRunConfig

from robustjax import _validate
from robustjax.smoothing.sampling import vote_counts


@dataclasses.dataclass(frozen=True)
class HiddenCostConfig(ImageRunConfig):
    """Settings of a run; raises an error that names a bad value."""

    from_logs: tuple[str, ...] = setting(
        (), "NAME=PATH or PATH of certification logs to report on, instead of a model"
    )
    num_classes: int = setting(
        0, "number of classes of the logs; default: from their labels"
    )
    class_names: tuple[str, ...] = setting((), "names of the classes, for the report")

    train: tuple[str, ...] = setting(
        (), "settings of train.py for the models of --train_sigmas: epochs=60,..."
    )
    train_sigmas: tuple[str, ...] = setting(
        (), "noise levels in training, one model each (0 = without noise)"
    )

    sigmas: tuple[str, ...] = setting(
        ("0", "0.25", "0.5", "1.0"),
        "noise levels of smoothing (0 = the model without smoothing)",
    )
    num_samples: int = setting(
        1000, "number of noise samples of predictions and certificates"
    )
    num_selection: int = setting(
        100, "number of noise samples that select the certified class"
    )
    certificate_alpha: float = setting(0.001, "failure probability of a certificate")
    alpha: float = setting(0.05, "failure probability of each interval of the report")
    target_radii: tuple[str, ...] = setting(
        ("0.5", "1.0"), "radii for which the minimum noise level is reported"
    )
    num_rays: int = setting(
        40, "number of rays along which regions are measured (0 = none)"
    )
    num_ray_samples: int = setting(
        500, "number of noise samples per point of a ray or slice"
    )
    resolution: int = setting(48, "pixels per side of the slice (0 = no slice)")
    seed: int = setting(0, "seed of all noise")
    chunk_size: int = setting(
        0, "samples per forward batch (0 = chosen for the device)"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        super().__post_init__()
        _validate.integer(0, num_classes=self.num_classes, num_rays=self.num_rays)
        _validate.integer(0, resolution=self.resolution, chunk_size=self.chunk_size)
        _validate.integer(
            1,
            num_samples=self.num_samples,
            num_selection=self.num_selection,
            num_ray_samples=self.num_ray_samples,
        )
        _validate.open_interval(0, 1, alpha=self.alpha)
        _validate.open_interval(0, 1, certificate_alpha=self.certificate_alpha)
        if self.chunk_size % vote_counts.BLOCK_SIZE:
            raise ValueError(
                f"Expected chunk_size as a multiple of {vote_counts.BLOCK_SIZE}, got "
                f"{self.chunk_size}."
            )
        self.radii()
        if self.from_logs:
            if self.checkpoint or self.apply_fn or self.train or self.train_sigmas:
                raise ValueError("Expected --from_logs without a model.")
            return
        if not self.test_levels():
            raise ValueError(
                "Expected --sigmas with at least one noise level, got none."
            )
        if bool(self.train) != bool(self.train_sigmas):
            raise ValueError("Expected --train and --train_sigmas together.")
        if not self.train_sigmas:
            self.check_source()
        for level in self.train_levels():
            self.training(sigma=level, folder=self.workdir)

    def test_levels(self) -> list[float]:
        """Noise levels of smoothing, in increasing order."""
        return _increasing("sigmas", self.sigmas)

    def train_levels(self) -> list[float]:
        """Noise levels in training, in increasing order; empty for a given model."""
        return _increasing("train_sigmas", self.train_sigmas)

    def geometry_levels(self) -> list[float]:
        """Noise levels at which regions are measured."""
        return [sigma for sigma in self.test_levels() if sigma > 0]

    def radii(self) -> list[float]:
        """Radii for which the minimum noise level is reported, in increasing order."""
        return _increasing("target_radii", self.target_radii)


def _increasing(name: str, texts: Sequence[str]) -> list[float]:
    return sorted(set(non_negative(name, texts)))
