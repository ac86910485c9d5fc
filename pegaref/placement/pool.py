"""The actor on N workers that also run every handler: PegaFlow before the fix.

A handler holds one worker from start to end, and its registry call runs on that worker. So N stuck calls take
all workers, every other handler waits, and the server is dark. With N-1 stuck calls it is lit. The event loop
still drives the handler's coroutine, because its objects belong to the loop. What makes this a pool: the
coroutine starts only when a worker is free, and that worker is blocked until the coroutine ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pegaref.placement.dispatch import Dispatch
from pegaref.placement.local import LocalLink, Work, serve_queue
from pegaref.registry import ActorEvents, Link

Result = TypeVar("Result")


class _Slot:
    """The worker that a handler occupies until it ends. Opened and closed on the event loop."""

    __slots__ = ("inbox", "open")

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self.open = True

    def close(self) -> None:
        self.open = False
        self.inbox.put(None)


_my_slot: contextvars.ContextVar[_Slot | None] = contextvars.ContextVar("pegaref-pool-slot", default=None)


class WorkerPool:
    """N threads that each run one handler at a time. They end with the process, even if stuck."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        # Each callback is called on a worker with its slot, and hands back to the event loop.
        self._handlers: queue.SimpleQueue[Callable[[_Slot], None] | None] = queue.SimpleQueue()
        for number in range(workers):
            threading.Thread(target=self._serve, name=f"worker-{number}", daemon=True).start()

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """Run a handler's body once a worker is free, and keep that worker until the body ends."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[_Slot] = loop.create_future()

        def grant(slot: _Slot) -> None:
            if granted.cancelled():
                slot.close()
            else:
                granted.set_result(slot)

        self._handlers.put(lambda slot: _call_soon(loop, grant, slot))
        try:
            slot = await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                granted.result().close()
            raise
        token = _my_slot.set(slot)
        try:
            return await body()
        finally:
            _my_slot.reset(token)
            slot.close()

    def call(self, handler: Callable[[], None]) -> None:
        """Call the handler on the event loop once a worker is free, and keep that worker until it returns."""
        loop = asyncio.get_running_loop()

        def call_with(slot: _Slot) -> None:
            try:
                handler()
            finally:
                slot.close()

        self._handlers.put(lambda slot: _call_soon(loop, call_with, slot))

    def close(self) -> None:
        """Let idle workers end."""
        for _ in range(self._workers):
            self._handlers.put(None)

    def _serve(self) -> None:
        while (handler := self._handlers.get()) is not None:
            slot = _Slot()
            handler(slot)
            serve_queue(slot.inbox)


class PoolPlacement:
    """Runs registry work on the worker of the handler that asked for it.

    Work that no handler waits for (undoing a register, a cleanup that outlasted its handler) runs on a
    separate thread. Otherwise it could wait for a worker that waits for it.
    """

    name = "pool"

    def __init__(self, device_type: str, workers: int) -> None:
        self.device_type = device_type
        self._pool = WorkerPool(workers)
        self._unattended: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self.dispatch: Dispatch = self._pool
        threading.Thread(
            target=serve_queue, args=(self._unattended,), name="worker-unattended", daemon=True
        ).start()

    def launch(self, device_id: int, epoch: int, events: ActorEvents) -> Link:
        """Make an actor."""
        return LocalLink(device_id, self.device_type, events, asyncio.get_running_loop(), self._run)

    def close(self) -> None:
        """Let idle workers end."""
        self._pool.close()
        self._unattended.put(None)

    def _run(self, work: Work) -> None:
        slot = _my_slot.get()
        if slot is not None and slot.open:
            slot.inbox.put(work)
        else:
            self._unattended.put(work)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[_Slot], None], slot: _Slot) -> None:
    try:
        loop.call_soon_threadsafe(callback, slot)
    except RuntimeError:  # the event loop is closed, and nobody needs the worker any more
        slot.inbox.put(None)
