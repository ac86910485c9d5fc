"""Colours, marks and short numbers that the terminal's tables share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from scenarios.record.model import Latency, Scenario
from scenarios.report.numbers import NONE

COLOURS: Final = {
    "pass": "green",
    "fail": "bold red",
    "unproven": "bold yellow",
    "lit": "green",
    "dark": "red",
}
MARKS: Final = {"pass": "✓", "fail": "✗", "unproven": "?"}


def short(ms: float | None) -> str:
    """Milliseconds in four characters or so: `0.62`, `3.4`, `39`, `2,010`."""
    if ms is None:
        return NONE
    return f"{ms:.2f}" if ms < 0.995 else f"{ms:.1f}" if ms < 9.95 else f"{ms:,.0f}"


def worst(found: Iterable[Latency]) -> str:
    """`p50/p99` in milliseconds, each of the lane where it is highest."""
    phases = list(found)
    p50 = max((phase.p50_ms for phase in phases if phase.p50_ms is not None), default=None)
    p99 = max((phase.p99_ms for phase in phases if phase.p99_ms is not None), default=None)
    return f"{short(p50)}/{short(p99)}"


def mark(scenario: Scenario) -> Text:
    """One scenario in a few characters: what was seen, and whether that is what had to be."""
    match scenario.verdict, scenario.observed:
        case "pass", "lit":
            watched = [name for name, lane in scenario.lanes.items() if lane.watched]
            under = scenario.phases.faulted
            figures = worst(under[name] for name in watched if name in under)
            return Text(f"● {figures}", style=COLOURS["pass"])
        case "pass", _:
            return Text("○ gone" if scenario.after == "gone" else "○ dark")
        case verdict, observed:
            return Text(f"{MARKS[verdict]} {observed}", style=COLOURS[verdict])
