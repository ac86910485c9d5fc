"""`wedge run` and `wedge list`: choose scenarios, run and judge them, and write the reports."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console

from scenarios.cli.report import FAILED, OUTPUT, PASSED, console, write_reports
from scenarios.errors import CouldNotRun
from scenarios.judge import kubelet
from scenarios.record import NotRun, Report, Turn
from scenarios.record.stability import stability, turn, turn_in_words
from scenarios.run.run import Plan, default_jobs
from scenarios.run.run import run as run_plan
from scenarios.server.needs import unmet_needs
from scenarios.spec import LoadedTarget, Scenario, suite_file, target_file
from scenarios.terminal.live import progress
from scenarios.terminal.table import show

if TYPE_CHECKING:
    from scenarios.spec.kubernetes import KubeletProbes

_COULD_NOT_RUN = 2

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
_AGAIN_AT_MOST = 10
"""A machine that is too busy to tell of more scenarios is no place to run the suite at all."""

_QUICK = {
    "nothing broken": ("noop",),
    "the GIL held": ("gil.hold",),
    "a stall": ("call.stall", "cuda.stream_stall", "process.stop"),
}
"""The scenarios of `--quick`: for each kind the faults, the best first."""


def selection(command: F) -> F:
    """The options that say which scenarios: a suite, a target, names."""
    for decorate in (
        click.option(
            "--target", "target", metavar="FILE|NAME", help="Only this target; a TOML file or a shipped name."
        ),
        click.option(
            "--suite", "suite", metavar="FILE|NAME", help="A suite file or a shipped name (default, any)."
        ),
        click.argument("names", nargs=-1, metavar="[NAME|GLOB …]"),
    ):
        command = decorate(command)
    return command


@click.command("run")
@selection
@click.option("--json", "json_file", type=OUTPUT, help="Write the report (wedge-report/1); - for stdout.")
@click.option("--junit", "junit_file", type=OUTPUT, help="Write JUnit XML, as CI services read it.")
@click.option("--html", "html_file", type=OUTPUT, help="Write the report as one HTML page.")
@click.option("--md", "md_file", type=OUTPUT, help="Write a Markdown summary.")
@click.option(
    "--k8s",
    metavar="FILE[:CONTAINER]",
    help="Replay through the probes of this Kubernetes manifest instead of Kubernetes' defaults.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=None, help="Workers: scenarios that run at the same time."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of the probes' times and of random triggers."
)
@click.option(
    "--quick",
    is_flag=True,
    help="A first answer in half a minute: of each target nothing broken, the GIL held, and one stall.",
)
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="N",
    help="Run it N times, each with the next seed, and count the verdicts that flipped. "
    "The reports are those of the first run that did not pass, or else of the last.",
)
def run_command(
    names: tuple[str, ...],
    suite: str | None,
    target: str | None,
    json_file: Path | None,
    junit_file: Path | None,
    html_file: Path | None,
    md_file: Path | None,
    k8s: str | None,
    jobs: int | None,
    seed: int,
    quick: bool,
    repeat: int,
) -> None:
    """Run scenarios (all of the suite by default) and judge them.

    Exits 0 when every verdict is pass, 1 when one is not, 2 when something could not run at all.
    """
    plan = plan_for(names, suite, target, jobs, seed)
    if quick:
        plan = quickened(plan)
    probed_by = deployed(k8s, plan)
    files = {"json": json_file, "junit": junit_file, "html": html_file, "md": md_file}
    to_stdout = _check_writable(files.values())
    try:
        found, troubles = asyncio.run(_until_signalled(repeated(plan, repeat, console(stderr=True))))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    found = replayed(found, probed_by, k8s)
    show(found, console(stderr=to_stdout))
    write_reports(found, **files)
    for trouble in troubles:
        click.echo(f"wedge: {trouble}", err=True)
    sys.exit(exit_code(found, troubles))


@click.command("list")
@selection
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_command(names: tuple[str, ...], suite: str | None, target: str | None, as_json: bool) -> None:
    """List scenarios: what is broken on which target, and what must be seen."""
    own = _target(target)
    loaded = suite_file.load(suite_for(suite, own), own)
    scenarios = suite_file.select(loaded.scenarios, names, loaded.not_run)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([_described(s) for s in scenarios]), indent=1))
        return
    width = max((len(scenario.name) for scenario in scenarios), default=0)
    for scenario in scenarios:
        click.echo(f"{scenario.name:{width}}  {scenario.expected:4}  {scenario.row.summary}".rstrip())
    for left in suite_file.matched(loaded.not_run, names):
        click.echo(f"wedge: not run: {left.name}: {left.reason}", err=True)


def plan_for(
    names: tuple[str, ...], suite: str | None, target: str | None, jobs: int | None, seed: int
) -> Plan:
    """The plan for a command line. Raises `CouldNotRun`, also if this machine can run none of the
    scenarios."""
    options: list[str] = []
    for option, value in (("--suite", suite), ("--target", target)):
        options += [option, value] if value is not None else []
    own = _target(target)
    path = suite_for(suite, own)
    loaded = suite_file.load(path, own)
    selected = suite_file.select(loaded.scenarios, names, loaded.not_run)
    left = list(suite_file.matched(loaded.not_run, names))
    if not selected:
        raise CouldNotRun(
            f"no row of suite {loaded.suite.suite.name} fits the target: the sites and processes that the "
            f"rows name are not in its file (`wedge target check {target}` says which to add)"
        )
    missing = {scenario.name: reason for scenario in selected if (reason := unmet_needs(scenario.target))}
    if len(missing) == len(selected):
        raise CouldNotRun(f"nothing of this can run here: {'; '.join(dict.fromkeys(missing.values()))}")
    left += [
        NotRun(name=s.name, target=s.target.name, reason=missing[s.name])
        for s in selected
        if s.name in missing
    ]
    return Plan(
        scenarios=tuple(scenario for scenario in selected if scenario.name not in missing),
        not_run=tuple(left),
        seed=seed,
        jobs=jobs or default_jobs(),
        suite_name=loaded.suite.suite.name,
        suite_file=path,
        options=tuple(options),
        again=_AGAIN_AT_MOST,
    )


def quickened(plan: Plan) -> Plan:
    """The few scenarios of each target that tell most in the shortest time; what is left out is `not_run`."""
    kept: dict[tuple[str, str], Scenario] = {}
    for kind, faults in _QUICK.items():
        for fault in faults:  # the first of them that the target has
            for scenario in plan.scenarios:
                if scenario.row.fault == fault:
                    kept.setdefault((scenario.target.name, kind), scenario)
    chosen = [scenario for scenario in plan.scenarios if scenario in kept.values()]
    if not chosen:
        raise CouldNotRun("--quick finds none of noop, gil.hold and a stall in this selection: leave it out")
    left = [
        NotRun(name=scenario.name, target=scenario.target.name, reason="left out by --quick")
        for scenario in plan.scenarios
        if scenario not in chosen
    ]
    return dataclasses.replace(plan, scenarios=tuple(chosen), not_run=(*plan.not_run, *left))


def _target(name: str | None) -> LoadedTarget | None:
    return None if name is None else target_file.load(target_file.find(name))


def suite_for(suite: str | None, target: LoadedTarget | None) -> Path:
    """The suite's file. Without a suite, a target that the default suite knows is run through that, any other
    through the suite for any server. Raises `CouldNotRun`."""
    if suite is None and target is not None:
        known = target.name in suite_file.targets(suite_file.find(suite_file.DEFAULT))
        suite = suite_file.DEFAULT if known else suite_file.ANY
    return suite_file.find(suite or suite_file.DEFAULT)


def deployed(k8s: str | None, plan: Plan) -> dict[str, KubeletProbes]:
    """How each target of the plan is probed by the manifest. Raises `CouldNotRun`."""
    if k8s is None:
        return {}
    from scenarios.spec import kubernetes  # it loads a YAML reader

    container = kubernetes.read_argument(k8s)
    found = {s.target.name: kubernetes.replay_for(container, s.target.spec) for s in plan.scenarios}
    for note in dict.fromkeys(note for probed in found.values() for note in probed.notes):
        click.echo(f"wedge: {note}", err=True)
    return found


def replayed(found: Report, probed_by: dict[str, KubeletProbes], k8s: str | None) -> Report:
    """The report as the manifest's probes would have judged it."""
    if k8s is None:
        return found
    scenarios = tuple(
        kubelet.with_probe_rules(s, probed.rules, probed.probes, k8s, probed.not_replayed)
        for s, probed in ((s, probed_by[s.target]) for s in found.scenarios)
    )
    return msgspec.structs.replace(found, scenarios=scenarios)


