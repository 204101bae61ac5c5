"""A run over the images of a data set: its flags, its folder, the rows that it lacks.

What `certify`, `verify_linf` and `verify_semantic` have in common.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from robustjax_experiments.configs import fields
from robustjax_experiments.configs.images import MODEL_FOLDER, ImageRunConfig
from robustjax_experiments.harness import (
    classifiers,
    image_selection,
    processes,
)

from robustjax import _callables, data, results

_RANGE = ("start", "skip", "max_examples")
OPERATIONAL = (  # flags that change no row, in all scripts
    "workdir", "data_dir", "checkpoint", "compile_cache", "allow_version_change",
)  # fmt: skip
_ALONE = processes.Process(0, 1)


class ImageRun(NamedTuple):
    """An open run."""

    dataset: data.Dataset
    indices: list[int]  # of all its images
    apply_fn: Callable[[jax.Array], jax.Array]
    folder: results.RunFolder

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classes `[n]` of images `[n, h, w, c]`, from one compiled call."""
        return np.asarray(
            _callables.applied(_callables.as_partial(self.apply_fn), images)
        ).argmax(axis=-1)


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
        "flags": fields.flags_of(config),
        "operational": (*OPERATIONAL, *operational),
        "allow_version_change": config.allow_version_change,
        "expected_entries": (MODEL_FOLDER,),
    }
    known = {"data": data.fingerprint(dataset), **(facts or {})}
    results.check_run(config.workdir, facts=known, **identity)
    classifier = classifiers.obtain(config, dataset, here, sigma=config.training_sigma)
    if not here.is_first:
        here.wait_for_all("folder")
    with results.open_run(
        config.workdir,
        flags_text=fields.flags_text(config),
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
