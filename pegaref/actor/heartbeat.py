"""The actor's pulse: counters in memory that the control process reads without asking the actor.

Between processes the pulse is a page of a sealed memfd. Neither side can shrink it, so reading it never
blocks or fails.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import threading
from typing import Final

from pegaref.messages import Pulse

PAGE_BYTES: Final = mmap.PAGESIZE
BEAT_EVERY_S: Final = 0.1
TRACEBACK_SIGNAL: Final = signal.SIGUSR2  # makes an actor's process write a traceback of every thread

_BEAT, _STARTED, _FINISHED, _PROGRESS, _TRACEBACK_READY = range(5)


class PulsePage:
    """Eight-byte counters. One process writes them; any process may read them."""

    __slots__ = ("_cells", "_map")

    def __init__(self, shared_fd: int | None = None) -> None:
        """Use the page behind `shared_fd` (which may be closed afterwards), or memory of this process."""
        self._map = mmap.mmap(-1 if shared_fd is None else shared_fd, PAGE_BYTES)
        self._cells = memoryview(self._map).cast("Q")

    def beat(self) -> None:
        """Count a beat, which shows that the actor's interpreter can run a thread."""
        self._cells[_BEAT] += 1

    def begin(self, serial: int) -> None:
        """Record that work on this request has begun."""
        self._cells[_STARTED] = serial

    def finish(self, serial: int) -> None:
        """Record that this request is done and its answer was sent."""
        self._cells[_FINISHED] = serial

    def step(self) -> None:
        """Count a tensor that was mapped or released."""
        self._cells[_PROGRESS] += 1

    def enable_traceback(self) -> None:
        """Record that TRACEBACK_SIGNAL now makes the process write a traceback instead of killing it."""
        self._cells[_TRACEBACK_READY] = 1

    @property
    def traceback_ready(self) -> bool:
        """Whether a traceback may be asked for."""
        return self._cells[_TRACEBACK_READY] == 1

    def read(self) -> Pulse:
        """Read the counters."""
        cells = self._cells
        return Pulse(cells[_BEAT], cells[_STARTED], cells[_FINISHED], cells[_PROGRESS])

    def close(self) -> None:
        """Unmap the memory. The page must not be used afterwards."""
        self._cells.release()
        self._map.close()


def shared_page_fd() -> int:
    """A new zeroed page in a memfd that can be neither shrunk nor grown. The caller closes it."""
    fd = os.memfd_create("pegaref-pulse", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


class Heartbeat:
    """A thread that beats the page at an interval; the beats stop while the interpreter can run no thread."""

    def __init__(self, page: PulsePage, name: str) -> None:
        self._page = page
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end at its next beat, without waiting for it."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(BEAT_EVERY_S):
            self._page.beat()
