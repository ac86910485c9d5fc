"""`wedge target`: write a target file, try it, and print its JSON Schema for an editor."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from scenarios.onboarding.check import check
from scenarios.onboarding.findings import CallCheck, ProbeCheck, ProcessCheck, SiteCheck, TargetCheck
from scenarios.onboarding.init import init
from scenarios.onboarding.schema import encoded
from scenarios.server.needs import unmet_needs
from scenarios.spec.target_file import find, load

_INCOMPLETE = 1
_WIDTH = 72


@click.group("target")
def target_command() -> None:
    """Describe your own server: write a target file, and try it."""


class _WithCommand(click.Command):
    """A command whose arguments behind `--` are another command, whatever stands before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the other command away before click mixes it with the arguments."""
        own, _, ctx.meta[__name__] = _partition(args)
        return super().parse_args(ctx, own)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage names it."""
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND …]"]


def _partition(args: list[str]) -> tuple[list[str], str, list[str]]:
    at = args.index("--") if "--" in args else len(args)
    return args[:at], "--", args[at + 1 :]


@target_command.command("init", cls=_WithCommand)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default=Path("wedge.toml"))
@click.option("--name", metavar="NAME", help="The target's name; by default the file's or its folder's.")
@click.option("--health", metavar="PATH|URL", help="The endpoint that must stay lit; guessed by default.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.pass_context
def init_command(ctx: click.Context, path: Path, name: str | None, health: str | None, force: bool) -> None:
    """Write a commented target file to start from.

    COMMAND starts your server; without it, the command is guessed from the Python files beside PATH.
    """
    command: list[str] = ctx.meta[__name__]
    why = init(path, name=name, command=command, health=health, overwrite=force, typed_in=Path.cwd())
    click.echo(f"{path} written; the command is {'a guess: ' + why if not command else why}")
    click.echo(f"next: wedge target check {path}")


@target_command.command("check")
@click.argument("file", metavar="FILE|NAME")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def check_command(file: str, as_json: bool) -> None:
    """Start the server, try each probe, call, process name and site once, and say what is missing.

    Exits 0 when nothing is missing, 1 when something is, 2 when the file is malformed or the server does not
    start.
    """
    loaded = load(find(file))
    if reason := unmet_needs(loaded):
        click.echo(f"{loaded.name} is well-formed, and cannot be tried here: it {reason}")
        return
    checked = asyncio.run(check(loaded, lambda line: click.echo(f"… {line}", err=True)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_as_value(checked)), indent=1))
    else:
        for line in _lines(checked, file):
            click.echo(line)
    sys.exit(_INCOMPLETE if checked.problems else 0)


@target_command.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of target files, for your editor."""
    click.echo(encoded(), nl=False)


def _lines(checked: TargetCheck, file: str) -> list[str]:
    out = [f"{checked.target.name}: ready after {checked.ready_s:.1f} s, ended within {checked.stop_s:.1f} s"]
    out += _section("probes", map(_probe, checked.probes))
    untried = [
        ("·", call.name, "not tried: check = false") for call in checked.target.spec.call if not call.check
    ]
    out += _section("calls", [*map(_call, checked.calls), *untried])
    out += _section("processes", map(_process, checked.processes))
    out += _section("sites", map(_site, checked.sites))
    for title, found in (("to put right", checked.problems), ("suggestions", checked.advice)):
        if found:
            out += ["", title, *(f"  - {line}" for line in found)]
    if not checked.problems:
        out += ["", f"ready to be judged: wedge run --target {file}"]
    return out


def _section(title: str, rows: Iterable[tuple[str, str, str]]) -> list[str]:
    table = list(rows)
    if not table:
        return []
    width = max(len(name) for _, name, _ in table)
    return ["", title, *(f"  {mark} {name:<{width}}  {said}" for mark, name, said in table)]


def _probe(probe: ProbeCheck) -> tuple[str, str, str]:
    said = f"{probe.outcome} in {probe.latency_s * 1e3:.0f} ms" + (f": {probe.says}" if probe.says else "")
    return _mark(probe.good), probe.name, said


def _call(call: CallCheck) -> tuple[str, str, str]:
    said = call.error or f"{call.answer} in {call.took_s * 1e3:.0f} ms"
    return _mark(call.error is None), call.name, said


def _process(seen: ProcessCheck) -> tuple[str, str, str]:
    program, _, arguments = seen.command.partition(" ")
    command = f"{Path(program).name} {arguments}"
    short = command if len(command) <= _WIDTH else command[: _WIDTH - 1] + "…"
    names = f"{', '.join(seen.names)}: " if seen.names else "a helper: " if seen.helper else ""
    if seen.agent is None:
        return "·", str(seen.pid), f"{names}{short} (no agent)"
    return _mark(True), str(seen.pid), f"{names}{short} (agent, Python {seen.agent})"


def _site(site: SiteCheck) -> tuple[str, str, str]:
    if site.refusal:
        return _mark(False), site.name, f"{site.site}: {site.refusal}"
    process = f"process {', '.join(map(str, site.pids or site.late))}"
    if site.reached_by:
        where = f"in {process}" if site.pids else "once it is imported"
        return (
            _mark(True),
            site.name,
            f"{site.site} resolves {where}, reached by {', '.join(site.reached_by)}",
        )
    what = f"is in {process}" if site.pids else f"is not there yet in {process}"
    return "·", site.name, f"{site.site} {what}, and no call reaches it"


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


def _as_value(checked: TargetCheck) -> dict[str, object]:
    return {
        "target": checked.target.name,
        "file": str(checked.target.path),
        "ready_s": round(checked.ready_s, 3),
        "stop_s": round(checked.stop_s, 3),
        "probes": checked.probes,
        "calls": checked.calls,
        "processes": checked.processes,
        "sites": checked.sites,
        "problems": checked.problems,
        "advice": checked.advice,
    }
