"""Loads that are made of connections to one address: idle ones, and slow ones that never end a request.

They are opened a few at a time, and opened again when the server closes one. How many of them the server has
accepted is read from the kernel, outside of both ends.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from scenarios.address import http_url, place
from scenarios.spec import CommandProbe, HttpProbe, Probe
from scenarios.spec.loads import Idle, SlowLoris
from scenarios.spec.placeholders import fill
from scenarios.traffic.load.messages import UP_WITHIN_S, LoadTally

_OPENERS = 32
_CONNECT_WITHIN_S = 5.0
_TAKEN_WITHIN_S = 2.0
_LOOK_EVERY_S = 0.02
_AGAIN_HZ = 100.0
"""How often a second a connection is opened again. A server that closes what is too many for it would
otherwise be met by a storm of connects, which is another load than the one that was asked for."""

_NO_LINGER = struct.pack("ii", 1, 0)
_SAID_SHOWN = 3
_TURNS = 10
"""The connections take turns, so that their bytes come spread over the time between two of one connection."""

_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x3f\xfc\x04\x00\x00\x00\x00\x00"
"""HTTP/2's connection preface (RFC 9113, 3.4) and the head of a SETTINGS frame of 16,380 bytes."""

_ESTABLISHED = "01"
_LOCAL, _REMOTE, _STATE, _INODE = 1, 2, 3, 9


class Address(NamedTuple):
    """Host and port that a probe connects to, and whether over TLS."""

    host: str
    port: int
    tls: bool

    @classmethod
    def of(cls, probe: Probe, names: Mapping[str, str]) -> Address:
        """The address of a probe whose placeholders have these values."""
        if isinstance(probe, HttpProbe):
            url = http_url(fill(probe.url, names))
            return cls(url.place.host, url.place.port, url.tls)
        assert not isinstance(probe, CommandProbe)
        at = place(fill(probe.address, names))
        return cls(at.host, at.port, False)


class LoadConnection(asyncio.Protocol):
    """One connection of a load. A kind of load says what it does when it is made."""

    transport: asyncio.Transport
    local_port = 0

    def __init__(self, load: ConnectionLoad) -> None:
        self.load = load

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Closed by a reset: an orderly end would leave thousands of sockets waiting in the kernel.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.local_port = sock.getsockname()[1]
        self.load.made(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)


class ConnectionLoad:
    """`count` connections for as long as it lasts. A connection that the server closes is counted, and
    opened again, at most a hundred a second of them; so is one that could not be made."""

    def __init__(
        self, address: Address, count: int, make: Callable[[ConnectionLoad], LoadConnection]
    ) -> None:
        self.address, self.count = address, count
        self.descriptors = count
        self.members: dict[LoadConnection, None] = {}
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

    def tally(self) -> LoadTally:
        """What there is of it; what is said and done on the connections is for their kind to add."""
        seen = count_ends(self.address.port, {member.local_port for member in self.members})
        return LoadTally(
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

    def made(self, member: LoadConnection) -> None:
        """A connection is there."""
        self.members[member] = None
        self.made_ever += 1

    def lost(self, member: LoadConnection) -> None:
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


class IdleConnections(ConnectionLoad):
    """An `idle` load: a crowd that does nothing. It does not even shake hands where the probe is TLS."""

    def __init__(self, load: Idle, probe: Probe, names: Mapping[str, str]) -> None:
        super().__init__(Address.of(probe, names)._replace(tls=False), load.count, LoadConnection)


class _SlowConnection(LoadConnection):
    """One connection, and how far it has come."""

    sent = 0

    def send(self, head: bytes) -> None:
        """The next byte of the head; after it, more of the same for ever."""
        at = self.sent
        self.transport.write(head[at : at + 1] or head[-1:])
        self.sent += 1


class SlowConnections(ConnectionLoad):
    """A `slow-loris` load."""

    def __init__(self, load: SlowLoris, probe: Probe, names: Mapping[str, str]) -> None:
        super().__init__(Address.of(probe, names), load.count, _SlowConnection)
        self._head = _head(probe, names)
        self._every_s = load.every_s
        self._sent = 0
        self._sending: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Make them all, and begin to send."""
        self._sending = asyncio.create_task(self._send())
        await super().begin()

    def up(self) -> bool:
        """Whether every connection has sent its first byte, too."""
        return not self.tally().silent and super().up()

    def tally(self) -> LoadTally:
        """What is open, and how many bytes were sent."""
        silent = sum(not member.sent for member in self.members if isinstance(member, _SlowConnection))
        return msgspec.structs.replace(super().tally(), sent_bytes=self._sent, silent=silent)

    async def stop(self) -> None:
        """Send nothing more, and close them all."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        await super().stop()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for turn in itertools.cycle(range(_TURNS)):
            for member in itertools.islice(tuple(self.members), turn, None, _TURNS):
                if isinstance(member, _SlowConnection) and not member.transport.is_closing():
                    member.send(self._head)
                    self._sent += 1
            # Turns that a busy machine made late are made up for, but for those of more than a whole round.
            due_s = max(due_s + self._every_s / _TURNS, loop.time() - self._every_s)
            await asyncio.sleep(max(0.0, due_s - loop.time()))


class Ends(NamedTuple):
    """`established`: our ends. `accepted`: the server's ends that it has taken from its backlog, None when
    the server's ends are not to be seen from here."""

    established: int
    accepted: int | None


def count_ends(server_port: int, our_ports: Collection[int]) -> Ends:
    """The established connections between these ports of ours and the server's port, on this machine.

    By port, each once: a table that changes while it is read tells some sockets twice.
    """
    ours: set[int] = set()
    theirs: set[int] = set()
    accepted: set[int] = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):  # a machine without IPv6
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[_STATE] != _ESTABLISHED:
                    continue
                local, remote = _port(fields[_LOCAL]), _port(fields[_REMOTE])
                if remote == server_port and local in our_ports:
                    ours.add(local)
                elif local == server_port and remote in our_ports:
                    theirs.add(remote)
                    if fields[_INODE] != "0":  # what waits in the backlog belongs to no file yet
                        accepted.add(remote)
    return Ends(len(ours), len(accepted) if theirs else None)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _head(probe: Probe, names: Mapping[str, str]) -> bytes:
    if not isinstance(probe, HttpProbe):
        return _HTTP2
    url = http_url(fill(probe.url, names))
    return f"GET {url.target} HTTP/1.1\r\nhost: {url.authority}\r\nx-slow: a".encode()


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
