"""Many scenarios on several targets: what was done to them down, the targets across."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scenarios.report.model import Scenario
from scenarios.terminal.signs import mark

_GAP = 2


def fits(scenarios: Sequence[Scenario]) -> bool:
    """Whether a matrix says it shorter than a row a scenario would."""
    return len(scenarios) > len({_row(scenario) for scenario in scenarios})


def show(scenarios: Sequence[Scenario], console: Console) -> None:
    """Print it, in as many blocks of targets as the width asks for."""
    targets = list(dict.fromkeys(scenario.target for scenario in scenarios))
    prefix = _prefix(targets)
    cells = {(_row(s), s.target): mark(s) for s in scenarios}
    rows = list(dict.fromkeys(row for row, _ in cells))
    widths = {
        target: max(
            len(target) - len(prefix), *(cell.cell_len for (_, t), cell in cells.items() if t == target)
        )
        for target in targets
    }
    left = console.width - max(len(row) for row in rows)
    for block in _blocks(widths, left):
        here = [row for row in rows if any((row, target) in cells for target in block)]
        console.print(_table(here, block, prefix, cells))
        if block[-1] != targets[-1]:
            console.print()
    console.print(
        "[dim]● lit: worst endpoint's p50/p99 in ms under the fault · ○ dark, as it had to be · "
        "✗ not as it had to be · ? unproven[/dim]"
    )


def _table(
    rows: Iterable[str], targets: Iterable[str], prefix: str, cells: Mapping[tuple[str, str], Text]
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0))
    table.add_column(f"{prefix}…" if prefix else "scenario", no_wrap=True)
    columns = list(targets)
    for target in columns:
        table.add_column(target.removeprefix(prefix), no_wrap=True)
    for row in rows:
        table.add_row(Text(row), *(cells.get((row, target), Text("·", style="dim")) for target in columns))
    return table


def _row(scenario: Scenario) -> str:
    return scenario.name.removesuffix(f"@{scenario.target}")


def _prefix(targets: Sequence[str]) -> str:
    """What all targets' names begin with, up to a hyphen."""
    first, last = min(targets), max(targets)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common, hyphen, _ = first[:same].rpartition("-")
    return common + hyphen


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
