"""Draws the packages, who imports whom, and the floors that the tests hold.

    python docs/house.py    # writes docs/_static/house.svg

Everything is read from the files: an arrow is an import between two packages, left out
where a longer way of arrows says the same. `tests/house_test.py` compares the drawing.
"""

import ast
import functools
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_ROOT = pathlib.Path(__file__).parent.parent
_PACKAGE = _ROOT / "robustjax"
DRAWING = _ROOT / "docs" / "_static" / "house.svg"
_COLUMNS = {  # where a box stands in its floor
    "hidden_cost": 0, "smoothing": 0, "special": 0, "norms": 1, "semantic": 2,
    "bounds": 2, "contrastive": 3, "attacks": 3, "probes": 4, "synbench": 4,
    "metrics": 4, "results": 5.5, "models": 5.5, "plotting": 6.5, "data": 5.5,
}  # fmt: skip
_EDGE_FLOORS = {"results": 4, "models": 3, "plotting": 3, "data": 2}
_ROOM_COLUMNS = {
    "adaptive": 1, "certification": 1, "assembly": 1, "certificate": 0, "settings": 1,
    "prediction": 2, "confidence": 2, "derivatives": 3, "radii": 0, "sampling": 2,
}  # fmt: skip
_TEXT = 'font-family="sans-serif" fill="#1b2733"'

Imports = Mapping[str, frozenset[str]]


class Box(NamedTuple):
    """One package or module of the drawing, in pixels."""

    name: str
    x: float
    y: float
    width: float
    height: float
    lines: Sequence[str]  # small text below the name
    fill: str

    def svg(self) -> str:
        """The rectangle and its text."""
        middle = self.x + self.width / 2
        texts = [
            f'<rect x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" '
            f'height="{self.height:g}" rx="6" fill="{self.fill}" stroke="#5b6b7a"/>',
            f'<text x="{middle:g}" y="{self.y + 20:g}" font-size="14" '
            f'font-weight="bold" text-anchor="middle" {_TEXT}>{self.name}</text>',
        ]
        for index, line in enumerate(self.lines):
            texts.append(
                f'<text x="{middle:g}" y="{self.y + 35 + 12 * index:g}" '
                f'font-size="10" text-anchor="middle" {_TEXT}>{line}</text>'
            )
        return "\n".join(texts)


class Floors(NamedTuple):
    """What may import what, lowest floor first, as `tests/imports_test.py` holds it."""

    packages: tuple[set[str], ...]
    smoothing: tuple[set[str], ...]  # the rooms of `smoothing`
    edge: set[str]  # packages outside of the floors


@functools.cache
def floors() -> Floors:
    """Reads the floors from the source of the test."""
    tree = ast.parse((_ROOT / "tests" / "imports_test.py").read_text("utf-8"))
    values = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    names = ("_FLOORS", "_SMOOTHING", "_BESIDE")
    return Floors(*(ast.literal_eval(values[name]) for name in names))


@functools.cache
def imports_below(package: str = "") -> Imports:
    """Names in a package -> those of its other names that their files import."""
    prefix = f"robustjax.{package}." if package else "robustjax."
    found: dict[str, set[str]] = {}
    folder = _PACKAGE / package
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).parts[0].removesuffix(".py")
        if name in ("__init__", "__main__"):
            continue
        used = {
            other.removeprefix(prefix).split(".")[0]
            for other in _imported_names(path)
            if other.startswith(prefix)
        }
        found.setdefault(name, set()).update(used - {name})
    return {name: frozenset(used & set(found)) for name, used in found.items()}


