"""Which test files a change concerns."""

import pathlib
import tempfile
from unittest import mock

import changed
import pytest
from absl.testing import absltest


class ChangedTest(absltest.TestCase):
    def _concerned(self, *paths):
        return changed.concerned(set(paths))

    @pytest.mark.newest
    @pytest.mark.slow
    def test_imports_are_followed_through_packages_helpers_and_scripts(self):
        found = self._concerned("robustjax/bounds/ibp.py")
        self.assertContainsSubset(
            [
                "robustjax/bounds/ibp.py",
                "tests/bounds/methods_test.py",
                "tests/semantic/search_test.py",
                "tests/experiments/verify_linf_test.py",
            ],
            found,
        )
        self.assertNotIn("tests/contrastive/losses_test.py", found)
        helper = self._concerned("tests/worst_cases.py")
        self.assertIn("tests/smoothing/radii/dual_test.py", helper)
        self.assertNotIn("tests/bounds/methods_test.py", helper)
        script = self._concerned("experiments/synbench.py")
        self.assertIn("tests/experiments/synbench_run_test.py", script)
        self.assertNotIn("tests/experiments/contrastive_run_test.py", script)

    def test_settings_concern_every_test(self):
        everything = {
            path.relative_to(changed.ROOT).as_posix()
            for path in changed.ROOT.glob("tests/**/*_test.py")
        }
        self.assertEqual(set(self._concerned("conftest.py")), everything)

    @mock.patch.object(changed, "_closure", new=mock.Mock(return_value=frozenset()))
    def test_pages_concern_the_tests_that_read_them(self):
        """Without imports, which take a second to read and lead to modules alone."""
        self.assertEqual(
            self._concerned("docs/bounds.md"),
            ["tests/docs_test.py", "tests/house_test.py", "tests/prose_test.py"],
        )
        self.assertIn(
            "tests/experiments/flagfiles_test.py",
            self._concerned("experiments/flags/digits.flags"),
        )
        self.assertEqual(self._concerned("LICENSE"), ["tests/prose_test.py"])

    def test_deep_imports_and_deleted_files(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {
                "tests/a_test.py": "from pkg import one",
                "tests/b_test.py": "import helper",
                "tests/helper.py": "def f():\n    import pkg.two.deep\n",
                "pkg/__init__.py": "",
                "pkg/one.py": "",
                "pkg/two/__init__.py": "",
                "pkg/two/deep.py": "",
            }.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            for path, expected in {
                "pkg/one.py": ["tests/a_test.py"],
                "pkg/two/deep.py": ["tests/b_test.py"],
                "pkg/__init__.py": ["tests/a_test.py", "tests/b_test.py"],
                "robustjax/gone.py": [],
            }.items():
                with self.subTest(path):
                    self.assertEqual(changed.concerned({path}, root), expected)


if __name__ == "__main__":
    absltest.main()
