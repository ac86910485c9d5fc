"""stdout and stderr that nobody has to read: whatever the other end does, no write to them waits.

A pipe that nobody reads, or a terminal that ^S has stopped, takes no more after some kilobytes, and the
next `write(2)` to it would stand for as long. So `open_streams` opens what stdout and stderr are once more,
without blocking, and puts it in their places. That changes nothing for others who have the same pipe or
terminal, since whether a write waits belongs to what was opened; and it holds for all that is written here,
also by C libraries, by faulthandler and by child processes.

Lines that are not taken wait in memory, up to BACKLOG_BYTES, and a thread hands them over once they are.
More are lost, and counted, and when the reader is back the log says how many. What C code writes then is
lost without being counted.

Where the same thing cannot be opened again (a socket, another user's pipe), a pipe of this process takes
its place, and a thread passes on what comes through it. Files are left as they are: they take everything,
or fail at once.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import io
import mmap
import os
import select
import stat
import sys
import termios
import threading
import time
from collections import deque
from typing import Final

BACKLOG_BYTES: Final = 256 * 1024
FINISH_WITHIN_S: Final = 0.5
_LONGEST_LINE: Final = 64 * 1024  # characters; what is longer goes out in parts
_RETRY_S: Final = 0.02
_CELLS: Final = mmap.PAGESIZE // 8

_streams: list[LineStream] = []


class LostLines:
    """Counts of lost lines in memory that a process shares with its children: each has a cell of its own."""

    def __init__(self, fd: int | None = None, *, cell: int = 0) -> None:
        """Count in a cell of the memory behind `fd`, or make new memory."""
        if fd is None:
            fd = os.memfd_create("pegaref-lost-lines", os.MFD_CLOEXEC)
            os.ftruncate(fd, mmap.PAGESIZE)
        self.fd = fd
        self._cells = memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("Q")
        self._cell = cell % _CELLS

    def add(self, lines: int) -> None:
        """Count lines that this process lost."""
        self._cells[self._cell] += lines

    @property
    def total(self) -> int:
        """All lines that were lost, here and in the children."""
        return sum(self._cells)


class LineStream(io.TextIOBase):
    """A text stream whose writes do not wait. `fd` is non-blocking, or takes everything."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int, lost: LostLines) -> None:
        self._fd = fd
        self._lost = lost
        self._lock = threading.RLock()  # held for no longer than a write that does not wait
        self._line = ""  # what came without its end
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._untold = 0  # lost lines of which the log has not told yet
        self._writer: threading.Thread | None = None
        self._ended = False

    def writable(self) -> bool:
        """Always true."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._fd)

    def write(self, text: str) -> int:
        """Write whole lines, or have them wait, or lose them; the start of a line waits for its end."""
        with self._lock:
            lines, end, self._line = (self._line + text).rpartition("\n")
            if len(self._line) > _LONGEST_LINE:
                lines, end, self._line = lines + end, self._line, ""
            if data := (lines + end).encode(self.encoding, self.errors):
                self._put(data)
        return len(text)

    def flush(self) -> None:
        """Does nothing: lines are on their way as soon as they are whole. `finish` waits for them."""

    def finish(self, within_s: float) -> None:
        """Have what waits written, if it is taken within the time."""
        end_s = time.monotonic() + within_s
        if self._line:
            self.write("\n")
        while self._backlog and time.monotonic() < end_s:
            with self._lock:
                self._write_backlog()
            time.sleep(0.001)
        self._ended = True
        if self._writer is not None:
            self._writer.join(0.1 + _RETRY_S)

    def _put(self, data: bytes) -> None:
        if self._writer is None and (self._backlog or self._untold):
            self._write_backlog()
        full = self._backlog and self._backlog_bytes + len(data) > BACKLOG_BYTES
        if full or self._untold:
            self._lose(data)
        else:
            self._backlog.append(data)
            self._backlog_bytes += len(data)
            if self._writer is None and not self._write_backlog():
                self._start_writer()

    def _lose(self, data: bytes) -> None:
        lines = data.count(b"\n")
        self._untold += lines
        self._lost.add(lines)

    def _write_backlog(self) -> bool:
        """Write what waits, and then how many lines were lost after it. False if not all of it was taken."""
        try:
            while self._backlog:
                data = self._backlog[0]
                written = os.write(self._fd, data)
                self._backlog_bytes -= written
                if written < len(data):
                    self._backlog[0] = data[written:]
                else:
                    self._backlog.popleft()
            if untold := self._untold:
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                # At most PIPE_BUF bytes are taken whole or not at all.
                os.write(
                    self._fd, f"{now} WARNING {__name__}: {untold} lines were lost: nobody read\n".encode()
                )
                self._untold = 0
        except BlockingIOError:
            return False
        except OSError:  # nobody will ever read it, or the disk is full
            for data in self._backlog:
                self._lose(data)
            self._backlog.clear()
            self._backlog_bytes = 0
        return True

    def _start_writer(self) -> None:
        if not self._ended:
            writer = threading.Thread(target=self._write_later, name="log", daemon=True)
            self._writer = writer
            try:
                writer.start()
            except RuntimeError:  # no thread is to be had now: the next line tries again
                self._writer = None

    def _write_later(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not self._ended:
            ready = poll.poll(100)
            with self._lock:
                if ready and self._write_backlog():
                    self._writer = None
                    return
            if ready:
                time.sleep(_RETRY_S)  # there was room, but not for all


class _Pump:
    """A thread that passes on what comes through a pipe of this process, and waits wherever it has to."""

    def __init__(self, fd: int, lost: LostLines) -> None:
        self._to = os.dup(fd)
        self._lost = lost
        self._from, self.writing_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.writing_end, False)
        self._busy = False
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def finish(self, within_s: float) -> None:
        """Return when all was passed on, or the time is up."""
        end_s = time.monotonic() + within_s
        # In this order: what is not waiting any more was read by a thread that was busy by then.
        while (_waiting_bytes(self._from) or self._busy) and time.monotonic() < end_s:
            time.sleep(0.001)

    def _run(self) -> None:
        come = select.poll()
        come.register(self._from, select.POLLIN)
        while come.poll():
            self._busy = True
            data = os.read(self._from, 64 * 1024)
            if not data:
                return
            try:
                while data:
                    data = data[os.write(self._to, data) :]
            except OSError:
                self._lost.add(data.count(b"\n"))
            self._busy = False


_pumps: list[_Pump] = []
_lost: LostLines | None = None


def open_streams(shared: LostLines | None = None) -> LostLines:
    """Replace stdout and stderr by streams that never wait.

    A child is given its part of what its parent counts in; its descriptors are the parent's, which do not
    wait already.
    """
    global _lost
    for fd in (1, 2):
        _open_if_closed(fd)
    lost = _lost = shared or LostLines()
    for fd, name in ((1, "stdout"), (2, "stderr")):
        if shared is None:
            _replace(fd, lost)
        stream = LineStream(fd, lost)
        _streams.append(stream)
        setattr(sys, name, stream)
    atexit.register(finish)
    return lost


def lost_lines() -> int:
    """How many lines this process and its children have lost; 0 where the streams are as they were."""
    return 0 if _lost is None else _lost.total


def lost_lines_fd() -> int | None:
    """What a child needs to count in the same memory; None where the streams are as they were."""
    return None if _lost is None else _lost.fd


def finish(within_s: float = FINISH_WITHIN_S) -> None:
    """Have what was logged written before the process ends, as far as it is taken within the time."""
    end_s = time.monotonic() + within_s
    waiting: list[LineStream | _Pump] = [*_streams, *_pumps]
    for each in waiting:
        each.finish(max(0.0, end_s - time.monotonic()))


def _replace(fd: int, lost: LostLines) -> None:
    """Put something in the place of the descriptor that is the same and does not wait."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return
    try:
        own = _open_again(fd, mode)
    except OSError:
        pump = _Pump(fd, lost)
        _pumps.append(pump)
        own = pump.writing_end
    os.dup2(own, fd)
    os.close(own)


def _open_if_closed(fd: int) -> None:
    """Keep a closed descriptor's number from becoming a connection's, which would get the log."""
    try:
        os.fstat(fd)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, fd)
        if nowhere != fd:
            os.close(nowhere)


def _open_again(fd: int, mode: int) -> int:
    """Open what is behind the descriptor. Raises OSError where that cannot be."""
    path = f"/proc/self/fd/{fd}"
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(path, os.O_WRONLY | flags)
    except OSError as error:
        if error.errno != errno.ENXIO or not stat.S_ISFIFO(mode):
            raise
    reader = os.open(path, os.O_RDONLY | flags)  # a pipe opens for writing only where there is a reader
    try:
        return os.open(path, os.O_WRONLY | flags)
    finally:
        os.close(reader)


def _waiting_bytes(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)
