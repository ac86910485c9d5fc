"""The run as a whole: every scenario judged, then in the light of its controls, then all of them together.

A wedge that no known-bad target felt proves nothing about a good one: that is what the controls are for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from scenarios.judge.pool import pool
from scenarios.judge.verdict import judge, reasons
from scenarios.record import Expectation, Guard, Observed, Report, ScenarioRecord

_WAS: Final[dict[Expectation, str]] = {
    "lit": "was lit",
    "dark": "went dark",
    "partial": "was partial",
    "lying": "was lying",
}


@dataclass(frozen=True, slots=True)
class ControlledRun:
    """Scenarios in the light of their controls. `failures`: the controls that were not seen as they had to be
    (dark, or partial or lying where that is expected of them), a line each.
    `missing`: controls that were not in the run, so that nothing vouches for the scenarios that name them.
    """

    scenarios: tuple[ScenarioRecord, ...]
    failures: tuple[str, ...]
    missing: tuple[str, ...]


def with_controls(records: Iterable[ScenarioRecord]) -> ControlledRun:
    """Hold judged scenarios against their controls in the same run.

    A scenario with a control that did not do so becomes unproven, and the run fails and says so.
    """
    records = tuple(records)
    wanted: dict[str, Expectation] = {record.name: _as_control(record) for record in records}
    seen: dict[str, Observed] = {record.name: record.observed for record in records}
    controlled: dict[str, list[str]] = {}
    for record in records:
        for name in record.controls:
            if name in seen and seen[name] != wanted[name]:
                controlled.setdefault(name, []).append(record.name)
    missing = dict.fromkeys(name for record in records for name in record.controls if name not in seen)
    return ControlledRun(
        tuple(_controlled(record, seen, wanted) for record in records),
        tuple(
            f"the control {name} was {seen[name]}, not {wanted[name]}: it vouches for {', '.join(wedges)}"
            for name, wedges in controlled.items()
        ),
        tuple(missing),
    )


def _as_control(record: ScenarioRecord) -> Expectation:
    """What has to be seen of a scenario for it to be of use as a control."""
    return "dark" if record.expected == "lit" else record.expected


def _controlled(
    record: ScenarioRecord, seen: dict[str, Observed], wanted: dict[str, Expectation]
) -> ScenarioRecord:
    present = [name for name in record.controls if name in seen]
    if not present:
        return record
    bright = [name for name in present if seen[name] != wanted[name]]
    words = {wanted[name] for name in present}
    control = Guard(
        name="controls went dark" if words == {"dark"} else "controls were seen",
        kind="proof",
        held=not bright,
        detail="; ".join(f"the control {name} was {seen[name]}, not {wanted[name]}" for name in bright)
        or " and ".join(
            f"{', '.join(name for name in present if wanted[name] == word)} {_WAS[word]}"
            for word in sorted(words)
        )
        + " in the same run",
        by="judge",
        about="controls",
    )
    guards = (*(guard for guard in record.guards if guard.about != "controls"), control)
    if not bright:
        return replace(record, guards=guards)
    return replace(record, observed="unproven", verdict="unproven", guards=guards, reasons=reasons(guards))


@dataclass(frozen=True, slots=True)
class RevisedVerdict:
    """A scenario whose verdict differs from the report's. `why`: its reasons now."""

    name: str
    was: str
    now: str
    why: tuple[str, ...]


def judge_report(report: Report) -> Report:
    """The same run, judged again by today's rules. Judging the result again changes nothing. Raises
    `UnreadableHistogram`."""
    return conclude(replace(report, scenarios=tuple(map(judge, report.scenarios))))


def conclude(report: Report) -> Report:
    """Complete a run whose scenarios are judged: check the controls, pool the latencies, and decide whether
    the suite passed. A run without scenarios does not pass. Raises `UnreadableHistogram`."""
    found = with_controls(report.scenarios)
    suite = replace(
        report.suite,
        passed=bool(found.scenarios)
        and not found.failures
        and all(record.verdict == "pass" for record in found.scenarios),
        failures=found.failures,
        missing_controls=found.missing,
    )
    return replace(report, scenarios=found.scenarios, pooled=pool(found.scenarios), suite=suite)


def revised_verdicts(before: Report, after: Report) -> tuple[RevisedVerdict, ...]:
    """The verdicts that differ between two reports of the same run, in the order of the run."""
    return tuple(
        RevisedVerdict(old.name, old.verdict, new.verdict, new.reasons)
        for old, new in zip(before.scenarios, after.scenarios, strict=True)
        if old.verdict != new.verdict
    )
