"""Makes a target's calls: what the suite piles up under a fault, and what it sets up and cleans away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scenarios.errors import CallFailed
from scenarios.spec import Call, GrpcCall, Target

if TYPE_CHECKING:
    from scenarios.traffic.grpc_calls import GrpcCalls
    from scenarios.traffic.http_calls import HttpCalls


class Caller:
    """Makes the calls of one running target, whose file lies in `folder`. Connections are opened when needed
    and kept until `close`.
    """

    def __init__(self, spec: Target, folder: Path, names: Mapping[str, str]) -> None:
        self._names = names
        self._calls = {call.name: call for call in spec.call}
        self._folder = folder
        self._grpc: GrpcCalls | None = None
        self._http: HttpCalls | None = None
        for call in spec.call:  # what they need is loaded now, and not under a fault
            _ = self._grpc_calls() if isinstance(call, GrpcCall) else self._http_calls()

    async def make(self, call: Call, n: int, deadline_s: float | None = None) -> str:
        """Make one call and return what answered, in a few words. A stream that opened within the deadline is
        then held for as long as the call says, and ended.

        Raises `CallFailed`, and `CouldNotRun` for a message that its method does not take.
        """
        filled = {**self._names, "n": str(n)}
        deadline_s = call.deadline_s if deadline_s is None else deadline_s
        if isinstance(call, GrpcCall):
            return await self._grpc_calls().make(call, filled, deadline_s)
        return await self._http_calls().make(call, filled, deadline_s)

    def _grpc_calls(self) -> GrpcCalls:
        if self._grpc is None:
            from scenarios.traffic.grpc_calls import GrpcCalls  # grpc and httpx take long to load

            self._grpc = GrpcCalls(self._folder)
        return self._grpc

    def _http_calls(self) -> HttpCalls:
        if self._http is None:
            from scenarios.traffic.http_calls import HttpCalls

            self._http = HttpCalls()
        return self._http

    def chain(self, call: Call) -> tuple[Call, ...]:
        """What must have succeeded before `call`, first things first; `call` itself is not in it."""
        before: list[Call] = []
        needed = call.needs
        while needed is not None:
            before.insert(0, self._calls[needed])
            needed = self._calls[needed].needs
        return tuple(before)

    async def undo(self, call: Call, n: int, deadline_s: float) -> None:
        """Clean up after `call` and all that it needed, as far as the server lets us. Never raises for
        what the server says: what is left behind is found by the leak check, not here."""
        for done in (call, *reversed(self.chain(call))):
            if done.undo is not None:
                try:
                    await self.make(self._calls[done.undo], n, deadline_s)
                except CallFailed:
                    continue

    async def close(self) -> None:
        """Close every connection; the next call opens new ones."""
        for connections in (self._grpc, self._http):
            if connections is not None:
                await connections.close()
