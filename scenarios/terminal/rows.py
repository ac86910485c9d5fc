"""Scenarios on one target: a row each, its endpoints across; narrower, less of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scenarios.record.model import Scenario
from scenarios.terminal.signs import COLOURS, mark, worst

_ANY_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class _Layout:
    """What there is room for. Without `endpoints` the worst of them stands for all."""

    took: bool = True
    restarts: bool = True
    target: bool = True
    ratio: bool = True
    endpoints: bool = True
    stuck: bool = True


_LAYOUTS: Final = (
    _Layout(),
    _Layout(took=False),
    _Layout(took=False, restarts=False),
    _Layout(took=False, restarts=False, target=False),
    _Layout(took=False, restarts=False, target=False, ratio=False),
    _Layout(target=False, endpoints=False),
    _Layout(took=False, target=False, endpoints=False),
    _Layout(took=False, restarts=False, target=False, endpoints=False),
    _Layout(took=False, restarts=False, target=False, ratio=False, endpoints=False, stuck=False),
)
"""From the widest to the narrowest."""


def show(scenarios: Sequence[Scenario], console: Console) -> None:
    """Print the widest layout that fits."""
    endpoints = tuple(
        dict.fromkeys(lane.endpoint for s in scenarios for lane in s.lanes.values() if lane.watched)
    )
    room = console.options.update_width(_ANY_WIDTH)
    tables = ((layout, _table(scenarios, endpoints, layout)) for layout in _LAYOUTS)
    for layout, table in tables:
        if console.measure(table, options=room).maximum <= console.width or layout is _LAYOUTS[-1]:
            console.print(table)
            break
    if endpoints:
        notes = [
            "p50/p99 ms under the fault, fresh and kept-alive together, worst of the two"
            if layout.endpoints
            else "worst endpoint's p50/p99 ms under the fault",
            *(["× faulted over baseline, worst endpoint"] if layout.ratio else []),
            *(["restarts: by a kubelet, had the fault gone on"] if layout.restarts else []),
        ]
        console.print(f"[dim]{' · '.join(notes)}[/dim]")


def _table(scenarios: Iterable[Scenario], endpoints: Sequence[str], layout: _Layout) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    headings = ["scenario", "verdict", "seen", *(["stuck"] if layout.stuck else [])]
    for heading in (*headings, *(endpoints if layout.endpoints else ("worst endpoint",))):
        table.add_column(heading, no_wrap=True)
    for heading, wanted in (
        ("× p50/p99", layout.ratio),
        ("restarts", layout.restarts),
        ("took", layout.took),
    ):
        if wanted:
            table.add_column(heading, no_wrap=True, justify="right")
    for scenario in scenarios:
        table.add_row(*_row(scenario, endpoints, layout))
    return table


def _row(scenario: Scenario, endpoints: Sequence[str], layout: _Layout) -> Iterable[Text]:
    seen = Text(scenario.observed, style=COLOURS[scenario.verdict])
    if scenario.observed != scenario.expected:
        seen.append(f" ≠ {scenario.expected}", style="bold")
    stuck = scenario.stuck
    yield Text(scenario.name if layout.target else scenario.name.removesuffix(f"@{scenario.target}"))
    yield Text(scenario.verdict, style=COLOURS[scenario.verdict])
    yield seen
    if layout.stuck:
        yield Text(f"{stuck.pending_in_window}/{stuck.started}" if stuck.started else "-")
    if layout.endpoints:
        yield from (_cell(scenario, endpoint) for endpoint in endpoints)
    else:
        yield mark(scenario)
    if layout.ratio:
        yield Text(_ratio(scenario))
    if layout.restarts:
        yield Text(str(scenario.kubelet.liveness_restarts) if scenario.window.closed_s is not None else "-")
    if layout.took:
        yield Text(f"{scenario.duration_s:.1f} s")


def _cell(scenario: Scenario, endpoint: str) -> Text:
    names = [name for name, lane in scenario.lanes.items() if lane.endpoint == endpoint]
    found = [scenario.phases.faulted[name] for name in names if name in scenario.phases.faulted]
    if not found:
        return Text("-", style="dim")
    bad = scenario.verdict != "pass"
    silent = [b - a for name in names for a, b in scenario.dark_gaps.get(name, ())]
    if silent:
        return Text(f"○ {max(silent):.1f} s", style=COLOURS["fail"] if bad else "")
    missed = sum(latency.sent - latency.ok for latency in found)
    if missed:
        return Text(f"◐ {missed} missed", style=COLOURS["unproven"] if bad else "")
    return Text(f"● {worst(found)}", style=COLOURS["lit"])


def _ratio(scenario: Scenario) -> str:
    p50 = [r.p50 for r in scenario.ratios.values() if r.p50 is not None]
    p99 = [r.p99 for r in scenario.ratios.values() if r.p99 is not None]
    return f"{max(p50):.2f}/{max(p99):.2f}" if p50 and p99 and scenario.observed == "lit" else "-"
