"""The examples of a run: which there are, their labels and predictions."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from robustjax.results import logs
from robustjax.results.certification import selection
from robustjax.results.checks.run import Run
from robustjax.results.run_folder import rows


def rows_of_examples(run: Run) -> Iterator[str]:
    """Findings for examples that are there twice or whose classes are impossible."""
    log = run.log
    c = log.columns
    if not len(log):
        yield "there are no rows"
    for index in rows.repeated(c["idx"].tolist()):
        yield f"idx {index} is there more than once"
    yield from run.findings(c["idx"] < 0, "idx is negative")
    outside = (log.predict < -1) | (log.predict >= c["num_classes"])
    yield from run.findings(outside, "predict is neither a class nor -1")
    outside = (c["label"] < 0) | (c["label"] >= c["num_classes"])
    yield from run.findings(outside, "label is not a class")
    is_right = logs.is_correct(log.predict, c["label"])
    text = "correct does not tell whether predict equals label"
    yield from run.findings(is_right != c["correct"], text)
    wrong = (c["failed"] != 0) & (log.predict != -1)
    yield from run.findings(wrong, "predicts, although its sums were not finite")


def chosen(run: Run) -> Iterator[str]:
    """Findings for examples that the range flags do not choose, or that are missing.

    Without the data set, those up to the largest index that is there; without flags
    that tell a range, those between the first and the last index.
    """
    start, skip, most = _range(run)
    there = run.log.columns["idx"].tolist()
    if start is None or skip is None or most is None:
        if run.flags and not run.is_merged:
            yield from between(run)
        return
    size = len(run.dataset.labels) if run.dataset else max(there, default=-1) + 1
    expected = selection.indices(size, start=start, skip=skip, max_examples=most)
    text = "idx is not one that --start, --skip and --max_examples choose"
    wrong = np.array([index not in expected for index in there], bool)
    yield from run.findings(wrong, text)
    yield from _missing(expected, there)


def between(run: Run) -> Iterator[str]:
    """A line if examples are missing in the evenly spaced indices of the rows."""
    there = sorted(set(run.log.columns["idx"].tolist()))
    steps = [b - a for a, b in itertools.pairwise(there)]
    if steps:
        expected = range(there[0], there[-1] + 1, math.gcd(*steps))
        yield from _missing(expected, there)


def _missing(expected: range, there: Sequence[int]) -> Iterator[str]:
    present = {index for index in there if index in expected}
    num_missing = len(expected) - len(present)
    if num_missing:
        first = itertools.islice((i for i in expected if i not in present), 5)
        yield (
            f"{num_missing} of {len(expected)} examples have no row: idx "
            f"{', '.join(map(str, first))}{', ...' if num_missing > 5 else ''}"
        )


def is_range_known(run: Run) -> bool:
    """Whether the flags tell which examples the run chooses."""
    return None not in _range(run)


def is_complete_known(run: Run) -> bool:
    """Whether `chosen` knows the last example of the run."""
    return is_range_known(run) and run.dataset is not None


def of_the_data(run: Run) -> Iterator[str]:
    """Findings for rows that do not agree with the data set of the run."""
    if run.dataset is None:
        return
    from robustjax import data

    c = run.log.columns
    if run.facts.get("data") != data.fingerprint(run.dataset):
        yield (
            "versions.json: data is not the fingerprint of the data set "
            f"{run.dataset.name} as it is here"
        )
        return
    known = (c["idx"] >= 0) & (c["idx"] < len(run.dataset.labels))
    yield from run.findings(~known, "idx is not in the data set")
    label = np.zeros(len(run.log), int)
    label[known] = run.dataset.labels[c["idx"][known]]
    wrong = known & (c["label"] != label)
    yield from run.findings(wrong, "label is not that of the data set")
    num_classes, dim = run.dataset.num_classes, run.dataset.images[0].size
    wrong = c["num_classes"] != num_classes
    yield from run.findings(wrong, f"num_classes is not {num_classes}, as in the data")
    yield from run.findings(c["dim"] != dim, f"dim is not {dim}, as in the data")


def _range(run: Run) -> tuple[int | None, int | None, int | None]:
    start, skip = run.integer_flag("start"), run.integer_flag("skip")
    most = run.integer_flag("max_examples")
    if (start or 0) < 0 or (skip is not None and skip < 1) or (most or 0) < 0:
        return None, None, None
    return start, skip, most
