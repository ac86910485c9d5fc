"""A tracer that keeps a process from ending, so that it outlives SIGKILL for as long as a test wants.

The kernel stops a traced thread on its way out, PTRACE_EVENT_EXIT in ptrace(2), also when SIGKILL sent it
there, and there is nothing more that anybody could send it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SEIZE, CONT, DETACH = 0x4206, 7, 17  # <linux/ptrace.h>
O_TRACEEXIT = 0x40
EVENT_EXIT = 6
WALL = 0x40000000
LOOK_EVERY_S = 0.005


class TracingForbidden(Exception):
    """Raised where this process may not trace its children's children."""


class Held:
    """Every thread of the process is held at its end, inside the block. Only descendants can be."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._released = threading.Event()
        self._seized = threading.Event()
        self._failure: OSError | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        self._libc.ptrace.restype = ctypes.c_long
        self._tasks: set[int] = set()
        self.ending: set[int] = set()  # tasks that are held at their end now
        self._thread = threading.Thread(target=self._trace, name=f"tracer-{pid}")

    def __enter__(self) -> Self:
        self._thread.start()
        self._seized.wait()
        if self._failure is not None:
            self._thread.join()
            raise TracingForbidden(str(self._failure)) from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let the process end."""
        self._released.set()
        self._thread.join()

    def _trace(self) -> None:
        """All of it in one thread: to the kernel, that is the tracer, and its end releases what it traces."""
        try:
            for task in Path(f"/proc/{self._pid}/task").iterdir():
                self._ptrace(SEIZE, int(task.name), O_TRACEEXIT)
                self._tasks.add(int(task.name))
        except OSError as error:
            self._failure = error
            return
        finally:
            self._seized.set()
        while not self._released.wait(LOOK_EVERY_S):
            for task_id in self._tasks - self.ending:
                self._look_at(task_id)
        for task_id in self.ending:
            self._ptrace(DETACH, task_id, 0)

    def _look_at(self, task_id: int) -> None:
        found, status = os.waitpid(task_id, os.WNOHANG | WALL)
        if not found or not os.WIFSTOPPED(status):
            return
        if status >> 8 == signal.SIGTRAP | EVENT_EXIT << 8:
            self.ending.add(task_id)
        else:
            number = os.WSTOPSIG(status)
            self._ptrace(CONT, task_id, 0 if number == signal.SIGTRAP else number)

    def _ptrace(self, request: int, task_id: int, data: int) -> None:
        if self._libc.ptrace(request, task_id, None, data) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
