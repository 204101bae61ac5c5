"""Workflows run the actions that were read: each is pinned by its full commit hash."""

import pathlib
import re

from absl.testing import absltest

_WORKFLOWS = pathlib.Path(__file__).parent.parent / ".github" / "workflows"
_USES = re.compile(r"uses: *(.*)")
_PINNED = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40}) # (v\d+(?:\.\d+)+)")


class WorkflowsTest(absltest.TestCase):
    def test_actions_are_pinned_and_one_hash_serves_all_workflows(self):
        hashes = {}
        for path in sorted(_WORKFLOWS.glob("*.yml")):
            for use in _USES.findall(path.read_text("utf-8")):
                found = _PINNED.fullmatch(use)
                self.assertIsNotNone(found, f"{path.name}: {use}")
                action, *pin = found.groups()
                self.assertEqual(hashes.setdefault(action, pin), pin, path.name)
        self.assertIn("actions/checkout", hashes)


if __name__ == "__main__":
    absltest.main()
