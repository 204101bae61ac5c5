"""SIGTERM: met between two units of work, or the end where the script is."""

import contextlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import children
from absl.testing import absltest
from robustjax_experiments.harness import stopping

_EXPERIMENTS = pathlib.Path(stopping.__file__).parents[2]
_BUSY = """
import hashlib
from robustjax_experiments.harness import stopping
stopping._GRACE[stopping.STOPPED] = 0.3
with stopping.this_script.on_sigterm():
    print("ready", flush=True)
    # In C, for minutes: no handler of Python's runs meanwhile.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


class StoppingTest(absltest.TestCase):
    def test_sigterm_is_met_at_the_next_check(self):
        before = signal.getsignal(signal.SIGTERM)
        stop = stopping.Stop()
        with stop.on_sigterm():
            stop.check()
            os.kill(os.getpid(), signal.SIGTERM)
            latest = time.monotonic() + 5
            while stop.asked is None and time.monotonic() < latest:
                time.sleep(0.01)
            with self.assertRaisesRegex(stopping.Stopped, "SIGTERM") as caught:
                stop.check()
            self.assertEqual(caught.exception.code, 75)
        self.assertIs(signal.getsignal(signal.SIGTERM), before)

    def test_the_first_request_counts(self):
        stop = stopping.Stop()
        for reason in ("first", "second"):
            stop.ask(stopping.Stopped(reason, code=stopping.FAILED))
        with self.assertRaisesRegex(stopping.Stopped, "first"):
            stop.check()

    def test_a_request_ends_the_process_unless_it_was_met(self):
        stop, late = stopping.Stop(), stopping.Stopped("too late", code=7)
        with (
            mock.patch.object(os, "_exit") as ended,
            contextlib.redirect_stderr(io.StringIO()) as errors,
        ):
            stop._leave(late)  # which was not asked for, or taken back
            stop.ask(late)
            ended.assert_not_called()
            stop._leave(late)
            ended.assert_called_once_with(7)
            with self.assertRaises(stopping.Stopped):
                stop.check()
            stop._leave(late)
            ended.assert_called_once()
        self.assertRegex(errors.getvalue(), r"\A[^\n]*: too late; all rows [^\n]*\n\Z")

    def test_a_script_that_is_busy_ends_in_time(self):
        with subprocess.Popen(
            [sys.executable, "-c", _BUSY],
            text=True,
            env=children.environment(_EXPERIMENTS),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as child:
            self.assertEqual(child.stdout.readline(), "ready\n")
            child.send_signal(signal.SIGTERM)
            try:
                _, errors = child.communicate(timeout=20)
            finally:
                child.kill()
        self.assertEqual(child.returncode, stopping.STOPPED)
        self.assertRegex(errors, r"\A[^\n]*SIGTERM; all rows [^\n]*safe[^\n]*\n\Z")


if __name__ == "__main__":
    absltest.main()
