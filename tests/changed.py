"""Prints the test files that a change concerns, by what they import.

    python tests/changed.py [REVISION]

The change is what differs from REVISION (default: HEAD, so all that is not committed),
with files that git does not track yet. A test file is concerned if it has changed, or
if anything that it imports from the checkout has, directly or not; all are concerned if
a setting of the suite has changed. Pages and notebooks concern the tests that read
them; modules of the package also concern their own doctests.
"""

import ast
import functools
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).parent.parent
_PLACES = ("", "experiments", "tests")  # where a module of the checkout is found
_SETTINGS = ("pyproject.toml", "conftest.py")  # of every test
_READERS = {  # which tests read files that they do not import
    "": ("tests/prose_test.py",),
    "docs/": ("tests/docs_test.py", "tests/house_test.py"),
    "README.md": ("tests/docs_test.py", "tests/experiments/readme_commands_test.py"),
    "CONTRIBUTING.md": ("tests/docs_test.py",),
    "colabs/": ("tests/colabs_test.py",),
    "experiments/flags/": ("tests/experiments/flagfiles_test.py",),
    "experiments/train.py": ("tests/experiments/training_test.py",),
    "experiments/": ("tests/experiments/readme_commands_test.py",),
    "robustjax/": ("tests/api_test.py", "tests/docs_test.py", "tests/imports_test.py"),
}


def concerned(changed: set[str], root: pathlib.Path = ROOT) -> list[str]:
    """Test files that import or read one of the changed files.

    Args:
        changed: paths relative to the root.
        root: of the checkout.
    """
    tests = {path.relative_to(root).as_posix(): path for path in _test_files(root)}
    if changed & set(_SETTINGS):
        return sorted(tests)
    readers = {
        reader
        for path in changed
        for start, names in _READERS.items()
        if path.startswith(start)
        for reader in names
    }
    importers = {name for name, path in tests.items() if changed & _closure(path, root)}
    modules = {path for path in changed if path.startswith("robustjax/")}
    doctests = {
        path for path in modules if path.endswith(".py") and (root / path).exists()
    }
    return sorted(importers | readers & tests.keys() | doctests)


def _test_files(root: pathlib.Path) -> Iterator[pathlib.Path]:
    return root.glob("tests/**/*_test.py")


@functools.cache
def _closure(test: pathlib.Path, root: pathlib.Path) -> frozenset[str]:
    """Files of the closure of the imports of a test, itself included."""
    places = (*(root / place for place in _PLACES), test.parent)
    waiting = [test]
    seen = set(waiting)
    while waiting:
        new = _imported(waiting.pop(), places) - seen
        seen |= new
        waiting.extend(new)
    return frozenset(path.relative_to(root).as_posix() for path in seen)


@functools.cache
def _imported(
    path: pathlib.Path, places: tuple[pathlib.Path, ...]
) -> frozenset[pathlib.Path]:
    """Files that a file imports, not those that these import."""
    return frozenset(file for name in _imports(path) for file in _files(name, places))


@functools.cache
def _imports(path: pathlib.Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere, `from a import b` as `a.b`."""
    names = set()
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _statements(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Statements at any depth; expressions, which cannot import, are passed over."""
    for node in body:
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, field, ()))


@functools.cache
def _files(name: str, places: tuple[pathlib.Path, ...]) -> frozenset[pathlib.Path]:
    """Files below the places that importing a dotted name runs."""
    found = set()
    for place in places:
        module = place
        for part in name.split("."):
            module /= part
            found |= {module.with_suffix(".py"), module / "__init__.py"}
            if not module.is_dir():
                break
    return frozenset(path for path in found if path.exists())


def _changed(revision: str) -> set[str]:
    """Paths that differ from a revision, and those that git does not track."""

    def lines(*arguments: str) -> Iterator[str]:
        command = ["git", "-C", str(ROOT), *arguments]
        yield from subprocess.check_output(command, text=True).splitlines()

    tracked = lines("diff", "--name-only", revision)
    return {*tracked, *lines("ls-files", "--others", "--exclude-standard")}


if __name__ == "__main__":
    print(*concerned(_changed(*sys.argv[1:2] or ["HEAD"])), sep="\n")
