"""Scenarios in a terminal: a row each with its endpoints across, or faults down and targets across."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scenarios.record import Latency, ScenarioRecord
from scenarios.report.numbers import NONE
from scenarios.report.summary import Grid, seen_words, time_to_admit, watched_series

COLOURS: Final = {
    "pass": "green",
    "fail": "bold red",
    "unproven": "bold yellow",
    "lit": "green",
    "dark": "red",
    "partial": "yellow",
    "lying": "magenta",
}
MARKS: Final = {"pass": "✓", "fail": "✗", "unproven": "?"}


_ANY_WIDTH = 10_000

_GAP = 2


def short(ms: float | None) -> str:
    """Milliseconds in four characters or so: `0.62`, `3.4`, `39`, `2,010`."""
    if ms is None:
        return NONE
    return f"{ms:.2f}" if ms < 0.995 else f"{ms:.1f}" if ms < 9.95 else f"{ms:,.0f}"


def worst(found: Iterable[Latency]) -> str:
    """`p50/p99` in milliseconds, each of the series where it is highest."""
    phases = list(found)
    p50 = max((phase.p50_ms for phase in phases if phase.p50_ms is not None), default=None)
    p99 = max((phase.p99_ms for phase in phases if phase.p99_ms is not None), default=None)
    return f"{short(p50)}/{short(p99)}"


def mark(scenario: ScenarioRecord) -> Text:
    """One scenario in a few characters: what was seen, and whether that is what had to be."""
    match scenario.verdict, scenario.observed:
        case "pass", "lit":
            under = scenario.phases.faulted
            figures = worst(under[name] for name in watched_series(scenario) if name in under)
            return Text(f"● {figures}", style=COLOURS["pass"])
        case "pass", observed:
            return Text("○ gone" if scenario.after == "gone" and observed == "dark" else f"○ {observed}")
        case verdict, observed:
            return Text(f"{MARKS[verdict]} {observed}", style=COLOURS[verdict])


@dataclass(frozen=True, slots=True)
class _Layout:
    """What there is room for. Without `endpoints` the worst of them stands for all."""

    admits: bool = True
    took: bool = True
    restarts: bool = True
    target: bool = True
    ratio: bool = True
    endpoints: bool = True
    stuck: bool = True


_LAYOUTS: Final = (
    _Layout(),
    _Layout(admits=False),
    _Layout(admits=False, took=False),
    _Layout(admits=False, took=False, restarts=False),
    _Layout(admits=False, took=False, restarts=False, target=False),
    _Layout(admits=False, took=False, restarts=False, target=False, ratio=False),
    _Layout(admits=False, target=False, endpoints=False),
    _Layout(admits=False, took=False, target=False, endpoints=False),
    _Layout(admits=False, took=False, restarts=False, target=False, endpoints=False),
    _Layout(
        admits=False, took=False, restarts=False, target=False, ratio=False, endpoints=False, stuck=False
    ),
)
"""From the widest to the narrowest."""


def show_rows(scenarios: Sequence[ScenarioRecord], console: Console) -> None:
    """Print scenarios a row each, in the widest layout that fits."""
    endpoints = tuple(
        dict.fromkeys(series.endpoint for s in scenarios for series in s.series.values() if series.watched)
    )
    room = console.options.update_width(_ANY_WIDTH)
    tables = ((layout, _rows_table(scenarios, endpoints, layout)) for layout in _LAYOUTS)
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
            *(
                ["admits: seconds until readiness said so"]
                if layout.admits and any(map(time_to_admit, scenarios))
                else []
            ),
            *(["restarts: by a kubelet, had the fault gone on"] if layout.restarts else []),
            *(f"restarts -: {escape(reason)}" for reason in _not_replayed(scenarios) if layout.restarts),
        ]
        console.print(f"[dim]{' · '.join(notes)}[/dim]")


def _not_replayed(scenarios: Iterable[ScenarioRecord]) -> Iterable[str]:
    """Why there is no number of restarts, each reason once."""
    replays = [scenario.kubelet for scenario in scenarios if scenario.window.closed_s is not None]
    return dict.fromkeys(one.not_replayed["liveness"] for one in replays if "liveness" in one.not_replayed)


def _rows_table(scenarios: Sequence[ScenarioRecord], endpoints: Sequence[str], layout: _Layout) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    admits = layout.admits and any(map(time_to_admit, scenarios))
    headings = ["scenario", "verdict", "seen", *(["stuck"] if layout.stuck else [])]
    headings += ["admits"] if admits else []
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
        table.add_row(*_row(scenario, endpoints, replace(layout, admits=admits)))
    return table


def _row(scenario: ScenarioRecord, endpoints: Sequence[str], layout: _Layout) -> Iterable[Text]:
    seen = Text(seen_words(scenario), style=COLOURS[scenario.verdict])
    if scenario.observed != scenario.expected:
        seen.append(f" ≠ {scenario.expected}", style="bold")
    stuck = scenario.stuck
    yield Text(scenario.name if layout.target else scenario.name.removesuffix(f"@{scenario.target}"))
    yield Text(scenario.verdict, style=COLOURS[scenario.verdict])
    yield seen
    if layout.stuck:
        yield Text(f"{stuck.pending_in_window}/{stuck.started}" if stuck.started else "-")
    if layout.admits:
        yield Text(time_to_admit(scenario) or "-")
    if layout.endpoints:
        yield from (_cell(scenario, endpoint) for endpoint in endpoints)
    else:
        yield mark(scenario)
    if layout.ratio:
        yield Text(_ratio(scenario))
    if layout.restarts:
        restarts = scenario.kubelet.liveness_restarts if scenario.window.closed_s is not None else None
        yield Text("-" if restarts is None else str(restarts))
    if layout.took:
        yield Text(f"{scenario.duration_s:.1f} s")


def _cell(scenario: ScenarioRecord, endpoint: str) -> Text:
    names = [name for name, series in scenario.series.items() if series.endpoint == endpoint]
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


def _ratio(scenario: ScenarioRecord) -> str:
    p50 = [r.p50 for r in scenario.ratios.values() if r.p50 is not None]
    p99 = [r.p99 for r in scenario.ratios.values() if r.p99 is not None]
    return f"{max(p50):.2f}/{max(p99):.2f}" if p50 and p99 and scenario.observed == "lit" else "-"


def show_matrix(grid: Grid, console: Console) -> None:
    """Print faults down and targets across, in as many blocks of targets as the width asks for."""
    cells = {place: mark(scenario) for place, scenario in grid.cells.items()}
    widths = {
        target: max(
            len(grid.short(target)), *(cell.cell_len for (_, t), cell in cells.items() if t == target)
        )
        for target in grid.targets
    }
    left = console.width - max(len(row) for row in grid.rows)
    for block in _blocks(widths, left):
        here = [row for row in grid.rows if any((row, target) in cells for target in block)]
        console.print(_matrix_table(grid, here, block, cells))
        if block[-1] != grid.targets[-1]:
            console.print()
    console.print(
        "[dim]● lit: worst endpoint's p50/p99 in ms under the fault · ○ not lit, as it had to be · "
        "✗ not as it had to be · ? unproven[/dim]"
    )


def _matrix_table(
    grid: Grid, rows: Iterable[str], targets: Sequence[str], cells: Mapping[tuple[str, str], Text]
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0))
    table.add_column(f"{grid.prefix}…" if grid.prefix else "scenario", no_wrap=True)
    for target in targets:
        table.add_column(grid.short(target), no_wrap=True)
    for row in rows:
        table.add_row(Text(row), *(cells.get((row, target), Text("·", style="dim")) for target in targets))
    return table


def _blocks(widths: Mapping[str, int], left: int) -> list[list[str]]:
    """The targets in order, parted where the next would not fit beside the rows' names."""
    blocks: list[list[str]] = [[]]
    used = 0
    for target, width in widths.items():
        used += _GAP + width
        if blocks[-1] and used > left:
            blocks.append([])
            used = _GAP + width
        blocks[-1].append(target)
    return blocks
