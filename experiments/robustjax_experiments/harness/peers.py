"""Processes that share a run folder: who is alive, who failed, who has come how far.

Each process keeps one file in the folder, which a thread rewrites every second:

    token    of this process and this start, at random
    seen     tokens that it has read in the files of the others
    beat     a number that grows as long as the process lives
    reached  names of the points that it has come to
    end      how it ended: {"who", "why", "code"}; code 0 if its work is done

A reader believes a file only if `seen` holds the reader's own token: what an earlier
start left behind cannot know it. Times of two machines are never compared: a process
is lost if its beat has not changed for some seconds of the reader's clock. Files keep
their size, so that a full disk does not silence a process that has to report it.
"""

import contextlib
import dataclasses
import json
import pathlib
import secrets
import threading
import time
from typing import Any

from absl import logging
from robustjax_experiments.harness.stopping import FAILED, STOPPED, Stop, Stopped

_FOLDER = ".processes"
_REASON = 600  # bytes that are passed on; JSON may write six for one


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Intervals and time limits of the processes that watch each other, in seconds."""

    beat: float = 1.0
    silence: float = 15.0  # after which a process is lost
    meeting: float = 60.0  # in which all have to answer first


class _Other:
    """Another process, as its file tells."""

    def __init__(self, index: int, path: pathlib.Path) -> None:
        self.index = index
        self.token = ""
        self.is_met = False
        self.reached: list[str] = []
        self.end: dict[str, Any] | None = None
        self.changed = time.monotonic()  # when its beat did
        self._path = path
        self._beat = -1

    def read(self, own_index: int, own_token: str) -> None:
        """Takes over what is new; a file that is just being written is no news."""
        try:
            record = json.loads(self._path.read_bytes())
            self.token, answered = record["token"], record["seen"][own_index]
        except (OSError, ValueError, KeyError, IndexError):
            return
        if answered != own_token:
            return
        if record["beat"] != self._beat:
            self._beat, self.changed = record["beat"], time.monotonic()
        self.is_met = True
        self.reached, self.end = record["reached"], record["end"]


class Peers:
    """This process among those that share a run folder, from its start to its end."""

    def __init__(
        self,
        workdir: str | pathlib.Path,
        index: int,
        count: int,
        *,
        stop: Stop,
        seconds: Seconds = Seconds(),
    ) -> None:
        """Shows that this process is alive, from now on.

        Args:
            workdir: the run folder; exists.
            index: of this process, in [0, count).
            count: how many processes share the run.
            stop: is asked to end this process when another one has failed.
            seconds: how long to wait.

        Raises:
            OSError: if the folder cannot be written.
        """
        self._stop = stop
        self._seconds = seconds
        self._index, self._count = index, count
        folder = pathlib.Path(workdir, _FOLDER)
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{i:05d}-of-{count:05d}.json" for i in range(count)]
        self._path = paths[index]
        self._record: dict[str, Any] = {
            "token": secrets.token_hex(4), "seen": [""] * count, "beat": 0,
            "reached": [], "end": None,
        }  # fmt: skip
        self._size = 4096 + 16 * count
        self._others = [_Other(i, p) for i, p in enumerate(paths) if i != index]
        self._failure: dict[str, Any] | None = None
        self._began = time.monotonic()
        self._is_closed = False
        self._wake = threading.Event()
        self._path.write_bytes(self._content())
        self._thread = threading.Thread(target=self._keep_alive, daemon=True)
        self._thread.start()

    def wait(self, name: str) -> None:
        """Returns when all processes have come here, however long that takes.

        Args:
            name: of the place, used once.

        Raises:
            Stopped: if another process failed, was killed, or ended elsewhere.
        """
        self._record["reached"] = [*self._record["reached"], name]
        self._wake.set()
        missing = self._missing(name)
        if missing:
            logging.info("waiting for process_id %s: %s", missing, name)
        while self._missing(name):
            self._stop.check()
            for other in self._others:
                if other.end is not None and name not in other.reached:
                    reason = f"process_id {other.index} ended and never came to {name}"
                    raise Stopped(reason, code=FAILED)
            time.sleep(min(0.1, self._seconds.beat))

    def close(self, error: BaseException | None = None) -> None:
        """Tells the others how this process ended: well, or by an error."""
        latest = time.monotonic() + 10 * self._seconds.beat
        while not all(other.is_met for other in self._others):
            if time.monotonic() > latest:  # that one never came
                break
            time.sleep(min(0.1, self._seconds.beat))  # else it would not believe us
        self._is_closed = True
        self._wake.set()
        self._thread.join(timeout=10 * self._seconds.beat)
        self._record["end"] = self._failure or self._end(error)
        with contextlib.suppress(OSError):
            self._write()

    def _missing(self, name: str) -> list[int]:
        return [other.index for other in self._others if name not in other.reached]

    def _end(self, error: BaseException | None) -> dict[str, Any]:
        if error is None:
            return {"who": self._index, "why": "", "code": 0}
        if isinstance(error, Stopped):
            why, code = f"was {error}", error.code
        elif isinstance(error, KeyboardInterrupt):
            why, code = "was interrupted", STOPPED
        else:
            text = " ".join(str(error).split())
            why, code = f"failed: {type(error).__name__}: {text}", FAILED
        why = why.encode(errors="replace")[:_REASON].decode(errors="ignore")
        return {"who": self._index, "why": why, "code": code}

    # What the thread does.

    def _keep_alive(self) -> None:
        while not self._is_closed:
            for other in self._others:
                other.read(self._index, self._record["token"])
                self._record["seen"][other.index] = other.token
            if self._failure is None:
                self._failure = self._failed()
                if self._failure is not None:
                    self._stop.ask(
                        Stopped(
                            f"process_id {self._failure['who']} of {self._count} "
                            f"processes {self._failure['why']}",
                            code=self._failure["code"],
                        )
                    )
            if self._stop.asked is not None:  # nobody has to wait until it is met
                self._record["end"] = self._failure or self._end(self._stop.asked)
            with contextlib.suppress(OSError):  # the others note that it is silent
                self._write()
            self._wake.wait(self._seconds.beat)
            self._wake.clear()

    def _failed(self) -> dict[str, Any] | None:
        """The end of the first process that did not end well; who, why and code."""
        for other in self._others:
            if other.end is not None:
                if other.end["code"]:
                    return other.end
                continue
            silent = time.monotonic() - (other.changed if other.is_met else self._began)
            if other.is_met and silent > self._seconds.silence:
                why = f"was killed or lost: no sign of life for {silent:.0f} s"
                return {"who": other.index, "why": why, "code": FAILED}
            if not other.is_met and silent > self._seconds.meeting:
                why = f"did not answer in {silent:.0f} s; do all see one folder?"
                return {"who": other.index, "why": why, "code": FAILED}
        return None

    def _write(self) -> None:
        self._record["beat"] += 1
        with self._path.open("r+b") as file:
            file.write(self._content())

    def _content(self) -> bytes:
        text = json.dumps(self._record, ensure_ascii=False)
        return text.encode().ljust(self._size)
