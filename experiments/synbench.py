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

import dataclasses
import json
import pathlib
import time
import zipfile
from typing import Any

import jax
import numpy as np
from absl import logging
from robustjax_experiments.harness import encoders, flags_from_config, processes
from robustjax_experiments.harness.encoders import Encoder
from robustjax_experiments.harness.flags_from_config import setting
from robustjax_experiments.reports import synbench as synbench_report

from robustjax import _validate, models, results, synbench
from robustjax.synbench import score
from robustjax.synbench.task import RawCurves

_OPERATIONAL = ("workdir", "data_dir", "compile_cache", "batch_size", "thresholds",
                "probe", "devices", "allow_version_change")  # fmt: skip
_COMPANIONS = ("rank_me", "log_me", "h_score")


@dataclasses.dataclass(frozen=True)
class SynBenchConfig:
    """Settings of a run; raises an error that names a bad value."""

    workdir: str = setting("", "folder of the run; an existing run in it is resumed")

    train: tuple[str, ...] = setting(
        (), "numbers of epochs, one encoder is trained for each (0 = untrained)"
    )
    dataset: str = setting("digits", "training data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    max_images: int = setting(0, "maximum number of training images (0 = all)")
    model: str = setting("cnn", f"architecture to train: {', '.join(models.names())}")
    hidden: int = setting(
        64, "width of the features of mlp and cnn; ignored by other models"
    )
    sigma: float = setting(0.0, "standard deviation of the noise in training")
    checkpoint: tuple[str, ...] = setting(
        (), "folders written by train.py, or vision transformers (.npz, .safetensors)"
    )
    layout: str = setting(
        "auto", "layout of files of vision transformers, see robustjax.models.load_vit"
    )
    resolution: int = setting(
        0, "resolution of vision transformers (0 = that of the file)"
    )
    feature_fn: tuple[str, ...] = setting(
        (), "package.module:factory; factory() returns a function to features"
    )
    on_host: bool = setting(
        False, "functions of --feature_fn take and return NumPy arrays"
    )
    input_shape: tuple[str, ...] = setting(
        (), "input shape of --feature_fn, for example 224,224,3"
    )
    pixels: bool = setting(False, "score the input pixels as well")

    scales: tuple[str, ...] = setting(
        (), "half the distances of the class means; default: .1,...,4.9"
    )
    relative_epsilons: tuple[str, ...] = setting(
        ("0",), "relative epsilons of the robust rules, in [0, 1)"
    )
    thresholds: tuple[str, ...] = setting(
        (), "accuracies, > max(prior, 1 - prior); default: .6,.65,...,.95,.99"
    )
    num_train: str = setting(
        "2048", "training inputs per scale, or auto: 20 per feature"
    )
    num_test: int = setting(2048, "test inputs per scale")
    batch_size: int = setting(256, "inputs per batch, a multiple of 16 per device")
    devices: int = setting(
        0, "number of devices that share a batch (0 = all of this machine)"
    )
    prior: float = setting(0.5, "prior P(y = 1), in (0, 1)")
    pixel_mean: tuple[str, ...] = setting(
        (), "mean of pixels: one number, or one per channel"
    )
    pixel_std: tuple[str, ...] = setting(
        (), "standard deviation of pixels: one number, or one per channel"
    )
    shrinkage: str = setting(
        "0", "shrinkage of the covariance: a number in [0, 1], or oas"
    )
    stratified: bool = setting(
        False, "draw exactly the expected number of inputs of each class"
    )
    reference: bool = setting(False, "use the conventions of the public script")

    probe: bool = setting(
        True, "train a linear probe on the features of encoders trained here"
    )
    seed: int = setting(12, "seed of the inputs and of encoders trained here")
    compile_cache: str = setting("", "folder of the cache of compiled programs")
    allow_version_change: bool = setting(
        False, "resume a run of other software or hardware; results may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        if not self.workdir:
            raise ValueError("Expected --workdir to name a folder, got ''.")
        _validate.seed(seed=self.seed)
        _validate.integer(
            0, max_images=self.max_images, resolution=self.resolution,
            devices=self.devices,
        )  # fmt: skip
        _validate.integer(16, batch_size=self.batch_size)
        _validate.at_least(0, sigma=self.sigma)
        encoders.check_sources(self)
        task = self.task((1, 1, 1), num_features=1)
        score.area_of_inputs(RawCurves(task), task, thresholds=self.running_thresholds)

    @property
    def running_thresholds(self) -> tuple[float, ...]:
        """Accuracies from which areas are taken."""
        return self._numbers("thresholds") or synbench.THRESHOLDS

    def task(self, input_shape: tuple[int, ...], *, num_features: int) -> synbench.Task:
        """Task of an encoder: its inputs and rules."""
        is_vit = bool(self.checkpoint)  # which normalise themselves
        normal: dict[str, Any] = {} if is_vit else {
            name: numbers
            for name in ("pixel_mean", "pixel_std")
            if (numbers := self._numbers(name))
        }  # fmt: skip
        shrinkage: Any = self.shrinkage
        if shrinkage != "oas":
            shrinkage = self._shrinkage()
        task = synbench.Task(
            input_shape,
            scales=self._numbers("scales") or synbench.SCALES,
            relative_epsilons=self._numbers("relative_epsilons"),
            num_train=self._num_train(num_features),
            num_test=self.num_test,
            prior=self.prior,
            is_stratified=self.stratified,
            shrinkage=shrinkage,
            **normal,
        )
        return task.reference() if self.reference else task

    def _shrinkage(self) -> float:
        try:
            return float(self.shrinkage)
        except ValueError:
            raise ValueError(
                "Expected --shrinkage as a number in [0, 1] or oas, got "
                f"{self.shrinkage!r}."
            ) from None

    def _num_train(self, num_features: int) -> int:
        if self.num_train == "auto":
            return max(2048, -(-20 * num_features // 256) * 256)
        if not self.num_train.isdigit():
            raise ValueError(
                f"Expected --num_train as an integer or auto, got {self.num_train!r}."
            )
        return int(self.num_train)

    def _numbers(self, name: str) -> tuple[float, ...]:
        return flags_from_config.numbers(name, getattr(self, name))


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
        "flags": flags_from_config.flags_of(config),
        "operational": _OPERATIONAL,
        "allow_version_change": config.allow_version_change,
        "expected_entries": (encoders.MODEL_FOLDER,),
    }
    results.check_run(config.workdir, facts={}, **identity)
    found = encoders.obtain(config)
    messages = results.start_run(
        config.workdir,
        flags_text=flags_from_config.flags_text(config),
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
        key, encoder.feature_fn, task, index=index, batch_size=config.batch_size,
        is_on_host=encoder.is_on_host, observe=observe,
        mesh=processes.Process(0, 1).mesh(config.devices),
    )  # fmt: skip
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
