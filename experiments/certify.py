r"""Certifies an image classifier by randomized smoothing, one row per image.

    python experiments/certify.py --flagfile=experiments/flags/digits.flags

Killed at any moment and started again with the same flags, the run resumes.
The run folder then holds flags.txt, versions.json, rows.tsv, summary.json, curve.png.

Reference:
    Cohen, Rosenfeld and Kolter (2019), Certified Adversarial Robustness via Randomized
    Smoothing.
"""

import time
from typing import Any

from absl import logging
from robustjax_experiments.configs.certification import CertifyConfig
from robustjax_experiments.harness import (
    flags_from_config,
    image_run,
    processes,
)
from robustjax_experiments.reports import certification as certification_report

from robustjax import data, smoothing
from robustjax.results.certification import rows, selection, settings
from robustjax.results.certification.batch import certify_batch

_OPERATIONAL = (  # change no row
    "devices", "distributed", "coordinator", "num_processes", "process_id",
    "profile_dir", "radii",
)  # fmt: skip


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
        config.check_norms(dataset)
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
        opened.folder,
        list(of_all)[here.index :: here.count],
        rows_of,
        title=f"the certification of {config.dataset} images",
    )


if __name__ == "__main__":
    flags_from_config.launch(CertifyConfig, run)
