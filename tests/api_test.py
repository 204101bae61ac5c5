"""Rules of signatures and docstrings over every public function of the package."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re

import pytest
from absl.testing import absltest

import robustjax

_MAX_POSITIONAL = 3
_MAX_LINES = 450
_MAX_BODY = 75
_FORBIDDEN = {"rng", "prng_key", "seed_key"}
_SUMMARY = re.compile(r"\.(\s*\[(host|device)\]\.?)?$")
_PAGE = re.compile(r'`(docs/[\w/]+\.md)`((?:,? (?:and )?"[^"]+")*)')
_OPTIONAL = {  # one optional argument whose meaning is plain
    "robustjax.results.commands.main",
    "robustjax.results.run_folder.folder.RunFolder.merge",
    "robustjax.results.logs.Log.radius",
}


def _modules():
    found = pkgutil.walk_packages(robustjax.__path__, prefix="robustjax.")
    names = [info.name for info in found if not info.name.endswith("__main__")]
    return [importlib.import_module(name) for name in names]


def _public_functions():
    """(qualified name, function) of all functions without an underscore."""
    for module in _modules():
        for name, value in vars(module).items():
            is_own = getattr(value, "__module__", None) == module.__name__
            if name.startswith("_") or not is_own:
                continue
            if inspect.isfunction(value):
                yield f"{module.__name__}.{name}", value
            elif inspect.isclass(value):
                for method_name, method in vars(value).items():
                    if inspect.isfunction(method) and not method_name.startswith("_"):
                        yield f"{module.__name__}.{name}.{method_name}", method


def _exported() -> set[str]:
    """Qualified names of the functions in the `__all__` of all packages."""
    names = set()
    for info in pkgutil.iter_modules(robustjax.__path__, prefix="robustjax."):
        module = importlib.import_module(info.name) if info.ispkg else None
        for name in module.__all__ if module else ():
            value = getattr(module, name)
            if inspect.isfunction(value):
                names.add(f"{value.__module__}.{value.__qualname__}")
    return names


def _parameters(signature):
    return [p for p in signature.parameters.values() if p.name != "self"]


def _signature_faults(name, function):
    """What is wrong with the parameters of a function, one line each."""
    signature = inspect.signature(function)
    parameters = _parameters(signature)
    positional = [p for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    names = [p.name for p in parameters]
    if len(positional) > _MAX_POSITIONAL:
        yield f"{len(positional)} positional parameters"
    if _FORBIDDEN & set(names):
        yield f"a random key is called {_FORBIDDEN & set(names)}"
    if "key" in names and (names[0] != "key" or parameters[0].default is not _EMPTY):
        yield "key is not first, or has a default"
    optional = {p.name for p in positional if p.default is not _EMPTY}
    if optional and name not in _OPTIONAL:
        yield f"defaults of {optional}, which are not keyword-only"
    bare = [p.name for p in parameters if p.annotation is _EMPTY]
    if bare or signature.return_annotation is _EMPTY:
        yield f"no annotation of {bare or 'the result'}"


def _docstring_faults(name, function, exported):
    """What is wrong with the docstring of a function, one line each.

    Functions in the `__all__` of a package are documented in full, with an example.
    """
    text = inspect.getdoc(function) or ""
    if not _SUMMARY.search(text.split("\n\n")[0]):
        yield "the summary is no sentence"
    if max(map(len, text.splitlines()), default=0) > 88:
        yield "a line of more than 88 columns"
    if name not in exported:
        return
    signature = inspect.signature(function)
    parameters = _parameters(signature)
    if not re.search(r"\[(host|device)\]", text):
        yield "it does not say [host] or [device]"
    if parameters and "Args:" not in text:
        yield "no section Args"
    for parameter in parameters:
        if f"{parameter.name}:" not in text:
            yield f"{parameter.name} is not described"
    if signature.return_annotation not in (None, "None") and "Returns:" not in text:
        yield "no section Returns"
    if not re.search(r"^Example:\n(.*\n)*? +>>> ", text, re.MULTILINE):
        yield "no Example that runs"


def _docstrings():
    """(where, text in one line) of all docstrings of the package."""
    for path in pathlib.Path(robustjax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                yield f"{path.name}, {getattr(node, 'name', 'module')}", text


_EMPTY = inspect.Parameter.empty


class ApiTest(absltest.TestCase):
    @pytest.mark.newest
    def test_signatures(self):
        functions = dict(_public_functions())
        self.assertGreater(len(functions), 250)
        offenders = [
            f"{name}: {fault}"
            for name, function in functions.items()
            for fault in _signature_faults(name, function)
        ]
        self.assertEmpty(offenders, "\n".join(offenders))

    def test_docstrings(self):
        functions, exported = dict(_public_functions()), _exported()
        self.assertGreater(len(exported), 200)
        self.assertContainsSubset(exported, functions)
        offenders = [
            f"{name}: {fault}"
            for name, function in functions.items()
            for fault in _docstring_faults(name, function, exported)
        ]
        self.assertEmpty(offenders, "\n".join(offenders))

    def test_pages_and_sections_that_docstrings_name(self):
        root = pathlib.Path(robustjax.__file__).parent.parent
        found = [
            (where, root / page, re.findall('"([^"]+)"', sections))
            for where, text in _docstrings()
            for page, sections in _PAGE.findall(text)
        ]
        self.assertGreater(len(found), 30)
        offenders = [f"{w}: no {page}" for w, page, _ in found if not page.exists()]
        offenders += [
            f"{where}: {page.name} has no section {section!r}"
            for where, page, sections in found
            for section in sections
            if page.exists() and f"# {section}\n" not in page.read_text()
        ]
        self.assertEmpty(offenders, "\n".join(offenders))

    def test_files_and_functions_are_short(self):
        root = pathlib.Path(robustjax.__file__).parent.parent
        offenders = []
        for folder in ("robustjax", "experiments", "benchmarks", "tests"):
            for path in (root / folder).rglob("*.py"):
                text = path.read_text()
                num_lines = len(text.splitlines())
                if num_lines > _MAX_LINES:
                    offenders.append(f"{path}: {num_lines} lines")
                if folder == "robustjax":
                    offenders += [
                        f"{path}: {node.name} has {_body_lines(node)} lines"
                        for node in ast.walk(ast.parse(text))
                        if isinstance(node, ast.FunctionDef)
                        and _body_lines(node) > _MAX_BODY
                    ]
        self.assertEmpty(offenders, "\n".join(offenders))


def _body_lines(node: ast.FunctionDef) -> int:
    """Lines of a function below its docstring."""
    first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
    return node.end_lineno - first.lineno + 1


if __name__ == "__main__":
    absltest.main()
