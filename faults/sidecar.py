"""The controller's side of the sidecar, the process that acts on the target from outside and undoes that."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from faults.agent import AGENT_DIRECTORY
from faults.agent.wedge_agent.protocol import Done, Event, Hello, Ping
from faults.agent_link import AgentLink

log = logging.getLogger(__name__)

_START_WITHIN_S = 10.0
_END_WITHIN_S = 10.0
_CODE = "import sys; sys.path.insert(0, {path!r}); from wedge_agent.sidecar import main; main(sys.argv[1:])"


class Sidecar:
    """Starts the sidecar when it is first needed, and again if it was killed.

    The sidecar speaks the agents' protocol and outlives the controller until it has undone its faults; then
    it removes the controller's `directory()`. `on_lost` is called when its connection has ended.
    """

    def __init__(
        self,
        directory: Callable[[], Path],
        *,
        on_event: Callable[[AgentLink, Event], None],
        on_lost: Callable[[AgentLink], Awaitable[None]],
    ) -> None:
        self._directory, self._on_event, self._on_lost = directory, on_event, on_lost
        self._link: AgentLink | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()

    async def link(self) -> AgentLink:
        """The connection to it, once it answers. Raises NotOpen, NotAnswered, ProcessGone."""
        async with self._starting:
            if self._link is None or self._link.gone.is_set():
                self._process, sock = await _start(self._directory())
                self._link = AgentLink(sock, self._on_message)
                serving = asyncio.create_task(self._serve(self._link))
                self._serving.add(serving)
                serving.add_done_callback(self._serving.discard)
                await self._link.ask(Ping(), Done, within_s=_START_WITHIN_S)
            return self._link

    def _on_message(self, link: AgentLink, event: Event) -> None:
        if isinstance(event, Hello):
            link.identify(event.pid, event.python)
        else:
            self._on_event(link, event)

    async def _serve(self, link: AgentLink) -> None:
        try:
            await link.serve()
        finally:
            await self._on_lost(link)

    async def stop(self) -> None:
        """Close the connection and wait until the sidecar has undone its faults and exited; kill it if that
        takes too long.
        """
        if self._process is None:
            return
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        try:
            async with asyncio.timeout(_END_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            log.error("the sidecar %d does not end, and is killed", self._process.pid)
            self._process.kill()
            await self._process.wait()
        self._process = None


async def _start(directory: Path) -> tuple[asyncio.subprocess.Process, socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", "-c", _CODE.format(path=str(AGENT_DIRECTORY)),
            str(theirs.fileno()), str(directory),
            pass_fds=(theirs.fileno(),), start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    return process, ours
