"""The run as a whole: the latencies of each target's series over all scenarios, baseline against fault
window.

One scenario has some twenty answers per series and phase, so its p99 is the slowest answer. All scenarios
together have thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from scenarios.judge.histogram import Histogram
from scenarios.record import Distribution, Latency, PooledLatency, ScenarioRecord, Series

SHARES: Final = (0.50, 0.90, 0.99, 0.999)


def belongs_in_pool(scenario: ScenarioRecord) -> bool:
    """Whether a scenario was expected to stay lit, its verdict is not `unproven`, and its fault breaks
    something: the window of one that breaks nothing is one more baseline.
    """
    return scenario.expected == "lit" and scenario.verdict != "unproven" and not scenario.fault.is_control


def pool(scenarios: Iterable[ScenarioRecord]) -> dict[str, dict[str, PooledLatency]]:
    """By target and series, over the scenarios that `belongs_in_pool` and of watched series only. Targets are
    not mixed: each is a server of its own.

    Controls are left out: a server that has to go dark has no useful latency. A scenario that went dark and
    should not have is included: its unanswered probes are in `sent` and not in `ok`. Raises
    `UnreadableHistogram`.
    """
    found: dict[str, dict[str, list[tuple[Series, Latency, Latency]]]] = {}
    for scenario in filter(belongs_in_pool, scenarios):
        for name, series in scenario.series.items():
            before, under = scenario.phases.baseline.get(name), scenario.phases.faulted.get(name)
            if series.watched and before is not None and under is not None and before.hdr and under.hdr:
                pool_of = found.setdefault(scenario.target, {})
                pool_of.setdefault(name, []).append((series, before, under))
    return {
        target: {name: _pooled(phases) for name, phases in by_series.items()}
        for target, by_series in found.items()
    }


def _pooled(phases: Sequence[tuple[Series, Latency, Latency]]) -> PooledLatency:
    series, _, _ = phases[0]
    return PooledLatency(
        endpoint=series.endpoint,
        connection=series.connection,
        scenarios=len(phases),
        baseline=merge([before for _, before, _ in phases]),
        faulted=merge([under for _, _, under in phases]),
    )


def by_endpoint(pooled: Mapping[str, PooledLatency]) -> dict[str, tuple[Distribution, Distribution]]:
    """Baseline and fault windows of each endpoint of a target, its fresh and its kept-alive connections
    together.
    """
    endpoints: dict[str, list[PooledLatency]] = {}
    for series in pooled.values():
        endpoints.setdefault(series.endpoint, []).append(series)
    return {endpoint: merge_pooled(found) for endpoint, found in endpoints.items()}


def merge_pooled(pooled: Iterable[PooledLatency]) -> tuple[Distribution, Distribution]:
    """Baseline and fault windows of several series, each as one distribution."""
    found = list(pooled)
    return merge([series.baseline for series in found]), merge([series.faulted for series in found])


def merge(parts: Sequence[Distribution]) -> Distribution:
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
