"""Latencies and gaps of one series in one stretch of time. Pure: samples in, figures out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from scenarios.judge.histogram import Histogram, rank
from scenarios.record import Latency, LatencyRatio, Sample


def due_between(samples: Iterable[Sample], from_s: float, to_s: float) -> list[Sample]:
    """The samples that were meant to start in the stretch, in that order."""
    return sorted((s for s in samples if from_s <= s.at_s <= to_s), key=lambda s: s.at_s)


def decisive(
    samples: Iterable[Sample], opened_s: float, judged_until_s: float, closed_s: float
) -> list[Sample]:
    """The samples that decide whether a series was lit: meant to start in `[opened_s, judged_until_s]`, and
    not sent after `closed_s`. (A probe that was sent later was not known of when the window closed.)"""
    return [
        sample
        for sample in due_between(samples, opened_s, judged_until_s)
        if sample.sent_s is None or sample.sent_s <= closed_s
    ]


def fault_window_latency(
    samples: Sequence[Sample],
    observed: str | None,
    judged_until_s: float,
    closed_s: float,
    opened_s: float = 0.0,
) -> Latency:
    """The latencies of a series in the fault window. If the window was lit, only its decisive probes count:
    those after `judged_until_s` may still have been under way when it closed."""
    if observed == "lit":
        judged = decisive(samples, opened_s, judged_until_s, closed_s)
        return stretch_latency(judged, opened_s, judged_until_s, closed_s)
    return stretch_latency(samples, opened_s, closed_s)


def stretch_latency(
    samples: Sequence[Sample], from_s: float, to_s: float, answered_by_s: float | None = None
) -> Latency:
    """Counts, percentiles of the good answers and the longest gap of a series' probes in `[from_s, to_s]`.

    A latency runs from the probe's intended start: the schedule is open-loop, so a probe that was due during
    a stall counts with its whole wait, and coordinated omission cannot arise.

    An answer that came after `answered_by_s` (by default `to_s`) belongs to a later phase: here its probe was
    sent and not answered. Probes that were cut are not counted, since nobody waited for their answer.
    """
    by_s = to_s if answered_by_s is None else answered_by_s
    inside = [s for s in due_between(samples, from_s, to_s) if s.outcome != "cut"]
    good = sorted(
        s.ended_s - s.at_s
        for s in inside
        if s.outcome == "ok" and s.ended_s is not None and s.ended_s <= by_s
    )
    return Latency(
        sent=len(inside),
        ok=len(good),
        p50_ms=_ms(percentile(good, 0.50)),
        p90_ms=_ms(percentile(good, 0.90)),
        p99_ms=_ms(percentile(good, 0.99)),
        p999_ms=_ms(percentile(good, 0.999)),
        max_ms=_ms(good[-1] if good else None),
        hdr=Histogram.of(good).encode(),
        longest_gap_ms=round(1e3 * max((b - a for a, b in gaps(samples, from_s, to_s)), default=0.0), 3),
    )


def gaps(samples: Iterable[Sample], from_s: float, to_s: float) -> list[tuple[float, float]]:
    """The intervals of `[from_s, to_s]` between good answers, in order; one interval if there was no
    answer."""
    ends = sorted(
        s.ended_s
        for s in samples
        if s.outcome == "ok" and s.ended_s is not None and from_s <= s.ended_s <= to_s
    )
    bounds = [from_s, *ends, to_s]
    return list(itertools.pairwise(bounds))


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); None for none."""
    if not ordered:
        return None
    return ordered[rank(len(ordered), share) - 1]


def ratio(baseline: Latency, faulted: Latency) -> LatencyRatio:
    """The latency in the fault window divided by that of the baseline, at p50 and p99."""
    return LatencyRatio(
        p50=_over(faulted.p50_ms, baseline.p50_ms), p99=_over(faulted.p99_ms, baseline.p99_ms)
    )


def _over(above: float | None, below: float | None) -> float | None:
    return round(above / below, 3) if above is not None and below else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
