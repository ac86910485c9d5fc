"""Controls: a wedge that no known-bad target felt proves nothing about a good one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from scenarios.judge.verdict import reasons
from scenarios.record import Guard, Observed, ScenarioRecord


@dataclass(frozen=True, slots=True)
class ControlledRun:
    """Scenarios after their controls were checked. `failures`: the controls that did not go dark, a line
    each. `missing`: controls that were not in the run, so that nothing vouches for the scenarios that name
    them.
    """

    scenarios: tuple[ScenarioRecord, ...]
    failures: tuple[str, ...]
    missing: tuple[str, ...]


def with_controls(records: Iterable[ScenarioRecord]) -> ControlledRun:
    """Check judged scenarios against their controls in the same run.

    A scenario with a control that did not go dark becomes unproven, and the run fails and says so.
    """
    records = tuple(records)
    seen: dict[str, Observed] = {record.name: record.observed for record in records}
    controlled: dict[str, list[str]] = {}
    for record in records:
        for name in record.controls:
            if name in seen and seen[name] != "dark":
                controlled.setdefault(name, []).append(record.name)
    missing = dict.fromkeys(name for record in records for name in record.controls if name not in seen)
    return ControlledRun(
        tuple(_controlled(record, seen) for record in records),
        tuple(
            f"the control {name} was {seen[name]}, not dark: it vouches for {', '.join(wedges)}"
            for name, wedges in controlled.items()
        ),
        tuple(missing),
    )


def _controlled(record: ScenarioRecord, seen: dict[str, Observed]) -> ScenarioRecord:
    present = [name for name in record.controls if name in seen]
    if not present:
        return record
    bright = [name for name in present if seen[name] != "dark"]
    control = Guard(
        name="controls went dark",
        kind="proof",
        held=not bright,
        detail="; ".join(f"the control {name} was {seen[name]}, not dark" for name in bright)
        or f"{', '.join(present)} went dark in the same run",
        by="judge",
        about="controls",
    )
    guards = (*(guard for guard in record.guards if guard.about != "controls"), control)
    if not bright:
        return replace(record, guards=guards)
    return replace(record, observed="unproven", verdict="unproven", guards=guards, reasons=reasons(guards))
