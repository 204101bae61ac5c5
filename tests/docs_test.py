"""The documentation: every public name is there, and what it shows is true."""

import contextlib
import importlib
import inspect
import io
import pathlib
import re
from collections.abc import Iterator

import jax
import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_DOCS = _ROOT / "docs"
_PAGES = sorted(page.relative_to(_DOCS).as_posix() for page in _DOCS.rglob("*.md"))
_PACKAGES = (
    "attacks",
    "bounds",
    "contrastive",
    "data",
    "hidden_cost",
    "models",
    "plotting",
    "probes",
    "results",
    "semantic",
    "smoothing",
    "special",
    "synbench",
)
_MODULES = ("norms",)
_FIRST_READ = ("../README.md",)  # whose code every run tries
_DOCUMENTED = re.compile(
    r"^\.\. auto(?:function|class|data|exception):: (\w+)$", re.MULTILINE
)
# A python block, and the text block right behind it, which is what it prints.
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.M | re.S)
_FILE = re.compile(
    r"\b((?:robustjax|experiments|tests|benchmarks|colabs|docs)/[\w/.-]+\.\w+)"
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def _public_names(name: str) -> set[str]:
    module = importlib.import_module(f"robustjax.{name}")
    if name in _PACKAGES:
        return set(module.__all__)
    functions = inspect.getmembers(module, inspect.isfunction)
    return {n for n, f in functions if f.__module__ == module.__name__ and n[0] != "_"}


def _blocks(page: str) -> Iterator[tuple[int, str, str | None]]:
    """Line number, code and expected output of the python blocks of a page."""
    text = (_DOCS / page).read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield line, match[1], match[2]


def _assert_same_output(actual: str, expected: str, where: str) -> None:
    """Equal words and integers; decimals within 5 units of the last digit shown.

    Trained weights, and so the accuracies that they give, differ by platform.
    """
    words = _NUMBER.sub("#", actual).split(), _NUMBER.sub("#", expected).split()
    assert words[0] == words[1], f"{where} printed\n{actual}"
    numbers = zip(_NUMBER.findall(actual), _NUMBER.findall(expected), strict=True)
    for found, shown in numbers:
        decimals = len(shown.partition(".")[2])
        slack = 5 * 10.0**-decimals if decimals else 0
        assert abs(float(found) - float(shown)) <= slack, f"{where} printed\n{actual}"


@pytest.mark.newest
def test_every_public_name_is_in_the_api_reference():
    offenders = []
    for name in (*_PACKAGES, *_MODULES):
        page = (_DOCS / "api" / f"{name}.md").read_text(encoding="utf-8")
        listed, public = _DOCUMENTED.findall(page), _public_names(name)
        assert public, name
        if sorted(listed) != sorted(public):
            offenders.append(f"{name}: {public.symmetric_difference(listed)}")
    assert not offenders


@pytest.mark.parametrize(
    "page",
    [
        page if page in _FIRST_READ else pytest.param(page, marks=pytest.mark.slow)
        for page in ["../README.md", *_PAGES]
        if any(_blocks(page))
    ],
)
def test_python_blocks_run_and_print_what_is_shown(page):
    if page not in _FIRST_READ:
        jax.clear_caches()  # pages share little; together they would fill the memory
    namespace: dict[str, object] = {"__name__": page}
    for line, code, expected in _blocks(page):
        where = f"docs/{page}:{line}"
        output = io.StringIO()
        # The pages show what JAX prints by default, whatever the environment says.
        with contextlib.redirect_stdout(output), jax.enable_x64(False):
            exec(compile("\n" * line + code, where, "exec"), namespace)
        if expected is not None:
            _assert_same_output(output.getvalue(), expected, where)


def test_files_that_a_page_names_exist():
    missing = [
        f"{page}: {name}"
        for page in (*_PAGES, "../README.md", "../CONTRIBUTING.md")
        for name in _FILE.findall((_DOCS / page).read_text(encoding="utf-8"))
        if not (_ROOT / name).exists()
    ]
    assert not missing
