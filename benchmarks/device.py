"""`make bench-device`: what one accelerator gives, in at most 12 minutes of its clock.

    python -m benchmarks.device [--seconds=690] [--small] [--output=FILE.json]

Measures the cases of `device_cases` in order of importance. Each row is written as soon
as it is measured, so a run that was stopped resumes after the last one. A case whose
estimate exceeds the time left is dropped, and the table says so. An error in one case
does not stop the others. `--small` is for a CPU: the same cases at a fraction of their
sizes.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import time
import traceback
from collections.abc import Sequence
from typing import Any

import jax

import robustjax
from benchmarks import device_cases

_SECONDS = 690.0  # leaves time to start and to write, within 12 minutes


@dataclasses.dataclass
class Report:
    """Rows of a run on one device, in a JSON file that is replaced after each row."""

    path: pathlib.Path
    setting: dict[str, str]
    rows: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: pathlib.Path, *, small: bool) -> "Report":
        """A new report, or one of the same device, versions and sizes to resume."""
        setting = {
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "robustjax": robustjax.__version__,
            "sizes": "small" if small else "full",
        }
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["setting"] == setting:
                return cls(path, setting, found["rows"])
        return cls(path, setting, {})

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Adds a row and writes the file."""
        self.rows[name] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(
            json.dumps({"setting": self.setting, "rows": self.rows}, indent=2) + "\n",
            encoding="utf-8",
        )
        os.replace(new, self.path)

    def markdown(self, dropped: Sequence[str]) -> str:
        """One table a group of cases with equal columns, the device above all."""
        setting = self.setting
        lines = [f"{setting['device']}, jax {setting['jax']}, {setting['sizes']} sizes"]
        header: list[str] = []
        for name, row in self.rows.items():
            if list(row) != header:
                header = list(row)
                names = " | ".join(["case", *header])
                lines += ["", f"| {names} |", "| --- " * (1 + len(header)) + "|"]
            cells = " | ".join([name, *map(_cell, row.values())])
            lines.append(f"| {cells} |")
        if dropped:
            lines += ["", f"Dropped for want of time: {', '.join(dropped)}."]
        return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def measure(
    report: Report, cases: Sequence[device_cases.Case], *, seconds: float
) -> list[str]:
    """Measures the cases that the report lacks; returns the names of those dropped.

    Args:
        report: where rows go.
        cases: in order of importance.
        seconds: of wall time that may be spent.
    """
    began = time.monotonic()
    dropped = []
    for case in cases:
        if "error" not in report.rows.get(case.name, {"error": None}):
            continue
        if time.monotonic() - began + case.seconds > seconds:
            dropped.append(case.name)
            continue
        try:
            row = case.measure()
        except Exception as error:  # the other cases are still of use
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {error}"[:300]}
        report.add(case.name, row)
        print(f"{time.monotonic() - began:6.1f} s  {case.name}: {row}", flush=True)
        jax.clear_caches()
    return dropped


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=_SECONDS)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", default="runs/bench/device.json")
    options = parser.parse_args()
    report = Report.open(pathlib.Path(options.output), small=options.small)
    cases = device_cases.cases(small=options.small)
    dropped = measure(report, cases, seconds=options.seconds)
    table = report.markdown(dropped)
    report.path.with_suffix(".md").write_text(table, encoding="utf-8")
    print(f"\n{table}\nwritten to {report.path} and {report.path.with_suffix('.md')}")


if __name__ == "__main__":
    main()
