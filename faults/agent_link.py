"""The controller's end of the connection to one agent: requests, answers, and the agent's events."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from faults import procfs
from faults.agent.wedge_agent import protocol
from faults.errors import NotAnswered, ProcessGone
from faults.model import ProcessInfo

log = logging.getLogger(__name__)

_CHUNK_BYTES = 65536
_MESSAGE_LIMIT_BYTES = 16 << 20
_UCRED = struct.Struct("3i")

A = TypeVar("A", bound=protocol.Answer)


def peer(sock: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end, as the kernel knows them (unix(7), SO_PEERCRED)."""
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid


class AgentLink:
    """One agent. `info` is filled in by its hello; `gone` is set when the connection has ended."""

    def __init__(self, sock: socket.socket, on_event: Callable[[AgentLink, protocol.Event], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_event = on_event
        self._outbox: asyncio.Queue[tuple[bytes, tuple[int, ...]]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[protocol.Message]] = {}
        self._number = 0
        self.info = ProcessInfo(0, 0, (), "", 0)
        self.ancestors: tuple[int, ...] = ()
        self.gone = asyncio.Event()

    def identify(self, pid: int, python: str = "", agent_fds: Sequence[int] = ()) -> bool:
        """Set `info`: what the kernel says of the process, and what its agent does.

        False if the process has ended already, so that nothing can be read.
        """
        found = procfs.stat(pid)
        self.info = ProcessInfo(
            pid=pid,
            ppid=found.ppid if found else 0,
            argv=procfs.argv(pid),
            python=python,
            started=found.started if found else 0,
            executable=procfs.executable(pid),
            agent_fds=tuple(agent_fds),
        )
        self.ancestors = procfs.ancestors(pid)
        return found is not None and self.ancestors != ()

    async def serve(self) -> None:
        """Read until the connection ends; the first message, the hello, is handled like any event."""
        loop = asyncio.get_running_loop()
        writing = asyncio.create_task(self._write())
        buffer = b""
        try:
            while received := await loop.sock_recv(self._sock, _CHUNK_BYTES):
                buffer += received
                while len(buffer) >= 4:
                    end = 4 + int.from_bytes(buffer[:4], "big")
                    if end > _MESSAGE_LIMIT_BYTES:
                        raise ValueError(f"a message of {end} bytes")
                    if len(buffer) < end:
                        break
                    envelope, buffer = protocol.Envelope(buffer[4:end]), buffer[end:]
                    self._dispatch(envelope)
        except (OSError, ValueError) as error:
            log.info("agent of process %d: connection ended: %s", self.info.pid, error)
        finally:
            writing.cancel()
            try:
                await asyncio.gather(writing, return_exceptions=True)
            finally:
                self.close()

    def _dispatch(self, envelope: protocol.Envelope) -> None:
        message = envelope.message()
        if isinstance(message, protocol.Event):
            self._on_event(self, message)
            return
        waiting = self._answers.pop(envelope.number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message, fds = await self._outbox.get()
            try:
                while True:
                    try:
                        sent = socket.send_fds(self._sock, [message], fds)
                        break
                    except BlockingIOError:
                        await _writable(loop, self._sock)
                await loop.sock_sendall(self._sock, message[sent:])
            except OSError as error:
                log.info("agent of process %d: cannot be written to: %s", self.info.pid, error)
                return
            finally:
                for fd in fds:
                    os.close(fd)

    async def ask(
        self, request: protocol.Request, expected: type[A], *, within_s: float, fds: Sequence[int] = ()
    ) -> A:
        """Send a request and wait for its answer, of the type `expected`. The link owns `fds` from here on.

        Raises NotAnswered, ProcessGone, `protocol.Refused`.
        """
        if self.gone.is_set():
            for fd in fds:
                os.close(fd)
            raise ProcessGone(self.info.pid, request.NAME)
        self._number += 1
        number = self._number
        body = protocol.encode(request, number=number, fds=len(fds))
        waiting = self._answers[number] = asyncio.get_running_loop().create_future()
        self._outbox.put_nowait((len(body).to_bytes(4, "big") + body, tuple(fds)))
        try:
            async with asyncio.timeout(within_s):
                answer = await waiting
        except TimeoutError:
            raise NotAnswered(self.info.pid, request.NAME, within_s) from None
        finally:
            self._answers.pop(number, None)
        if isinstance(answer, protocol.Refusal):
            raise protocol.Refused(answer.kind, answer.message, answer.near)
        if not isinstance(answer, expected):
            raise protocol.ProtocolError(f"{request.NAME!r} was answered with {answer.NAME!r}")
        return answer

    def close(self) -> None:
        """End the connection; whoever waits for an answer gets ProcessGone."""
        if self.gone.is_set():
            return
        self.gone.set()
        self._sock.close()
        while not self._outbox.empty():
            for fd in self._outbox.get_nowait()[1]:
                os.close(fd)
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(ProcessGone(self.info.pid, "a request"))
        self._answers.clear()


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = loop.create_future()

    def go_on() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sock, go_on)
    try:
        await ready
    finally:
        loop.remove_writer(sock)
