"""A crowd of connections to one address: opened a few at a time, and again when the server closes one."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from scenarios.spec import HttpProbe, Probe
from scenarios.spec.placeholders import fill
from scenarios.traffic.load import sockets
from scenarios.traffic.load.messages import UP_WITHIN_S, Tally

_OPENERS = 32
_CONNECT_WITHIN_S = 5.0
_TAKEN_WITHIN_S = 2.0
_LOOK_EVERY_S = 0.02
_AGAIN_HZ = 100.0
"""How often a second a connection is opened again. A server that closes what is too many for it would
otherwise be met by a storm of connects, which is another load than the one that was asked for."""

_NO_LINGER = struct.pack("ii", 1, 0)
_SAID_SHOWN = 3


class Address(NamedTuple):
    """Where a probe goes."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, probe: Probe, names: Mapping[str, str]) -> Address:
        """The address of a probe whose placeholders have these values."""
        if isinstance(probe, HttpProbe):
            parts = urlsplit(fill(probe.url, names))
            tls = parts.scheme == "https"
            return cls(parts.hostname or "127.0.0.1", parts.port or (443 if tls else 80), tls)
        host, _, port = fill(probe.address, names).rpartition(":")
        return cls(host.strip("[]") or "127.0.0.1", int(port), False)


class Member(asyncio.Protocol):
    """One connection of a crowd. A kind of load says what it does when it is made."""

    transport: asyncio.Transport
    local_port = 0

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Closed by a reset: an orderly end would leave thousands of sockets waiting in the kernel.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.local_port = sock.getsockname()[1]
        self.crowd.made(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.crowd.lost(self)


class Crowd:
    """`count` connections for as long as it lasts. A connection that the server closes is counted, and
    opened again, at most a hundred a second of them; so is one that could not be made."""

    def __init__(self, address: Address, count: int, make: Callable[[Crowd], Member]) -> None:
        self.address, self.count = address, count
        self.descriptors = count
        self.members: dict[Member, None] = {}
        self.closed = self.tried = self.made_ever = self.least_open = 0
        self._make = make
        self._wanted = asyncio.Semaphore(count)
        self._again_s = 0.0
        self._said: Counter[str] = Counter()
        self._all_tried, self._all_gone = asyncio.Event(), asyncio.Event()
        self._settled = 0
        self._ending = False
        self._openers: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Open all; returns when each has been tried once and the server has taken them from its backlog, at
        the latest after `UP_WITHIN_S`."""
        self._openers = [asyncio.create_task(self._open()) for _ in range(min(_OPENERS, self.count))]
        with suppress(TimeoutError):
            async with asyncio.timeout(UP_WITHIN_S):
                await self._all_tried.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_TAKEN_WITHIN_S):
                while True:  # there is no event for another process's accept
                    if self.up():
                        return
                    await asyncio.sleep(_LOOK_EVERY_S)

    def up(self) -> bool:
        """Whether the server has taken every open connection from its backlog, as far as can be seen."""
        tally = self.tally()
        return tally.accepted is None or tally.accepted >= tally.established

    def watch(self) -> None:
        """The fewest that are open at once are counted from here."""
        self.least_open = len(self.members)

    def tally(self) -> Tally:
        """What there is of it; what is said and done on the connections is for their kind to add."""
        seen = sockets.count(self.address.port, {member.local_port for member in self.members})
        return Tally(
            started=self.tried,
            answered=self.made_ever,
            errors=self._said.total(),
            open=len(self.members),
            least_open=self.least_open,
            closed=self.closed,
            established=seen.established,
            accepted=seen.accepted,
            said=tuple(f"{text} (x{times})" for text, times in self._said.most_common(_SAID_SHOWN)),
        )

    async def stop(self) -> None:
        """Close all of them; returns when they are closed."""
        self._ending = True
        for opener in self._openers:
            opener.cancel()
        await asyncio.gather(*self._openers, return_exceptions=True)
        for member in tuple(self.members):
            member.transport.abort()
        if self.members:
            await self._all_gone.wait()

    async def clean_up(self, within_s: float) -> tuple[str, ...]:
        """A connection leaves nothing behind."""
        return ()

    def made(self, member: Member) -> None:
        """A connection is there."""
        self.members[member] = None
        self.made_ever += 1

    def lost(self, member: Member) -> None:
        """A connection is gone."""
        self.members.pop(member, None)
        if self._ending:
            if not self.members:
                self._all_gone.set()
        else:
            self.closed += 1
            self.least_open = min(self.least_open, len(self.members))
            self._wanted.release()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        tls = _unverified() if self.address.tls else None
        while True:
            await self._wanted.acquire()
            self.tried += 1
            if self.tried > self.count:
                self._again_s = max(time.monotonic(), self._again_s + 1 / _AGAIN_HZ)
                await asyncio.sleep(self._again_s - time.monotonic())
            try:
                async with asyncio.timeout(_CONNECT_WITHIN_S):
                    await loop.create_connection(
                        lambda: self._make(self), self.address.host, self.address.port, ssl=tls
                    )
            except (OSError, TimeoutError) as error:
                self._said[str(error) or "no connection within 5 s"] += 1
                self._wanted.release()
            self._settled += 1
            if self._settled >= self.count:
                self._all_tried.set()


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
