"""Settings of the documentation: `sphinx-build -W --keep-going -b html docs ...`."""

import inspect
import pathlib
import re
import sys

from docutils import nodes
from sphinx.util.docutils import SphinxRole

import robustjax

_HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(_HERE))
import notebook_pages  # noqa: E402, a file of this folder

project = "robustjax"
author = "The robustjax authors"
copyright = author
release = robustjax.__version__
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build"]
bibtex_bibfiles = [
    "../robustjax/references.bib"
]  # also of `python -m robustjax --cite`
bibtex_default_style = "plain"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"robustjax {release}"
html_copy_source = False
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 78
python_use_unqualified_type_names = True
napoleon_custom_sections = ["Guarantee", "Edge cases", "Reference"]
napoleon_use_rtype = False

default_role = "quoted"

_NAME = re.compile(r"[A-Za-z_][\w.]*")
_FIELD = re.compile(r"^    (\w+): [^#\n]+  # (.+)$", re.MULTILINE)
_SHORTER_TYPES = {  # aliases that Python has expanded
    r"~jax[\w.]*\.Array \| ~numpy\.ndarray \| ~numpy\.bool[\w_]* \| ~numpy\.number \| "
    r"bool \| int \| float \| complex": "ArrayLike",
    r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], "
    r"~numpy\.dtype\[~numpy\.(\w+)\]\]": r"NDArray[\1]",
}


class Quoted(SphinxRole):
    """Single backticks, as in Markdown: a link where a name has a target, or code."""

    def run(self):
        if not _NAME.fullmatch(self.text):
            return [nodes.literal(self.rawtext, self.text)], []
        link = self.env.domains["py"].role("obj")
        return link("py:obj", self.rawtext, self.text, self.lineno, self.inliner)


def add_fields(app, what, name, obj, *options_and_lines):
    """Lists the fields of a class by the comments behind them."""
    _, lines = options_and_lines
    if what == "class":
        fields = _FIELD.findall(inspect.getsource(obj))
        lines += [f"* **{field}** -- {comment}" for field, comment in fields] + [""]


def shorten_types(app, what, name, obj, *options_and_signature):
    """Writes ArrayLike and NDArray for what they stand for."""
    _, signature, returned = options_and_signature
    if signature is None:
        return None
    for long, short in _SHORTER_TYPES.items():
        signature = re.sub(long, short, signature)
        returned = returned and re.sub(long, short, returned)
    return signature, returned


def setup(app):
    app.connect("source-read", notebook_pages.replace)
    app.add_role("quoted", Quoted())
    app.connect("autodoc-process-docstring", add_fields)
    app.connect("autodoc-process-signature", shorten_types)
