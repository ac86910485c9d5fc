"""Progress while a run goes on: the scenarios under way and their phases, or one line each where there is no
terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from scenarios.record import ScenarioRecord
from scenarios.run.progress import PHASES, Progress
from scenarios.terminal.rows import COLOURS
from scenarios.terminal.table import line

_REFRESH_HZ = 8


class _Lines:
    """One line a verdict, or only those that are not `pass`."""

    def __init__(self, console: Console, brief: bool) -> None:
        self._console, self._brief = console, brief

    def say(self, text: str) -> None:
        """Print it: a log that stands still for minutes looks like a run that hangs."""
        self._console.print(f"… {text}", soft_wrap=True, highlight=False, markup=False)

    def phase(self, scenario: str, phase: str) -> None:
        """Not shown: it would be too much for a log."""

    def finished(self, scenario: ScenarioRecord) -> None:
        """Print the scenario's line."""
        if self._brief and scenario.verdict == "pass":
            return
        self._console.print(line(scenario), soft_wrap=True, highlight=False)


class _Board:
    """A few lines that are redrawn in place. The line of a scenario that did not pass stays above them."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._began_s = console, total, time.monotonic()
        self._under_way: dict[str, tuple[str, float]] = {}
        self._verdicts: dict[str, str] = {}
        self._notice = ""

    def say(self, text: str) -> None:
        """Show it below the board until a scenario enters its next phase."""
        self._notice = text

    def phase(self, scenario: str, phase: str) -> None:
        """Show the scenario's new phase."""
        self._notice = ""
        began_s = self._under_way.get(scenario, ("", time.monotonic()))[1]
        self._under_way[scenario] = (phase, began_s)

    def finished(self, scenario: ScenarioRecord) -> None:
        """Take the scenario off the board; print its line if it did not pass."""
        if scenario.verdict != "pass":
            self._console.print(line(scenario), highlight=False)
        self._under_way.pop(scenario.name, None)
        self._verdicts[scenario.name] = scenario.verdict

    def __rich__(self) -> RenderableType:
        now_s = time.monotonic()
        dots = Text("".join("●" if v == "pass" else "✗" for v in self._verdicts.values()))
        for i, verdict in enumerate(self._verdicts.values()):
            dots.stylize(COLOURS[verdict], i, i + 1)
        dots.append("·" * (self._total - len(self._verdicts)), style="dim")
        dots.append(f"  {len(self._verdicts)}/{self._total}  {now_s - self._began_s:.0f} s")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for name, (phase, began_s) in self._under_way.items():
            done = PHASES.index(phase) + 1
            steps = Text("■" * done, style="green").append("□" * (len(PHASES) - done), style="dim")
            table.add_row(Text(name), steps.append(f" {phase}", style=""), Text(f"{now_s - began_s:.0f} s"))
        notice = [Text(f"… {self._notice}", "dim", no_wrap=True, overflow="ellipsis")] if self._notice else []
        return Group(dots, table, *notice)


@contextmanager
def progress(console: Console, total: int, *, brief: bool = False) -> Iterator[Progress]:
    """Shows a run of `total` scenarios while the context lasts; the board is wiped at its end.

    Where there is no terminal, `brief` leaves out what passed.
    """
    if not console.is_terminal:
        yield _Lines(console, brief)
        return
    board = _Board(console, total)
    with Live(board, console=console, refresh_per_second=_REFRESH_HZ, transient=True):
        yield board
