"""What one kind of connection to one endpoint did lately: a bounded memory, however long the watch."""

from __future__ import annotations

from collections import deque
from typing import Literal

from scenarios.prober.messages import Probed
from scenarios.record import SeriesState

Mark = Literal["lit", "missed", "dark", "waiting"]
"""One slice of time: every probe answered in time, not every one, silence over budget, none decided yet."""

KEPT_S = 300.0
LATENCIES_OVER_S = 60.0
_MISSED_FOR_S = 1.0


class Connection:
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
        """A probe that was meant to start then is under way."""
        self._under_way[at_s] = None

    def ended(self, probed: Probed) -> None:
        """A probe ended, well or not. One that the prober cut off itself says nothing."""
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
        """The longest stretch without an answer, the one that goes on included."""
        return max(self._longest_gap_s, self.silent_s(now_s))

    def latencies_s(self, now_s: float) -> list[float]:
        """Of the answers of the last minute."""
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
        """What the slice of time `[index, index + 1) * slice_s` was; None when nothing was due in it."""
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
