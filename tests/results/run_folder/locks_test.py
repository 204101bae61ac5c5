"""Tests for the locks of run folders: one start at a time, none of the dead."""

import errno
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import children
from absl.testing import absltest

from robustjax.results.run_folder import locks

_CHILD = f"""
import runpy, sys, time  # the file alone, without JAX
with runpy.run_path({locks.__file__!r})["run_folder"](sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


class RunFolderTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder) / "run"

    def test_a_second_start_is_refused_by_name(self):
        pattern = f"workdir='.*run' is in use .*process {os.getpid()} on "
        with (
            locks.run_folder(self.path),
            self.assertRaisesRegex(ValueError, pattern),
            locks.run_folder(self.path),
        ):
            self.fail("two starts hold one folder")

    def test_processes_of_one_start_hold_a_lock_each(self):
        with (
            locks.run_folder(self.path),
            locks.run_folder(self.path, process_index=1),
            self.assertRaisesRegex(ValueError, "in use"),
            locks.run_folder(self.path, process_index=1),
        ):
            self.fail("two starts hold one folder")

    def test_is_given_back_after_an_error(self):
        with self.assertRaises(KeyError), locks.run_folder(self.path):
            raise KeyError
        with locks.run_folder(self.path):
            pass

    def test_of_another_process_until_it_is_killed(self):
        with subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(self.path)],
            env=children.environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            try:
                self.assertEqual(child.stdout.readline(), "held\n")
                with (
                    self.assertRaisesRegex(ValueError, f"process {child.pid} on "),
                    locks.run_folder(self.path),
                ):
                    self.fail("two starts hold one folder")
            finally:
                child.kill()
            child.wait()
        with locks.run_folder(self.path):
            pass

    def test_systems_without_locks_are_used_without_them(self):
        """A platform that has none, and a file system that knows none."""
        unknown = OSError(errno.ENOLCK, "No locks available")
        for without in (
            mock.patch.dict(sys.modules, fcntl=None),
            mock.patch("fcntl.flock", side_effect=unknown),
        ):
            with without, locks.run_folder(self.path), locks.run_folder(self.path):
                text = (self.path / locks.FILE_NAME).read_text()
            self.assertStartsWith(text, f"process {os.getpid()} on ")


if __name__ == "__main__":
    absltest.main()
