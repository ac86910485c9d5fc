"""Kept-alive connections that ask again as soon as they are answered, at a bounded rate together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httptools
import msgspec

from scenarios.address import http_url
from scenarios.spec import HttpProbe
from scenarios.spec.loads import Scrape
from scenarios.spec.placeholders import fill
from scenarios.traffic.load.connections import Address, ConnectionLoad, LoadConnection
from scenarios.traffic.load.messages import LoadTally


class _ScrapingConnection(LoadConnection):
    """One connection; one request at a time."""

    load: ScrapingConnections
    _parser: Any = None
    asked = False
    _due: asyncio.TimerHandle | None = None

    def __init__(self, load: ConnectionLoad) -> None:
        assert isinstance(load, ScrapingConnections)
        super().__init__(load)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._ask_when_due()

    def connection_lost(self, error: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):  # AttributeError: it spoke before it was asked
            self.load.misunderstood()
            self.transport.abort()

    def on_message_complete(self) -> None:
        self.load.was_answered(self._parser.get_status_code())
        if self._parser.should_keep_alive():
            self._ask_when_due()
        else:
            self.transport.close()

    def _ask_when_due(self) -> None:
        self._due = asyncio.get_running_loop().call_at(self.load.next_s(), self._ask)

    def _ask(self) -> None:
        self._due, self.asked = None, True
        self._parser = httptools.HttpResponseParser(self)
        self.load.asks()
        self.transport.write(self.load.request)


class ScrapingConnections(ConnectionLoad):
    """A `scrape` load. Any answer of a status that the probe calls good is one; what the body says is for
    the probes to judge."""

    def __init__(self, load: Scrape, probe: HttpProbe, names: Mapping[str, str]) -> None:
        super().__init__(Address.of(probe, names), load.connections, _ScrapingConnection)
        url = http_url(fill(probe.url, names))
        said = {name.lower(): value for name, value in fill(probe.headers, names).items()}
        headers = {"host": url.authority, "user-agent": "wedge-load", **said}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.request = f"GET {url.target} HTTP/1.1\r\n{lines}\r\n".encode()
        self._good = probe.expect.status
        self._every_s = 1 / load.rate_hz
        self._due_s = 0.0
        self._asked = self._answered = self._wrong = 0

    def next_s(self) -> float:
        """When the next request is due, on the loop's clock; every call takes one turn."""
        self._due_s = max(self._due_s + self._every_s, asyncio.get_running_loop().time())
        return self._due_s

    def asks(self) -> None:
        """A request is sent."""
        self._asked += 1

    def was_answered(self, status: int) -> None:
        """A request was answered."""
        good = status in self._good
        self._answered += good
        self._wrong += not good

    def misunderstood(self) -> None:
        """What came is no HTTP answer: counted as an error."""
        self._wrong += 1

    def up(self) -> bool:
        """Whether every connection has asked for the first time, too."""
        return not self.tally().silent and super().up()

    def tally(self) -> LoadTally:
        """What there is of it, and what was asked and answered."""
        found = super().tally()
        silent = sum(not member.asked for member in self.members if isinstance(member, _ScrapingConnection))
        return msgspec.structs.replace(
            found,
            started=self._asked,
            answered=self._answered,
            errors=found.errors + self._wrong,
            silent=silent,
        )
