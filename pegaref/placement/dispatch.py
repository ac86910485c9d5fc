"""Where the bodies of HTTP and gRPC handlers run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Dispatch(Protocol):
    """Every handler runs its body through one of these, so that a placement can decide what it costs.

    A stream that merely waits must not wait inside: only its short parts go through here.
    """

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """Run the body and give back what it gives, or raise what it raises."""
        ...


class DirectDispatch:
    """Runs bodies where they are: on the event loop, costing nothing."""

    async def run(self, body: Callable[[], Awaitable[Result]]) -> Result:
        """Await the body."""
        return await body()
