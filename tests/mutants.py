"""Small faults in the code that the tests must find: prints those that survive.

    python tests/mutants.py [--only=WORD] [--workers=2]

Each line of `mutants.jsonl` is one fault: the text `old` of `file` becomes `new`, and
then a test of `tests` has to fail: files, and options of pytest where a long test is
needed. `claims_too_much` marks those that would make a certificate larger or a bound
tighter than the truth. `equivalent` says why nothing can tell a fault from the
original; those are not run. Faults are made in copies of the checkout, one for each
worker, without real data. Exits with 1 if any fault survives.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parent.parent
LIST = pathlib.Path(__file__).with_suffix(".jsonl")
_SECONDS = 600  # a fault may also make the code run for ever
# Each process forks from one that has imported what takes seconds, but not robustjax.
_PROCESSES = multiprocessing.get_context("forkserver")
_PRELOADED = ["flax.linen", "jax", "jax.numpy", "optax", "pytest", "scipy.stats"]


class Mutant(NamedTuple):
    """A fault, and the tests that have to find it."""

    id: str
    file: str
    old: str
    new: str
    tests: str
    claims_too_much: bool
    equivalent: str = ""


def read() -> list[Mutant]:
    """All faults of the list."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return [Mutant(**json.loads(line)) for line in lines]


def _copy(folder: pathlib.Path) -> pathlib.Path:
    """A copy of the files that git knows, which shares the compiled programs."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.check_output(command, text=True).splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (ROOT / ".jax_cache").mkdir(exist_ok=True)
    (folder / ".jax_cache").symlink_to(ROOT / ".jax_cache")
    return folder


def _run_pytest(copy: pathlib.Path, tests: str) -> None:
    """Runs tests in a copy of the checkout, in a process of their own, silently."""
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    os.environ.pop("ROBUSTJAX_DATA_DIR", None)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests.split()]))


def _outcome(copy: pathlib.Path, tests: str) -> str:
    """`passed`, `failed` or another ending of tests in a copy of the checkout."""
    process = _PROCESSES.Process(target=_run_pytest, args=(copy, tests))
    process.start()
    process.join(_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return f"no end in {_SECONDS} s"
    return {0: "passed", 1: "failed"}.get(process.exitcode, f"exit {process.exitcode}")


def _try(mutant: Mutant, copy: pathlib.Path) -> str:
    """What becomes of the tests of a mutant."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return "is not to be found"
    try:
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        outcome = _outcome(copy, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    return {"passed": "SURVIVED", "failed": "died"}.get(outcome, outcome)


def main() -> int:
    """Tries all mutants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the id, file or tests")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    chosen = [
        mutant
        for mutant in read()
        if not mutant.equivalent
        and any(options.only in word for word in (mutant.id, mutant.file, mutant.tests))
    ]
    started = time.monotonic()
    _PROCESSES.set_forkserver_preload(_PRELOADED)
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(options.workers) as pool,
    ):
        copies: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
        for index in range(options.workers):
            copies.put(_copy(pathlib.Path(folder, str(index))))

        def with_copy(function, argument):
            copy = copies.get()
            try:
                return function(argument, copy)
            finally:
                copies.put(copy)

        # Tests that fail without a fault would find every one.
        targets = sorted({mutant.tests for mutant in chosen})
        sound = pool.map(lambda t: with_copy(lambda x, c: _outcome(c, x), t), targets)
        failing = [t for t, end in zip(targets, sound, strict=True) if end != "passed"]
        survivors = []
        for mutant, end in zip(
            chosen, pool.map(lambda m: with_copy(_try, m), chosen), strict=True
        ):
            print(f"{end:10} {mutant.id:32} {mutant.file}", flush=True)
            if end != "died":
                survivors.append(mutant)
    for target in failing:
        print(f"fails without any fault: {target}")
    for mutant in survivors:
        print(f"survivor: {mutant.id}: {mutant.old!r} -> {mutant.new!r}")
    print(
        f"{len(survivors)} survivors of {len(chosen)} mutants, "
        f"{time.monotonic() - started:.0f} s"
    )
    return bool(survivors or failing)


if __name__ == "__main__":
    sys.exit(main())
