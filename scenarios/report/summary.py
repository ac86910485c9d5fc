"""A report at a glance: the verdict of the run, the order of reading, the worst endpoint of each scenario,
and scenarios crossed with targets. It shows the judge's results and judges nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scenarios.judge.pool import by_endpoint, merge_pooled
from scenarios.record import Distribution, Report, ScenarioRecord, SeriesState, Verdict
from scenarios.report.numbers import count, duration, milliseconds

ORDER: Final[dict[Verdict, int]] = {"fail": 0, "unproven": 1, "pass": 2}
_WORST: Final[dict[SeriesState, int]] = {"dark": 0, "missed": 1, "lit": 2, "unknown": 3}


@dataclass(frozen=True, slots=True)
class VerdictCounts:
    """How many scenarios of a run got each verdict, and the verdict on the run as a whole."""

    passed: int
    failed: int
    unproven: int
    verdict: Verdict

    @property
    def total(self) -> int:
        """How many scenarios there are."""
        return self.passed + self.failed + self.unproven

    def words(self) -> str:
        """`1 failed, 2 unproven, 61 passed`, without the counts that are zero."""
        parts = ((self.failed, "failed"), (self.unproven, "unproven"), (self.passed, "passed"))
        return ", ".join(f"{n:,} {what}" for n, what in parts if n) or "no scenario ran"


def verdict_counts(report: Report) -> VerdictCounts:
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
    return VerdictCounts(passed=passed, failed=failed, unproven=unproven, verdict=verdict)


def worst_first(report: Report) -> tuple[ScenarioRecord, ...]:
    """The scenarios as a reader wants them: failed, unproven, passed; each in the order of the run."""
    return tuple(sorted(report.scenarios, key=lambda s: ORDER[s.verdict]))


def state(scenario: ScenarioRecord, series: str) -> SeriesState:
    """The state of one series under the fault, as judged."""
    return scenario.states.get(series, "unknown")


def worst_series(scenario: ScenarioRecord) -> str | None:
    """The watched series that took the fault worst: longest dark, then missed probes, then p99."""

    def badness(name: str) -> tuple[int, float]:
        found, latency = state(scenario, name), scenario.phases.faulted.get(name)
        if found == "dark":
            return _WORST[found], -longest_gap_s(scenario, name)
        return _WORST[found], -((latency.p99_ms if latency else None) or 0.0)

    return min(watched_series(scenario), key=badness, default=None)


def cell_label(scenario: ScenarioRecord) -> str:
    """The scenario in a word, beside the sign of its verdict: the worst p99 if it passed and stayed lit."""
    if scenario.verdict != "pass" or scenario.observed != "lit":
        return "gone" if scenario.verdict == "pass" and scenario.after == "gone" else scenario.observed
    name = worst_series(scenario)
    latency = scenario.phases.faulted.get(name) if name else None
    return milliseconds(latency.p99_ms if latency else None)


def time_to_admit(scenario: ScenarioRecord) -> str:
    """How soon the server admitted that its calls hang: `0.92 s`, `never`, or why nothing is known; empty
    where nothing was stuck, or nothing says whether it is ready."""
    found = scenario.admission
    if found is None or found.stuck_s is None:
        return ""
    match found.outcome:
        case "admitted":
            return duration(found.took_s)
        case "lying":
            return "never"
        case "undecided":
            return "not watched long enough" if scenario.observed != "dark" else "dark before"
        case "unready":
            return "not ready before"
        case _:
            return ""


def seen_words(scenario: ScenarioRecord) -> str:
    """What was seen; and how many of several processes were broken, where it was some of them."""
    if scenario.processes.in_part:
        words = f"{scenario.processes.serving_broken} of {len(scenario.processes.serving)} processes broken"
        return f"{scenario.observed} ({words})"
    return scenario.observed


def unwatched_work(report: Report) -> tuple[str, ...]:
    """The targets whose work nothing watches: no probe has the role of readiness."""
    found = (s for s in report.scenarios if s.admission is not None and s.admission.outcome == "unwatched")
    return tuple(dict.fromkeys(scenario.target for scenario in found))


UNWATCHED_WORK: Final = (
    'no probe has role = "readiness": nothing watches whether it can do its work, and calls that hang are '
    "nowhere to be seen"
)


def watched_series(scenario: ScenarioRecord) -> tuple[str, ...]:
    """The series that the verdict was reached on. Where a report does not describe its series, those that
    have latencies in the fault window."""
    if scenario.series:
        return tuple(name for name, series in scenario.series.items() if series.watched)
    return tuple(scenario.phases.faulted)


def series_names(scenario: ScenarioRecord) -> tuple[str, ...]:
    """Every series with any data, watched ones first."""
    phases = scenario.phases
    named = [*watched_series(scenario), *scenario.series, *phases.baseline, *phases.faulted]
    return tuple(dict.fromkeys([*named, *phases.recovered, *scenario.samples]))


def longest_gap_s(scenario: ScenarioRecord, series: str) -> float:
    """The longest time for which the series was dark; 0 where it was not."""
    return max((end - start for start, end in scenario.dark_gaps.get(series, ())), default=0.0)


def why(scenario: ScenarioRecord) -> str:
    """Why it is not a pass, in one line: what was seen instead of what was expected, where that is a reason;
    and how many more reasons there are.
    """
    if scenario.verdict == "pass":
        return ""
    if not scenario.reasons:
        return f"expected {scenario.expected}, observed {scenario.observed}"
    first = scenario.reasons[0]
    for guard in scenario.guards:
        if guard.about == "expectation" and not guard.held:
            first = f"expected {scenario.expected}, but {guard.detail}"
    others = len(scenario.reasons) - 1
    return first + (f"; and {count(others, 'more reason')}" if others else "")


@dataclass(frozen=True, slots=True)
class Grid:
    """Scenarios as faults by targets: many on several targets are read faster across than down. `rows` are
    the scenarios' names without their target, `prefix` is what the names of all targets begin with."""

    prefix: str
    rows: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Mapping[tuple[str, str], ScenarioRecord]

    def short(self, target: str) -> str:
        """A target's name without the prefix."""
        return target.removeprefix(self.prefix)


