"""The two pipes between the control process and a child: requests one way, answers the other.

There are two pipes instead of a socket pair: on Linux, reading from a unix stream socket also wakes its
writer if the writer waits in recv, as a child does after each answer. That costs two more context switches
per command.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO

RECEIVE_BYTES = 64 * 1024  # what a pipe holds, unless told otherwise


class Pipes:
    """Sends requests whole and in order, however little the pipe takes at a time; passes answers on at once.

    `on_data` is called on the event loop with the bytes read. `on_broken` is called once, with the reason,
    when the child can no longer be reached. The reason is '' if the child closed its end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_data: Callable[[bytes], None],
        on_broken: Callable[[str], None],
    ) -> None:
        """Raises OSError if no descriptors are left; none stays open then."""
        self._loop = loop
        self._on_data = on_data
        self._on_broken = on_broken
        self._unsent = bytearray()
        with ExitStack() as opened:
            self._requests, self._answers = _pipe(opened), _pipe(opened)
            opened.pop_all()
        self._read_fd = self._answers[0].fileno()
        self._write_fd = self._requests[1].fileno()
        self.closed = False

    @property
    def childs_fds(self) -> tuple[int, int]:
        """The child's descriptors: where it reads requests and where it writes answers."""
        return self._requests[0].fileno(), self._answers[1].fileno()

    def watch(self) -> None:
        """Close the child's ends here, now that it has them, and start to read answers."""
        self._requests[0].close()
        self._answers[1].close()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        self._loop.add_reader(self._read_fd, self.read)

    def write(self, data: bytes) -> None:
        """Send the data; the part that the pipe does not take now waits here."""
        if self.closed:
            return
        if self._unsent:
            self._unsent += data
            return
        sent = self._write(data)
        if sent < len(data) and not self.closed:
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._write_fd, self._write_more)

    def read(self) -> None:
        """Pass on what has arrived. The event loop calls this when there is something to read."""
        try:
            data = os.read(self._read_fd, RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(f"no answers can be read: {error.strerror}")
            return
        if data:
            self._on_data(data)
        else:
            self._break("")

    def close(self) -> None:
        """Close both pipes, on which a healthy child exits. Does nothing if they are closed."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._read_fd)
        self._loop.remove_writer(self._write_fd)
        for end in (*self._requests, *self._answers):
            end.close()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._write_fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._break(f"it takes no requests: {error.strerror}")
            return 0

    def _write_more(self) -> None:
        del self._unsent[: self._write(self._unsent)]
        if not self._unsent and not self.closed:
            self._loop.remove_writer(self._write_fd)

    def _break(self, why: str) -> None:
        self.close()
        self._on_broken(why)


def _pipe(opened: ExitStack) -> tuple[FileIO, FileIO]:
    """A new pipe's read end and write end, both closed with the stack."""
    read_fd, write_fd = os.pipe()
    return (
        opened.enter_context(FileIO(read_fd, "r")),
        opened.enter_context(FileIO(write_fd, "w")),
    )
