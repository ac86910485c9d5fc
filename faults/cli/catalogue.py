"""`wedge faults`: what can be armed."""

from __future__ import annotations

import dataclasses
import json

import click

from faults.catalogue import catalogue, definition
from faults.cli.told import told
from faults.model import FaultInfo, ParameterInfo


@click.command("faults")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@told
def faults_command(name: str | None, as_json: bool) -> None:
    """List the faults with their parameters, or tell all about one."""
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
