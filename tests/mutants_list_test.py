"""The list of mutants fits the code: each is found, and every file has one."""

import pathlib

import mutants
import pytest
from absl.testing import absltest

_PACKAGES = (
    "attacks",
    "bounds",
    "contrastive",
    "hidden_cost",
    "results",
    "semantic",
    "smoothing",
    "synbench",
)


def _modules() -> set[str]:
    """Files of the core that compute anything."""
    folder = mutants.ROOT / "robustjax"
    paths = [path for name in _PACKAGES for path in (folder / name).rglob("*.py")]
    return {
        path.relative_to(mutants.ROOT).as_posix()
        for path in paths
        if path.name not in ("__init__.py", "__main__.py")
        and "def " in path.read_text()
    }


class MutantsListTest(absltest.TestCase):
    @pytest.mark.newest
    def test_each_mutant_is_one_place_and_has_tests(self):
        found = mutants.read()
        self.assertGreaterEqual(len(found), 60)
        self.assertLen({mutant.id for mutant in found}, len(found))
        for mutant in found:
            with self.subTest(mutant.id):
                text = (mutants.ROOT / mutant.file).read_text(encoding="utf-8")
                self.assertEqual(text.count(mutant.old), 1)
                self.assertNotEqual(mutant.old, mutant.new)
                words = mutant.tests.split()  # files, then options of pytest
                paths = [word for word in words if word.startswith("tests/")]
                self.assertNotEmpty(paths)
                for path in paths:
                    self.assertTrue(pathlib.Path(mutants.ROOT, path).exists(), path)

    def test_every_file_of_the_core_has_a_mutant(self):
        running = {m.file for m in mutants.read() if not m.equivalent}
        self.assertEmpty(sorted(_modules() - running))


if __name__ == "__main__":
    absltest.main()
