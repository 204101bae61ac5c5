"""`python -m robustjax.results`: verify, replay, merge and compare runs."""

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from robustjax.results import logs, recomputation, replay, summaries, tables
from robustjax.results.run_folder import merging

_REFUSED = (ValueError, OSError, ImportError)  # bad arguments, runs, files


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    [host]

    Args:
        arguments: of the command line, by default those of this process.

    Returns:
        The exit status: 0, 1 if `verify` or `replay` found something, 2 for a bad
        argument or run, which is explained in one line on stderr.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except _REFUSED as error:
        print(f"{options.prog}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m robustjax.results", description=__doc__)
    subparsers = parser.add_subparsers(
        required=True, metavar="{verify,replay,merge,compare}"
    )
    _add_verify(subparsers)
    _add_replay(subparsers)
    _add_merge(subparsers)
    _add_compare(subparsers)
    return parser


def _add_verify(subparsers: "argparse._SubParsersAction[_Parser]") -> None:
    parser = subparsers.add_parser(
        "verify", help="recompute bounds and radii from the counts in the rows"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--data_dir", help="data folder (default: that of the flags)")
    parser.add_argument(
        "--without_data", action="store_true", help="do not load the data set"
    )
    parser.set_defaults(command=_verify, prog=parser.prog)


def _add_replay(subparsers: "argparse._SubParsersAction[_Parser]") -> None:
    parser = subparsers.add_parser(
        "replay", help="recompute rows from the model, the data and the seed"
    )
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument(
        "--rows", type=int, default=10, help="rows to draw at random (default: 10)"
    )
    parser.add_argument("--seed", type=int, help="seed of the draw (default: random)")
    parser.add_argument("--data_dir", help="data folder (default: that of the flags)")
    for name, text in (
        ("checkpoint", "folder or safetensors file of the model"),
        ("apply_fn", "package.module:factory of the model"),
        ("onnx", "ONNX file of the model"),
    ):
        parser.add_argument(f"--{name}", help=f"{text}, if it has moved")
    parser.set_defaults(command=_replay, prog=parser.prog)


def _add_merge(subparsers: "argparse._SubParsersAction[_Parser]") -> None:
    parser = subparsers.add_parser("merge", help="merge runs over disjoint examples")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder")
    parser.add_argument("--output", required=True, help="folder to create")
    parser.add_argument(
        "--allow_gaps", action="store_true", help="accept missing examples"
    )
    parser.add_argument(
        "--allow_version_change",
        action="store_true",
        help="accept runs of different software or hardware",
    )
    parser.set_defaults(command=_merge, prog=parser.prog)


def _add_compare(subparsers: "argparse._SubParsersAction[_Parser]") -> None:
    parser = subparsers.add_parser(
        "compare", help="table and curves of certified accuracy, of any tool's logs"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder or log file")
    parser.add_argument(
        "--radii", type=_numbers, default=[], help="comma-separated, e.g. 0,0.25,0.5"
    )
    parser.add_argument("--format", choices=("markdown", "latex"), default="markdown")
    parser.add_argument(
        "--norm",
        default="l2",
        help="l2, l1, linf, subspace:red, zeroth_l1 (order 0 in a run of order 1), "
        "or a name in the header of a log (radius_cohen is cohen); or one a run, "
        "comma-separated (default: l2)",
    )
    parser.add_argument("--names", help="comma-separated names of the runs")
    parser.add_argument("--output", help="file for the curves, e.g. curves.png")
    parser.set_defaults(command=_compare, prog=parser.prog)


def _verify(options: argparse.Namespace) -> int:
    num_findings, is_readable = 0, True
    for run in options.runs:
        try:
            outcome = recomputation.verify_run(
                run, data_dir=options.data_dir, with_data=not options.without_data
            )
        except _REFUSED as error:  # the other runs are verified all the same
            print(f"{options.prog}: {error}", file=sys.stderr)
            is_readable = False
            continue
        num_findings += len(outcome.findings)
        for finding in outcome.findings:
            print(f"{run}: {finding}")
        for text in outcome.unchecked:
            print(f"{run}: not checked: {text}")
        verdict = f"{len(outcome.findings)} problems" if outcome.findings else "agrees"
        print(f"{run}: {outcome.num_rows} rows recomputed from their counts: {verdict}")
    return int(num_findings > 0) if is_readable else 2


def _replay(options: argparse.Namespace) -> int:
    named = {
        name: getattr(options, name) for name in ("checkpoint", "apply_fn", "onnx")
    }
    outcome = replay.replay_run(
        options.run,
        num_rows=options.rows,
        seed=options.seed,
        data_dir=options.data_dir,
        model={name: value for name, value in named.items() if value},
    )
    for finding in outcome.findings:
        print(f"{options.run}: {finding}")
    for reason in outcome.reasons:
        print(f"{options.run}: numbers may differ, as {reason}")
    num_rows = len(outcome.indices)
    verdict = "agree to the bit"
    if outcome.num_exact < num_rows:
        verdict = f"agree, {outcome.num_exact} of them to the bit"
    if outcome.findings:
        verdict = f"{len(outcome.findings)} problems"
    how = "recomputed from model, data and seed"
    if options.rows < num_rows:  # whole batches are computed again
        how += f" ({options.rows} drawn, with the rest of their batches)"
    print(f"{options.run}: {num_rows} rows {how}: {verdict}")
    return int(bool(outcome.findings))


def _merge(options: argparse.Namespace) -> int:
    for run in options.runs:
        if pathlib.Path(run).is_dir():
            logs.read_log(run)  # raises for bad rows, before anything is written
    output = merging.merge_runs(
        options.runs,
        output=options.output,
        allow_gaps=options.allow_gaps,
        allow_version_change=options.allow_version_change,
    )
    log = logs.read_log(output)
    largest = max(float(radius.max()) for radius in log.radii.values())
    radii = tables.radius_grid(largest)
    summaries.write_summary(output, summaries.summarise(log, radii=radii))
    print(f"{output}: {len(log)} rows of {len(options.runs)} runs")
    return 0


def _compare(options: argparse.Namespace) -> int:
    norms = options.norm.split(",")
    if len(norms) not in (1, len(options.runs)):
        raise ValueError(f"Expected --norm to be one norm, or one a run, got {norms}")
    norms = norms * len(options.runs) if len(norms) == 1 else norms
    names = tables.run_names(options.runs)
    if len(set(norms)) > 1:
        names = [f"{name}, {norm}" for name, norm in zip(names, norms, strict=True)]
    if options.names is not None:
        names = options.names.split(",")
    if len(names) != len(options.runs) or len(set(names)) != len(names):
        raise ValueError(f"Expected --names to be one distinct name a run, got {names}")
    runs = {n: logs.read_log(run) for n, run in zip(names, options.runs, strict=True)}
    for name, log in runs.items():
        for line in log.skipped:
            print(f"{name}: passed over {line}", file=sys.stderr)
    table = tables.accuracy_table(runs, norm=norms, radii=options.radii)
    to_text = {"markdown": tables.to_markdown, "latex": tables.to_latex}
    print(to_text[options.format](table))
    if options.output:
        _draw(runs, norms, pathlib.Path(options.output))
    return 0


def _draw(runs: dict[str, logs.Log], norms: Sequence[str], path: pathlib.Path) -> None:
    from robustjax import plotting

    curves = {
        name: (log.correct, tables.radius_by_name(log, norm))
        for (name, log), norm in zip(runs.items(), norms, strict=True)
    }
    shared = norms[0] if len(set(norms)) == 1 else ""
    plotting.save(plotting.certified_accuracy_curve(curves, norm=shared), path)


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"expected radii like 0,0.25,0.5, got {text}")
    return numbers
