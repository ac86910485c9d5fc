"""The `wedge` command. A command is imported when it is used: each starts fast, and works without the
packages of the extra `wedge` that it does not need.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import Any

import click

from faults import FaultsError
from faults.cli import group as fault_commands
from scenarios.errors import ScenariosError, TargetFailed, missing_package

_COULD_NOT_RUN, _INTERRUPTED = 2, 130


class _ImportedOnUse(click.Command):
    """A command of a module of this folder. Its summary is for the list of commands; all else is its own."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._module = module

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command itself."""
        module = import_module(f"{__name__}.{self._module}")
        command: click.Command = getattr(module, f"{self.name}_command")
        return command.make_context(info_name, args, parent, **extra)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Wedge a server for real, watch it from outside, and judge whether it stayed lit."""


_OWN = {
    "run": "Run scenarios (all of the suite by default) and judge them.",
    "list": "List scenarios: what is broken on which target, and what must be seen.",
    "report": "Judge a stored report again and render it, offline.",
    "compare": "Show what changed from one run to another: verdicts, scenarios, latency under the fault.",
    "pin": "Write what is seen today into `[expect]` of the target file, with date and reason.",
    "target": "Describe your own server: write a target file, and try it.",
    "watch": "Watch the endpoints of a running server, live: lit or dark, how fast, and since when.",
    "shell": "Start TARGET and break it by hand: single keys arm and release faults, next to the live"
    " endpoints.",
}
_MODULES = {"list": "run", "compare": "report", "watch": "live", "shell": "live"}
"""Where a command is, unless the module has its name."""

for _name, _summary in _OWN.items():
    cli.add_command(_ImportedOnUse(_name, _MODULES.get(_name, _name), _summary))
for _command in fault_commands.commands.values():
    cli.add_command(_command)


def main() -> None:
    """The console script: one clear line for whatever is wrong, and the exit codes of the contract.

    Exits 2 with one line, too, where a package of the extra `wedge` is not installed.
    """
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(_COULD_NOT_RUN)
    except (ScenariosError, FaultsError) as error:
        click.echo(f"wedge: {error}", err=True)
        for line in error.last_lines if isinstance(error, TargetFailed) else ():
            click.echo(f"  | {line}", err=True)
        sys.exit(_COULD_NOT_RUN)
    except (KeyboardInterrupt, click.Abort):
        click.echo("wedge: interrupted; everything is released and ended", err=True)
        sys.exit(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001  # a mistake of the harness itself is no verdict, whatever it is
        package = missing_package(error) if isinstance(error, ModuleNotFoundError) else None
        if package is not None:
            click.echo(f"wedge: {package} is not installed here: pip install 'pegaref[wedge]'", err=True)
        else:
            traceback.print_exc()
            click.echo("wedge: this is a mistake in wedge itself; nothing was judged", err=True)
        sys.exit(_COULD_NOT_RUN)
