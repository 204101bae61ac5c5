r"""Scores representations with synthetic Gaussian inputs alone (SynBench).

    flags=experiments/flags/synbench_quick.flags
    python experiments/synbench.py --flagfile=$flags

Encoders are trained here (--train=0,1,30 epochs), read from files (--checkpoint: a
folder of train.py, or a pretrained vision transformer as .npz or .safetensors), or any
function of yours (--feature_fn=package.module:factory; with --on_host it takes and
returns NumPy arrays, for example to wrap a PyTorch model). All encoders see the same
inputs, so differences have small errors. Killed at any moment and started again with
the same flags, the run resumes with the next scale. The run folder then holds
flags.txt, versions.json, one folder per encoder with one file per scale, scores.tsv,
summary.json, synbench.png and report.html.

Reference:
    Ko, Chen, Das, Mohapatra and Daniel (2024), What Would Gauss Say About
    Representations? Probing Pretrained Image Models using Synthetic Gaussian
    Benchmarks (SynBench), ICML.
"""

import json
import pathlib
import time
import zipfile
from typing import Any

import jax
import numpy as np
from absl import logging
from robustjax_experiments.configs import fields
from robustjax_experiments.configs.synbench import SynBenchConfig
from robustjax_experiments.harness import encoders, flags_from_config, processes
from robustjax_experiments.harness.encoders import Encoder
from robustjax_experiments.reports import synbench as synbench_report

from robustjax import results, synbench

_OPERATIONAL = ("workdir", "data_dir", "compile_cache", "batch_size", "thresholds",
                "probe", "devices", "allow_version_change")  # fmt: skip
_COMPANIONS = ("rank_me", "log_me", "h_score")


def run(config: SynBenchConfig) -> dict[str, Any]:
    """Scores the encoders that are not scored yet; returns the summary.

    Args:
        config: the settings.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: if a file, a function or a setting does not suit.
        OSError: if the folder cannot be written or a file is missing.
    """
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    identity: dict[str, Any] = {
        "flags": fields.flags_of(config),
        "operational": _OPERATIONAL,
        "allow_version_change": config.allow_version_change,
        "expected_entries": (encoders.MODEL_FOLDER,),
    }
    results.check_run(config.workdir, facts={}, **identity)
    found = encoders.obtain(config)
    messages = results.start_run(
        config.workdir,
        flags_text=fields.flags_text(config),
        facts={encoder.name: encoder.fingerprint for encoder in found},
        **identity,
    )
    for message in messages:
        logging.warning(message)
    scored = {encoder.name: _scored(config, encoder) for encoder in found}
    return synbench_report.write_report(config, found, scored)


def _scored(config: SynBenchConfig, encoder: Encoder) -> synbench_report.Scored:
    """Measures the scales that are missing and puts all of them together."""
    key = jax.random.key(config.seed)
    num_features = _num_features(encoder)
    task = config.task(encoder.input_shape, num_features=num_features)
    folder = pathlib.Path(config.workdir, "encoders", encoder.name)
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[synbench.ScaleResult] = []
    companions: list[dict[str, float]] = []
    began = time.perf_counter()
    logging.info("%s: %d features; compiling ...", encoder.name, num_features)
    total = len(task.scales)
    with processes.progress_bar(total, initial=0, unit="scale") as advance:
        for index in range(total):
            path = folder / f"scale_{index:03d}.npz"
            if not path.exists():
                _measure(key, encoder, task, index=index, path=path, config=config)
            part, measures = _read(path)
            parts.append(part)
            companions.append(measures)
            advance(1)
    result = synbench.score_of_scales(
        key, task, parts, thresholds=config.running_thresholds
    )
    averages = {n: float(np.mean([c[n] for c in companions])) for n in _COMPANIONS}
    return synbench_report.Scored(result, averages, time.perf_counter() - began)


def _measure(
    key: jax.Array,
    encoder: Encoder,
    task: synbench.Task,
    *,
    index: int,
    path: pathlib.Path,
    config: SynBenchConfig,
) -> None:
    """One scale, written to a file that is complete or absent."""
    measures: dict[str, float] = {}

    def observe(moments: synbench.FeatureMoments) -> None:
        for name in _COMPANIONS:
            measures[name] = float(getattr(synbench, name)(moments))

    part = synbench.measure_scale(
        key,
        encoder.feature_fn,
        task,
        index=index,
        batch_size=config.batch_size,
        is_on_host=encoder.is_on_host,
        observe=observe,
        mesh=processes.Process(0, 1).mesh(config.devices),
    )
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, companions=json.dumps(measures), **part._asdict())
    partial.rename(path)


def _read(path: pathlib.Path) -> tuple[synbench.ScaleResult, dict[str, float]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            part = synbench.ScaleResult(
                *(file[n] for n in synbench.ScaleResult._fields)
            )
            return part, json.loads(str(file["companions"]))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it.") from None


def _num_features(encoder: Encoder) -> int:
    x = np.zeros((16, *encoder.input_shape), np.float32)
    if encoder.is_on_host:
        shape = np.shape(encoder.feature_fn(x))
    else:
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        shape = jax.eval_shape(encoder.feature_fn, spec).shape
    if len(shape) != 2 or shape[0] != len(x):
        raise ValueError(
            f"Expected {encoder.name} to give features [{len(x)}, p], got {shape}."
        )
    return shape[1]


if __name__ == "__main__":
    flags_from_config.launch(SynBenchConfig, run)
