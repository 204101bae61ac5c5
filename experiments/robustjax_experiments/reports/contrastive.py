"""Reports of contrastive training: tables, differences, a plot and a page."""

import importlib.util
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from robustjax_experiments.configs.contrastive import ContrastiveConfig
from robustjax_experiments.reports import html_page

from robustjax import plotting
from robustjax.results import summaries
from robustjax.results.run_folder import atomic

_MEANING = (
    "Encoders were trained without labels; standard probes are linear classifiers of "
    "their features, adversarial ones were trained on attacked images with the encoder "
    "frozen, full ones together with the encoder. Attacks see encoder and probe.",
    "Accuracies are means over seeds with standard deviations, on the same test images "
    "at the last epoch. FGSM takes one step, APGD is the worst of cross-entropy and "
    "DLR. An attack that fails proves nothing: certified accuracy may be far lower.",
    "A difference counts as significant if it exceeds two standard errors, which cover "
    "the choice of seeds and of test images; with one seed they cover the test images "
    "only, which is too little.",
    "work is the number of encoder passes of a step in units of SimCLR's: more views "
    "and attacks cost more. Compare methods at equal cost with --compute_matched.",
)
Found = Mapping[str, Mapping[str, Any]]


class Column(NamedTuple):
    """One attack at one radius."""

    attack: str
    epsilon: float

    @property
    def title(self) -> str:
        """Title of the column, such as "PGD .05"."""
        if self.attack == "clean":
            return "clean"
        return f"{self.attack.upper()} {self.epsilon:g}"


class Group(NamedTuple):
    """The contents of one table: a data set and a kind of probe."""

    data: str
    probe: str


Table = dict[str, dict[Column, np.ndarray]]  # method -> column -> [seeds]


def write_report(
    config: ContrastiveConfig, found: Found, num_test: Mapping[str, int]
) -> dict[str, Any]:
    """Writes accuracies.tsv, summary.json, plots and page; prints the tables.

    Args:
        config: `ContrastiveConfig`.
        found: method -> what is in its accuracies.json.
        num_test: data set -> number of test images.
    """
    folder = pathlib.Path(config.workdir)
    tables = _tables(found)
    rows = [_row(*key, values) for key, values in _cells(tables)]
    lines = ["\t".join(rows[0])]
    lines += [
        "\t".join("" if value is None else str(value) for value in row.values())
        for row in rows
    ]
    atomic.write_text(folder / "accuracies.tsv", "\n".join(lines) + "\n")
    differences = _differences(tables, num_test)
    summary = {
        "methods": {
            name: {key: own[key] for key in ("title", "work", "epochs", "seconds")}
            for name, own in found.items()
        },
        "accuracies": rows,
        "differences": differences,
        "num_test": dict(num_test),
        "num_seeds": config.num_seeds,
    }
    summaries.write_summary(folder, summary)
    print(_text(config, found, tables, differences))
    _write_page(config, found, tables, differences)
    return summary


def _tables(found: Found) -> dict[Group, Table]:
    tables: dict[Group, Table] = {}
    for name, own in found.items():
        for cell in own["cells"]:
            group = Group(cell["data"], cell["probe"])
            column = Column(cell["attack"], cell["epsilon"])
            columns = tables.setdefault(group, {}).setdefault(name, {})
            columns[column] = np.append(columns.get(column, []), cell["accuracy"])
    return tables


def _cells(
    tables: Mapping[Group, Table],
) -> list[tuple[tuple[Group, str, Column], np.ndarray]]:
    return [
        ((group, name, column), values)
        for group, table in tables.items()
        for name, columns in table.items()
        for column, values in columns.items()
    ]


def _row(group: Group, name: str, column: Column, values: np.ndarray) -> dict[str, Any]:
    return {
        "data": group.data,
        "probe": group.probe,
        "method": name,
        "attack": column.attack,
        "epsilon": column.epsilon,
        "mean": round(float(values.mean()), 6),
        "standard_deviation": _deviation(values),
        "num_seeds": len(values),
    }


def _deviation(values: np.ndarray) -> float | None:
    return round(float(values.std(ddof=1)), 6) if len(values) > 1 else None


