"""Certification by several processes one of which is late, ends, or is killed.

In the default suite the script runs in this process and a light child, without JAX,
plays the other one. The slow tests start real processes.
"""

import contextlib
import dataclasses
import errno
import functools
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

import certify
import children
import numpy as np
import pytest
import run_folders
from absl import flags
from absl.testing import absltest, parameterized
from robustjax_experiments.harness import flags_from_config, peers, processes, stopping
from robustjax_experiments.training import recipe, saved_state

from robustjax import results
from robustjax.results.certification import selection
from robustjax.results.run_folder import locks, rows

_HERE = pathlib.Path(__file__).parent
_SCRIPT = pathlib.Path(certify.__file__)
_SECONDS = peers.Seconds(beat=0.05, silence=0.6, meeting=20)
_PEER = f"""
import sys, time
from robustjax_experiments.harness import peers, stopping
stop = stopping.Stop()
peer = peers.Peers(sys.argv[1], 1, 2, stop=stop, seconds=peers.{_SECONDS})
try:
    peer.wait("folder")
    print("met", flush=True)
    time.sleep(float(sys.argv[2]))
    peer.wait("rows")
except stopping.Stopped as stopped:
    peer.close(stopped)
    stopping.leave(stopped)
peer.close()
"""
_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "rows.tsv")


def _config(folder: pathlib.Path, **changes) -> certify.CertifyConfig:
    options = {
        "workdir": str(folder), "apply_fn": "sample_classifiers:nearest_mean",
        "num_estimation": 2_000, "max_examples": 20, "devices": 1,
    }  # fmt: skip
    return certify.CertifyConfig(**options | changes)


