"""Judging a stored report again by today's rules, offline, from its raw samples.

What only the live run could know (whether the fault bit, what the calls did, what leaked) stands as it was
recorded, as guards. What follows from the samples is worked out anew: lit or dark, the gaps, the latencies of
the fault window, the kubelet's view; then the verdicts, then the controls.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from scenarios.judge import kubelet
from scenarios.judge.controls import GUARD, with_controls
from scenarios.judge.latency import faulted, ratio
from scenarios.judge.observe import observe
from scenarios.judge.pool import pool
from scenarios.judge.verdict import EXPECTATIONS, judged, proof
from scenarios.record.model import Report, Scenario

WATCHED, ENOUGH = "watched", "enough probes"


@dataclass(frozen=True, slots=True)
class Change:
    """A scenario whose verdict is another one than the report said. `why`: its reasons now."""

    name: str
    was: str
    now: str
    why: tuple[str, ...]


def rejudge(report: Report) -> Report:
    """The same run with the verdicts of today's rules."""
    scenarios = [_again(scenario) for scenario in report.scenarios]
    controls = {scenario.name: scenario.controls for scenario in scenarios}
    verdicts, failures, missing = with_controls(scenarios, controls)
    suite = replace(
        report.suite,
        passed=bool(verdicts) and not failures and all(s.verdict == "pass" for s in verdicts),
        failures=failures,
        missing_controls=missing,
    )
    return replace(report, scenarios=verdicts, pooled=pool(verdicts), suite=suite)


def changes(before: Report, after: Report) -> tuple[Change, ...]:
    """Which verdicts differ, in the order of the run."""
    return tuple(
        Change(old.name, old.verdict, new.verdict, new.reasons)
        for old, new in zip(before.scenarios, after.scenarios, strict=True)
        if old.verdict != new.verdict
    )


def _again(scenario: Scenario) -> Scenario:
    """A scenario without guards or without a window has nothing to be judged on: it stays as it is."""
    window = scenario.window
    if not scenario.guards:
        return scenario
    recorded = [guard for guard in scenario.guards if guard.name not in {*EXPECTATIONS, GUARD}]
    if window.closed_s is None or window.judged_until_s is None or not scenario.samples:
        return judged(scenario, recorded, "unproven")
    seen = observe(scenario.lanes, scenario.samples, window.opened_s, window.judged_until_s, window.closed_s)
    anew = {
        WATCHED: proof(WATCHED, True, seen.detail),
        ENOUGH: proof(ENOUGH, not seen.too_few, seen.probes),
    }
    under = {
        name: faulted(samples, seen.light, window.judged_until_s, window.closed_s, window.opened_s)
        for name, samples in scenario.samples.items()
    }
    fresh = replace(
        scenario,
        dark_gaps=dict(seen.dark_gaps),
        phases=replace(scenario.phases, faulted=under),
        ratios={
            name: ratio(scenario.phases.baseline[name], now)
            for name, now in under.items()
            if name in scenario.phases.baseline
        },
        kubelet=kubelet.replay(
            scenario.lanes,
            scenario.samples,
            window.closed_s,
            scenario.kubelet.rules,
            scenario.kubelet.readiness_rules,
            scenario.kubelet.source,
        ),
    )
    guards = [anew.pop(guard.name, guard) for guard in recorded]
    return judged(fresh, [*guards, *anew.values()], seen.light or "unproven")
