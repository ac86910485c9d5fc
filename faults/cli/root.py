"""The commands as a program of their own: `python -m faults`."""

from __future__ import annotations

import click

from faults.cli.attach import attach_command
from faults.cli.catalogue import faults_command
from faults.cli.execute import exec_command
from faults.cli.session import arm_command, release_command, status_command


@click.group()
def group() -> None:
    """Break a running process for real, and give it back."""


for _command in (exec_command, attach_command, arm_command, release_command, status_command, faults_command):
    group.add_command(_command)
