"""Watching a target while something happens to it: the samples, and the waits for what they have to show in
baseline, fault window and recovery."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from scenarios.judge.latency import due_between, percentile
from scenarios.judge.observation import Observation, observe
from scenarios.prober.handle import ProberHandle, soon
from scenarios.prober.messages import Batch
from scenarios.prober.series import SeriesSet
from scenarios.record import ProberHealth, Sample, Series, microsecond, relative

_STEADY = 3
"""The good answers in a row, in every watched series, after which the target counts as recovered."""


class Samples:
    """Samples by series, with `time.monotonic()` times, and the prober's own health. `series` are in the
    prober's order, and their probes are known completely until `known_until_s`."""

    def __init__(self, series: Mapping[str, Series]) -> None:
        self.series = series
        self._names = tuple(series)
        self._ended: dict[str, list[Sample]] = {name: [] for name in series}
        self._under_way: dict[str, dict[float, None]] = {name: {} for name in series}
        self._late: list[tuple[float, float]] = []
        self._cpu: tuple[float, float] | None = None
        self._cpu_share = 0.0
        self.known_until_s = time.monotonic()

    def add(self, batch: Batch) -> None:
        """Add what the prober reports."""
        names = self._names
        for began in batch.began:
            self._under_way[names[began.series]][microsecond(began.at_s)] = None
            self._late.append((began.at_s, began.taken_up_s - began.at_s))
        for probed in batch.probed:
            name = names[probed.series]
            at_s = microsecond(probed.at_s)
            sent_s, ended_s = relative(probed.sent_s, 0.0), relative(probed.ended_s, 0.0)
            self._under_way[name].pop(at_s, None)
            self._ended[name].append(Sample(at_s, sent_s, ended_s, probed.outcome, probed.status))
        if self._cpu is None:
            self._cpu = (batch.now_s, batch.cpu_s)
        elif batch.now_s > self._cpu[0]:
            self._cpu_share = (batch.cpu_s - self._cpu[1]) / (batch.now_s - self._cpu[0])
        self.known_until_s = microsecond(batch.now_s)

    def so_far(self) -> dict[str, Sequence[Sample]]:
        """Every sample by series; those under way have no end and are `cut`."""
        return {
            name: [*ended, *(Sample(at_s, None, None, "cut") for at_s in self._under_way[name])]
            for name, ended in self._ended.items()
        }

    def relative(self, origin_s: float) -> dict[str, tuple[Sample, ...]]:
        """Every sample by series, in order, with times relative to `origin_s`, rounded to microseconds."""

        return {
            name: tuple(
                msgspec.structs.replace(
                    s,
                    at_s=relative(s.at_s, origin_s),
                    sent_s=relative(s.sent_s, origin_s),
                    ended_s=relative(s.ended_s, origin_s),
                )
                for s in sorted(samples, key=lambda s: s.at_s)
            )
            for name, samples in self.so_far().items()
        }

    def late_max_s(self, from_s: float, to_s: float) -> float:
        """By how many seconds at most the prober was late with a probe that was due in `[from_s, to_s]`."""
        return max((late for at_s, late in self._late if from_s <= at_s <= to_s), default=0.0)

    def prober_health(self) -> ProberHealth:
        """The prober's own health over the whole watch."""
        late = sorted(late for _, late in self._late)

        def ms(share: float) -> float | None:
            value = percentile(late, share)
            return None if value is None else round(value * 1e3, 3)

        return ProberHealth(
            probes=len(late),
            late_p50_ms=ms(0.5),
            late_p99_ms=ms(0.99),
            late_max_ms=ms(1.0),
            cpu_share=round(self._cpu_share, 4),
        )


class TargetWatch:
    """The samples of one scenario, and the waits for certain states of them."""

    def __init__(self, prober: ProberHandle, lanes: SeriesSet, started_s: float) -> None:
        self.samples = Samples(lanes.described)
        self.started_s = started_s
        self._prober = prober
        self._described = lanes.described
        self.in_part = False
        """Whether some of the processes that serve are broken, and others are not."""

    async def wait_baseline(
        self, for_s: float, within_s: float, decided: Callable[[], bool]
    ) -> tuple[Observation, tuple[float, float]]:
        """Watch until every watched series was lit for `for_s` without a break and `decided` returns true, at
        most `within_s`. Returns what was seen, and the interval.

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
            if seen.observed == "lit" and not seen.too_few and decided():
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
        return observe(
            self._described, self.samples.so_far(), opened_s, judged_until_s, now_s, in_part=self.in_part
        )


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
