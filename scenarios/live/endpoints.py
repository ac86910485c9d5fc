"""The current state of a server's endpoints, derived from the prober's batches.

Each connection keeps a bounded history, however long the watch; an endpoint is the worst of its connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from scenarios.judge.latency import percentile
from scenarios.prober.messages import Batch, Outcome, Probed
from scenarios.prober.series import SeriesSet
from scenarios.record import SeriesState

Mark = Literal["lit", "missed", "dark", "waiting"]
"""One slice of time: every probe answered in time, not every one, silence over budget, none decided yet."""

KEPT_S = 300.0
LATENCIES_OVER_S = 60.0
_MISSED_FOR_S = 1.0
_SHORTEST_SLICE_S = 0.5
_WORST_FIRST: tuple[SeriesState, ...] = ("dark", "unknown", "missed", "lit")
_WORST_MARK: tuple[Mark, ...] = ("dark", "missed", "waiting", "lit")


class ConnectionHistory:
    """Times are `time.monotonic()` seconds. An answer is the expected one; it is good within `budget_s`."""

    def __init__(self, budget_s: float, slice_s: float, began_s: float) -> None:
        self._budget_s, self._slice_s = budget_s, slice_s
        self._last_answer_s, self._last_missed_s = began_s, began_s - _MISSED_FOR_S
        self._longest_gap_s = 0.0
        self._under_way: dict[float, None] = {}
        self._good: dict[int, int] = {}
        self._missed: dict[int, int] = {}
        self._gaps: deque[tuple[float, float]] = deque()
        self._answers: deque[tuple[float, float]] = deque()
        self.sent = self.ok = 0
        self.last: Probed | None = None

    def began(self, at_s: float) -> None:
        """Record that the probe due at `at_s` is under way."""
        self._under_way[at_s] = None

    def ended(self, probed: Probed) -> None:
        """Record that a probe ended. One that the prober cut off itself is ignored."""
        self._under_way.pop(probed.at_s, None)
        if probed.outcome == "cut" or probed.ended_s is None:
            return
        self.sent += 1
        if self.last is None or self.last.at_s < probed.at_s:
            self.last = probed
        latency_s, index = probed.ended_s - probed.at_s, int(probed.at_s // self._slice_s)
        if probed.outcome == "ok":
            self.ok += 1
            self._answered(probed.ended_s)
            self._answers.append((probed.ended_s, latency_s))
        if probed.outcome == "ok" and latency_s <= self._budget_s:
            self._good[index] = self._good.get(index, 0) + 1
        else:
            self._missed[index] = self._missed.get(index, 0) + 1
            self._last_missed_s = max(self._last_missed_s, probed.ended_s)
        self._forget(probed.ended_s - KEPT_S)

    def silent_s(self, now_s: float) -> float:
        """How long since the last answer, or since the watch began."""
        return max(0.0, now_s - self._last_answer_s)

    def longest_gap_s(self, now_s: float) -> float:
        """The longest time without an answer, including the current gap."""
        return max(self._longest_gap_s, self.silent_s(now_s))

    def latencies_s(self, now_s: float) -> list[float]:
        """The latencies of the answers of the last minute, in seconds."""
        return [latency_s for ended_s, latency_s in self._answers if ended_s > now_s - LATENCIES_OVER_S]

    def state(self, now_s: float) -> SeriesState:
        """Dark when silent for longer than the budget, missed when a probe just was not answered well. Before
        the first answer nothing is known until the budget is over.
        """
        if self.silent_s(now_s) > self._budget_s:
            return "dark"
        if not self.ok:
            return "unknown"
        return "missed" if now_s - self._last_missed_s < _MISSED_FOR_S else "lit"

    def mark(self, index: int, now_s: float) -> Mark | None:
        """The mark of the time slice `[index, index + 1) * slice_s`; None if no probe was due in it."""
        from_s, to_s = index * self._slice_s, (index + 1) * self._slice_s
        if self._dark((from_s + to_s) / 2, now_s):
            return "dark"
        if index in self._missed:
            return "missed"
        if index in self._good:
            return "lit"
        return "waiting" if any(from_s <= at_s < to_s for at_s in self._under_way) else None

    def _dark(self, at_s: float, now_s: float) -> bool:
        if self.silent_s(now_s) > self._budget_s and self._last_answer_s < at_s < now_s:
            return True
        return any(a < at_s < b for a, b in self._gaps)

    def _answered(self, at_s: float) -> None:
        gap_s = at_s - self._last_answer_s
        if gap_s > self._budget_s:
            self._gaps.append((self._last_answer_s, at_s))
        self._longest_gap_s = max(self._longest_gap_s, gap_s)
        self._last_answer_s = max(self._last_answer_s, at_s)

    def _forget(self, before_s: float) -> None:
        while self._answers and self._answers[0][0] < before_s:
            self._answers.popleft()
        while self._gaps and self._gaps[0][1] < before_s:
            self._gaps.popleft()
        oldest = int(before_s // self._slice_s)
        for counts in (self._good, self._missed):
            while counts and (first := next(iter(counts))) < oldest:
                del counts[first]


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """An endpoint over all its kinds of connection, the worst of them where they differ.

    `dark_s` is how long there has been no answer, None while it is not dark. Latencies are of the last
    minute, None without an answer in it; `longest_gap_s` is over the whole watch.
    """

    name: str
    state: SeriesState
    dark_s: float | None
    outcome: Outcome | None
    status: int
    last_s: float | None
    p50_s: float | None
    p99_s: float | None
    longest_gap_s: float
    sent: int
    ok: int
    strip: tuple[Mark | None, ...] = ()


@dataclass(frozen=True, slots=True)
class StateChange:
    """An endpoint went dark or came back. `after_s`: how long it had given no answer; None for its first
    light or darkness. `outcome` is what the last probe met.
    """

    name: str
    dark: bool
    after_s: float | None
    first: bool
    outcome: Outcome | None


class Endpoints:
    """The state of every endpoint, kept up to date by `add`. Times are `time.monotonic()` seconds; `now_s` is
    the time of the prober's last batch.
    """

    def __init__(self, series: SeriesSet, began_s: float) -> None:
        self.began_s = self.now_s = began_s
        longest_s = max(one.period_s for one in series.described.values())
        self.slice_s = max(_SHORTEST_SLICE_S, longest_s)
        self._connections = [
            ConnectionHistory(one.budget_s, self.slice_s, began_s) for one in series.described.values()
        ]
        grouped: dict[str, list[ConnectionHistory]] = {}
        for one, connection in zip(series.described.values(), self._connections, strict=True):
            grouped.setdefault(one.endpoint, []).append(connection)
        self._endpoints: Mapping[str, list[ConnectionHistory]] = grouped
        self._was_dark: dict[str, bool] = {}
        self._silent: dict[str, float] = {}
        self._late: deque[tuple[float, float]] = deque()

    @property
    def names(self) -> tuple[str, ...]:
        """The endpoints, in the target's order."""
        return tuple(self._endpoints)

    def add(self, batch: Batch) -> None:
        """Add what the prober reports: probes that began, and probes that ended."""
        for began in batch.began:
            self._connections[began.series].began(began.at_s)
        for probed in batch.probed:
            self._connections[probed.series].ended(probed)
        if batch.began:
            self._late.append((batch.now_s, max(b.taken_up_s - b.at_s for b in batch.began)))
        while self._late and self._late[0][0] < batch.now_s - LATENCIES_OVER_S:
            self._late.popleft()
        self.now_s = batch.now_s

    def late_s(self) -> float:
        """The prober's own greatest lateness in the last minute."""
        return max((late_s for _, late_s in self._late), default=0.0)

    def changes(self) -> tuple[StateChange, ...]:
        """The endpoints that went dark or came back since the last call; the first state counts too."""
        return tuple(change for name in self._endpoints for change in self._change(name))

    def seen(self, cells: int = 0) -> tuple[EndpointStatus, ...]:
        """Every endpoint now, each with a strip of its last `cells` slices of time, the newest last."""
        return tuple(self._seen(name, connections, cells) for name, connections in self._endpoints.items())

    def _change(self, name: str) -> Iterable[StateChange]:
        connections = self._endpoints[name]
        state = self._state(connections)
        silent_s = max(connection.silent_s(self.now_s) for connection in connections)
        if state == "unknown":
            return
        dark, was = state == "dark", self._was_dark.get(name)
        if dark is not was:
            last = max((c.last for c in connections if c.last), key=lambda p: p.at_s, default=None)
            after_s = silent_s if dark else None if was is None else self._silent.get(name)
            yield StateChange(name, dark, after_s, was is None, last.outcome if last else None)
        self._was_dark[name] = dark
        self._silent[name] = silent_s

    def _state(self, connections: Iterable[ConnectionHistory]) -> SeriesState:
        return min((c.state(self.now_s) for c in connections), key=_WORST_FIRST.index)

    def _seen(self, name: str, connections: list[ConnectionHistory], cells: int) -> EndpointStatus:
        state = self._state(connections)
        silent_s = max(connection.silent_s(self.now_s) for connection in connections)
        last = max((c.last for c in connections if c.last), key=lambda p: p.at_s, default=None)
        latencies = sorted(s for connection in connections for s in connection.latencies_s(self.now_s))
        return EndpointStatus(
            name=name,
            state=state,
            dark_s=silent_s if state == "dark" else None,
            outcome=last.outcome if last else None,
            status=last.status if last else 0,
            last_s=last.ended_s - last.at_s if last and last.ended_s is not None else None,
            p50_s=percentile(latencies, 0.5),
            p99_s=percentile(latencies, 0.99),
            longest_gap_s=max(connection.longest_gap_s(self.now_s) for connection in connections),
            sent=sum(connection.sent for connection in connections),
            ok=sum(connection.ok for connection in connections),
            strip=self._strip(connections, cells),
        )

    def _strip(self, connections: list[ConnectionHistory], cells: int) -> tuple[Mark | None, ...]:
        newest, oldest = int(self.now_s // self.slice_s), int(self.began_s // self.slice_s)
        strip: list[Mark | None] = []
        for index in range(newest - cells + 1, newest + 1):
            marks = [m for c in connections if (m := c.mark(index, self.now_s)) is not None]
            before = strip[-1] if strip else None
            # Where nothing was due the last mark stands; the slice that has just begun may say nothing yet.
            empty = None if index < oldest or before is None else before
            strip.append(min(marks, key=_WORST_MARK.index) if marks else empty)
        return tuple(strip)
