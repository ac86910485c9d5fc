"""`wedge watch` and `wedge shell` in a terminal: what is seen, what keys do, and how they leave."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scenarios.live.screen import split

LOGGED_IN = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
WITHIN_S = 60.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")
_HOME = "\x1b[H"


class Terminal:
    """A command on a terminal of its own, its controlling one."""

    def __init__(self, *arguments: str, columns: int = 100, lines: int = 30) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (lines, columns))
        self.modes = termios.tcgetattr(self.slave)
        self.columns, self.lines = columns, lines
        environ = {**os.environ, "TERM": "xterm-256color"}
        environ.pop("COLUMNS", None)
        environ.pop("LINES", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOGGED_IN, sys.executable, "-m", "scenarios", *arguments],
            stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environ,
        )  # fmt: skip
        self.written = ""
        self.below: list[psutil.Process] = []

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    @property
    def screen(self) -> str:
        """The last whole frame that was drawn."""
        frames = self.written.split(_HOME)
        return _ESCAPES.sub("", frames[-2] if len(frames) > 1 else frames[-1]).replace("\r\n", "\n")

    def shows(self, pattern: str) -> str:
        """Wait until the screen shows it; the screen then."""
        give_up_s = time.monotonic() + WITHIN_S
        while time.monotonic() < give_up_s:
            self._read(0.1)
            if re.search(pattern, self.screen):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.below = psutil.Process(self.process.pid).children(recursive=True)
                return self.screen
        raise AssertionError(f"{pattern!r} was never shown; at last:\n{self.screen}")

    def ends(self) -> int:
        """Wait for its end, reading all that it writes; its exit code."""
        give_up_s = time.monotonic() + WITHIN_S
        while self.process.poll() is None:
            assert time.monotonic() < give_up_s, self.screen
            self._read(0.1)
        self._read(0.0)
        return self.process.returncode

    def nothing_left(self) -> bool:
        """Whether every process that it started has ended."""
        _, alive = psutil.wait_procs(self.below, timeout=10)
        return bool(self.below) and not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]

    def hang_up(self) -> None:
        """The terminal is gone, as when its window was closed."""
        os.close(self.master)
        os.close(self.slave)
        self.master = self.slave = -1

    def close(self) -> None:
        """End what still runs."""
        self.process.kill()
        self.process.wait()
        if self.master >= 0:
            self.hang_up()

    def _read(self, within_s: float) -> None:
        while select.select([self.master], [], [], within_s)[0]:
            self.written += os.read(self.master, 65536).decode(errors="replace")
            within_s = 0.0


@pytest.fixture
def shell(servers: Path) -> Iterator[Terminal]:
    """A shell whose target is ready and lit."""
    terminal = Terminal("shell", f"{servers}/tiny-loop.toml", columns=80, lines=24)
    try:
        terminal.shows(r"http /health   ● lit")
        terminal.shows(r"▸ server, registry \d+")
        yield terminal
    finally:
        terminal.close()


def restored(terminal: Terminal) -> bool:
    """Whether the terminal is as before: its modes, its first screen, its cursor."""
    return (
        termios.tcgetattr(terminal.slave) == terminal.modes
        and terminal.written.rfind("\x1b[?1049l") > terminal.written.rfind("\x1b[?1049h")
        and terminal.written.rfind("\x1b[?25h") > terminal.written.rfind("\x1b[?25l")
    )


def test_a_fault_is_armed_by_a_key_proven_and_given_back_by_the_same_key(shell: Terminal) -> None:
    shell.type("g")
    screen = shell.shows(r"◆ gil.hold in registry  bites  \d+ s left")
    assert "its GIL is held" in screen
    shell.shows(r"http /health   ○ dark \d")
    shell.type("g")
    shell.shows(r"◇ gil.hold: released, 1 hit")
    shell.shows(r"http /health   ● lit")
    shell.type("q")
    assert shell.ends() == 0
    assert restored(shell)
    assert shell.nothing_left()


def test_a_stalled_call_is_pending_and_its_thread_is_shown_where_it_stands(shell: Terminal) -> None:
    shell.type("s")
    shell.shows(r"at which site\? \(s: gpu\)  1 gpu   2 release")
    shell.type("1")
    shell.shows(r"◌ call.stall gpu in registry  armed")
    shell.type("c")
    shell.shows(r"call which\? \(c: keep\)  1 keep   2 drop")
    shell.type("c")
    shell.shows(r"keep  ◌ 1 pending, the oldest for")
    shell.shows(r"◆ call.stall gpu in registry  bites")
    shell.shows(r"stuck +MainThread of \d+: synchronize gpu.py:\d+ ← keep gpu.py:\d+")
    shell.type("w")
    shell.shows(r'File ".*asyncio/runners.py"|tiny.py", line \d+, in main')
    shell.type("xr")
    shell.shows(r"keep  ● 1 answered, the last in")
    shell.type("q")
    assert shell.ends() == 0


def test_every_frame_fits_the_screen(shell: Terminal) -> None:
    shell.type("gstc1\x1b?  x")
    shell.shows(r"bites")
    shell.type("qq")
    shell.ends()
    for frame in shell.written.split(_HOME)[1:-1]:
        lines = _ESCAPES.sub("", frame).replace("\r\n", "\n").rstrip("\n").split("\n")
        assert len(lines) <= shell.lines
        assert max(map(len, lines)) <= shell.columns


def test_a_killed_target_is_told_and_started_anew_by_a_key(shell: Terminal) -> None:
    shell.type("k")
    shell.shows(r"ended with exit code -9; n starts it anew")
    shell.shows(r"processes +none")
    shell.type("n")
    shell.shows(r"faults +none is armed")
    shell.shows(r"http /health   ● lit")
    shell.type("q")
    assert shell.ends() == 0
    assert shell.nothing_left()


@pytest.mark.parametrize("key", ["q", "\x03"])
def test_leaving_in_mid_fault_releases_it_and_ends_the_target(shell: Terminal, key: str) -> None:
    shell.type("g")
    shell.shows(r"gil.hold in registry  bites")
    shell.type(key)
    assert shell.ends() == 0
    assert restored(shell)
    assert shell.nothing_left()
    assert "everything is released; ending tiny-loop" in shell.written


def test_sigterm_in_mid_fault_exits_143_and_leaves_nothing(shell: Terminal) -> None:
    shell.type("t")
    shell.shows(r"process.stop in registry  bites")
    shell.process.send_signal(signal.SIGTERM)
    assert shell.ends() == 143
    assert restored(shell)
    assert shell.nothing_left()


def test_a_terminal_that_is_gone_in_mid_fault_leaves_nothing(shell: Terminal) -> None:
    shell.type("t")
    shell.shows(r"process.stop in registry  bites")
    shell.hang_up()
    assert shell.process.wait(timeout=WITHIN_S) == 129
    assert shell.nothing_left()


def test_a_shell_that_is_killed_leaves_nothing(shell: Terminal) -> None:
    shell.type("t")
    shell.shows(r"process.stop in registry  bites")
    shell.process.kill()
    assert shell.nothing_left()


def test_a_key_without_a_meaning_does_nothing_but_say_so(shell: Terminal) -> None:
    shell.type("\x1b[A\x1b[15~j")
    screen = shell.shows(r"j is no key here; \? shows them all")
    assert "none is armed" in screen


def test_watching_draws_lit_and_dark_in_shapes_and_leaves_the_last_state(servers: Path) -> None:
    server = subprocess.Popen([sys.executable, str(servers / "tiny.py")], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http=(\S+)", server.stdout.readline())
    assert found is not None
    terminal = Terminal("watch", "--http", f"{found[1]}/health", columns=80, lines=24)
    try:
        terminal.shows(r"http /health  ● lit +▇+ ")
        server.send_signal(signal.SIGSTOP)
        terminal.shows(r"http /health  ○ dark \d\.\d s +▇+[▄]?▁{3,}")
        terminal.type("\x03")
        assert terminal.ends() == 0
        assert restored(terminal)
        assert "http /health  ○ dark" in _ESCAPES.sub("", terminal.written.rpartition("\x1b[?1049l")[2])
    finally:
        terminal.close()
        server.kill()
        server.wait()
        server.stdout.close()


def test_the_sequences_of_special_keys_are_taken_whole() -> None:
    assert list(split("g\x1b[A \x1b[15~q\x1b")) == ["g", "up", "page down", "q", "\x1b"]
