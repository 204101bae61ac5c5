"""Settings of certify.py."""

import dataclasses
import math

from robustjax_experiments.configs import fields
from robustjax_experiments.configs.fields import setting
from robustjax_experiments.configs.images import ImageRunConfig

from robustjax import _validate, data, norms, smoothing
from robustjax.results.certification import settings
from robustjax.smoothing.sampling import vote_counts


@dataclasses.dataclass(frozen=True)
class CertifyConfig(ImageRunConfig):
    """Settings of a certification run; raises an error that names a bad value."""

    sigma: float = setting(
        0.25, "standard deviation of the noise, in input units ([0, 1])"
    )
    alpha: float = setting(0.001, "failure probability of each certificate")
    num_selection: int = setting(100, "number of noise samples that select the class")
    num_estimation: int = setting(
        100_000, "number of noise samples that estimate its probability"
    )
    norms: tuple[str, ...] = setting(
        ("l2",), "l2, l1, linf, l3, subspace:red, ...; column radius is the first norm"
    )
    order: int = setting(0, "0: class probabilities only; 1: gradients as well")
    simultaneous: bool = setting(
        True, "radii of all norms hold jointly at alpha, instead of each separately"
    )
    runner_up: str = setting(
        "complement", "bound of the other classes: complement or bonferroni"
    )
    votes: str = setting(
        "hard", "hard: argmax of the logits; soft: softmax probabilities"
    )
    form: str = setting("box", "formula of first-order radii: box, cells, or unproven")
    method: str = setting("tight", "bounds of the gradient: tight or reference")
    masks: tuple[str, ...] = setting(
        (), "NAME=FILE.npy: masks or projectors for the norms subspace:NAME"
    )
    target_radius: float = setting(
        0.0, "radius at which sampling of an image stops; needs --max_samples"
    )
    max_samples: int = setting(
        0, "maximum number of estimation samples of an adaptive run"
    )
    seed: int = setting(0, "seed of all noise")

    chunk_size: int = setting(
        0, "samples per forward batch (0 = chosen for the device)"
    )
    devices: int = setting(
        0, "number of devices that share the samples (0 = all of this process)"
    )
    distributed: bool = setting(
        False, "divide the images among processes by jax.distributed"
    )
    coordinator: str = setting(
        "", "host:port of process 0; default: detected from the cluster"
    )
    num_processes: int = setting(
        0, "number of processes; default: detected from the cluster"
    )
    process_id: int = setting(
        -1, "index of this process; default: detected from the cluster"
    )
    profile_dir: str = setting("", "folder for a profile of the second batch")
    radii: tuple[str, ...] = setting((), "radii of the table; default: a round grid")

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        super().__post_init__()
        vote_counts.check_sigma(self.sigma)
        _validate.integer(0, chunk_size=self.chunk_size, devices=self.devices)
        if self.chunk_size % vote_counts.BLOCK_SIZE:
            raise ValueError(
                f"Expected chunk_size as a multiple of {vote_counts.BLOCK_SIZE}, got "
                f"{self.chunk_size}."
            )
        self._check_adaptive()
        self.check_norms(None)
        self.table_radii()
        self.check_source()
        if not self.distributed and (
            self.coordinator or self.num_processes or self.process_id >= 0
        ):
            raise ValueError(
                "Expected --distributed with --coordinator, --num_processes and "
                "--process_id."
            )

    def _check_adaptive(self) -> None:
        _validate.integer(0, max_samples=self.max_samples)
        if not 0 <= self.target_radius < math.inf:
            raise ValueError(f"Expected target_radius >= 0, got {self.target_radius}.")
        if self.target_radius and not self.max_samples:
            raise ValueError("Expected --max_samples with --target_radius.")
        fixed = (self.runner_up, self.votes, self.method)
        if self.max_samples and fixed != ("complement", "hard", "tight"):
            raise ValueError(
                "An adaptive run (--max_samples) takes runner_up=complement, "
                f"votes=hard and method=tight only, got {', '.join(fixed)}."
            )

    @property
    def training_sigma(self) -> float:
        """Noise level of a model trained for the run: that of smoothing."""
        return self.sigma

    @property
    def settings(self) -> settings.Settings:
        """Settings that determine the rows."""
        return settings.from_flags(fields.flags_of(self))

    def check_norms(self, dataset: data.Dataset | None) -> None:
        """Raises the errors of `certify` that are known before it runs."""
        plain = [n for n in self.norms if norms.subspace_name(n) is None]
        smoothing.settings.Settings(
            sigma=self.sigma,
            shape=dataset.images.shape[1:] if dataset else (1,),
            num_classes=dataset.num_classes if dataset else 2,
            num_selection=self.num_selection,
            num_estimation=self.settings.most_samples,
            alpha=self.alpha,
            order=self.order,
            norms=self.norms if dataset or not self.norms else tuple(plain or ["l2"]),
            runner_up=self.runner_up,
            votes=self.votes,
            form=self.form,
            method=self.method,
            masks=self.settings.load_masks() if dataset else {},
        )

    def table_radii(self) -> list[float]:
        """The radii asked for, as numbers."""
        return fields.non_negative("radii", self.radii)
