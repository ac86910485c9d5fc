"""Where the handlers of HTTP and gRPC run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Dispatch(Protocol):
    """Every handler runs through one of these, so that a placement can decide what it costs.

    A stream that merely waits must not wait inside: only its short parts go through here.
    """

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """Run the body of a handler that may wait, and return or raise what it does."""
        ...

    def call(self, handler: Callable[[], None]) -> None:
        """Call a handler that never waits: now, or on the event loop as soon as its turn comes."""
        ...


class DirectDispatch:
    """Runs handlers where they are: on the event loop, costing nothing."""

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """Await the body."""
        return await body()

    def call(self, handler: Callable[[], None]) -> None:
        """Call the handler now."""
        handler()
