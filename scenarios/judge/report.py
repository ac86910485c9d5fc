"""Judges a whole run: every scenario by itself, then with its controls, then all of them together."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from scenarios.judge.controls import with_controls
from scenarios.judge.pool import pool
from scenarios.judge.verdict import judge
from scenarios.record import Report


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
