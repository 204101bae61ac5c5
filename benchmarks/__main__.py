"""`make bench`: prints the tables and writes them as JSON.

`--history` also adds them, with facts of the machine, to `benchmarks/history/`.
"""

import argparse
import json
import pathlib
from typing import Any

import jax

import robustjax
from benchmarks import (
    bound_propagation,
    certification,
    contrastive,
    first_calls,
    memory,
    moments,
    radii,
    records,
    regions,
    semantic,
    synbench,
    torch_loop,
    vnncomp,
)

_TARGET = 1.10
_COLUMNS = {
    "model": "model",
    "dtype": "dtype",
    "input": "input",
    "chunk_size": "chunk",
    "samples_per_second": "samples/s",
    "ratio_to_forward": "time / forward",
    "ratio_to_forward_and_noise": "time / (forward + noise)",
    "ratio_to_forward_loop": "time / loop",
    "ratio_to_forward_loop_and_noise": "time / (loop + noise)",
    "verdict": "<= 1.10 x (forward + noise)",
    "compile_seconds": "compile s",
    "torch_samples_per_second": "torch loop samples/s",
}


def main() -> None:
    """Measures every case of this platform."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default="", help="comma-separated; default: all")
    parser.add_argument("--output", default="runs/bench/bench.json")
    parser.add_argument(
        "--history", action="store_true", help="also add a file to benchmarks/history/"
    )
    options = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}\n", flush=True)
    rows = []
    for case in certification.cases(device.platform):
        if not options.models or case.model in options.models.split(","):
            rows.append(certification.measure(case, rounds=options.rounds))
            rows[-1] |= _torch_figures(case, rounds=options.rounds)
            within = rows[-1]["ratio_to_forward_and_noise"] <= _TARGET
            rows[-1]["verdict"] = "met" if within else "missed"
            print(_line([_cell(rows[-1].get(name)) for name in _COLUMNS]), flush=True)
    further = {
        "moments": moments.measure(options.rounds),
        "radii": radii.measure(options.rounds),
        "regions": regions.measure(options.rounds),
        "bounds": bound_propagation.measure(options.rounds),
        "first calls": first_calls.measure(),
        "vnncomp": vnncomp.measure(),
        "semantic": semantic.measure(),
        "synbench": synbench.measure(options.rounds),
        "contrastive": contrastive.measure(options.rounds),
        "memory": memory.measure(),
    }
    report = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "robustjax": robustjax.__version__,
        "certification": rows,
        **further,
    }
    path = pathlib.Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    cells = [[_cell(row.get(name)) for name in _COLUMNS] for row in rows]
    print("\n" + _table(list(_COLUMNS.values()), cells))
    for name, results in further.items():
        if not results:
            print(f"\n{name}: set ROBUSTJAX_DATA_DIR to measure it")
            continue
        cells = [[_cell(value) for value in row.values()] for row in results]
        print(f"\n{name}\n\n" + _table(list(results[0]), cells))
    print(f"\nwritten to {path}")
    if options.history:
        print(f"written to {records.add({'certification': rows, **further})}")


def _torch_figures(case: certification.Case, *, rounds: int) -> dict[str, Any]:
    """What the reference loop does, where torch and its architecture are there."""
    try:
        speed = torch_loop.samples_per_second(case, rounds=rounds)
    except (ImportError, KeyError):
        return {}
    return {"torch_samples_per_second": speed}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"
    return str(value)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(map(_line, [header, ["---"] * len(header), *rows]))


if __name__ == "__main__":
    main()
