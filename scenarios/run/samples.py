"""The samples of one watch, as they arrive from the prober."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from scenarios.judge.latency import percentile
from scenarios.prober.messages import Batch
from scenarios.record import ProberHealth, Sample, Series, microsecond, relative


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
        """Every sample so far, by series; probes under way have no end and are `cut`."""
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
