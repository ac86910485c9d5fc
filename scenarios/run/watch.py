"""Watching a target while something happens to it: baseline, fault window, recovery."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from scenarios.judge.latency import due_between
from scenarios.judge.observation import Observation, observe
from scenarios.prober import ProberHandle, soon
from scenarios.prober.series import SeriesSet
from scenarios.record import Sample
from scenarios.run.samples import Samples

_STEADY = 3
"""The good answers in a row, in every watched series, after which the target counts as recovered."""


class TargetWatch:
    """The samples of one scenario, and the waits for certain states of them."""

    def __init__(self, prober: ProberHandle, lanes: SeriesSet, started_s: float) -> None:
        self.samples = Samples(lanes.described)
        self.started_s = started_s
        self._prober = prober
        self._described = lanes.described

    async def wait_baseline(self, for_s: float, within_s: float) -> tuple[Observation, tuple[float, float]]:
        """Watch until every watched series was lit for `for_s` without a break, at most `within_s`. Returns
        what was seen, and the interval.

        A missed probe restarts the interval, so the fault is always armed on a target that was lit just
        before. With too few probes the interval becomes longer.
        """
        opened_s, stretch_s = self.started_s, for_s
        failure: Observation | None = None
        while True:
            await self._prober.news()
            now_s = self.samples.known_until_s
            until_s = opened_s + stretch_s
            seen = self.observe(opened_s, until_s, now_s)
            if seen.observed == "lit" and not seen.too_few:
                return seen, (opened_s, until_s)
            if now_s - self.started_s > within_s:
                return failure or seen, (opened_s, until_s)
            if seen.observed == "lit":
                stretch_s = now_s - opened_s
            elif seen.observed == "dark" or self._failed(opened_s, until_s):
                opened_s, stretch_s, failure = now_s, for_s, seen

    async def wait_window(
        self, opened_s: float, for_s: float, within_s: float, advance: Callable[[], bool]
    ) -> tuple[Observation, float]:
        """Watch until it is decided whether the target is lit or dark and `advance` returns true, at most
        `within_s`. `advance` is called whenever there is news.

        Returns what was seen and when it was decided. A dark series ends the watch at once.
        """
        while True:
            await self._prober.news()
            now_s = self.samples.known_until_s
            seen, done = self.observe(opened_s, opened_s + for_s, now_s), advance()
            if now_s - opened_s > within_s or (seen.observed is not None and done):
                return seen, now_s

    async def wait_steady(self, since_s: float, within_s: float) -> float | None:
        """Wait until every watched series has answered a few probes in a row, all of them meant to start
        after `since_s`. When the last of those rows began, or None if that did not happen in time."""
        while True:
            await self._prober.news()
            began = [
                _row_began(
                    due_between(found, since_s, self.samples.known_until_s), self._described[name].budget_s
                )
                for name, found in self.samples.so_far().items()
                if self._described[name].watched
            ]
            known = [at_s for at_s in began if at_s is not None]
            if len(known) == len(began):
                return max(known)
            if self.samples.known_until_s - since_s > within_s:
                return None

    def _failed(self, from_s: float, to_s: float) -> bool:
        """Whether some watched probe of the stretch has ended without a good answer."""
        return any(
            sample.outcome not in ("ok", "cut")
            for name, found in self.samples.so_far().items()
            if self._described[name].watched
            for sample in due_between(found, from_s, to_s)
        )

    def observe(self, opened_s: float, judged_until_s: float, now_s: float) -> Observation:
        """What the samples known at `now_s` show in a window."""
        return observe(self._described, self.samples.so_far(), opened_s, judged_until_s, now_s)


@asynccontextmanager
async def watching(prober: ProberHandle, lanes: SeriesSet) -> AsyncIterator[TargetWatch]:
    """Probe these series inside the context; all connections are closed on the way out."""
    started_s = soon()
    watch = TargetWatch(prober, lanes, started_s)
    prober.on_batch = watch.samples.add
    await prober.watch(lanes.probed, started_s)
    try:
        yield watch
    finally:
        await prober.pause()
        prober.on_batch = None


def _row_began(samples: list[Sample], budget_s: float) -> float | None:
    """When the last unbroken row of good answers began, if it is long enough. Probes under way are left out:
    they break no row before their budget is over."""
    row: list[float] = []
    for sample in samples:
        if sample.outcome == "cut":
            continue
        latency_s = sample.latency_s
        if sample.outcome == "ok" and latency_s is not None and latency_s <= budget_s:
            row.append(sample.at_s)
        else:
            row.clear()
    return row[0] if len(row) >= _STEADY else None
