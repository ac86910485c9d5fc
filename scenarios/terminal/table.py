"""The report for a terminal: what stayed lit or went dark, how fast, why a scenario did not pass, and one
summary line.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from scenarios.record import Report, ScenarioRecord
from scenarios.record.stability import in_words
from scenarios.report import headline, summary
from scenarios.terminal.rows import COLOURS, short, show_matrix, show_rows

_SLOWEST_SHOWN: Final = 3
_EXPLAINED: Final = 20
"""So many scenarios that did not pass are listed with their reasons; of the others only the names."""


def show(report: Report, console: Console) -> None:
    """Print what was seen, then why whatever did not pass did not, then the run's own figures."""
    crossed = summary.grid(report.scenarios)
    if crossed is not None:
        show_matrix(crossed, console)
    else:
        show_rows(report.scenarios, console)
    bad = [scenario for scenario in report.scenarios if scenario.verdict != "pass"]
    for scenario in bad[:_EXPLAINED]:
        console.print(f"\n[{COLOURS[scenario.verdict]}]{scenario.verdict}[/] {escape(scenario.name)}")
        for reason in scenario.reasons:
            _print_prose(console, Text(reason), indent=2)
        console.print(f"  [dim]{escape(scenario.reproduce)}[/dim]", soft_wrap=True, highlight=False)
    for scenario in bad[_EXPLAINED:]:
        console.print(f"[{COLOURS[scenario.verdict]}]{scenario.verdict}[/] {escape(scenario.name)}")
    if report.pooled:
        console.print()
        console.print(_pooled(report))
    console.print()
    for words in _bottom_lines(report):
        _print_prose(console, Text.from_markup(words))


def line(scenario: ScenarioRecord) -> Text:
    """One finished scenario in one line, for where there is no terminal to draw on."""
    text = Text()
    text.append(f"{scenario.verdict:8} ", style=COLOURS[scenario.verdict])
    text.append(f"{scenario.name}  {summary.seen_words(scenario)}  {scenario.duration_s:.1f} s")
    if scenario.reasons:
        text.append(f"  {scenario.reasons[0]}")
    return text


def _print_prose(console: Console, text: Text, indent: int = 0) -> None:
    """Prose: wrapped for a person's eyes, one line for a log."""
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent), expand=False), highlight=False)
    else:
        console.print(Text(" " * indent) + text, soft_wrap=True, highlight=False)


def _pooled(report: Report) -> Table:
    """The latencies of the run, added up by target and endpoint: baseline against fault windows."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for heading in ("scenarios pooled, ms", "baseline p50/p99/p99.9", "under the fault", "answered"):
        table.add_column(heading, no_wrap=True)
    for line in summary.pooled_lines(report):
        name = f"{line.target} ({line.scenarios})" if line.endpoint is None else f"  {line.endpoint}"
        missed = line.faulted.ok < line.faulted.sent
        table.add_row(
            Text(name),
            *(
                " / ".join(map(short, summary.reliable_percentiles(found)))
                for found in (line.baseline, line.faulted)
            ),
            Text(f"{line.faulted.ok:,}/{line.faulted.sent:,}", style=COLOURS["fail"] if missed else ""),
        )
    return table


def _bottom_lines(report: Report) -> list[str]:
    verdicts = [scenario.verdict for scenario in report.scenarios]
    counts = ", ".join(
        f"[{COLOURS[verdict]}]{verdicts.count(verdict)} {verdict}[/]"
        for verdict in ("pass", "fail", "unproven")
        if verdict in verdicts
    )
    words = [f"[bold]{escape(headline.sentence(report))}[/]"] if verdicts else []
    words += [
        f"{len(verdicts)} scenarios: {counts or 'none'} · {report.duration_s:.1f} s · seed {report.seed}"
    ]
    if overhead := summary.overhead(report):
        words.append(f"[dim]{overhead} · slowest: {escape(_slowest(report))}[/dim]")
    words += [f"[bold red]suite fails:[/] {escape(failure)}" for failure in report.suite.failures]
    if report.suite.missing_controls:
        missing = ", ".join(report.suite.missing_controls)
        words.append(
            f"[yellow]controls not in this run, so nothing vouches for the wedge:[/] {escape(missing)}"
        )
    words += [
        f"[yellow]{escape(target)}:[/] {escape(summary.UNWATCHED_WORK)}"
        for target in summary.unwatched_work(report)
    ]
    if twice := summary.run_twice(report):
        words.append(f"[yellow]run again, alone, the machine having been too busy:[/] {escape(twice)}")
    words += [f"[yellow]not run:[/] {escape(left)}" for left in summary.not_run(report)]
    if report.stability is not None:
        words.append(f"[bold]{in_words(report.stability)}[/]")
        for name, flips in report.stability.flips.items():
            failing = report.stability.failing.get(name, 0)
            words.append(f"[bold red]not steady:[/] {escape(name)}: {flips} flips, {failing} not pass")
    return words


def _slowest(report: Report) -> str:
    slowest = sorted(report.scenarios, key=lambda scenario: -scenario.duration_s)[:_SLOWEST_SHOWN]
    return ", ".join(f"{scenario.name} {scenario.duration_s:.1f} s" for scenario in slowest)
