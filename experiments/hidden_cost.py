r"""Measures what smoothing costs: accuracy by class, regions, noise in training.

    python experiments/hidden_cost.py \
        --flagfile=experiments/flags/hidden_cost_digits.flags
    python experiments/hidden_cost.py --from_logs=sigma_0.25,sigma_0.50 --workdir=runs/l

Killed at any moment and started again with the same flags, the run resumes.
The run folder then holds rows.tsv, regions.npz, summary.json, plots and report.html,
which opens without a network.

Reference:
    Mohapatra, Ko, Weng, Chen, Liu and Daniel (2021), Hidden Cost of Randomized
    Smoothing, AISTATS.
"""

import dataclasses
import hashlib
import math
import pathlib
from typing import Any

import numpy as np
from absl import logging
from robustjax_experiments.harness import (
    classifiers,
    flags_from_config,
    image_run,
)
from robustjax_experiments.harness.flags_from_config import setting
from robustjax_experiments.reports import hidden_cost as hidden_cost_report
from robustjax_experiments.studies import decision_regions, noise_sweep

from robustjax import _validate, data, results
from robustjax.smoothing.sampling import vote_counts

_OPERATIONAL = (  # change no row
    *image_run.OPERATIONAL, "chunk_size", "class_names", "target_radii",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HiddenCostConfig(image_run.ImageRunConfig):
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
            1, num_samples=self.num_samples, num_selection=self.num_selection,
            num_ray_samples=self.num_ray_samples,
        )  # fmt: skip
        _validate.seed(seed=self.seed)
        _validate.open_interval(0, 1, alpha=self.alpha)
        _validate.open_interval(0, 1, certificate_alpha=self.certificate_alpha)
        if self.chunk_size % vote_counts.BLOCK_SIZE:
            raise ValueError(
                f"Expected chunk_size as a multiple of {vote_counts.BLOCK_SIZE}, got "
                f"{self.chunk_size}."
            )
        _numbers(target_radii=self.target_radii)
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
            classifiers.check_source(self)

    def test_levels(self) -> list[float]:
        """Noise levels of smoothing, in increasing order."""
        return _levels(sigmas=self.sigmas)

    def train_levels(self) -> list[float]:
        """Noise levels in training, in increasing order; empty for a given model."""
        return _levels(train_sigmas=self.train_sigmas)

    def geometry_levels(self) -> list[float]:
        """Noise levels at which regions are measured."""
        return [sigma for sigma in self.test_levels() if sigma > 0]

    def radii(self) -> list[float]:
        """Radii for which the minimum noise level is reported, in increasing order."""
        return _levels(target_radii=self.target_radii)


def run(config: HiddenCostConfig) -> dict[str, Any]:
    """Measures what is missing and writes the report; returns the summary.

    Args:
        config: the settings.

    Returns:
        The content of summary.json.

    Raises:
        ValueError: if the folder holds another run, or data, model or logs do not suit.
        OSError: if data is missing or the folder cannot be written.
    """
    return _run_on_logs(config) if config.from_logs else _run_on_model(config)


def _run_on_model(config: HiddenCostConfig) -> dict[str, Any]:
    for name in ("sigmas", "train_sigmas"):
        given = [float(text) for text in getattr(config, name)]
        if given != sorted(set(given)):
            logging.info("%s are taken in increasing order, each once", name)
    dataset, indices = image_run.load_images(config)
    identity: dict[str, Any] = {
        "flags": flags_from_config.flags_of(config),
        "operational": _OPERATIONAL,
        "allow_version_change": config.allow_version_change,
        "expected_entries": [
            classifiers.MODEL_FOLDER,
            *(noise_sweep.model_folder(level) for level in config.train_levels()),
        ],
    }
    facts = {"data": data.fingerprint(dataset)}
    results.check_run(config.workdir, facts=facts, **identity)
    models = noise_sweep.obtain_models(config, dataset)
    cells = noise_sweep.cells(models, config.test_levels())
    with results.open_run(
        config.workdir,
        flags_text=flags_from_config.flags_text(config),
        columns=noise_sweep.COLUMNS,
        facts=facts | {"models": noise_sweep.fingerprint(models)},
        **identity,
    ) as folder:
        for message in folder.messages:
            logging.warning(message)
        logging.info("smoothing %d classifiers ...", len(cells))
        noise_sweep.measure(config, dataset, indices, cells, folder)
        folder.merge(expected=range(len(cells) * len(indices)))
        found = decision_regions.load(folder.path)
        if found is None and config.num_rays and config.geometry_levels():
            middle = models[len(models) // 2]
            found = decision_regions.measure(config, dataset, indices, middle)
            if found is not None:
                decision_regions.save(found, folder.path)
        runs = hidden_cost_report.runs_of_rows(
            results.read_log(folder.path), num_classes=dataset.num_classes
        )
        dim = dataset.images[0].size
        return hidden_cost_report.write_report(
            config, folder, runs, regions=found, dim=dim
        )


def _run_on_logs(config: HiddenCostConfig) -> dict[str, Any]:
    entries = [text.rpartition("=") for text in config.from_logs]
    logs = {name or path: results.read_log(path) for name, _, path in entries}
    if len(logs) < len(entries):
        raise ValueError("Expected --from_logs with distinct names.")
    contents = hashlib.sha256()
    for _, _, path in entries:
        source = pathlib.Path(path)
        contents.update(b"" if source.is_dir() else source.read_bytes())
    most = max(
        int(np.max([log.columns["label"], log.predict], initial=0))
        for log in logs.values()
    )
    num_classes = config.num_classes or max(2, most + 1)
    with results.open_run(
        config.workdir,
        flags=flags_from_config.flags_of(config),
        flags_text=flags_from_config.flags_text(config),
        columns=noise_sweep.COLUMNS,
        facts={"logs": contents.hexdigest()},
        operational=_OPERATIONAL,
        allow_version_change=config.allow_version_change,
    ) as folder:
        runs = hidden_cost_report.runs_of_logs(logs, num_classes=num_classes)
        return hidden_cost_report.write_report(config, folder, runs)


def _levels(**named: tuple[str, ...]) -> list[float]:
    return sorted(set(_numbers(**named)))


def _numbers(**named: tuple[str, ...]) -> list[float]:
    ((name, texts),) = named.items()
    try:
        values = [float(text) for text in texts]
    except ValueError:
        values = [math.nan]
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"Expected {name} as numbers >= 0, got {','.join(texts)}.")
    return values


if __name__ == "__main__":
    flags_from_config.launch(HiddenCostConfig, run)
