"""The fault layer's commands: `exec`, `attach`, `arm`, `release`, `status`, `faults`.

`group` holds them; another program can mount them on a command of its own (`root.add_command`), since each
turns the errors of the fault layer into one line and exit status 2 by itself.
"""

from faults.cli.root import group

__all__ = ["group"]
