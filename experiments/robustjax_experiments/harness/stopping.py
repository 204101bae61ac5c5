"""Ends a script early, between two units of work.

SIGTERM (SLURM, a machine that is taken away) or the failure of another process asks
for the end. Loops call `check` after each unit of work, and it raises `Stopped`. A
script that reaches no such place in time, in a long batch or compilation, ends where it
is: each row is on the disk before the next one is computed.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

STOPPED = 75  # exit code after SIGTERM: EX_TEMPFAIL of sysexits.h
FAILED = 2
_GRACE = {STOPPED: 20.0, FAILED: 5.0}  # seconds; SLURM kills 30 s after SIGTERM
_SAFE = (
    "all rows that were written are safe, and the same command started again "
    "continues the run"
)


class Stopped(Exception):  # noqa: N818 (no error: it is asked for)
    """The run ends before its work is done, and can be continued.

    Attributes:
        code: exit code of the process, STOPPED or FAILED.
    """

    def __init__(self, reason: str, *, code: int) -> None:
        super().__init__(reason)
        self.code = code


class Stop:
    """A request to end, made in one thread and met by another.

    Attributes:
        asked: the first request.
    """

    def __init__(self) -> None:
        self.asked: Stopped | None = None
        self._is_met = False
        self._ends_process = False

    def ask(self, stopped: Stopped) -> None:
        """Asks for the end, unless it has been asked for."""
        if self.asked is not None:
            return
        self.asked = stopped
        if self._ends_process:
            timer = threading.Timer(_GRACE[stopped.code], self._leave, [stopped])
            timer.daemon = True
            timer.start()

    def check(self) -> None:
        """Raises Stopped if the end has been asked for.

        The process then has all the time it needs, to save a training state.
        """
        if self.asked is not None:
            self._is_met = True
            raise self.asked

    def forget(self) -> None:
        """Takes a request back, when the run that it was for has ended."""
        self.asked, self._is_met = None, False

    @contextlib.contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """Turns SIGTERM into a request while a script runs, in the main thread.

        Requests then end the process if nobody meets them in time.
        """
        # Python calls its handlers between two bytecodes only, so not in a long
        # computation; what it writes to a socket at once a thread can read.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        handler = signal.signal(signal.SIGTERM, lambda *_: None)
        descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=[reader], daemon=True).start()
        self._ends_process = True
        try:
            yield
        finally:
            self._ends_process = False
            self.forget()
            signal.set_wakeup_fd(descriptor)
            signal.signal(signal.SIGTERM, handler)
            writer.close()

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while received := reader.recv(1):
                if received[0] == signal.SIGTERM:
                    self.ask(Stopped("stopped by SIGTERM", code=STOPPED))

    def _leave(self, stopped: Stopped) -> None:
        if self.asked is stopped and not self._is_met:
            report(stopped)
            os._exit(stopped.code)


this_script = Stop()


def report(stopped: Stopped) -> None:
    """Prints why the run ended and how it goes on, in one line on stderr."""
    text = " ".join(str(stopped).split())
    print(f"{sys.argv[0]}: {text}; {_SAFE}", file=sys.stderr, flush=True)


def leave(stopped: Stopped) -> NoReturn:
    """Prints the line and exits with the code."""
    report(stopped)
    sys.exit(stopped.code)
