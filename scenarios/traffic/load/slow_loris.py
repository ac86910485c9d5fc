"""Connections that send the head of a request, a byte now and then, and never come to its end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from scenarios.spec import HttpProbe, Probe
from scenarios.spec.loads import SlowLoris
from scenarios.spec.placeholders import fill
from scenarios.traffic.load.crowd import Address, Crowd, Member
from scenarios.traffic.load.messages import Tally

_TURNS = 10
"""The connections take turns, so that their bytes come spread over the time between two of one connection."""

_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x3f\xfc\x04\x00\x00\x00\x00\x00"
"""HTTP/2's connection preface (RFC 9113, 3.4) and the head of a SETTINGS frame of 16,380 bytes."""


class _Slow(Member):
    """One connection, and how far it has come."""

    sent = 0

    def send(self, head: bytes) -> None:
        """The next byte of the head; after it, more of the same for ever."""
        at = self.sent
        self.transport.write(head[at : at + 1] or head[-1:])
        self.sent += 1


class SlowConnections(Crowd):
    """A `slow-loris` load."""

    def __init__(self, load: SlowLoris, probe: Probe, names: Mapping[str, str]) -> None:
        super().__init__(Address.of(probe, names), load.count, _Slow)
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

    def tally(self) -> Tally:
        """What there is of it, and how much was sent."""
        silent = sum(not member.sent for member in self.members if isinstance(member, _Slow))
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
                if isinstance(member, _Slow) and not member.transport.is_closing():
                    member.send(self._head)
                    self._sent += 1
            # Turns that a busy machine made late are made up for, but for those of more than a whole round.
            due_s = max(due_s + self._every_s / _TURNS, loop.time() - self._every_s)
            await asyncio.sleep(max(0.0, due_s - loop.time()))


def _head(probe: Probe, names: Mapping[str, str]) -> bytes:
    if not isinstance(probe, HttpProbe):
        return _HTTP2
    parts = urlsplit(fill(probe.url, names))
    return f"GET {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\nx-slow: a".encode()