def _differences(
    tables: Mapping[Group, Table], num_test: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Differences of each method to the first, and of IntNaCl to IntCL, by column."""
    rows = []
    for group, table in tables.items():
        names = list(table)
        pairs = [(name, names[0]) for name in names[1:]]
        if {"intcl", "intnacl"} <= set(names[1:]):
            pairs.append(("intnacl", "intcl"))
        for one, other in pairs:
            for column, values in table[one].items():
                rows.append(
                    {
                        "data": group.data,
                        "probe": group.probe,
                        "one": one,
                        "other": other,
                        "column": column.title,
                        **_difference(
                            values, table[other][column], num_test[group.data]
                        ),
                    }
                )
    return rows


def _difference(
    one: np.ndarray, other: np.ndarray, num_test: int
) -> dict[str, float | bool]:
    """Difference and standard error, with test images treated as independent."""
    variance = 0.0
    for values in (one, other):
        mean = (values.mean() * num_test + 1) / (num_test + 2)  # never 0 or 1
        variance += float(mean * (1 - mean)) / num_test
        variance += float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0
    difference, error = float(one.mean() - other.mean()), math.sqrt(variance)
    return {
        "difference": round(difference, 6),
        "standard_error": round(error, 6),
        "is_within_noise": abs(difference) <= 2 * error,
    }


def _text(
    config: ContrastiveConfig,
    found: Found,
    tables: Mapping[Group, Table],
    differences: Sequence[Mapping[str, Any]],
) -> str:
    """The tables of the terminal, in percent."""
    width = max(len(own["title"]) for own in found.values())
    lines = []
    for group, table in tables.items():
        columns = list(next(iter(table.values())))
        sizes = [max(12, len(column.title)) for column in columns]
        titles = "".join(
            f"  {column.title:>{size}}"
            for column, size in zip(columns, sizes, strict=True)
        )
        lines += ["", f"{_title(group)}", f"{'':{width}}{titles}"]
        for name, own in table.items():
            values = "".join(
                f"  {_percent(own[column]):>{size}}"
                for column, size in zip(columns, sizes, strict=True)
            )
            lines.append(f"{found[name]['title']:{width}}{values}")
    lines += ["", f"{'':{width}}  {'work':>6}  {'epochs':>6}  {'seconds':>7}"]
    lines += [
        f"{method['title']:{width}}  {method['work']:>6.1f}  {method['epochs']:>6}  "
        f"{method['seconds']:>7.1f}"
        for method in found.values()
    ]
    lines += ["", *_sentences(found, differences)]
    lines.append(f"percent, mean +- sd of {config.num_seeds} seed(s); see report.html")
    return "\n".join(lines).lstrip("\n")


def _sentences(found: Found, differences: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether each difference under the last attack is significant."""
    lines = []
    last = {(row["data"], row["probe"]): row["column"] for row in differences}
    for row in differences:
        group = Group(row["data"], row["probe"])
        if row["column"] != last[group]:
            continue
        one, other = (found[row[name]]["title"] for name in ("one", "other"))
        verdict = "within noise" if row["is_within_noise"] else "more than noise"
        lines.append(
            f"{_title(group)}, {row['column']}: {one} - {other} = "
            f"{100 * row['difference']:+.1f} +- {100 * row['standard_error']:.1f}, "
            f"{verdict}"
        )
    return lines


def _title(group: Group) -> str:
    return f"{group.data}, {'kNN' if group.probe == 'knn' else group.probe + ' probe'}"


def _percent(values: np.ndarray) -> str:
    deviation = _deviation(values)
    spread = "" if deviation is None else f" +- {100 * deviation:.1f}"
    return f"{100 * values.mean():.1f}{spread}"


def _write_page(
    config: ContrastiveConfig,
    found: Found,
    tables: Mapping[Group, Table],
    differences: Sequence[Mapping[str, Any]],
) -> None:
    folder = pathlib.Path(config.workdir)
    page = html_page.Page(f"Robust representations of {config.dataset}")
    page.text(
        f"{len(found)} methods, {config.num_seeds} seed(s), {config.model}, "
        f"{config.epochs} epochs, linf attacks in units of the [0, 1] range."
    )
    for paragraph in _MEANING:
        page.text(paragraph)
    for group, table in tables.items():
        page.heading(_title(group))
        if group.probe != "knn":
            _add_picture(page, folder, group, table, found)
        page.table(
            [
                {"method": found[name]["title"]}
                | {column.title: _percent(values) for column, values in own.items()}
                for name, own in table.items()
            ]
        )
    page.heading("Cost")
    page.table([_cost(own) for own in found.values()])
    page.heading("Differences")
    page.table([dict(row) for row in differences], summary="all differences")
    atomic.write_text(folder / "report.html", page.render())


def _cost(own: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": own["title"],
        "work": own["work"],
        "epochs": own["epochs"],
        "seconds of training, all seeds": own["seconds"],
    }


def _add_picture(
    page: html_page.Page, folder: pathlib.Path, group: Group, table: Table, found: Found
) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        logging.warning("no plots without matplotlib: pip install robustjax[plot]")
        return
    figure = plotting.accuracy_under_attack(
        {
            found[name]["title"]: {c.title: values for c, values in own.items()}
            for name, own in table.items()
        },
        title=_title(group),
    )
    path = folder / f"accuracies_{group.data}_{group.probe}.png"
    plotting.save(figure, path)
    page.picture(path, f"{_title(group)}: accuracies, bars are standard deviations")