async def repeated(plan: Plan, times: int, terminal: Console) -> tuple[Report, tuple[str, ...]]:
    """Run the plan `times` times, each with the next seed; the report of the first run that did not pass, or
    else of the last, and what could not run at all.

    With more than one run the report says how steady the verdicts were.
    """
    kept: Report | None = None
    turns: list[Turn] = []
    troubles: tuple[str, ...] = ()
    for n in range(times):
        once = dataclasses.replace(plan, seed=plan.seed + n)
        with progress(terminal, len(plan.scenarios), brief=times > 1) as told:
            found, troubles = await run_plan(once, told)
        turns.append(turn(found, os.getloadavg()[0]))
        if times > 1:
            terminal.print(f"run {n + 1} of {times}: {turn_in_words(turns[-1])}", highlight=False)
        if kept is None or kept.suite.passed:
            kept = found
        if troubles:  # what could not run now cannot run the next time
            break
    assert kept is not None
    return (replace(kept, stability=stability(turns)) if times > 1 else kept), troubles


def exit_code(found: Report, troubles: tuple[str, ...]) -> int:
    """0 when every verdict is pass, 1 when one is not, 2 when something could not run at all."""
    return _COULD_NOT_RUN if troubles else PASSED if found.suite.passed else FAILED


def _check_writable(paths: Iterable[Path | None]) -> bool:
    """Whether a report goes to stdout. One that cannot be written is found out before the run, not after it.

    Raises `CouldNotRun`.
    """
    wanted = [path for path in paths if path is not None]
    for path in wanted:
        if str(path) != "-" and not path.resolve().parent.is_dir():
            raise CouldNotRun(f"{path} cannot be written: there is no folder {path.resolve().parent}")
    return Path("-") in wanted


def _described(scenario: Scenario) -> dict[str, object]:
    row = scenario.row
    return {
        "name": scenario.name,
        "target": scenario.target.name,
        "fault": row.fault,
        "params": row.params,
        "process": row.process,
        "expected": scenario.expected,
        "after": scenario.after,
        "call": scenario.call.name if scenario.call else None,
        "count": row.traffic.count,
        "calls": scenario.calls,
        "beside": row.beside,
        "also": row.also,
        "flap": row.flap,
        "load": row.load,
        "says": row.says,
        "stop": row.stop,
        "ends_by": row.ends_by,
        "controls": scenario.controls,
        "because": row.because,
        "summary": row.summary,
        "stands_for": row.stands_for,
    }


async def _until_signalled(work: Coroutine[Any, Any, T]) -> T:
    """Run it; SIGINT and SIGTERM cancel it, so that every context on the way is left in order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await work
