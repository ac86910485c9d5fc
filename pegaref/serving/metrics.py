"""The server's counters: plain numbers that are cheap to change. pegaref.serving.exposition turns them into
text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Protocol

from pegaref.registry import DeviceSnapshot

# From a health answer to the longest deadline. Few, since every series adds to the cost of a scrape.
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.01, 0.1, 1.0, 2.0, 10.0, 60.0)


class RouteCounters:
    """The requests of one HTTP route or one gRPC method."""

    __slots__ = ("buckets", "changes", "in_flight", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}  # outcome -> number of requests
        self.buckets = [0] * (len(BUCKETS_S) + 1)  # not cumulative; the last counts requests that took longer
        self.seconds = 0.0
        self.in_flight = 0
        self.changes = 0  # counted up with each change of the others; 0 for a route that was never used

    def begin(self) -> float:
        """Count a request in flight; returns what `end` needs to time it."""
        self.changes += 1
        self.in_flight += 1
        return perf_counter()

    def end(self, began: float, outcome: str) -> None:
        """Count a request that was answered, or whose caller left."""
        self.changes += 1
        self.in_flight -= 1
        seconds = perf_counter() - began
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class RequestCounters:
    """The requests of one protocol, by known route or method and never by a caller's own text."""

    def __init__(self) -> None:
        self.routes: dict[str, RouteCounters] = {}

    def route(self, name: str) -> RouteCounters:
        """The counters of one route; look them up once and keep them."""
        return self.routes.setdefault(name, RouteCounters())


class DeviceReading(Protocol):
    """One device, as far as a scrape reads it."""

    @property
    def device_id(self) -> int:
        """The device's index."""
        ...

    def mark(self) -> object:
        """A value that is another one whenever a number of the snapshot is; None while one of them ages."""
        ...

    def snapshot(self) -> DeviceSnapshot:
        """The device's state and its counters."""
        ...


class RelayCounters:
    """What the gRPC port refused, by how."""

    def __init__(self) -> None:
        self.connections = 0  # that are open
        self.streams_refused = 0  # one connection had too many open
        self.evicted = 0  # connections that gave way to new ones
        self.closed = 0  # connections that sent no HTTP/2, or more than they may
        self.throttled = 0  # how often a connection had to wait, since it sent too many frames


class Metrics:
    """All counters of one server, and the functions from which other values are read."""

    def __init__(
        self,
        devices: Callable[[], Iterable[DeviceReading]],
        sessions: Callable[[], int],
        lost_log_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        self.devices = devices
        self.sessions = sessions
        self.lost_log_lines = lost_log_lines
        self.rpc = RequestCounters()
        self.relay = RelayCounters()
        self.http = RequestCounters()
        self.loop_lag_s = 0.0
        self.loop_lag_most_s = 0.0
