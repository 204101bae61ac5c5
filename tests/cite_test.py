"""`python -m robustjax --cite METHOD`, and one bibliography for all that cites."""

import contextlib
import io
import pathlib
import re
import subprocess
import sys

import children
from absl.testing import absltest

import robustjax
from robustjax import __main__ as command

_ROOT = pathlib.Path(__file__).parent.parent
_ARXIV = re.compile(r"\d{4}\.\d{5}")


def _printed(*arguments: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        command.main(arguments)
    return output.getvalue()


class CiteTest(absltest.TestCase):
    def test_each_method_has_the_entry_of_its_paper(self):
        arxiv = {
            "smoothing": "2010.06651",
            "hidden_cost": "2003.01249",
            "semantic": "1912.09533",
            "bounds": "1912.09533",
            "synbench": "2210.02989",
            "probes": "2210.02989",
            "contrastive": "2112.04468",
        }
        for method, number in arxiv.items():
            entry = _printed("--cite", method)
            self.assertRegex(entry, r"\A@\w+\{\w+,\n")
            self.assertEqual(entry.count("{"), entry.count("}"))
            self.assertEqual(_ARXIV.findall(entry), [number])

    def test_without_a_method_they_are_listed(self):
        for arguments in ((), ("--cite",)):
            listed = [line.split()[0] for line in _printed(*arguments).splitlines()]
            self.assertEqual(listed, list(command._PAPERS))
        self.assertLessEqual(set(listed), set(robustjax.__all__))

    def test_other_names_exit_with_one_line_that_lists_the_methods(self):
        error = io.StringIO()
        with contextlib.redirect_stderr(error), self.assertRaises(SystemExit) as stop:
            command.main(["--cite", "lipschitz"])
        self.assertEqual(stop.exception.code, 2)
        self.assertIn("hidden_cost", error.getvalue())
        self.assertEqual(error.getvalue().count("\n"), 1)

    def test_the_command_does_not_load_jax(self):
        code = (
            "import runpy, sys; sys.argv = ['robustjax', '--cite', 'synbench']\n"
            "try: runpy.run_module('robustjax', run_name='__main__')\n"
            "except SystemExit as stop: print(stop.code, 'jax' in sys.modules)"
        )
        output = subprocess.check_output(
            [sys.executable, "-c", code], env=children.environment(), text=True
        )
        self.assertEndsWith(output, "0 False\n")

    def test_citation_file_and_bibliography_name_the_same_papers(self):
        """The other entries have keywords, by which the documentation sorts them."""
        citation = (_ROOT / "CITATION.cff").read_text("utf-8")
        text = (_ROOT / "robustjax" / "references.bib").read_text("utf-8")
        entries = [entry for entry in text.split("\n@") if "keywords =" not in entry]
        cited = {_ARXIV.search(entry)[0] for entry in entries[1:]}
        self.assertLen(cited, 5)
        self.assertEqual(cited, set(_ARXIV.findall(citation)))


if __name__ == "__main__":
    absltest.main()
