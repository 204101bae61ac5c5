"""Run folders, logs of certification runs and tables of them.

A run folder holds `flags.txt`, `versions.json`, `rows.tsv` (one line an example) and
`summary.json`. From the shell:
`python -m robustjax.results {verify,replay,merge,compare}`.
"""

from robustjax.results.logs import Log, read_log
from robustjax.results.recomputation import Verification, verify_run
from robustjax.results.replay import Replay, replay_run
from robustjax.results.run_folder.folder import (
    RunFolder,
    check_run,
    open_run,
    start_run,
)
from robustjax.results.run_folder.merging import merge_runs
from robustjax.results.summaries import summarise
from robustjax.results.tables import accuracy_table, radius_grid, to_latex, to_markdown

__all__ = [
    "Log",
    "Replay",
    "RunFolder",
    "Verification",
    "accuracy_table",
    "check_run",
    "merge_runs",
    "open_run",
    "radius_grid",
    "read_log",
    "replay_run",
    "start_run",
    "summarise",
    "to_latex",
    "to_markdown",
    "verify_run",
]
