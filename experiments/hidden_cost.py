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

import hashlib
import pathlib
from typing import Any

import numpy as np
from absl import logging
from robustjax_experiments.configs import fields
from robustjax_experiments.configs.hidden_cost import HiddenCostConfig
from robustjax_experiments.configs.images import MODEL_FOLDER
from robustjax_experiments.harness import (
    flags_from_config,
    image_run,
)
from robustjax_experiments.reports import hidden_cost as hidden_cost_report
from robustjax_experiments.studies import decision_regions, noise_sweep

from robustjax import data, results

_OPERATIONAL = (  # change no row
    *image_run.OPERATIONAL, "chunk_size", "class_names", "target_radii",
)  # fmt: skip


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
        "flags": fields.flags_of(config),
        "operational": _OPERATIONAL,
        "allow_version_change": config.allow_version_change,
        "expected_entries": [
            MODEL_FOLDER,
            *(noise_sweep.model_folder(level) for level in config.train_levels()),
        ],
    }
    facts = {"data": data.fingerprint(dataset)}
    results.check_run(config.workdir, facts=facts, **identity)
    models = noise_sweep.obtain_models(config, dataset)
    cells = noise_sweep.cells(models, config.test_levels())
    with results.open_run(
        config.workdir,
        flags_text=fields.flags_text(config),
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
        flags=fields.flags_of(config),
        flags_text=fields.flags_text(config),
        columns=noise_sweep.COLUMNS,
        facts={"logs": contents.hexdigest()},
        operational=_OPERATIONAL,
        allow_version_change=config.allow_version_change,
    ) as folder:
        runs = hidden_cost_report.runs_of_logs(logs, num_classes=num_classes)
        return hidden_cost_report.write_report(config, folder, runs)


if __name__ == "__main__":
    flags_from_config.launch(HiddenCostConfig, run)
