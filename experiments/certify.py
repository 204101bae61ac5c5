r"""Certifies an image classifier by randomized smoothing, one row per image.

    python experiments/certify.py --flagfile=experiments/flags/digits.flags

Killed at any moment and started again with the same flags, the run resumes.
The run folder then holds flags.txt, versions.json, rows.tsv, summary.json, curve.png.

Reference:
    Cohen, Rosenfeld and Kolter (2019), Certified Adversarial Robustness via Randomized
    Smoothing.
"""

import dataclasses
import math
import time
from typing import Any

from absl import logging
from robustjax_experiments.harness import (
    classifiers,
    flags_from_config,
    image_run,
    processes,
)
from robustjax_experiments.harness.flags_from_config import setting
from robustjax_experiments.reports import certification as certification_report

from robustjax import _validate, data, norms, smoothing
from robustjax.results.certification import rows, selection, settings
from robustjax.results.certification.batch import certify_batch
from robustjax.smoothing.sampling import vote_counts

_OPERATIONAL = (  # change no row
    "devices", "distributed", "coordinator", "num_processes", "process_id",
    "profile_dir", "radii",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CertifyConfig(image_run.ImageRunConfig):
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
    form: str = setting(
        "box", "formula of first-order radii: box, cells, or exact (unproven)"
    )
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
        _validate.seed(seed=self.seed)
        if self.chunk_size % vote_counts.BLOCK_SIZE:
            raise ValueError(
                f"Expected chunk_size as a multiple of {vote_counts.BLOCK_SIZE}, got "
                f"{self.chunk_size}."
            )
        self._check_adaptive()
        _check_norms(self, None)
        self.table_radii()
        classifiers.check_source(self)
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
    def settings(self) -> settings.Settings:
        """Settings that determine the rows."""
        return settings.from_flags(flags_from_config.flags_of(self))

    def table_radii(self) -> list[float]:
        """The radii asked for, as numbers."""
        try:
            radii = [float(text) for text in self.radii]
        except ValueError:
            radii = [math.nan]
        if not all(math.isfinite(radius) and radius >= 0 for radius in radii):
            text = ",".join(self.radii)
            raise ValueError(f"Expected radii as numbers >= 0, got {text}.")
        return radii


def run(config: CertifyConfig) -> dict[str, Any]:
    """Certifies the images that have no row yet; returns the summary.

    Args:
        config: the settings.

    Returns:
        The content of summary.json; empty in all processes but the first.

    Raises:
        ValueError: if the folder holds another run, or data or model do not suit.
        OSError: if data is missing or the folder cannot be written.
        stopping.Stopped: after SIGTERM, or if another process failed or was killed.
    """

    def check(dataset: data.Dataset) -> None:
        _check_norms(config, dataset)
        _warn_of_few_samples(config, dataset.num_classes)
        here.mesh(config.devices)  # raises an error if there are fewer devices

    with (
        processes.joined(config) as here,
        image_run.open_run(
            config,
            columns=rows.columns(config.norms, order=config.order),
            operational=_OPERATIONAL,
            check=check,
            facts={"noise": settings.noise_fingerprint(config.seed)},
            here=here,
        ) as opened,
    ):
        _certify_missing(config, opened, here)
        here.wait_for_all("rows")
        if not here.is_first:
            return {}
        opened.folder.merge(expected=opened.indices)
        summary = certification_report.write_report(config, opened.folder)
        if summary["failed"]:
            listed = ", ".join(map(str, summary["failed"]))
            raise ValueError(
                f"Not certified, since sums over the noise samples are not finite: "
                f"idx {listed}. All other rows are complete."
            )
        return summary


def _check_norms(config: CertifyConfig, dataset: data.Dataset | None) -> None:
    """Raises the errors of `certify` that are known before it runs."""
    plain = [n for n in config.norms if norms.subspace_name(n) is None]
    smoothing.settings.Settings(
        sigma=config.sigma,
        shape=dataset.images.shape[1:] if dataset else (1,),
        num_classes=dataset.num_classes if dataset else 2,
        num_selection=config.num_selection,
        num_estimation=config.settings.most_samples,
        alpha=config.alpha,
        order=config.order,
        norms=config.norms if dataset or not config.norms else tuple(plain or ["l2"]),
        runner_up=config.runner_up,
        votes=config.votes,
        form=config.form,
        method=config.method,
        masks=config.settings.load_masks() if dataset else {},
    )


def _warn_of_few_samples(config: CertifyConfig, num_classes: int) -> None:
    smallest = smoothing.min_num_estimation(
        alpha=config.alpha / (1 + config.order),  # half for the probability at order 1
        num_classes=num_classes,
        runner_up=config.runner_up,
    )
    if config.settings.most_samples < 2 * smallest:
        logging.warning(
            "num_estimation=%d is close to %d, below which nothing can be certified; "
            "almost no image will be certified",
            config.settings.most_samples,
            smallest,
        )


def _certify_missing(
    config: CertifyConfig, opened: image_run.ImageRun, here: processes.Process
) -> None:
    """Appends the rows that are missing of the batches of this process."""
    mesh = here.mesh(config.devices)

    def rows_of(number: int, batch: list[int]) -> list[dict[str, Any]]:
        began = time.perf_counter()
        with processes.profile(config.profile_dir if number == 1 else ""):
            certified = certify_batch(
                config.settings, opened.apply_fn, opened.dataset, batch=batch, mesh=mesh
            )
        seconds = (time.perf_counter() - began) / len(set(batch))
        new = rows.rows(
            certified, opened.dataset, batch, norms=config.norms, seconds=seconds
        )
        return list(new)

    of_all = selection.batches(opened.indices, num_samples=config.settings.most_samples)
    image_run.append_missing(
        opened.folder, list(of_all)[here.index :: here.count], rows_of,
        title=f"the certification of {config.dataset} images",
    )  # fmt: skip


if __name__ == "__main__":
    flags_from_config.launch(CertifyConfig, run)
