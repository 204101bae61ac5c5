"""Recomputes rows of a run from its model, its data and its seed.

The noise of an example depends on (seed, idx, block) alone, so each batch of a run can
be computed again, on any day and without the other batches. With the software, the
kind of device and the batches of the run every number is the same to the bit.
Otherwise logits differ in the last bits and a near tie may be decided differently.
"""

import pathlib
import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robustjax import _validate
from robustjax.results.certification import batch as batches
from robustjax.results.certification import rows as certificate_rows
from robustjax.results.certification import selection, settings
from robustjax.results.run_folder import provenance, rows, starts

if TYPE_CHECKING:
    from robustjax import data
    from robustjax.models import sources

_TIES = 3  # votes that may differ on other hardware
_NEAR = 1e-3  # relative: of float32 sums in another order
_VOTES = ("count", "runner_up_count", "num_invalid")
_SUMS = ("dual_norm", "dual_upper", "length_lower")
_DERIVED = ("radius", "zeroth_radius", "p_lower", "p_upper")  # from votes and sums
_SETTINGS = ("label", "alpha", "sigma", "norm", "order", "bound", "form", "dim")
_SOURCES = ("checkpoint", "apply_fn", "onnx")
_TRAINED = "model/checkpoint"  # in the folder of a run with --train


class Replay(NamedTuple):
    """Outcome of `replay_run`."""

    indices: tuple[int, ...]  # examples that were computed again
    findings: tuple[str, ...]  # one line each; empty if everything agrees
    num_exact: int  # how many of the examples agree to the bit
    reasons: tuple[str, ...]  # why the others may differ in the last bits


class _Source(NamedTuple):
    """What rows are computed from."""

    settings: settings.Settings
    dataset: "data.Dataset"
    classifier: "sources.Classifier"

    @property
    def is_weighted(self) -> bool:
        """Whether samples are added up as floats, so that their order matters."""
        return self.settings.order == 1 or self.settings.votes == "soft"


def replay_run(
    path: str | pathlib.Path,
    *,
    num_rows: int,
    seed: int | None = None,
    data_dir: str | None = None,
    model: Mapping[str, str] | None = None,
) -> Replay:
    """Recomputes rows of a certification run and compares them with those logged.

    [host] Rows are drawn at random. The batches of the run that hold them are computed
    again, and all their rows are compared: counts, bounds and radii. That bounds follow
    from counts is checked for all rows by `verify_run`.

    Guarantee:
        If a share s of the rows does not come from the model, the data and the seed, it
        goes unseen with probability at most (1 - s)^num_rows, where rows are compared
        to the bit and the draw was not known when the run was written.

    Args:
        path: the run folder.
        num_rows: number of rows to draw, an integer >= 1.
        seed: of the draw, an integer >= 0; default: one that nobody knows beforehand.
        data_dir: folder of the data set; default: as the flags of the run say.
        model: where the model is now: {"checkpoint": folder}, {"apply_fn": name} or
            {"onnx": file}; default: as the flags say, or trained in the run folder.

    Returns:
        The examples and what does not agree. Rows of the same software, kind and number
        of devices have to agree to the bit; of others, votes may differ by 3 and
        float32 sums by 1e-3 relative.

    Raises:
        ValueError: if the folder is not a certification run, is merged or has no rows,
            or if data, model or noise are not those of the run.
        OSError: if data or model cannot be read.

    Example:
        >>> outcome = replay_run("runs/cifar10", num_rows=5)  # doctest: +SKIP
        >>> outcome.findings, len(outcome.indices)  # doctest: +SKIP
        ((), 32)
    """
    _validate.integer(1, num_rows=num_rows)
    path = pathlib.Path(path)
    known = provenance.read_identity(path)
    table = rows.collect(rows.part_files(path))
    logged = {
        int(record[0]): dict(zip(table.columns, record, strict=True))
        for record in table.records
    }
    if not logged:
        raise ValueError(f"{path} holds no rows.")
    source = _source(path, known, data_dir=data_dir, model=dict(model or {}))
    draw = random.SystemRandom() if seed is None else random.Random(seed)
    drawn = draw.sample(sorted(logged), min(num_rows, len(logged)))
    chosen = _indices(source)
    findings = [
        f"idx {i}: is not chosen by the flags" for i in drawn if i not in chosen
    ]
    done: list[int] = []
    num_exact, reasons = 0, set[str]()
    history = starts.read(path)
    for batch in selection.batches(chosen, num_samples=source.settings.most_samples):
        there = {index: logged[index] for index in batch if index in logged}
        if not there.keys() & {*drawn}:
            continue
        start = _start_of(next(iter(there.values())), history, known)
        mesh = batches.sample_mesh(min(_num_devices(start, source), _num_local()))
        for new in _recomputed(source, batch, mesh=mesh):
            index = int(new["idx"])
            if index in there:
                apart = list(_unequal(there[index], new))
                num_exact += not apart
                changes = _changes(_start_of(there[index], history, known), source)
                if apart and changes:
                    apart = list(_apart(there[index], new))
                    reasons |= {*changes}
                findings += apart
                done.append(index)
    return Replay(tuple(done), tuple(findings), num_exact, tuple(sorted(reasons)))


