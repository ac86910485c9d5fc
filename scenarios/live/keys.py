"""Single keys from a terminal, on the event loop."""

from __future__ import annotations

import asyncio
import os
import re
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scenarios.live.departure import HUNG_UP, Leave

INTERRUPT, ESCAPE = "\x03", "\x1b"
_READ_BYTES = 1024
_SEQUENCE = re.compile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|O.|.)", re.DOTALL)
_NAMED = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[5~": "page up", "\x1b[6~": "page down", "\x1bOA": "up",
    "\x1bOB": "down", " ": "page down",
}  # fmt: skip


@contextmanager
def single_keys(terminal: int, press: Callable[[str], None], leave: Leave) -> Iterator[None]:
    """Every key is told as it is pressed, Ctrl-C too; afterwards the terminal is as it was.

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