class OneOfTwoTest(parameterized.TestCase):
    """The script as process 0 of 2, in this process."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(run_folders.pictures(are_drawn=False))
        self.enterContext(mock.patch.object(sys, "path", [*sys.path, str(_HERE)]))
        self.enterContext(mock.patch.object(selection, "_SAMPLES_PER_CALL", 16_000))
        self.enterContext(mock.patch.object(stopping, "this_script", stopping.Stop()))
        self.enterContext(mock.patch.object(processes, "_agree", return_value=(0, 2)))
        fast = functools.partial(peers.Peers, seconds=_SECONDS)
        self.enterContext(mock.patch.object(processes, "Peers", fast))

    @contextlib.contextmanager
    def _peer(self, workdir: pathlib.Path, delay: float = 0):
        workdir.mkdir(exist_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", _PEER, str(workdir), str(delay)],
            env=children.environment(_SCRIPT.parent),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            try:
                yield child
            finally:
                child.kill()

    def _restarted(self, workdir: pathlib.Path) -> list[dict[str, str]]:
        """The rows after another start, with this process alone."""
        with mock.patch.object(stopping, "this_script", stopping.Stop()):
            certify.run(_config(workdir))
        self.assertEmpty(results.verify_run(workdir, with_data=False).findings)
        return run_folders.rows(workdir)

    def test_ends_when_the_other_is_killed_and_goes_on_after_a_restart(self):
        certify.run(_config(self.folder / "whole"))
        expected = run_folders.rows(self.folder / "whole")
        workdir = self.folder / "run"
        with self._peer(workdir, delay=60) as child:

            def kill():
                child.stdout.readline()
                child.kill()

            killing = threading.Thread(target=kill)
            killing.start()
            with self.assertRaisesRegex(stopping.Stopped, "process_id 1 .*killed"):
                certify.run(_config(workdir, distributed=True))
            killing.join()
        self.assertEqual(self._restarted(workdir), expected)

    def test_a_full_disk_ends_the_other_with_one_line(self):
        workdir = self.folder / "run"
        with (
            self._peer(workdir) as child,
            mock.patch.object(rows.RowsFile, "append", side_effect=_FULL),
        ):
            with self.assertRaisesRegex(OSError, "No space left"):
                certify.run(_config(workdir, distributed=True))
            _, errors = child.communicate(timeout=20)
        self.assertEqual(child.returncode, stopping.FAILED)
        self.assertRegex(
            errors, r"\A[^\n]*process_id 0 of 2 .*No space left.* safe.*\n\Z"
        )

    def test_a_second_start_in_the_folder_is_refused_before_it_meets_the_others(self):
        workdir = self.folder / "run"
        with (
            locks.run_folder(workdir),
            self.assertRaisesRegex(ValueError, "in use by another start"),
        ):
            certify.run(_config(workdir, distributed=True))
        self.assertEqual([p.name for p in workdir.iterdir()], [".lock"])

    def test_sigterm_ends_it_behind_the_batch_in_work(self):
        workdir = self.folder / "run"
        append = results.RunFolder.append

        def append_and_ask(folder, new_rows):
            append(folder, new_rows)
            stopped = stopping.Stopped("stopped by SIGTERM", code=stopping.STOPPED)
            stopping.this_script.ask(stopped)

        with (
            mock.patch.object(results.RunFolder, "append", append_and_ask),
            self.assertRaisesRegex(stopping.Stopped, "SIGTERM"),
        ):
            certify.run(_config(workdir))
        self.assertBetween(len(run_folders.rows(workdir)), 1, 19)
        self.assertLen(self._restarted(workdir), 20)

    @parameterized.parameters((3, [(2, 2.0), (3, 3.0)]), (2, [(2, 2.0)]), (0, []))
    def test_the_state_after_the_last_whole_epoch_is_saved(self, stopped_after, saved):
        found = []
        with (
            mock.patch.object(
                saved_state,
                "save",
                side_effect=lambda _, epoch, state: found.append((epoch, float(state))),
            ),
            contextlib.suppress(stopping.Stopped),
            saved_state.kept(None, save_every=2, num_epochs=9) as keep,
        ):
            state = np.zeros(())
            for epoch in range(1, stopped_after + 1):
                state += 1  # in its memory, as a step does
                keep(epoch, state)
            state += 1
            raise stopping.Stopped("asked", code=stopping.STOPPED)
        self.assertEqual(found, saved)

    @pytest.mark.slow
    def test_training_goes_on_from_the_last_whole_epoch(self):
        config = recipe.TrainConfig(
            workdir=str(self.folder / "model"),
            model="mlp",
            hidden=4,
            epochs=4,
            max_images=256,
            save_every=10,
        )
        epochs = []

        def ask(row):
            epochs.append(row["epoch"])
            if row["epoch"] == 2:
                stopping.this_script.ask(stopping.Stopped("asked", code=2))

        with self.assertRaisesRegex(stopping.Stopped, "asked"):
            recipe.run(config, on_epoch=ask)
        with mock.patch.object(stopping, "this_script", stopping.Stop()):
            resumed = recipe.run(config, on_epoch=ask)
            whole = recipe.run(
                dataclasses.replace(config, workdir=str(self.folder / "whole"))
            )
        self.assertEqual(epochs, [1, 2, 3, 4])
        self.assertEqual(resumed["loss"], whole["loss"])


class LaunchTest(parameterized.TestCase):
    """What all scripts share: the lock of the folder, and how they end."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def _launched(self, config_class, run, *arguments: str) -> tuple[int, str]:
        """Exit code and stderr of a script, without a process for it."""
        arguments = ("script", f"--workdir={self.folder}", *arguments)

        def run_app(main, *, flags_parser):
            main(flags_parser(list(arguments)))

        with (
            mock.patch.object(flags_from_config, "app", mock.Mock(run=run_app)),
            mock.patch.object(flags_from_config, "jax"),  # whose flags are global
            mock.patch.object(flags_from_config, "_log_briefly"),
            mock.patch.object(sys, "argv", ["script"]),
            contextlib.redirect_stderr(io.StringIO()) as errors,
            self.assertRaises(SystemExit) as caught,
        ):
            values = flags.FlagValues()
            flags_from_config.launch(config_class, run, flag_values=values)
        return caught.exception.code, errors.getvalue()

    @parameterized.parameters(
        (certify.CertifyConfig, "--train=epochs=1"), (recipe.TrainConfig,)
    )
    def test_a_second_start_is_refused_before_anything_is_done(self, *arguments):
        run = mock.Mock()
        with locks.run_folder(self.folder):
            code, errors = self._launched(arguments[0], run, *arguments[1:])
        run.assert_not_called()
        self.assertEqual(code, 2)
        self.assertRegex(errors, r"\A.*in use by another start.*\n\Z")

    def test_sigterm_has_a_code_of_its_own(self):
        def run(config):
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(500):
                time.sleep(0.01)
                stopping.this_script.check()

        code, errors = self._launched(recipe.TrainConfig, run)
        self.assertEqual(code, 75)
        self.assertRegex(errors, r"\A.*stopped by SIGTERM; all rows .* safe.*\n\Z")
        with locks.run_folder(self.folder):  # it has been given back
            pass

    def test_an_interruption_by_the_user_is_one_line(self):
        run = mock.Mock(side_effect=KeyboardInterrupt)
        code, errors = self._launched(recipe.TrainConfig, run)
        self.assertEqual(code, 130)
        self.assertEqual(errors, "\nInterrupted; run it again to continue.\n")


