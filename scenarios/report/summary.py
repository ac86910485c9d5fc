"""What a report says at a glance: the verdict of the run, the order of reading, each endpoint lit or dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from scenarios.judge.observe import observe
from scenarios.judge.pool import by_endpoint, whole
from scenarios.judge.verdict import BROKEN, EXPECTATIONS
from scenarios.record.model import Distribution, Report, Scenario, Verdict
from scenarios.report.numbers import count, milliseconds

LaneState = Literal["lit", "missed", "dark", "unknown"]
"""`lit`: every probe that counted was answered as expected within its budget. `dark`: a watched lane got no
expected answer for longer than its budget. `missed`: neither; some probes failed, were late, or got another
answer. `unknown`: no probe in the window."""

ORDER: Final[dict[Verdict, int]] = {"fail": 0, "unproven": 1, "pass": 2}
_WORST: Final[dict[LaneState, int]] = {"dark": 0, "missed": 1, "lit": 2, "unknown": 3}


@dataclass(frozen=True, slots=True)
class Tally:
    """How many scenarios of a run there are of each verdict, and what is wrong beyond them."""

    passed: int
    failed: int
    unproven: int
    verdict: Verdict

    @property
    def total(self) -> int:
        return self.passed + self.failed + self.unproven

    def words(self) -> str:
        """`1 failed, 2 unproven, 61 passed`, leaving out what there is none of."""
        parts = ((self.failed, "failed"), (self.unproven, "unproven"), (self.passed, "passed"))
        return ", ".join(f"{n:,} {what}" for n, what in parts if n) or "no scenario ran"


def tally(report: Report) -> Tally:
    """Count the verdicts. A run passes if something ran, all of it passed, and no suite rule was broken; it
    is unproven, not failed, where nothing failed but something was left open.
    """
    verdicts = [s.verdict for s in report.scenarios]
    passed, failed, unproven = (verdicts.count(v) for v in ("pass", "fail", "unproven"))
    if failed or report.suite.failures:
        verdict: Verdict = "fail"
    elif unproven or not verdicts:
        verdict = "unproven"
    else:
        verdict = "pass"
    return Tally(passed=passed, failed=failed, unproven=unproven, verdict=verdict)


def worst_first(report: Report) -> tuple[Scenario, ...]:
    """The scenarios as a reader wants them: failed, unproven, passed; each in the order of the run."""
    return tuple(sorted(report.scenarios, key=lambda s: ORDER[s.verdict]))


def lane_state(scenario: Scenario, lane: str) -> LaneState:
    """How one lane took the fault, by the judge's own rule where the samples are there to apply it to."""
    if scenario.dark_gaps.get(lane):
        return "dark"
    seen, known = scenario.phases.faulted.get(lane), scenario.lanes.get(lane)
    samples, closed_s = scenario.samples.get(lane, ()), scenario.window.closed_s
    if known is not None and samples and closed_s is not None:
        until_s = scenario.window.judged_until_s
        alone = {lane: msgspec.structs.replace(known, watched=True)}
        until_s = closed_s - known.budget_s if until_s is None else until_s
        light = observe(alone, {lane: samples}, scenario.window.opened_s, until_s, closed_s).light
        return "lit" if light == "lit" else "missed"
    if seen is None or not seen.sent:
        return "unknown"
    late = known is not None and seen.max_ms is not None and seen.max_ms > 1000 * known.budget_s
    return "missed" if seen.ok < seen.sent or late else "lit"


def worst_lane(scenario: Scenario) -> str | None:
    """The watched lane that took the fault worst: longest dark, then missed probes, then p99."""

    def badness(lane: str) -> tuple[int, float]:
        state = lane_state(scenario, lane)
        seen = scenario.phases.faulted.get(lane)
        if state == "dark":
            return _WORST[state], -longest_gap_s(scenario, lane)
        return _WORST[state], -((seen.p99_ms if seen else None) or 0.0)

    return min(watched(scenario), key=badness, default=None)


def spot(scenario: Scenario) -> str:
    """The scenario in a word, beside the sign of its verdict."""
    if scenario.verdict != "pass" or scenario.observed != "lit":
        return "gone" if scenario.verdict == "pass" and scenario.after == "gone" else scenario.observed
    lane = worst_lane(scenario)
    seen = scenario.phases.faulted.get(lane) if lane else None
    return milliseconds(seen.p99_ms if seen else None)


def watched(scenario: Scenario) -> tuple[str, ...]:
    """The lanes that the verdict was reached on. A report without lanes has only the phases' names."""
    if scenario.lanes:
        return tuple(name for name, lane in scenario.lanes.items() if lane.watched)
    return tuple(scenario.phases.faulted)


