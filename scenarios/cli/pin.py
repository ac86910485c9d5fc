"""`wedge pin`: write what a server does today into its target file, so that a run fails when it does another
thing."""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from scenarios.cli.report import FAILED, PASSED, console
from scenarios.cli.run import plan_for, repeated, selection
from scenarios.errors import CouldNotRun
from scenarios.judge import judge_report
from scenarios.record import Expectation, ScenarioRecord
from scenarios.report.load import load
from scenarios.spec import LoadedTarget, Scenario, overlay, target_file
from scenarios.spec.pins import own_pins, pin
from scenarios.spec.scenario import per_target
from scenarios.spec.target import Pin

_COULD_NOT_RUN = 2


@click.command("pin")
@selection
@click.option(
    "--report",
    "report_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pin what this report (wedge-report/1) has seen, instead of running it now.",
)
@click.option("--because", metavar="TEXT", help="The reason; by default what was seen.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=None, help="Workers: scenarios that run at the same time."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the probes' times.")
def pin_command(
    names: tuple[str, ...],
    suite: str | None,
    target: str | None,
    report_file: Path | None,
    because: str | None,
    jobs: int | None,
    seed: int,
) -> None:
    """Write what is seen today into `[expect]` of the target file, with date and reason.

    Only what differs from what the suite expects is pinned, and a pin that is not needed any more is
    taken out. From then on a run fails when the server does another thing, be it better or worse. Comments
    and layout of the file stay. What is unproven is not pinned.

    Exits 0 when the file says what the server does, 1 when something could not be pinned, 2 when something
    could not run at all.
    """
    plan = plan_for(names, suite, target, jobs, seed)
    for loaded in {s.target.path: s.target for s in plan.scenarios}.values():
        if loaded.path in overlay.shipped().values():
            raise CouldNotRun(
                f"target {loaded.name} is shipped with wedge and is not written to: write a file of your own "
                f'with base = "{loaded.name}", and give it as --target'
            )
    troubles: tuple[str, ...] = ()
    if report_file is not None:
        report = judge_report(load(report_file))
    else:
        report, troubles = asyncio.run(repeated(plan, 1, console(stderr=True)))
    seen = {record.name: record for record in report.scenarios}
    if not any(scenario.name in seen for scenario in plan.scenarios):
        raise CouldNotRun(
            f"{report_file} has none of the scenarios of the target: {plan.scenarios[0].name}, …"
        )
    clean = True
    for path in dict.fromkeys(scenario.target.path for scenario in plan.scenarios):
        mine = [s for s in plan.scenarios if s.target.path == path and s.name in seen]
        changes: dict[str, Pin | None] = {}
        for scenario in mine:
            record = seen[scenario.name]
            for problem in _problems(record):
                clean = False
                click.echo(f"not pinned  {scenario.name}: {problem}", err=True)
            if record.observed != "unproven":
                change = _change(scenario, record, because)
                if change is not None:
                    click.echo(f"{change[0]:10}  {scenario.name}: {change[1]}")
                if change is not None and change[0] != "as it was":
                    changes[scenario.row.name] = change[2]
        pin(path, changes)
        written = sum(one is not None for one in changes.values())
        click.echo(f"{path}: {written} pinned, {len(changes) - written} taken out")
    for trouble in troubles:
        click.echo(f"wedge: {trouble}", err=True)
    sys.exit(_COULD_NOT_RUN if troubles else PASSED if clean else FAILED)


def _problems(record: ScenarioRecord) -> Iterator[str]:
    """Why the scenario would not pass with a pin either."""
    if record.observed == "unproven":
        yield f"it is unproven ({record.reasons[0] if record.reasons else 'nothing was seen'})"
        return
    others = [guard for guard in record.guards if not guard.held and guard.about != "expectation"]
    for guard in others:
        yield f"it fails whatever is expected ({guard.name}: {guard.detail})"


def _change(
    scenario: Scenario, record: ScenarioRecord, because: str | None
) -> tuple[str, str, Pin | None] | None:
    """What happens to the pin of a scenario: a word, its explanation, and the pin; None without any."""
    row, target = scenario.row, scenario.target
    own = own_pins(target.path).get(row.name)
    without = _inherited(target, row.name) or per_target(row.expect, target.name)
    assert record.observed != "unproven"
    seen: Expectation = record.observed
    if seen == without:
        return (
            ("taken out", f"it is {seen}, as is expected of it without a pin", None)
            if own is not None
            else None
        )
    if own is not None and scenario.expected == seen:
        return "as it was", f"it is {seen}, as it was pinned", None
    words = next((guard.detail for guard in record.guards if guard.about == "watch"), "")
    reason = because or words
    return "pinned", f"{seen} ({reason})", Pin(seen, datetime.date.today(), reason)


def _inherited(target: LoadedTarget, row: str) -> Expectation | None:
    """What the target's base is known to do."""
    if target.spec.base is None:
        return None
    base = target_file.load(target_file.find(target.spec.base, beside=target.folder)).spec
    pinned = base.expect.get(row)
    return pinned.seen if isinstance(pinned, Pin) else pinned
