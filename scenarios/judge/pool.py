"""The run as a whole: the latencies of each target's lanes over all scenarios, baseline against fault window.

One scenario has some twenty answers a lane and phase, of which a p99 is the slowest one. All scenarios
together have thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from scenarios.judge.histogram import Histogram
from scenarios.record.model import Distribution, Lane, Latency, Pooled, Scenario

SHARES: Final = (0.50, 0.90, 0.99, 0.999)


def pooled(scenario: Scenario) -> bool:
    """Whether a scenario belongs in the pool: expected to be lit, judged, and with a fault that breaks
    something: the window of one that breaks nothing is one more baseline.
    """
    return scenario.expected == "lit" and scenario.verdict != "unproven" and not scenario.fault.is_control


def pool(scenarios: Iterable[Scenario]) -> dict[str, dict[str, Pooled]]:
    """By target and lane, over the scenarios with a fault that were expected to be lit and were judged;
    watched lanes only. Targets are not mixed: each is a server of its own.

    Controls are left out: a server that has to go dark has no latency to speak of. What went dark and should
    not have is in: its unanswered probes are in `sent` and not in `ok`. Raises `UnreadableHistogram`.
    """
    found: dict[str, dict[str, list[tuple[Lane, Latency, Latency]]]] = {}
    for scenario in filter(pooled, scenarios):
        for name, lane in scenario.lanes.items():
            before, under = scenario.phases.baseline.get(name), scenario.phases.faulted.get(name)
            if lane.watched and before is not None and under is not None and before.hdr and under.hdr:
                lanes = found.setdefault(scenario.target, {})
                lanes.setdefault(name, []).append((lane, before, under))
    return {
        target: {name: _pooled(phases) for name, phases in lanes.items()} for target, lanes in found.items()
    }


def _pooled(phases: Sequence[tuple[Lane, Latency, Latency]]) -> Pooled:
    lane, _, _ = phases[0]
    return Pooled(
        endpoint=lane.endpoint,
        connection=lane.connection,
        scenarios=len(phases),
        baseline=together([before for _, before, _ in phases]),
        faulted=together([under for _, _, under in phases]),
    )


def by_endpoint(lanes: Mapping[str, Pooled]) -> dict[str, tuple[Distribution, Distribution]]:
    """Baseline and fault windows of each endpoint of a target, its fresh and its kept-alive connections
    together.
    """
    endpoints: dict[str, list[Pooled]] = {}
    for lane in lanes.values():
        endpoints.setdefault(lane.endpoint, []).append(lane)
    return {endpoint: whole(found) for endpoint, found in endpoints.items()}


def whole(lanes: Iterable[Pooled]) -> tuple[Distribution, Distribution]:
    """Baseline and fault windows of several lanes."""
    found = list(lanes)
    return together([lane.baseline for lane in found]), together([lane.faulted for lane in found])


def together(parts: Sequence[Distribution]) -> Distribution:
    """One distribution of several. Raises `UnreadableHistogram`."""
    histogram = Histogram.merged(Histogram.decode(part.hdr) for part in parts)
    figures = [round(1e3 * latency_s, 3) for latency_s in histogram.percentiles(SHARES)]
    p50, p90, p99, p999 = figures or (None, None, None, None)
    return Distribution(
        sent=sum(part.sent for part in parts),
        ok=sum(part.ok for part in parts),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999,
        max_ms=max((part.max_ms for part in parts if part.max_ms is not None), default=None),
        hdr=histogram.encode(),
    )
