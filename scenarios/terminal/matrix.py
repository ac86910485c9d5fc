"""Many scenarios on several targets: what was done to them down, the targets across."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scenarios.report.grid import Grid
from scenarios.terminal.signs import mark

_GAP = 2


def show(grid: Grid, console: Console) -> None:
    """Print it, in as many blocks of targets as the width asks for."""
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
        console.print(_table(grid, here, block, cells))
        if block[-1] != grid.targets[-1]:
            console.print()
    console.print(
        "[dim]● lit: worst endpoint's p50/p99 in ms under the fault · ○ dark, as it had to be · "
        "✗ not as it had to be · ? unproven[/dim]"
    )


def _table(
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
