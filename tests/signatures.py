"""All public names of the package with their signatures, one a line, from the source.

    python tests/signatures.py    # writes tests/golden/api.txt

Nothing is imported, so that the lines depend neither on the Python nor on the JAX that
is installed: annotations and defaults are as written. A class has a line for itself,
one for each field and one for each public method.
"""

import ast
import functools
import pathlib
from collections.abc import Iterator

_ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = _ROOT / "tests" / "golden" / "api.txt"
_HEADER = "# Public names; after a deliberate change: python tests/signatures.py\n"
_Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


def text() -> str:
    """The text of the golden file."""
    modules = sorted((_ROOT / "robustjax").glob("[a-z]*"))
    lines = [line for path in modules for line in _module_lines(path)]
    return _HEADER + "\n".join(lines) + "\n"


def _module_lines(path: pathlib.Path) -> Iterator[str]:
    """Lines of what the `__all__` of a package names, or of the functions of a file."""
    if path.suffix == ".py":
        prefix = path.stem
        found = {n: d for n, d in _definitions(path).items() if n[0] != "_"}
        definitions = {n: d for n, d in found.items() if isinstance(d, ast.FunctionDef)}
    elif (path / "__init__.py").exists():
        prefix, definitions = path.name, _exported(path / "__init__.py")
    else:
        return
    for name in sorted(definitions):
        yield from _lines(f"{prefix}.{name}", definitions[name])


@functools.cache
def _tree(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _definitions(path: pathlib.Path) -> dict[str, _Definition]:
    found: dict[str, _Definition] = {}
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name):
                        found[name.id] = node
    return found


def _exported(path: pathlib.Path) -> dict[str, _Definition]:
    """Name -> its definition, followed through the imports of `__init__.py`."""
    listed = ast.literal_eval(_definitions(path)["__all__"].value)
    sources = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in _tree(path).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = {}
    for name in listed:
        module, original = sources[name]
        file = _ROOT / f"{module.replace('.', '/')}.py"
        found[name] = _definitions(file)[original]
    return found


def _lines(name: str, definition: _Definition) -> Iterator[str]:
    if isinstance(definition, ast.FunctionDef):
        yield name + _signature(definition)
    elif isinstance(definition, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, definition.bases))
        yield f"class {name}({bases})" if bases else f"class {name}"
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and not _is_private(node.target.id):
                yield f"{name}.{ast.unparse(node)}"
            elif isinstance(node, ast.FunctionDef) and not _is_private(node.name):
                kinds = [ast.unparse(mark) for mark in node.decorator_list]
                marks = "".join(f"@{kind} " for kind in kinds)
                yield f"{marks}{name}.{node.name}{_signature(node)}"
    else:
        yield f"{name} = {ast.unparse(definition.value)}"


def _is_private(name: str) -> bool:
    return name.startswith("_") and name not in ("__init__", "__call__")


def _signature(function: ast.FunctionDef) -> str:
    returned = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"({ast.unparse(function.args)}){returned}"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(text(), "utf-8")
    print(f"wrote {GOLDEN.relative_to(_ROOT)}")
