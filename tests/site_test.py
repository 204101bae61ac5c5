"""What the documentation is made of besides its pages: notebooks and the gallery."""

import ast
import json
import pathlib

from absl.testing import absltest

from docs import notebook_pages
from robustjax import plotting

_ROOT = pathlib.Path(__file__).parent.parent
_DOCS = _ROOT / "docs"
_MAX_BYTES = 200_000  # of all figures of the gallery
_NO_FIGURES = {"save"}


class NotebooksTest(absltest.TestCase):
    def test_every_notebook_has_a_page(self):
        pages = {path.stem for path in (_DOCS / "notebooks").glob("*.md")}
        notebooks = {path.stem for path in (_ROOT / "colabs").glob("*.ipynb")}
        self.assertEqual(pages, notebooks)

    def test_cells_become_text_code_and_outputs(self):
        outputs = [
            {"output_type": "stream", "text": ["one\n", "two\n"]},
            {"data": {"text/plain": ["<Figure>"], "image/png": ["iVBO", "Rw0K\n"]}},
            {"data": {"text/plain": ["4"]}},
        ]
        cells = [
            {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
            {
                "cell_type": "code",
                "source": ["%matplotlib inline\n", "2 + 2"],
                "outputs": outputs,
            },
        ]
        text = notebook_pages.markdown(json.dumps({"cells": cells}))
        fence = "````"
        self.assertEqual(
            text,
            "# Title\nText.\n\n"
            f"{fence}{{code-block}} python\n2 + 2\n{fence}\n\n"
            f"{fence}{{code-block}} text\none\ntwo\n{fence}\n\n"
            "![figure](data:image/png;base64,iVBORw0K)\n\n"
            f"{fence}{{code-block}} text\n4\n{fence}\n",
        )

    def test_only_pages_of_notebooks_are_replaced(self):
        source = ["text"]
        notebook_pages.replace(None, "index", source)
        self.assertEqual(source, ["text"])
        notebook_pages.replace(None, "notebooks/03_hidden_cost", source)
        self.assertIn("data:image/png;base64,", source[0])


class GalleryTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        tree = ast.parse((_DOCS / "gallery.py").read_text("utf-8"))
        (figures,) = (
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "FIGURES"
        )
        self.names = [name.id for name in figures.elts]

    def test_every_plotting_function_has_a_figure(self):
        self.assertEqual({*self.names} | _NO_FIGURES, set(plotting.__all__))

    def test_figures_are_on_the_page_and_small(self):
        page = (_DOCS / "gallery.md").read_text("utf-8")
        folder = _DOCS / "_static" / "gallery"
        for name in self.names:
            self.assertIn(f"_static/gallery/{name}.png", page)
            self.assertIn(f":pyobject: {name}\n", page)
        there = {path.stem: path.stat().st_size for path in folder.iterdir()}
        self.assertEqual(set(there), set(self.names))
        self.assertLess(sum(there.values()), _MAX_BYTES)


if __name__ == "__main__":
    absltest.main()
