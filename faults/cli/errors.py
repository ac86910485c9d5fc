"""Errors of the fault layer as a command reports them: one line with the remedy, exit status 2."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from faults.errors import FaultsError

P = ParamSpec("P")
R = TypeVar("R")


class CommandError(click.ClickException):
    """`wedge: what was wrong; what would be right`."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # declared for the class, read from the instance

    def show(self, file: object = None) -> None:
        """Write the line to standard error."""
        click.echo(f"wedge: {self.message}", err=True)


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command report a FaultsError as one line instead of a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except FaultsError as error:
            raise CommandError(str(error)) from None

    return run


_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0}


def seconds(text: str | float) -> float:
    """A length of time in seconds: 30, 30s, 500ms or 2m. Raises click.BadParameter."""
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|)", str(text))
    if matched is None:
        raise click.BadParameter(f"{text!r} is no length of time; write 30s, 500ms or 2m")
    return float(matched[1]) * _UNITS_S[matched[2]]
