"""A run over the images of a data set: its flags, its folder, the rows that it lacks.

What `certify`, `verify_linf` and `verify_semantic` have in common.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import logging
from robustjax_experiments.harness import (
    classifiers,
    flags_from_config,
    image_selection,
    processes,
)
from robustjax_experiments.harness.flags_from_config import setting

from robustjax import _validate, data, results

_RANGE = ("start", "skip", "max_examples")
OPERATIONAL = (  # flags that change no row, in all scripts
    "workdir", "data_dir", "checkpoint", "compile_cache", "allow_version_change",
)  # fmt: skip
_ALONE = processes.Process(0, 1)


@dataclasses.dataclass(frozen=True)
class ImageRunConfig:
    """Images, classifier and folder of a run; raises errors that name bad values."""

    workdir: str = setting("", "folder of the run; an existing run in it is resumed")
    dataset: str = setting("digits", "name of the data set, see robustjax.data.load")
    data_dir: str = setting("", "data folder; default: ROBUSTJAX_DATA_DIR")
    split: str = setting("test", "split of the data set: train or test")
    start: int = setting(0, "index of the first image")
    skip: int = setting(1, "stride: use every skip-th image")
    max_examples: int = setting(0, "maximum number of images (0 = all)")

    model: str = setting(
        "", "architecture of the model to train; checked for a given model"
    )
    checkpoint: str = setting(
        "", "trained model: a folder written by train.py, or a safetensors file"
    )
    apply_fn: str = setting(
        "", "package.module:factory; factory() returns a classifier"
    )
    onnx: str = setting("", "file of an ONNX network")
    dtype: str = setting("", "compute dtype: float32 or bfloat16; default: the model's")
    train: tuple[str, ...] = setting(
        (), "settings of train.py, to train a model in the run folder: epochs=60,..."
    )
    compile_cache: str = setting("", "folder of the cache of compiled programs")
    allow_version_change: bool = setting(
        False, "resume a run of other software or hardware; results may differ"
    )

    def __post_init__(self) -> None:
        """Raises ValueError or TypeError naming the first bad setting."""
        if not self.workdir:
            raise ValueError("Expected --workdir to name a folder, got ''.")
        _validate.integer(0, start=self.start, max_examples=self.max_examples)
        _validate.integer(1, skip=self.skip)
        _validate.one_of(("", "float32", "bfloat16"), dtype=self.dtype)


class ImageRun(NamedTuple):
    """An open run."""

    dataset: data.Dataset
    indices: list[int]  # of all its images
    apply_fn: Callable[[jax.Array], jax.Array]
    folder: results.RunFolder


def load_images(config: ImageRunConfig) -> tuple[data.Dataset, list[int]]:
    """The data set, and the indices of the images of the run; sets the compile cache.

    Args:
        config: the settings.

    Returns:
        The data set and its chosen indices.

    Raises:
        ValueError: if no image is chosen.
        OSError: if data is missing.
    """
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    dataset = data.load(
        config.dataset, split=config.split, data_dir=config.data_dir or None
    )
    indices = image_selection.indices(config, len(dataset.labels))
    return dataset, indices


@contextlib.contextmanager
def open_run(
    config: ImageRunConfig,
    *,
    columns: Sequence[str],
    operational: Sequence[str],
    check: Callable[[data.Dataset], None] = lambda dataset: None,
    facts: Mapping[str, str] | None = None,
    here: processes.Process = _ALONE,
) -> Iterator[ImageRun]:
    """Loads data and classifier, and opens the run folder, which may hold rows.

    Args:
        config: the settings.
        columns: of rows.tsv.
        operational: further flags that change no row.
        check: raises an error for unsuitable data, before a model is trained.
        facts: further facts that a run which goes on has to share.
        here: this process.

    Yields:
        The `ImageRun`.

    Raises:
        ValueError: if the folder holds another run, or data or model do not suit.
        OSError: if data is missing or the folder cannot be written.
    """
    dataset, indices = load_images(config)
    check(dataset)
    identity: dict[str, Any] = {
        "flags": flags_from_config.flags_of(config),
        "operational": (*OPERATIONAL, *operational),
        "allow_version_change": config.allow_version_change,
        "expected_entries": (classifiers.MODEL_FOLDER,),
    }
    known = {"data": data.fingerprint(dataset), **(facts or {})}
    results.check_run(config.workdir, facts=known, **identity)
    classifier = classifiers.obtain(config, dataset, here)
    if not here.is_first:
        here.wait_for_all("folder")
    with results.open_run(
        config.workdir,
        flags_text=flags_from_config.flags_text(config),
        columns=columns,
        facts=known | {"model": classifier.fingerprint},
        range_flags=_RANGE,
        process_index=here.index,
        num_processes=here.count,
        **identity,
    ) as folder:
        if here.is_first:  # it has made the folder a run
            here.wait_for_all("folder")
        for message in folder.messages:
            logging.warning(message)
        yield ImageRun(dataset, indices, classifier.apply_fn, folder)


def append_missing(
    folder: results.RunFolder,
    batches: Sequence[list[int]],
    rows_of: Callable[[int, list[int]], list[dict[str, Any]]],
    *,
    title: str,
) -> None:
    """Appends the rows that are missing, a whole batch at a time.

    Batches of which a row is missing are computed whole, so that a run that goes on
    does the very same forward passes as one that was never interrupted.

    Args:
        folder: of the run.
        batches: of indices; an index that fills up a batch appears in it twice.
        rows_of: maps the number of a batch, counted in this process, and the batch to
            its rows.
        title: what is compiled, for the message.
    """
    pending = [batch for batch in batches if not folder.finished.issuperset(batch)]
    total = sum(len(set(batch)) for batch in batches)
    done = total - sum(len(set(batch)) for batch in pending)
    if pending:
        logging.info("compiling %s ...", title)
    with processes.progress_bar(total, initial=done, unit="image") as advance:
        for number, batch in enumerate(pending):
            new = rows_of(number, batch)
            folder.append([row for row in new if row["idx"] not in folder.finished])
            advance(len(set(batch)))
