"""Reports of a SynBench run: a table, differences, a summary, a plot and a page."""

import importlib.util
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from robustjax_experiments.configs.synbench import SynBenchConfig
from robustjax_experiments.harness.encoders import Encoder
from robustjax_experiments.reports import html_page

from robustjax import data, plotting, probes, synbench
from robustjax.results import summaries

_PROBE_TRAIN, _BATCH = 4096, 1024
_MEANING = (
    "The score says how much of the accuracy and margin of the best rule on the inputs "
    "survives the encoder: 0 is nothing, about 1 is all; higher is better.",
    "A rule that is estimated from finitely many inputs cannot score 1: the ceiling is "
    "what a perfect Gaussian representation of that width would score at epsilon 0. "
    "Compare encoders of different widths by score / ceiling.",
    "Errors are of the test inputs, the rules being fixed; redraw everything with "
    "another --seed to see that of the training inputs.",
    "A rule with epsilon > 0 is ridge regression too, so a higher score at larger "
    "epsilon need not be robustness; see whether it stays with half of the training "
    "inputs.",
)


class Scored(NamedTuple):
    """Results of one encoder."""

    result: synbench.SynBenchResult
    companions: dict[str, float]  # means over the scales
    seconds: float


def write_report(
    config: SynBenchConfig, found: Sequence[Encoder], scored: Mapping[str, Scored]
) -> dict[str, Any]:
    """Writes scores.tsv, summary.json, the plot and the page; prints the table."""
    folder = pathlib.Path(config.workdir)
    accuracies = _probe_accuracies(config, found) if config.probe else {}
    table = _rows(scored)
    differences = _differences(scored)
    summary: dict[str, Any] = {
        "encoders": {
            name: _summary_of(own) | {"probe_accuracy": accuracies.get(name)}
            for name, own in scored.items()
        },
        "differences": differences,
        "correlations": _correlations(scored, accuracies),
    }
    summaries.write_summary(folder, summary)
    _write_table(folder / "scores.tsv", table)
    print(_text(summary, scored))
    _write_page(folder, summary, table, scored)
    return summary


def _summary_of(own: Scored) -> dict[str, Any]:
    result = own.result
    best, best_of_half = result.best_epsilon.tolist()
    return {
        "num_features": result.num_features,
        "num_train": result.task["num_train"],
        "score": result.score.tolist(),
        "standard_error": result.standard_error.tolist(),
        "ceiling": result.ceiling.tolist(),
        "score_to_ceiling": result.score_to_ceiling.tolist(),
        "thresholds": list(result.thresholds),
        "relative_epsilons": list(result.task["relative_epsilons"]),
        "best_epsilon": best,
        "best_epsilon_with_half_of_the_training": best_of_half,
        "mean_companions": own.companions,
        "notes": list(result.notes),
        "seconds": round(own.seconds, 3),
    }


