"""The whole terminal as a screen that is drawn over and over, and given back as it was."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from scenarios.live.departure import TerminalGone, forget_stdout


class Screen:
    """The terminal's other screen, for as long as the context: what was there before comes back."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        try:
            self._live.start()
        except OSError:
            forget_stdout()
            raise TerminalGone from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            self._live.stop()
        except OSError:  # with the terminal its screen is gone
            forget_stdout()

    @property
    def width(self) -> int:
        """In cells; a resized terminal is followed."""
        return self._console.width

    @property
    def height(self) -> int:
        """In lines."""
        return self._console.height

    def draw(self, lines: Sequence[Text]) -> None:
        """Show these lines, cut to the screen. Raises `TerminalGone`."""
        shown = [line.copy() for line in lines[: self.height]]
        for line in shown:
            line.no_wrap, line.overflow = True, "ellipsis"
            line.truncate(self.width, overflow="ellipsis")
        try:
            self._live.update(Group(*shown), refresh=True)
        except OSError:
            forget_stdout()
            raise TerminalGone from None


def can_draw(console: Console) -> bool:
    """Whether this is a terminal that can be drawn on."""
    with suppress(ValueError, OSError):
        return console.file.isatty() and not console.is_dumb_terminal
    return False
