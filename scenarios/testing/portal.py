"""An event loop in a thread of its own, for tests that are written without one, or have one already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")

_END_WITHIN_S = 60.0


class Portal:
    """Runs coroutines in its thread and waits for them. Close it, or the thread stays."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wedge", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the coroutine. An exception here (Ctrl-C, a test's time limit) cancels it first."""
        tasks: list[asyncio.Task[Any]] = []

        async def known() -> T:
            tasks.extend(task for task in [asyncio.current_task()] if task is not None)
            return await work

        future = asyncio.run_coroutine_threadsafe(known(), self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():  # cancelling the future itself would not wait for what the task undoes
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
                with suppress(CancelledError, Exception):
                    future.result(_END_WITHIN_S)
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

        held = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        try:
            yield entered.result()
        finally:
            if not entered.done():  # interrupted while it was being entered
                self._loop.call_soon_threadsafe(held.cancel)
            self._loop.call_soon_threadsafe(leave.set)
            with suppress(CancelledError):
                held.result(_END_WITHIN_S)

    def close(self) -> None:
        """End the loop and its thread. Contexts must have been left."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_END_WITHIN_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