@functools.cache
def _imported_names(path: pathlib.Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def arrows(imports: Imports) -> list[tuple[str, str]]:
    """The imports that no longer way of imports implies, in alphabetic order."""

    def reached(name: str) -> set[str]:
        return set(imports[name]).union(*map(reached, imports[name]))

    return [
        (name, used)
        for name in sorted(imports)
        for used in sorted(imports[name])
        if not any(used in reached(other) for other in imports[name])
    ]


def draw() -> str:
    """The text of the SVG file: all packages above, the rooms of smoothing below."""
    levels, smoothing, edge = floors()
    private = levels[0]
    packages = {n: u - private for n, u in imports_below().items() if n not in private}
    floor_of = {name: i for i, names in enumerate(levels) for name in names}
    upper = [
        _box(name, _COLUMNS[name], floor_of.get(name, _EDGE_FLOORS.get(name, 0)))
        for name in sorted(packages)
    ]
    slab = Box(
        ", ".join(sorted(private)),
        20,
        350,
        750,
        40,
        ["any package may import these"],
        "#e4e7eb",
    )
    rooms = imports_below("smoothing")
    room_floor = {name: i for i, names in enumerate(smoothing) for name in names}
    lower = [
        _room(name, _ROOM_COLUMNS[name], room_floor[name]) for name in sorted(rooms)
    ]
    inside = [(a, b) for a, b in arrows(packages) if not (a in edge) > (b in edge)]
    parts = [
        _title("Packages: an arrow points to what is imported", 20, 24),
        _title("edge: may import methods", 856, 50, size=12),
        *_lines(inside, upper),
        *(box.svg() for box in (*upper, slab)),
        _title("Inside of smoothing", 20, 430),
        *_lines(arrows(rooms), lower),
        *(box.svg() for box in lower),
    ]
    return _FRAME.format("\n".join(parts))


def _box(name: str, column: float, floor: int) -> Box:
    folder = _PACKAGE / name
    inside = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    edge = floors().edge
    lines = textwrap.wrap(", ".join(inside), 22)
    fill = "#d9ebfa"
    if name in edge:
        fill = "#f6ead3"
        used = sorted(b for a, b in arrows(imports_below()) if a == name)
        methods = [b for b in used if b not in edge and not b.startswith("_")]
        if methods:
            lines = textwrap.wrap(f"imports {', '.join(methods)}", 22)
    top, height = 60 + 70 * (4 - floor), 28 + 12 * len(lines)
    return Box(name, 20 + 152 * column, top, 140, height, lines, fill)


def _room(name: str, column: int, floor: int) -> Box:
    modules = sorted(
        path.stem
        for path in (_PACKAGE / "smoothing" / name).glob("*.py")
        if path.stem != "__init__"
    )
    lines = textwrap.wrap(", ".join(modules), 44)
    height = 32 + 12 * len(lines)
    top = 450 + 54 * (len(floors().smoothing) - 1 - floor)
    if floor == 0:
        top += 36
    elif floor == 1:  # equal lower edges, so that no arrow crosses a box
        top += 68 - height
    fill = "#d9ebfa" if modules else "#eef5fb"
    return Box(name, 20 + 255 * column, top, 235, height, lines, fill)


def _lines(pairs: Sequence[tuple[str, str]], boxes: Sequence[Box]) -> list[str]:
    by_name = {box.name: box for box in boxes}
    found = []
    for name, used in pairs:
        start, end = by_name[name], by_name[used]
        found.append(
            f'<line x1="{start.x + start.width / 2:g}" y1="{start.y + start.height:g}" '
            f'x2="{end.x + end.width / 2:g}" y2="{end.y - 2:g}" stroke="#5b6b7a" '
            'stroke-width="1.5" marker-end="url(#head)"/>'
        )
    return found


def _title(text: str, x: float, y: float, *, size: int = 16) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" {_TEXT}>{text}</text>'


_FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1180 850" role="img">
<title>The packages of robustjax and the rooms of robustjax.smoothing</title>
<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4"
 orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#5b6b7a"/></marker></defs>
<rect width="1180" height="850" fill="white"/>
{}
</svg>
"""


if __name__ == "__main__":
    DRAWING.parent.mkdir(exist_ok=True)
    DRAWING.write_text(draw(), "utf-8")
    print(f"wrote {DRAWING.relative_to(_ROOT)}")
