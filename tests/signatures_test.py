"""Public signatures change on purpose only: tests/golden/api.txt lists them."""

import difflib
import re

import signatures
from absl.testing import absltest

import robustjax


class SignaturesTest(absltest.TestCase):
    def test_signatures_are_those_that_are_noted(self):
        noted = signatures.GOLDEN.read_text("utf-8").splitlines()
        found = signatures.text().splitlines()
        diff = difflib.unified_diff(noted, found, "noted", "found", lineterm="", n=0)
        changes = "\n".join(diff)
        self.assertFalse(
            changes,
            f"\n{changes}\n\nIf the change is deliberate, run "
            "`python tests/signatures.py` and name it in CHANGELOG.md.",
        )

    def test_every_package_has_lines(self):
        packages = re.findall(r"(?m)^(?:class )?(\w+)\.", signatures.text())
        self.assertLessEqual(set(robustjax.__all__), set(packages))


if __name__ == "__main__":
    absltest.main()
