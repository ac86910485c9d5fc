"""`wedge faults`: what can be armed; `wedge arm`, `release`, `status`: talk to a session that `wedge exec` or
another harness holds open.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap

import click
import msgspec

from faults import control_server
from faults.catalogue import catalogue, definition
from faults.cli.errors import CommandError, report_errors, seconds
from faults.errors import SessionError
from faults.model import DEFAULT_LEASE_S, FaultInfo, FaultStatus, ParameterInfo
from faults.parameters import TRIGGER_WORDS

_ANSWER_WITHIN_S = 30.0
_LOOKED_FOR_S = 1.0

_session = click.option(
    "--session", envvar=("FAULTS_SESSION", "WEDGE_SESSION"), help="Which session, when several are open."
)
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command("arm")
@click.argument("fault")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE …]")
@click.option("--process", help="A name, a pid, or cmdline=RE,imports=MODULE,port=PORT,main=1.")
@click.option(
    "--lease", "lease_s", type=seconds, default=DEFAULT_LEASE_S, help="How long at most (30s, 500ms, 2m)."
)
@click.option("--wait", "wait_s", type=seconds, help="Fail unless it bites within this time.")
@click.option("--cover", is_flag=True, help="Arm it in matching processes that appear later, too.")
@_session
@_json
@report_errors
def arm_command(
    fault: str,
    settings: tuple[str, ...],
    process: str | None,
    lease_s: float,
    wait_s: float | None,
    cover: bool,
    session: str | None,
    as_json: bool,
) -> None:
    """Arm FAULT with its parameters and trigger (on_hit=3, hits=3..5, times=1, p=0.3 seed=7, match=JSON)."""
    params, trigger = _settings(definition(fault).info, settings)
    request = control_server.ArmFault(
        fault=fault,
        process=process,
        lease_s=lease_s,
        params=params,
        trigger=trigger,
        newcomers="cover" if cover else "tell",
        wait_s=_LOOKED_FOR_S if wait_s is None else wait_s,
    )
    answer = _ask(session, request, control_server.ArmedFault, longer_s=wait_s or 0.0)
    click.echo(_json_of(answer.status) if as_json else _fault(answer.status))
    if wait_s is not None and not answer.bites:
        raise CommandError(answer.why, exit_code=1)


def _settings(fault: FaultInfo, settings: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    names = {parameter.name for parameter in fault.params}
    params: dict[str, str] = {}
    trigger: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise SessionError(f"{setting!r} is no setting; write NAME=VALUE")
        into = trigger if name in TRIGGER_WORDS and name not in names else params
        into[name] = value
    return params, trigger


@click.command("release")
@click.argument("ids", nargs=-1, metavar="[ID …]")
@click.option("--all", "everything", is_flag=True, help="Every armed fault.")
@_session
@_json
@report_errors
def release_command(ids: tuple[str, ...], everything: bool, session: str | None, as_json: bool) -> None:
    """Release the faults with these IDs, or --all; the processes run as before."""
    if bool(ids) == everything:
        raise SessionError("name the faults to release, or write --all; `wedge status` lists them")
    answer = _ask(session, control_server.ReleaseFaults(ids), control_server.ReleasedFaults)
    if as_json:
        click.echo(_json_of(answer.released))
        return
    for status in answer.released:
        click.echo(_fault(status))


@click.command("status")
@click.option("--stacks", is_flag=True, help="Show where the broken processes stand.")
@_session
@_json
@report_errors
def status_command(stacks: bool, session: str | None, as_json: bool) -> None:
    """Show the processes that can be broken, and the faults that are or were armed."""
    answer = _ask(session, control_server.ShowStatus(stacks), control_server.SessionStatus)
    if as_json:
        click.echo(_json_of(answer))
        return
    click.echo(f"session {answer.session}")
    for process in answer.processes:
        click.echo(f"  process {process.pid}  python {process.python}  {' '.join(process.argv)[:100]}")
    for status in answer.faults:
        click.echo(_fault(status))
        for text in answer.stacks.get(status.id, ()):
            click.echo(textwrap.indent(text.rstrip(), "    "))


def _ask(
    session: str | None,
    request: control_server.ControlRequest,
    expected: type[control_server.A],
    *,
    longer_s: float = 0.0,
) -> control_server.A:
    within_s = _ANSWER_WITHIN_S + longer_s
    return control_server.ask(control_server.find(session), request, expected, within_s=within_s)


def _json_of(value: object) -> str:
    """As Python's own JSON, which writes what is not ASCII as escapes."""
    table = msgspec.to_builtins(value)
    if isinstance(value, control_server.ControlAnswer):
        del table["answer"]
    return json.dumps(table, indent=2)


def _fault(status: FaultStatus) -> str:
    settings = " ".join(f"{name}={value}" for name, value in {**status.params, **status.trigger}.items())
    lease = f", {status.lease_left_s:.1f} s left" if status.lease_left_s else ""
    head = f"{status.id} {status.name} {settings}".rstrip()
    lines = [
        f"{head}: {status.state} in {', '.join(map(str, status.pids)) or 'no process'}"
        f" ({status.hits} of {status.calls} hit, {status.inside} inside,"
        f" held {status.held_s:.2f} s{lease})",
        *(f"  {finding}" for finding in status.evidence),
    ]
    return "\n".join(lines)


@click.command("faults")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@report_errors
def faults_command(name: str | None, as_json: bool) -> None:
    """List the faults with their parameters, or describe one."""
    chosen = (definition(name).info,) if name else catalogue()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(fault) for fault in chosen], indent=2))
        return
    for fault in chosen:
        click.echo(_described(fault, whole=name is not None))


def _described(fault: FaultInfo, *, whole: bool) -> str:
    lines = [
        click.style(fault.name, bold=True),
        *(f"  {line}" for line in (fault.doc if whole else fault.summary).splitlines()),
    ]
    lines += [f"    {_parameter(parameter)}" for parameter in fault.params]
    if whole:
        lines += [f"  runs {fault.runs} the process; {'takes' if fault.triggers else 'takes no'} triggers"]
    return "\n".join([*lines, ""])


def _parameter(parameter: ParameterInfo) -> str:
    kind = "|".join(parameter.choices) or parameter.type
    default = "required" if parameter.required else f"default {parameter.default}"
    return f"{parameter.name}={kind}  {parameter.help} ({default})"
