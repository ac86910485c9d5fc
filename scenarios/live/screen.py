"""The terminal of a live command: drawn on, read key by key, left in order, and given back as it was."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import termios
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

Exit = Callable[[int], None]
"""Ends the command with this exit code; the first call counts."""

HUNG_UP = 128 + signal.SIGHUP
_CODES = {signal.SIGINT: 0, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGHUP: HUNG_UP}
INTERRUPT, ESCAPE = "\x03", "\x1b"
_READ_BYTES = 1024
_SEQUENCE = re.compile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|O.|.)", re.DOTALL)
_NAMED = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1bOA": "up",
    "\x1bOB": "down", " ": "page down",
}  # fmt: skip


class TerminalGone(Exception):
    """Nobody reads what is written any more."""


async def run_until_exit(work: Callable[[Exit], Coroutine[Any, Any, None]]) -> int:
    """Do the work until it is done or left, its contexts closed in order; the exit code.

    SIGINT (Ctrl-C) is a way to leave, with 0; SIGTERM and SIGHUP are 143 and 129. A second signal does not
    cut the tidying up short.
    """
    loop = asyncio.get_running_loop()
    left: asyncio.Future[int] = loop.create_future()

    def leave(code: int) -> None:
        if not left.done():
            left.set_result(code)

    for number, code in _CODES.items():
        loop.add_signal_handler(number, leave, code)
    task = asyncio.ensure_future(work(leave))
    either: set[asyncio.Future[Any]] = {task, left}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if not left.done():
            raise
    except TerminalGone:
        leave(0 if not sys.stdout.isatty() else HUNG_UP)
    return left.result() if left.done() else 0


def forget_stdout() -> None:
    """What could not be written is not tried again when the interpreter ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


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

    def __exit__(self, *_: object) -> None:
        try:
            self._live.stop()
        except OSError:  # with the terminal its screen is gone
            forget_stdout()

    @property
    def width(self) -> int:
        """The width of the terminal in cells, also after it was resized."""
        return self._console.width

    @property
    def height(self) -> int:
        """The height of the terminal in lines."""
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


@contextmanager
def single_keys(terminal: int, press: Callable[[str], None], leave: Exit) -> Iterator[None]:
    """Call `press` with every key as it is pressed, Ctrl-C included; afterwards the terminal is as it was.

    Without line editing, echo and signals (termios(3)); output goes on as before. What was typed and not
    read is thrown away at the end: it was not meant for the shell that comes after.
    """
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(terminal)
    during = termios.tcgetattr(terminal)
    during[0] &= ~(termios.IXON | termios.ICRNL)
    during[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
    during[6][termios.VMIN], during[6][termios.VTIME] = 1, 0

    def read() -> None:
        try:
            data = os.read(terminal, _READ_BYTES)
        except OSError:
            data = b""
        if not data:  # the terminal is gone
            loop.remove_reader(terminal)
            leave(HUNG_UP)
            return
        for key in split(data.decode(errors="replace")):
            press(key)

    termios.tcsetattr(terminal, termios.TCSANOW, during)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        with suppress(termios.error):  # with the terminal its modes are gone
            termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


def split(text: str) -> Iterator[str]:
    """The keys in what was read. Arrows and pages have names; other sequences of a key are left out."""
    at = 0
    while at < len(text):
        if text[at] == ESCAPE and (found := _SEQUENCE.match(text, at)):
            if named := _NAMED.get(found[0]):
                yield named
            at = found.end()
        else:
            yield _NAMED.get(text[at], text[at])
            at += 1
