"""The code of a checkout: its commit, and what differs from it."""

import pathlib
import shutil
import subprocess
import tempfile
from unittest import mock

import pytest
from absl.testing import absltest

from robustjax.results.run_folder import checkout


def _git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=b", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@absltest.skipIf(shutil.which("git") is None, "needs git")
class CheckoutTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name in (
            "robustjax/a.py",
            "robustjax/sub/b.py",
            "experiments/c.py",
            "experiments/flags/d.flags",
            "docs/e.md",
            "README.md",
        ):
            self.write(name, name)
        _git(self.root, "init", "--quiet")
        self.write(".gitignore", "robustjax/ignored.py\n")
        _git(self.root, "add", ".")
        _git(self.root, "commit", "--quiet", "-m", "first")
        self.commit = _git(self.root, "rev-parse", "HEAD")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @pytest.mark.newest
    def test_clean(self):
        self.assertEqual(checkout.describe(self.root), self.commit)
        self.assertLen(self.commit, 40)
        for name in (
            "README.md",
            "docs/e.md",
            "docs/new.py",
            "tool.py",
            "robustjax/ignored.py",
            "robustjax/notes.txt",
            "experiments/flags/d.flags",
        ):
            self.write(name, "other")
        self.assertEqual(checkout.describe(self.root), self.commit)

    def test_each_difference_has_its_hash(self):
        def described(name, text):
            path = self.root / name
            old = path.read_text() if path.exists() else None
            path.unlink(missing_ok=True)
            if text is not None:
                self.write(name, text)
            found = checkout.describe(self.root)
            self.assertRegex(found, f"^{self.commit}-dirty-[0-9a-f]{{12}}$")
            path.unlink(missing_ok=True)
            if old is not None:
                self.write(name, old)
            return found

        different = (
            ("robustjax/a.py", "1"), ("robustjax/a.py", "2"), ("robustjax/a.py", None),
            ("robustjax/sub/b.py", "1"), ("experiments/c.py", "1"),
            ("robustjax/new file.py", "1"), ("robustjax/new file.py", "2"),
            ("experiments/sub/new.py", "1"),
        )  # fmt: skip
        found = [described(*change) for change in different]
        self.assertLen(set(found), len(different))
        self.assertEqual(described(*different[0]), found[0])
        self.assertEqual(checkout.describe(self.root), self.commit)
        self.write("robustjax/a.py", "1")
        _git(self.root, "add", ".")  # staged or not
        self.assertEqual(checkout.describe(self.root), found[0])
        _git(self.root, "config", "diff.noprefix", "true")
        _git(self.root, "config", "status.showUntrackedFiles", "no")
        self.assertEqual(checkout.describe(self.root), found[0])

    def test_conflict(self):
        first = _git(self.root, "branch", "--show-current")
        _git(self.root, "branch", "other")
        for branch, text in (("other", "1"), (first, "2")):
            _git(self.root, "checkout", "--quiet", branch)
            self.write("robustjax/a.py", text)
            _git(self.root, "commit", "--quiet", "-am", text)
        with self.assertRaises(subprocess.CalledProcessError):
            _git(self.root, "merge", "other")
        self.assertIn("-dirty-", checkout.describe(self.root))

    def test_without_git(self):
        self.assertEqual(checkout.describe(self.root / "robustjax"), "")
        with mock.patch.dict("os.environ", {"PATH": ""}):
            self.assertEqual(checkout.describe(self.root), "")
        shutil.rmtree(self.root / ".git")
        (self.root / ".git").mkdir()  # of no checkout
        self.assertEqual(checkout.describe(self.root), "")
        expired = subprocess.TimeoutExpired("git", 30)
        with mock.patch.object(subprocess, "run", side_effect=expired):
            self.assertEqual(checkout.describe(self.root), "")


if __name__ == "__main__":
    absltest.main()
