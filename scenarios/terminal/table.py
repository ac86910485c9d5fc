"""The report as a table for a terminal: what stayed lit, what went dark, how fast, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from scenarios.report.model import Latency, Report, Scenario
from scenarios.report.stability import in_words

COLOURS = {"pass": "green", "fail": "bold red", "unproven": "bold yellow", "lit": "green", "dark": "red"}
_SLOWEST_SHOWN = 3


def show(report: Report, console: Console) -> None:
    """Print the table, then why whatever did not pass did not, then one line that says it all."""
    endpoints = tuple(
        dict.fromkeys(lane.endpoint for s in report.scenarios for lane in s.lanes.values() if lane.watched)
    )
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("scenario", "verdict", "seen", "stuck", *(name for name in endpoints)):
        table.add_column(heading, no_wrap=True)
    for heading in ("× p50/p99", "restarts", "took"):
        table.add_column(heading, no_wrap=True, justify="right")
    for scenario in report.scenarios:
        table.add_row(*_row(scenario, endpoints))
    console.print(table)
    if endpoints:
        console.print(
            "[dim]cells: p50/p99 ms under the fault, fresh and kept-alive together, worst of the two · "
            "× faulted over baseline, worst endpoint · restarts: by a kubelet, had the fault gone on[/dim]"
        )
    for scenario in report.scenarios:
        if scenario.verdict != "pass":
            console.print(f"\n[{COLOURS[scenario.verdict]}]{scenario.verdict}[/] {escape(scenario.name)}")
            for reason in scenario.reasons:
                console.print(f"  {escape(reason)}", soft_wrap=True, highlight=False)
            console.print(f"  [dim]{escape(scenario.reproduce)}[/dim]", soft_wrap=True, highlight=False)
    console.print(f"\n{_bottom_line(report)}", highlight=False, soft_wrap=True)


def line(scenario: Scenario) -> Text:
    """One finished scenario in one line, for where there is no terminal to draw on."""
    text = Text()
    text.append(f"{scenario.verdict:8} ", style=COLOURS[scenario.verdict])
    text.append(f"{scenario.name}  {scenario.observed}  {scenario.duration_s:.1f} s")
    if scenario.reasons:
        text.append(f"  {scenario.reasons[0]}")
    return text


def _row(scenario: Scenario, endpoints: Iterable[str]) -> Iterable[Text]:
    seen = Text(scenario.observed, style=COLOURS[scenario.observed])
    if scenario.observed != scenario.expected:
        seen.append(f" ≠ {scenario.expected}", style="bold")
    stuck = scenario.stuck
    yield Text(scenario.name)
    yield Text(scenario.verdict, style=COLOURS[scenario.verdict])
    yield seen
    yield Text(f"{stuck.pending_in_window}/{stuck.started}" if stuck.started else "-")
    for endpoint in endpoints:
        yield _cell(scenario, endpoint)
    yield Text(_ratio(scenario))
    yield Text(str(scenario.kubelet.liveness_restarts) if scenario.window.closed_s is not None else "-")
    yield Text(f"{scenario.duration_s:.1f} s")


def _cell(scenario: Scenario, endpoint: str) -> Text:
    names = [name for name, lane in scenario.lanes.items() if lane.endpoint == endpoint]
    found = [scenario.phases.faulted[name] for name in names if name in scenario.phases.faulted]
    if not found:
        return Text("-", style="dim")
    silent = [b - a for name in names for a, b in scenario.dark_gaps.get(name, ())]
    if silent:
        return Text(f"○ {max(silent):.1f} s", style="red")
    missed = sum(latency.sent - latency.ok for latency in found)
    if missed:
        return Text(f"◐ {missed} missed", style="yellow")
    return Text(f"● {_worst(found, 'p50_ms')}/{_worst(found, 'p99_ms')}", style="green")


def _worst(found: Iterable[Latency], figure: str) -> str:
    values = [value for latency in found if (value := getattr(latency, figure)) is not None]
    return f"{max(values):.1f}" if values else "-"


def _ratio(scenario: Scenario) -> str:
    p50 = [r.p50 for r in scenario.ratios.values() if r.p50 is not None]
    p99 = [r.p99 for r in scenario.ratios.values() if r.p99 is not None]
    return f"{max(p50):.2f}/{max(p99):.2f}" if p50 and p99 and scenario.observed == "lit" else "-"


def _slowest(report: Report) -> str:
    slowest = sorted(report.scenarios, key=lambda scenario: -scenario.duration_s)[:_SLOWEST_SHOWN]
    return ", ".join(f"{scenario.name} {scenario.duration_s:.1f} s" for scenario in slowest)


def _bottom_line(report: Report) -> str:
    verdicts = [scenario.verdict for scenario in report.scenarios]
    counts = ", ".join(
        f"[{COLOURS[verdict]}]{verdicts.count(verdict)} {verdict}[/]"
        for verdict in ("pass", "fail", "unproven")
        if verdict in verdicts
    )
    words = [
        f"{len(verdicts)} scenarios: {counts or 'none'} · {report.duration_s:.1f} s · seed {report.seed}"
    ]
    if probers := [s.prober for s in report.scenarios if s.prober.probes]:
        late_ms = max(prober.late_max_ms or 0.0 for prober in probers)
        share = max(prober.cpu_share for prober in probers)
        count = sum(prober.probes for prober in probers)
        words.append(
            f"[dim]probers: {count} probes, at worst {late_ms:.0f} ms late and {share:.0%} of a core · "
            f"slowest: {_slowest(report)}[/dim]"
        )
    words += [f"[bold red]suite fails:[/] {escape(failure)}" for failure in report.suite.failures]
    if report.suite.missing_controls:
        missing = ", ".join(report.suite.missing_controls)
        words.append(
            f"[yellow]controls not in this run, so nothing vouches for the wedge:[/] {escape(missing)}"
        )
    words += [f"[dim]skipped {escape(skipped)}[/dim]" for skipped in report.suite.not_run]
    if report.stability is not None:
        words.append(f"[bold]{in_words(report.stability)}[/]")
        for name, flips in report.stability.flips.items():
            failing = report.stability.failing.get(name, 0)
            words.append(f"[bold red]not steady:[/] {escape(name)}: {flips} flips, {failing} not pass")
    return "\n".join(words)