def _source(
    path: pathlib.Path,
    known: provenance.Identity,
    *,
    data_dir: str | None,
    model: dict[str, str],
) -> _Source:
    """Loads data and model; raises ValueError unless they are those of the run."""
    from robustjax import data

    if "merged_from" in known.versions:
        raise ValueError(f"{path} is merged; replay the runs that it was merged from.")
    for kind in model:
        _validate.one_of(_SOURCES, model=kind)
    if model:
        elsewhere = dict.fromkeys((*_SOURCES, "train"), "") | model
        known = known._replace(flags=known.flags | elsewhere)
    asked = settings.from_flags(known.flags)
    if settings.noise_fingerprint(asked.seed) != known.facts.get("noise"):
        raise ValueError(
            f"{path}: this JAX draws other noise from --seed={asked.seed}."
        )
    dataset = data.load(
        asked.dataset, split=asked.split, data_dir=data_dir or asked.data_dir or None
    )
    if data.fingerprint(dataset) != known.facts.get("data"):
        raise ValueError(f"{path}: the data set {dataset.name} is another one here.")
    classifier = _classifier(path, asked, dataset)
    if _digest(classifier.fingerprint) != _digest(known.facts.get("model", "")):
        raise ValueError(f"{path}: the model is not that of the run.")
    return _Source(asked, dataset, classifier)


def _classifier(
    path: pathlib.Path, asked: settings.Settings, dataset: "data.Dataset"
) -> "sources.Classifier":
    from robustjax.models import sources

    if asked.apply_fn:
        return sources.from_factory(asked.apply_fn, dataset)
    if asked.onnx:
        return sources.from_onnx(asked.onnx, dataset)
    checkpoint = asked.checkpoint or str(path / _TRAINED)
    return sources.from_checkpoint(
        checkpoint, dataset, architecture=asked.model, dtype=asked.dtype
    )


def _digest(fingerprint: str) -> str:
    """A fingerprint without the name of the file or factory, which may have moved."""
    return fingerprint.rpartition(" ")[2]


def _indices(source: _Source) -> range:
    asked = source.settings
    return selection.indices(
        len(source.dataset.labels),
        start=asked.start,
        skip=asked.skip,
        max_examples=asked.max_examples,
    )


def _start_of(
    row: Mapping[str, str],
    history: Mapping[int, Mapping[str, Any]],
    known: provenance.Identity,
) -> Mapping[str, Any]:
    """The start that a row was computed in; the first one where rows do not tell."""
    text = row.get(starts.COLUMN, "")
    return history.get(int(text) if text.isdecimal() else 0, known.versions)


def _num_devices(start: Mapping[str, Any], source: _Source) -> int:
    of_process = start.get("num_devices", 1) // start.get("num_processes", 1)
    return max(source.settings.devices or of_process, 1)


def _num_local() -> int:
    import jax

    return len(jax.local_devices())


def _changes(start: Mapping[str, Any], source: _Source) -> list[str]:
    """Why a row may differ in the last bits, one phrase each."""
    changes = provenance.changed_versions(start, provenance.environment())
    devices, local = _num_devices(start, source), _num_local()
    if source.is_weighted and devices > local:
        changes.append(f"{devices} devices shared the samples, {local} are here")
    return changes


def _recomputed(
    source: _Source, batch: list[int], *, mesh: Any
) -> Iterator[dict[str, str]]:
    """The rows of a batch, as the text of a rows file."""
    certificate = batches.certify_batch(
        source.settings,
        source.classifier.apply_fn,
        source.dataset,
        batch=batch,
        mesh=mesh,
    )
    for row in certificate_rows.rows(
        certificate, source.dataset, batch, norms=source.settings.norms, seconds=0.0
    ):
        yield {name: rows.to_field(name, value) for name, value in row.items()}


def _unequal(logged: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """Findings for fields that are not the same text."""
    for name in new:
        if name in logged and name != "time" and logged[name] != new[name]:
            yield f"idx {new['idx']}: {name} is {logged[name]}, recomputed {new[name]}"


def _apart(logged: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """Findings for fields that differ by more than other hardware explains.

    Where an adaptive run stopped at another number of samples, votes cannot be
    compared.
    """
    is_same_size = logged["num_estimation"] == new["num_estimation"]
    names = new if is_same_size else _SETTINGS
    for name in names:
        if (
            name in logged
            and name != "time"
            and not _is_near(name, logged[name], new[name])
        ):
            yield f"idx {new['idx']}: {name} is {logged[name]}, recomputed {new[name]}"


def _is_near(name: str, logged: str, new: str) -> bool:
    if name in _VOTES:
        return logged.isdecimal() and abs(int(logged) - int(new)) <= _TIES
    if name.startswith(_SUMS):
        return _is_close(logged, new)
    if name == "predict":  # an abstention more or less, which the votes decide
        return logged == new or "-1" in (logged, new)
    return name == "correct" or name.startswith(_DERIVED) or logged == new


def _is_close(logged: str, new: str) -> bool:
    try:
        return bool(np.isclose(float(logged), float(new), rtol=_NEAR, atol=_NEAR**2))
    except ValueError:
        return False
