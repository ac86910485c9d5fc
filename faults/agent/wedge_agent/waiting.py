"""Block a thread in a C call that ends without the help of any other code in the process.

The thread waits in `poll` on the fault's lifeline, whose other end only the controller holds. A controller
that shuts the lifeline down, or dies, makes it readable; the lease's end is the time-out. ctypes.PyDLL
keeps the GIL during a call and ctypes.CDLL gives it up (ctypes documentation, "Loading shared libraries").
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` without its enums
import ctypes
import time

_POLLIN, _POLLRDHUP = 0x1, 0x2000


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


_keeping = ctypes.PyDLL(None).poll
_giving = ctypes.CDLL(None).poll
for _poll in (_keeping, _giving):
    _poll.argtypes = (ctypes.POINTER(_PollFd), ctypes.c_ulong, ctypes.c_int)
    _poll.restype = ctypes.c_int


def wait_for_end(fd: int, until_ns: int, *, keep_gil: bool) -> None:
    """Return when `fd` is readable or closed, or at `until_ns` on the monotonic clock, whichever is first.

    Meanwhile signals with a Python handler are masked: a real C call would not run them either, and the GIL
    would be released between two polls. Other signals (with the default action, or faulthandler's) work as
    usual.
    """
    poll = _keeping if keep_gil else _giving
    waiting = _PollFd(fd, _POLLIN | _POLLRDHUP, 0)
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, handled_in_python())
    try:
        while True:
            left_ns = until_ns - time.monotonic_ns()
            if left_ns <= 0 or poll(ctypes.byref(waiting), 1, left_ns // 1_000_000 + 1) > 0:
                return
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def handled_in_python() -> list[int]:
    """The signals that a Python function handles in this process."""
    return [number for number in _signal.valid_signals() if callable(_signal.getsignal(number))]


async def wait_on_loop(fd: int, for_s: float) -> None:
    """Let a task wait for `for_s` seconds, or until `fd` is readable; its event loop keeps running."""
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        # the other loop with an `async def` to wait in
        import trio  # type: ignore[import-not-found, unused-ignore]

        with trio.move_on_after(for_s):
            await trio.lowlevel.wait_readable(fd)
        return
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(fd, end)
    timer = loop.call_later(max(0.0, for_s), end)
    try:
        await ended
    finally:
        timer.cancel()
        loop.remove_reader(fd)
