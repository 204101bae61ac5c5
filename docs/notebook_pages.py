"""Pages of the documentation made of the notebooks in `colabs/`, outputs included.

Each page `docs/notebooks/NAME.md` is a placeholder; while Sphinx reads it, its text is
replaced by that of `colabs/NAME.ipynb`. Nothing is executed: the pages show the outputs
that are saved in the notebook.
"""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

_COLABS = pathlib.Path(__file__).parent.parent / "colabs"
_FOLDER = "notebooks/"
_MAGIC = re.compile(r"^%.*\n", re.MULTILINE)


def replace(app: Any, docname: str, source: list[str]) -> None:
    """Replaces the text of a placeholder; an event handler of "source-read"."""
    if docname.startswith(_FOLDER):
        name = docname.removeprefix(_FOLDER)
        source[0] = markdown((_COLABS / f"{name}.ipynb").read_text("utf-8"))


def markdown(notebook: str) -> str:
    """The text of a notebook file as Markdown, images as data in the page."""
    cells = json.loads(notebook)["cells"]
    return "\n".join(part for cell in cells for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    text = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield f"{text}\n"
        return
    yield _fenced(_MAGIC.sub("", text), "python")
    for output in cell["outputs"]:
        shown = output.get("data", {})
        if "image/png" in shown:
            image = "".join(shown["image/png"]).replace("\n", "")
            yield f"![figure](data:image/png;base64,{image})\n"
        else:
            yield _fenced("".join(output.get("text", shown.get("text/plain", ""))))


def _fenced(text: str, language: str = "text") -> str:
    return f"````{{code-block}} {language}\n{text.rstrip()}\n````\n" if text else ""
