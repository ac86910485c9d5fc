"""What is counted while the server works: plain numbers, cheap to change, that a scrape turns into text.

`prometheus_client` makes the text (pegaref.serving.exposition). It takes as long to load as a fifth of the
whole server, so it is loaded once the server listens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from time import perf_counter

from pegaref.registry.snapshot import RegistrySnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a health answer to the longest deadline. Few, since a scrape costs time by the series.
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.01, 0.1, 1.0, 2.0, 10.0, 60.0)


class Route:
    """One route's or method's numbers."""

    __slots__ = ("buckets", "in_flight", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}  # how they ended -> how many
        self.buckets = [0] * (len(BUCKETS_S) + 1)  # not cumulative; the last is for what took longer
        self.seconds = 0.0
        self.in_flight = 0

    def begin(self) -> float:
        """A request came; give the result to `end`."""
        self.in_flight += 1
        return perf_counter()

    def end(self, began: float, outcome: str) -> None:
        """It was answered, or its caller left."""
        self.in_flight -= 1
        self.count(began, outcome)

    def count(self, began: float, outcome: str) -> None:
        """It was answered without ever being in flight: nothing else ran between its coming and this."""
        seconds = perf_counter() - began
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    @property
    def used(self) -> bool:
        """Whether there has been a request."""
        return bool(self.outcomes or self.in_flight)


class Requests:
    """The requests of one wire, by route or method: never by a caller's own words."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}

    def route(self, name: str) -> Route:
        """The numbers of one route, looked up once."""
        return self.routes.setdefault(name, Route())


class Metrics:
    """All that is counted of one server, and where the rest is read."""

    def __init__(self, snapshot: Callable[[], RegistrySnapshot], sessions: Callable[[], int]) -> None:
        self.snapshot = snapshot
        self.sessions = sessions
        self.rpc = Requests()
        self.http = Requests()
        self.loop_lag_s = 0.0
        self.loop_lag_most_s = 0.0
        self._expose: Callable[[], bytes] | None = None

    def load(self) -> Callable[[], bytes]:
        """Load what makes the text; from a thread, so that the first scrape need not wait for it."""
        if self._expose is None:
            from pegaref.serving.exposition import Exposition

            self._expose = Exposition(self).text
        return self._expose

    def exposition(self) -> bytes:
        """The text that a scrape gets, from memory."""
        return self.load()()