def lanes(scenario: Scenario) -> tuple[str, ...]:
    """Every lane that anything is known of, watched ones first."""
    named = [*watched(scenario), *scenario.lanes, *scenario.phases.baseline, *scenario.phases.faulted]
    return tuple(dict.fromkeys([*named, *scenario.phases.recovered, *scenario.samples]))


def longest_gap_s(scenario: Scenario, lane: str) -> float:
    """The longest time for which the lane was dark; 0 where it was not."""
    return max((end - start for start, end in scenario.dark_gaps.get(lane, ())), default=0.0)


def why(scenario: Scenario) -> str:
    """Why it is not a pass, in one line: what was seen instead of what was expected, where that is a reason;
    and how many more reasons there are.
    """
    if scenario.verdict == "pass":
        return ""
    if not scenario.reasons:
        return f"expected {scenario.expected}, observed {scenario.observed}"
    first = min(scenario.reasons, key=lambda reason: reason.partition(":")[0] not in EXPECTATIONS)
    if first.partition(":")[0] == BROKEN[scenario.expected]:
        first = f"expected {scenario.expected}, but{first.partition(':')[2]}"
    others = len(scenario.reasons) - 1
    return first + (f"; and {count(others, 'more reason')}" if others else "")


@dataclass(frozen=True, slots=True)
class PooledLine:
    """Latencies of the whole run: of a target (`endpoint` is None) or of one of its endpoints."""

    target: str
    scenarios: int
    endpoint: str | None
    baseline: Distribution
    faulted: Distribution


def pooled_lines(report: Report) -> Iterator[PooledLine]:
    """A line a target, that of most scenarios first and with its endpoints."""
    many = {target: max(lane.scenarios for lane in lanes.values()) for target, lanes in report.pooled.items()}
    for n, target in enumerate(sorted(many, key=lambda target: -many[target])):
        lanes = report.pooled[target]
        yield PooledLine(target, many[target], None, *whole(lanes.values()))
        for endpoint, figures in by_endpoint(lanes).items() if n == 0 else ():
            yield PooledLine(target, many[target], endpoint, *figures)


def told(found: Distribution) -> tuple[float | None, float | None, float | None]:
    """p50, p99 and p99.9 in ms; None where there are too few answers to tell one from the slowest."""
    return (
        found.p50_ms,
        found.p99_ms if found.ok >= 100 else None,
        found.p999_ms if found.ok >= 1_000 else None,
    )


def overhead(report: Report) -> str:
    """What watching cost and how punctual it was, in one line; empty where nothing was watched."""
    probers = [scenario.prober for scenario in report.scenarios if scenario.prober.probes]
    if not probers:
        return ""
    late_ms = max(prober.late_max_ms or 0.0 for prober in probers)
    share = max(prober.cpu_share for prober in probers)
    probes = count(sum(prober.probes for prober in probers), "probe")
    return f"probers: {probes}, at worst {late_ms:.0f} ms late and {share:.0%} of a core"


def wider_problems(report: Report) -> tuple[str, ...]:
    """What is wrong with the run and belongs to no scenario."""
    suite = report.suite
    found = list(suite.failures)
    if not report.scenarios:
        found.append("no scenario ran, so nothing was proven")
    return tuple(found)


def run_twice(report: Report) -> str:
    """The scenarios of which the first try told nothing, for want of a core."""
    return ", ".join(scenario.name for scenario in report.scenarios if scenario.tries > 1)


def not_run(report: Report) -> tuple[str, ...]:
    """What was left out of the run, a reason a line: the scenarios that share it, then the reason."""
    by_reason: dict[str, list[str]] = {}
    for left in report.not_run:
        by_reason.setdefault(left.reason, []).append(left.name)
    return tuple(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def remarks(report: Report) -> tuple[str, ...]:
    """What a reader must know although it fails nothing."""
    suite = report.suite
    found = []
    if suite.missing_controls:
        names = ", ".join(suite.missing_controls)
        found.append(
            f"{count(len(suite.missing_controls), 'control')} not selected for this run, "
            f"so nothing vouches for what they control: {names}"
        )
    if twice := run_twice(report):
        found.append(f"run again, alone, since the machine had been too busy to tell: {twice}")
    found += [f"not run: {left}" for left in not_run(report)]
    if report.stability is not None:
        for name, failing in report.stability.failing.items():
            flips = count(report.stability.flips.get(name, 0), "flip")
            runs = count(len(report.stability.turns), "run")
            found.append(f"not steady: {name} did not pass in {failing} of {runs} ({flips})")
    return tuple(found)
