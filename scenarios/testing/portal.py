"""An event loop in a separate thread, for tests that have no event loop, or have one of their own.

The loop and its thread are anyio's blocking portal. Cancellation is asyncio's, which happens once: anyio
would cancel every further `await`, and nothing could be released or ended properly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from typing import Any, Generic, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")

_END_WITHIN_S = 60.0


class Job(Generic[T]):
    """Work under way in the portal's thread; `result` is its outcome."""

    def __init__(self, portal: BlockingPortal, work: Coroutine[Any, Any, T]) -> None:
        self._portal = portal
        self._tasks: list[asyncio.Task[T]] = []
        self.result: Future[T] = portal.start_task_soon(self._run, work)

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        self._tasks.append(asyncio.ensure_future(work))
        return await self._tasks[0]

    def cancel(self) -> None:
        """Cancel it, and wait (for a minute at most) until everything that it undoes on its way out is
        undone.
        """
        if not self.result.done():
            self._portal.call(lambda: [task.cancel() for task in self._tasks])
            with suppress(CancelledError, Exception):
                self.result.result(_END_WITHIN_S)


class Portal:
    """Runs coroutines in its thread and waits for them. Close it, or the thread stays."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal(name="wedge"))

    def start(self, work: Coroutine[Any, Any, T]) -> Job[T]:
        """Start the coroutine, and do not wait for it."""
        return Job(self._portal, work)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the coroutine. An exception here (Ctrl-C, a test's time limit) cancels it first."""
        job = self.start(work)
        try:
            return job.result.result()
        except BaseException:
            job.cancel()
            raise

    @contextmanager
    def within(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An async context, entered and left by one task of the loop, around code that is not async."""
        entered: Future[T] = Future()
        leave = asyncio.Event()

        async def hold() -> None:
            try:
                async with context as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        job = self.start(hold())
        try:
            yield entered.result()
        finally:
            if not entered.done():  # interrupted while it was being entered
                job.cancel()
            self._portal.call(leave.set)
            with suppress(CancelledError):
                job.result.result(_END_WITHIN_S)

    def close(self) -> None:
        """End the loop and its thread; doing it again does nothing. Contexts must have been left."""
        self._stack.close()
