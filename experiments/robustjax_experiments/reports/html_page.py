"""One self-contained HTML page of text, tables and pictures."""

import base64
import html
import pathlib
from collections.abc import Sequence
from typing import Any

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .86rem;
  font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e5e5e5; }
th { font-weight: 600; background: #f7f7f7; } th:first-child, td:first-child {
  text-align: left; white-space: nowrap; } tr.bad td { background: #fdf0ed; }
img { max-width: 100%; height: auto; } figure { margin: 1rem 0; }
figcaption, .note { color: #555; font-size: .9rem; } summary { cursor: pointer; }
"""


class Page:
    """Collects sections and turns them into one page without references."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, *, is_note: bool = False) -> None:
        """Adds a paragraph."""
        kind = ' class="note"' if is_note else ""
        self._parts.append(f"<p{kind}>{html.escape(text)}</p>")

    def points(self, texts: Sequence[str]) -> None:
        """Adds a list."""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
        self._parts.append(f"<ul>{items}</ul>")

    def table(self, rows: Sequence[dict[str, Any]], *, summary: str = "") -> None:
        """Adds a table whose columns are the keys of its first row.

        Rows with a text in "note" are tinted. With a summary the table is folded.
        """
        if not rows:
            return
        head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
        body = "".join(
            f"<tr{' class=bad' if row.get('note') else ''}>"
            + "".join(f"<td>{html.escape(_text(value))}</td>" for value in row.values())
            + "</tr>"
            for row in rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        if summary:
            table = (
                f"<details><summary>{html.escape(summary)}</summary>{table}</details>"
            )
        self._parts.append(table)

    def picture(self, path: pathlib.Path, caption: str) -> None:
        """Adds a PNG with the picture inside the page."""
        code = base64.b64encode(path.read_bytes()).decode("ascii")
        text = html.escape(caption)
        self._parts.append(
            f'<figure><img alt="{text}" src="data:image/png;base64,{code}">'
            f"<figcaption>{text}</figcaption></figure>"
        )

    def render(self) -> str:
        """The page as text."""
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self._title)}</title><style>{_STYLE}</style></head>"
            f"<body>\n{body}\n</body></html>\n"
        )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