@pytest.mark.slow
class TwoProcessesTest(parameterized.TestCase):
    """Two real processes; what goes wrong in one is arranged by its factory."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.whole = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.workdir = self.folder / "run"

    def _start(self, *flags: str, **environment: str) -> subprocess.Popen:
        command = [
            sys.executable, str(_SCRIPT), "--apply_fn=troubled_classifiers:troubled",
            f"--workdir={self.workdir}", "--num_estimation=20000",
            "--max_examples=40", *flags,
        ]  # fmt: skip
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=children.environment(_HERE, **environment),
        )
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        return child

    def _start_two(self, trouble: str, *, of: int) -> list[subprocess.Popen]:
        """Two processes, one of them in trouble, see `troubled_classifiers`."""
        coordinator = f"--coordinator=localhost:{children.free_port()}"
        shared = ("--distributed", coordinator)
        return [
            self._start(
                *shared,
                "--num_processes=2",
                f"--process_id={index}",
                TROUBLE=trouble if index == of else "",
            )
            for index in range(2)
        ]

    def _rows_of_process(self, index: int) -> pathlib.Path:
        return self.workdir / rows.file_name(index, 2)

    def _wait_for_rows(self, index: int):
        path = self._rows_of_process(index)
        latest = time.monotonic() + 120
        while not path.exists() or path.read_bytes().count(b"\n") < 2:
            self.assertLess(time.monotonic(), latest)
            time.sleep(0.05)

    def _check_line(self, child: subprocess.Popen, code: int, pattern: str):
        """How a process ends: in time, with its code and one line beside the log."""
        _, errors = child.communicate(timeout=40)
        self.assertEqual(child.returncode, code, errors)
        lines = [line for line in errors.splitlines() if not line[:2].isdigit()]
        self.assertLen(lines, 1, errors)
        self.assertRegex(lines[0], pattern)

    def _check_restart(self):
        """Another start, alone, completes the rows of an uninterrupted run."""
        for workdir in (self.workdir, self.whole):
            if not (workdir / "summary.json").exists():
                self.workdir = workdir
                child = self._start()
                _, errors = child.communicate(timeout=300)
                self.assertEqual(child.returncode, 0, errors)
        continued = self.folder / "run"
        self.assertEqual(run_folders.rows(continued), run_folders.rows(self.whole))
        self.assertEmpty(results.verify_run(continued).findings)

    @parameterized.parameters(0, 1)
    def test_waits_for_a_process_that_is_90_seconds_late(self, late):
        for child in self._start_two("late", of=late):
            _, errors = child.communicate(timeout=400)
            self.assertEqual(child.returncode, 0, errors)
        self._check_restart()

    @parameterized.parameters(0, 1)
    def test_kill_of_either_process(self, killed):
        started = self._start_two("slow", of=killed)
        self._wait_for_rows(killed)
        started[killed].send_signal(signal.SIGKILL)
        pattern = rf"process_id {killed} of 2 .*killed or lost.* safe"
        self._check_line(started[1 - killed], stopping.FAILED, pattern)
        self._check_restart()

    @parameterized.parameters(0, 1)
    def test_sigterm_of_either_process(self, ended):
        started = self._start_two("slow", of=ended)
        self._wait_for_rows(ended)
        started[ended].send_signal(signal.SIGTERM)
        self._check_line(started[ended], stopping.STOPPED, "SIGTERM; all rows .* safe")
        pattern = rf"process_id {ended} of 2 .*SIGTERM; all rows .* safe"
        self._check_line(started[1 - ended], stopping.STOPPED, pattern)
        self._check_restart()

    @parameterized.parameters(0, 1)
    def test_a_full_disk_in_either_process(self, full):
        started = self._start_two("full", of=full)
        self._check_line(started[full], 2, "No space left")
        pattern = rf"process_id {full} of 2 .*No space left.* safe"
        self._check_line(started[1 - full], stopping.FAILED, pattern)
        self._check_restart()


if __name__ == "__main__":
    absltest.main()