def grid(scenarios: Iterable[ScenarioRecord]) -> Grid | None:
    """The scenarios crossed, in the order of the run; None where that takes as many rows as there are
    scenarios.
    """
    cells = {(s.name.removesuffix(f"@{s.target}"), s.target): s for s in scenarios}
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    targets = tuple(dict.fromkeys(target for _, target in cells))
    return Grid(_prefix(targets), rows, targets, cells) if len(rows) < len(cells) else None


def _prefix(targets: Sequence[str]) -> str:
    """What all targets' names begin with, up to a hyphen and with it; empty where they share nothing."""
    first, last = min(targets), max(targets)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common, hyphen, _ = first[:same].rpartition("-")
    return common + hyphen


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
    many = {target: max(one.scenarios for one in pooled.values()) for target, pooled in report.pooled.items()}
    for n, target in enumerate(sorted(many, key=lambda target: -many[target])):
        pooled = report.pooled[target]
        yield PooledLine(target, many[target], None, *merge_pooled(pooled.values()))
        for endpoint, figures in by_endpoint(pooled).items() if n == 0 else ():
            yield PooledLine(target, many[target], endpoint, *figures)


def reliable_percentiles(found: Distribution) -> tuple[float | None, float | None, float | None]:
    """p50, p99 and p99.9 in ms; None where there are so few answers that it would be the slowest one."""
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


def suite_problems(report: Report) -> tuple[str, ...]:
    """What is wrong with the run and belongs to no scenario."""
    suite = report.suite
    found = list(suite.failures)
    if not report.scenarios:
        found.append("no scenario ran, so nothing was proven")
    return tuple(found)


def run_twice(report: Report) -> str:
    """The scenarios that were run a second time, since the machine was too busy for the first to tell
    anything."""
    return ", ".join(scenario.name for scenario in report.scenarios if scenario.tries > 1)


def not_run(report: Report) -> tuple[str, ...]:
    """What was left out of the run, a line per reason: the scenarios that share it, then the reason."""
    by_reason: dict[str, list[str]] = {}
    for left in report.not_run:
        by_reason.setdefault(left.reason, []).append(left.name)
    return tuple(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())


def remarks(report: Report) -> tuple[str, ...]:
    """Remarks that a reader must know although they fail nothing."""
    suite = report.suite
    found = []
    if suite.missing_controls:
        names = ", ".join(suite.missing_controls)
        found.append(
            f"{count(len(suite.missing_controls), 'control')} not selected for this run, "
            f"so nothing vouches for what they control: {names}"
        )
    found += [f"{target}: {UNWATCHED_WORK}" for target in unwatched_work(report)]
    if twice := run_twice(report):
        found.append(f"run again, alone, since the machine had been too busy to tell: {twice}")
    found += [f"not run: {left}" for left in not_run(report)]
    if report.stability is not None:
        for name, failing in report.stability.failing.items():
            flips = count(report.stability.flips.get(name, 0), "flip")
            runs = count(len(report.stability.turns), "run")
            found.append(f"not steady: {name} did not pass in {failing} of {runs} ({flips})")
    return tuple(found)