def _rows(scored: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """A row an encoder, radius and threshold."""
    rows = []
    for name, own in scored.items():
        result = own.result
        ratio = result.score_to_ceiling
        for e, t in itertools.product(*map(range, result.score.shape)):
            rows.append(
                {
                    "encoder": name,
                    "features": result.num_features,
                    "epsilon": result.task["relative_epsilons"][e],
                    "threshold": result.thresholds[t],
                    "score": float(result.score[e, t]),
                    "standard error": float(result.standard_error[e, t]),
                    "ceiling": float(result.ceiling[t]),
                    "score / ceiling": float(ratio[e, t]),
                    "half of the training": float(result.half_score[e, t]),
                }
            )
    return rows


def _differences(scored: Mapping[str, Scored]) -> list[dict[str, Any]]:
    """Differences of all pairs with the same inputs, at the first radius."""
    rows = []
    for (one, a), (other, b) in itertools.combinations(scored.items(), 2):
        try:
            found = synbench.compare_scores(a.result, b.result)
        except ValueError as error:
            logging.warning("%s and %s are not compared: %s", one, other, error)
            continue
        for t, threshold in enumerate(a.result.thresholds):
            low, high = float(found.lower[0, t]), float(found.upper[0, t])
            rows.append(
                {
                    "one": one,
                    "other": other,
                    "threshold": threshold,
                    "one - other": float(found.difference[0, t]),
                    "lower": low,
                    "upper": high,
                    "higher": one if low > 0 else other if high < 0 else "-",
                }
            )
    return rows


def _probe_accuracies(
    config: SynBenchConfig, found: Sequence[Encoder]
) -> dict[str, float]:
    """Test accuracy of a linear probe, of encoders that take images of the data set."""
    train, test = (
        data.load(config.dataset, split=split, data_dir=config.data_dir or None)
        for split in ("train", "test")
    )
    shape = train.images.shape[1:]
    accuracies = {}
    for encoder in found:
        if encoder.input_shape != shape or encoder.is_on_host:
            continue
        x, held = (
            _features(encoder, images)
            for images in (train.images[:_PROBE_TRAIN], test.images)
        )
        probe, *_ = probes.linear_probe(
            x, train.labels[:_PROBE_TRAIN], num_classes=train.num_classes
        )
        predicted = np.asarray(probe.logits(held)).argmax(axis=1)
        accuracies[encoder.name] = float(np.mean(predicted == test.labels))
    return accuracies


def _features(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    parts = [
        np.asarray(encoder.feature_fn(images[first : first + _BATCH]))
        for first in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts)


def _correlations(
    scored: Mapping[str, Scored], accuracies: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Correlations of scores with probe accuracies, at the first radius."""
    names = [name for name in scored if name in accuracies]
    if len(names) < 3:
        return []
    rows = []
    for t, threshold in enumerate(scored[names[0]].result.thresholds):
        scores = np.array([scored[name].result.score[0, t] for name in names])
        known = np.array([accuracies[name] for name in names])
        found = probes.correlations(scores, known)
        for kind in ("pearson", "spearman", "kendall"):
            own = getattr(found, kind)
            rows.append(
                {
                    "threshold": threshold,
                    "coefficient": kind,
                    "value": float(own.value),
                    "lower": float(own.lower),
                    "upper": float(own.upper),
                    "encoders": len(names),
                }
            )
    return rows


def _write_table(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = ["\t".join(name.replace(" ", "_") for name in rows[0])]
    lines += ["\t".join(str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(summary: Mapping[str, Any], scored: Mapping[str, Scored]) -> str:
    """The table of the terminal: one block a radius, one line an encoder."""
    width = max(len("encoder"), *map(len, scored))
    first = next(iter(scored.values())).result
    lines = []
    for e, epsilon in enumerate(first.task["relative_epsilons"]):
        lines.append(f"score (standard error), epsilon {epsilon:g}:")
        head = "".join(f"  {f'{t:g}':>13}" for t in first.thresholds)
        lines.append(f"  {'encoder':<{width}}     p{head}")
        for name, own in scored.items():
            cells = "".join(
                f"  {s:.3f} ({error:.4f})"
                for s, error in zip(
                    own.result.score[e], own.result.standard_error[e], strict=True
                )
            )
            lines.append(f"  {name:<{width}}  {own.result.num_features:>4}{cells}")
    lines.append("ceiling of a perfect representation, epsilon 0:")
    for name, own in scored.items():
        cells = "".join(f"  {c:>13.3f}" for c in own.result.ceiling)
        lines.append(f"  {name:<{width}}  {own.result.num_features:>4}{cells}")
    for name, own in summary["encoders"].items():
        if own["probe_accuracy"] is not None:
            lines.append(f"linear probe of {name}: {own['probe_accuracy']:.3f}")
    for row in summary["correlations"]:
        if row["coefficient"] == "spearman":
            lines.append(
                f"Spearman of scores at {row['threshold']:g} and probe accuracies, "
                f"{row['encoders']} encoders: {row['value']:+.2f} "
                f"[{row['lower']:+.2f}, {row['upper']:+.2f}]"
            )
    unclear = [row for row in summary["differences"] if row["higher"] == "-"]
    for row in unclear:
        lines.append(
            f"not significantly different at threshold {row['threshold']:g}: "
            f"{row['one']}, {row['other']} "
            f"[{row['lower']:+.4f}, {row['upper']:+.4f}]"
        )
    for name, own in scored.items():
        lines += [f"{name}: {note}" for note in own.result.notes]
    lines.append(_MEANING[0])
    return "\n".join(lines)


def _write_page(
    folder: pathlib.Path,
    summary: Mapping[str, Any],
    table: Sequence[dict[str, Any]],
    scored: Mapping[str, Scored],
) -> None:
    page = html_page.Page("SynBench")
    page.points(_MEANING)
    page.heading("Scores")
    page.table(_lines(scored, summary))
    if importlib.util.find_spec("matplotlib") is None:
        logging.warning("no plots without matplotlib: pip install robustjax[plot]")
    else:
        figure = plotting.synbench_scores({n: s.result for n, s in scored.items()})
        plotting.save(figure, folder / "synbench.png")
        page.picture(
            folder / "synbench.png",
            "Left: mean scaled bound of the scales whose accuracy exceeds a value. "
            "Right: scores with 95% intervals; dashes are ceilings.",
        )
    page.table(table, summary="All radii and thresholds")
    page.heading("Which differ")
    page.text(
        "One minus other, with 95% intervals, on the same inputs, epsilon of the "
        "first radius.",
        is_note=True,
    )
    page.table(summary["differences"])
    if summary["correlations"]:
        page.heading("Scores and accuracies of linear probes")
        page.table(summary["correlations"])
    notes = [f"{n}: {note}" for n, s in scored.items() for note in s.result.notes]
    if notes:
        page.heading("Notes")
        page.points(notes)
    (folder / "report.html").write_text(page.render(), encoding="utf-8")


def _lines(
    scored: Mapping[str, Scored], summary: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One line an encoder at the first radius, and the ceiling of every width."""
    thresholds = next(iter(scored.values())).result.thresholds
    lines = [_line(name, own, summary, thresholds) for name, own in scored.items()]
    ceilings = {own.result.num_features: own.result.ceiling for own in scored.values()}
    for width, ceiling in ceilings.items():
        values = zip(thresholds, ceiling, strict=True)
        cells = {f"at {t:g}": f"{c:.3f}" for t, c in values}
        empty = dict.fromkeys(lines[0], "")
        lines.append(empty | {"encoder": "ceiling", "features": width} | cells)
    return lines


def _line(
    name: str,
    own: Scored,
    summary: Mapping[str, Any],
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """One encoder at the first radius: scores, and what else is known."""
    result = own.result
    figures = zip(thresholds, result.score[0], result.standard_error[0], strict=True)
    cells = {f"at {t:g}": f"{s:.3f}\xa0±\xa0{e:.3f}" for t, s, e in figures}
    rest = {
        "mean accuracy": float(result.accuracy[0].mean()),
        "probe": summary["encoders"][name]["probe_accuracy"],
        "RankMe": own.companions["rank_me"],
        "LogME": own.companions["log_me"],
        "H-score": own.companions["h_score"],
    }
    return {"encoder": name, "features": result.num_features, **cells, **rest}
