"""Certification across kills, processes and devices: the rows stay the same."""

import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import certify
import children
import jax
import pytest
import run_folders
from absl.testing import absltest, parameterized
from robustjax_experiments.harness import processes

from robustjax import results

_SCRIPT = pathlib.Path(certify.__file__)
_HERE = pathlib.Path(__file__).parent
_FLAGS = ("--num_estimation=20000", "--max_examples=60", "--norms=l2,l1")
_NEAREST_MEAN = "--apply_fn=sample_classifiers:nearest_mean"
_TRAINED = "--train=epochs=2"
_rows = run_folders.rows


def _start(
    workdir, *flags: str, num_devices: int = 1, source: str = _NEAREST_MEAN
) -> subprocess.Popen:
    xla_flags = f"--xla_force_host_platform_device_count={num_devices}"
    environment = children.environment(_HERE, XLA_FLAGS=xla_flags)
    flags = (*_FLAGS, source, f"--workdir={workdir}", *flags)
    command = [sys.executable, str(_SCRIPT), *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _finish(*started: subprocess.Popen) -> None:
    for process in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()


def _wait_for_growth(path: pathlib.Path, process: subprocess.Popen) -> None:
    """Returns as soon as a file grows, or the process that should do it has ended."""
    size = path.stat().st_size if path.exists() else 0
    while process.poll() is None and (not path.exists() or path.stat().st_size <= size):
        time.sleep(0.002)


class HarnessTest(absltest.TestCase):
    def test_processes_that_do_not_meet_are_told_what_to_check(self):
        config = mock.Mock(coordinator="", num_processes=0, process_id=-1)
        failed = mock.patch.object(
            jax.distributed, "initialize", side_effect=RuntimeError("nobody there")
        )
        with (
            failed as initialize,
            mock.patch.object(jax.config, "update"),
            self.assertRaisesRegex(ConnectionError, "--coordinator, .*: nobody there"),
        ):
            processes._agree(config)
        initialize.assert_called_once_with(
            coordinator_address=None, num_processes=None, process_id=None
        )

    def test_a_profile_is_of_what_happens_inside(self):
        with mock.patch.object(jax.profiler, "trace") as trace:
            with processes.profile(""):
                trace.assert_not_called()
            with processes.profile("folder"):
                trace.assert_called_once_with("folder")
                trace.return_value.__exit__.assert_not_called()
        trace.return_value.__exit__.assert_called_once()


@pytest.mark.slow
class ProcessesTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with tempfile.TemporaryDirectory() as folder:
            _finish(_start(folder))
            cls.expected = _rows(folder)

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.assertLen(self.expected, 60)

    def test_killed_five_times_at_random(self):
        """kill -9 while starting, compiling, certifying or writing."""
        rng = random.Random(0)
        workdir = self.folder / "killed"
        for waits_for_a_row in (False, True, True, False, True):
            process = _start(workdir)
            if waits_for_a_row:
                _wait_for_growth(workdir / "rows.tsv", process)
            time.sleep(rng.uniform(0, 0.05 if waits_for_a_row else 2))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.assertEqual(process.returncode, -signal.SIGKILL)
        self.assertBetween(len(_rows(workdir)), 1, len(self.expected) - 1)
        _finish(_start(workdir))
        self.assertEqual(_rows(workdir), self.expected)
        self.assertEmpty(results.verify_run(workdir).findings)

    @parameterized.parameters(2, 4)
    def test_devices(self, num_devices):
        workdir = self.folder / "devices"
        _finish(_start(workdir, f"--devices={num_devices}", num_devices=num_devices))
        self.assertEqual(_rows(workdir), self.expected)

    @parameterized.parameters(_NEAREST_MEAN, _TRAINED)
    def test_two_processes_of_two_devices(self, source):
        expected, fewer = self.expected, ()
        if source == _TRAINED:
            fewer = ("--num_estimation=2000",)  # of a network they cost more
            _finish(_start(self.folder / "one", *fewer, source=source))
            expected = _rows(self.folder / "one")
        workdir = self.folder / "processes"
        port = children.free_port()
        _finish(
            *(
                _start(
                    workdir,
                    *fewer,
                    "--distributed",
                    f"--coordinator=localhost:{port}",
                    "--num_processes=2",
                    f"--process_id={index}",
                    num_devices=2,
                    source=source,
                )
                for index in range(2)
            )
        )
        self.assertLen(list(workdir.glob("rows-*-of-00002.tsv")), 2)
        self.assertEqual(_rows(workdir), expected)
        self.assertEmpty(results.verify_run(workdir).findings)


if __name__ == "__main__":
    absltest.main()
