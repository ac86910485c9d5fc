"""Where the handlers of HTTP and gRPC run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Dispatch(Protocol):
    """Every handler runs through a dispatch, so that the placement decides where it runs.

    A stream must not wait inside it: only the stream's short working parts go through here.
    """

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """Run the body of a handler that may wait. Returns what the body returns and raises what it
        raises."""
        ...

    def call(self, handler: Callable[[], None]) -> None:
        """Call a handler that never waits, at once or later on the event loop."""
        ...


class DirectDispatch:
    """Runs handlers directly on the event loop, at no cost."""

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """Await the body."""
        return await body()

    def call(self, handler: Callable[[], None]) -> None:
        """Call the handler now."""
        handler()
