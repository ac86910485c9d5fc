"""The server that is kept from scenario to scenario."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from scenarios.errors import CouldNotRun
from scenarios.server.environment import Say
from scenarios.server.server import Server, serving
from scenarios.spec import LoadedTarget


class Held:
    """One server at a time (two may not fit on a GPU), ended with the context. It is replaced when it is not
    as good as new any more, or when another target is asked for. `say` is told what takes long."""

    def __init__(self, say: Say | None = None) -> None:
        self._say = say
        self._stack = AsyncExitStack()
        self._server: Server | None = None
        self._failures: dict[Path, CouldNotRun] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._let_go()

    async def server(self, target: LoadedTarget) -> Server:
        """A server of the target. Raises `TargetFailed`, also when it failed to start before: what did not
        start once is not tried again for every scenario.
        """
        held = self._server
        if held is not None and held.usable and held.target.path == target.path:
            return held
        await self._let_go()
        if target.path in self._failures:
            raise self._failures[target.path]
        try:
            self._server = await self._stack.enter_async_context(serving(target, self._say))
        except CouldNotRun as error:
            self._failures[target.path] = error
            raise
        return self._server

    async def _let_go(self) -> None:
        self._server = None
        await self._stack.aclose()
