"""The fault layer's commands: `exec`, `attach`, `arm`, `release`, `status`, `faults`.

`group` holds them; another program can mount them on a command of its own (`root.add_command`), since each
turns the errors of the fault layer into one line and exit status 2 by itself. `seconds` reads an option that
is a length of time as they do.
"""

from __future__ import annotations

import click

from faults.cli.errors import seconds
from faults.cli.execute import attach_command, exec_command
from faults.cli.session import arm_command, faults_command, release_command, status_command

__all__ = ["group", "seconds"]


@click.group()
def group() -> None:
    """Break a running process for real, and give it back."""


for _command in (exec_command, attach_command, arm_command, release_command, status_command, faults_command):
    group.add_command(_command)
