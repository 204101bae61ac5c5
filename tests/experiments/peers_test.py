"""Processes that share a folder: waiting, failures, kills, leftovers, full disks."""

import errno
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import children
from absl.testing import absltest, parameterized
from robustjax_experiments.harness import peers, stopping

_EXPERIMENTS = pathlib.Path(peers.__file__).parents[2]
_SECONDS = peers.Seconds(beat=0.05, silence=0.6, meeting=1.5)
_CHILD = f"""
import sys, time
from robustjax_experiments.harness import peers, stopping
peers.Peers(sys.argv[1], 1, 2, stop=stopping.Stop(), seconds=peers.{_SECONDS})
print("ready", flush=True)
time.sleep(60)
"""


class PeersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def _peer(self, index: int, count: int = 2, **changes) -> peers.Peers:
        options = {"stop": stopping.Stop(), "seconds": _SECONDS} | changes
        peer = peers.Peers(self.folder, index, count, **options)
        self.addCleanup(peer.close)
        return peer

    def _wait_is_refused(self, peer: peers.Peers, name: str, *, within: float):
        began = time.monotonic()
        late = stopping.Stopped("too late", code=stopping.FAILED)
        timer = threading.Timer(within, peer._stop.ask, [late])
        timer.start()
        with self.assertRaises(stopping.Stopped) as caught:
            peer.wait(name)
        timer.cancel()
        self.assertLess(time.monotonic() - began, within)
        return caught.exception

    def test_waits_longer_than_a_silence_for_a_live_process(self):
        first, second = self._peer(0), self._peer(1)
        passed = threading.Event()
        delay = 2 * _SECONDS.meeting

        def late():
            time.sleep(delay)
            second.wait("model")
            passed.set()

        thread = threading.Thread(target=late)
        began = time.monotonic()
        thread.start()
        first.wait("model")
        self.assertGreaterEqual(time.monotonic() - began, delay)
        thread.join()
        self.assertTrue(passed.is_set())

    def test_the_others_learn_which_process_failed_and_why(self):
        first, second, third = (self._peer(i, 3) for i in range(3))
        second.close(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "rows.tsv"))
        for peer in (first, third):
            stopped = self._wait_is_refused(peer, "rows", within=1)
            self.assertIn("process_id 1 of 3", str(stopped))
            self.assertIn("OSError: [Errno 28] No space left", str(stopped))
            self.assertEqual(stopped.code, stopping.FAILED)
            peer.close(stopped)

    def test_an_interruption_by_the_user_is_told_as_such(self):
        first, second = self._peer(0), self._peer(1)
        first.close(KeyboardInterrupt())
        stopped = self._wait_is_refused(second, "rows", within=1)
        self.assertIn("process_id 0 of 2 processes was interrupted", str(stopped))
        self.assertEqual(stopped.code, stopping.STOPPED)
        second.close(stopped)

    def test_the_cause_is_passed_on(self):
        first, second = self._peer(0), self._peer(1)
        first.close(ValueError("two\nlines"))
        second.close(self._wait_is_refused(second, "rows", within=1))
        content = pathlib.Path(self.folder, ".processes", "00001-of-00002.json")
        self.assertIn('"who": 0', content.read_text())
        self.assertIn("two lines", content.read_text())

    def test_an_error_right_after_the_start_is_believed(self):
        second = self._peer(1)
        closing = threading.Thread(target=second.close, args=[ValueError("early")])
        closing.start()
        first = self._peer(0)
        self.assertIn("early", str(self._wait_is_refused(first, "model", within=1)))
        closing.join()

    def test_a_killed_process_is_lost(self):
        with subprocess.Popen(
            [sys.executable, "-c", _CHILD, self.folder],
            env=children.environment(_EXPERIMENTS),
            stdout=subprocess.PIPE,
        ) as child:
            try:
                child.stdout.readline()
                first = self._peer(0)
                time.sleep(5 * _SECONDS.beat)
            finally:
                child.kill()
            stopped = self._wait_is_refused(first, "rows", within=2)
        self.assertRegex(str(stopped), "process_id 1 of 2 .*killed or lost")

    def test_sigterm_of_another_process(self):
        first, stop = self._peer(0), stopping.Stop()
        self._peer(1, stop=stop)
        stop.ask(stopping.Stopped("stopped by SIGTERM", code=stopping.STOPPED))
        stopped = self._wait_is_refused(first, "rows", within=1)
        self.assertRegex(str(stopped), "process_id 1 of 2 .*SIGTERM")
        self.assertEqual(stopped.code, stopping.STOPPED)

    @parameterized.parameters(None, ValueError("of yesterday"))
    def test_leftovers_of_an_earlier_start_are_not_believed(self, error):
        earlier = [self._peer(0), self._peer(1)]
        waiting = threading.Thread(target=earlier[1].wait, args=["model"])
        waiting.start()
        earlier[0].wait("model")
        waiting.join()
        for peer in earlier:
            peer.close(error)
        first = self._peer(0)
        passed = threading.Event()

        def wait():
            first.wait("model")
            passed.set()

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(10 * _SECONDS.beat)
        self.assertFalse(passed.is_set())
        self._peer(1).wait("model")
        thread.join(timeout=5)
        self.assertTrue(passed.is_set())

    def test_a_process_that_never_answers(self):
        stopped = self._wait_is_refused(self._peer(0), "model", within=4)
        self.assertRegex(str(stopped), "process_id 1 .*did not answer")

    def test_a_process_that_ended_elsewhere(self):
        first, second = self._peer(0), self._peer(1)
        second.close()
        stopped = self._wait_is_refused(first, "rows", within=1)
        self.assertIn("process_id 1 ended and never came to rows", str(stopped))

    @parameterized.parameters("é", "\x01", "\udcff", "🙂")
    def test_files_keep_their_size_so_that_a_full_disk_can_be_reported(self, character):
        first, second = self._peer(0), self._peer(1)
        files = list(pathlib.Path(self.folder, ".processes").iterdir())
        sizes = [file.stat().st_size for file in files]
        second.close(ValueError(character * 10_000))
        self._wait_is_refused(first, "rows", within=1)
        self.assertEqual([file.stat().st_size for file in files], sizes)


if __name__ == "__main__":
    absltest.main()
