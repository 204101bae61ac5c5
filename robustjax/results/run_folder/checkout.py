"""Which code computes the rows: the git commit, and a hash of what differs from it.

Only the package, `robustjax/`, and the scripts, `experiments/`, change rows. Flagfiles
do not count, as a run records its flags.
"""

import hashlib
import pathlib
import subprocess

_CODE = ("robustjax", "experiments", ":(exclude)*.flags")
_NUM_DIGITS = 12  # of the hash


def describe(root: pathlib.Path) -> str:
    """The code in a checkout, "COMMIT" or "COMMIT-dirty-HASH".

    [host] HASH depends on the names and the contents of all files of the package and
    the scripts that differ from the commit, and of Python files there that git does
    not track, but not on other files, such as the documentation.

    Args:
        root: folder that may hold `.git`.

    Returns:
        The text; empty if the folder is no checkout or git does not answer.
    """
    if not (root / ".git").exists():
        return ""
    entries = _status(root)
    commit = next((e.split()[2] for e in entries if e.startswith("# branch.oid")), "")
    paths = sorted(path for entry in entries if (path := _path(entry)))
    if not (commit and paths):
        return commit
    digest = hashlib.sha256()
    for path in paths:
        content = _content(root / path)
        digest.update(f"{path}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
        digest.update(content)
    return f"{commit}-dirty-{digest.hexdigest()[:_NUM_DIGITS]}"


def _status(root: pathlib.Path) -> list[str]:
    """Entries of `git status --porcelain=v2`; none if git does not answer."""
    command = ["git", "--no-optional-locks", "-C", str(root), "status"]
    command += ["--porcelain=v2", "--branch", "-z", "--untracked-files=all"]
    command += ["--no-renames", "--", *_CODE]
    try:
        result = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if result.returncode:
        return []
    return result.stdout.decode("utf-8", "surrogateescape").split("\0")


def _path(entry: str) -> str:
    """The file that an entry names, if it is one of the code."""
    kind = entry[:2]
    if kind == "1 ":  # changed: seven fields before the path
        return entry.split(" ", 8)[8]
    if kind == "u ":  # in conflict: nine fields
        return entry.split(" ", 10)[10]
    return entry[2:] if kind == "? " and entry.endswith(".py") else ""


def _content(path: pathlib.Path) -> bytes:
    """The content of a file; empty if it was removed or cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
