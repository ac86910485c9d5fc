"""Whatever stdout and stderr are, and whether or not anybody reads them, nothing waits for the log."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pegaref.log import LostLines
from tests.pegaref.running import DEADLINE_S, Running, alive, eventually

LINES = 8000
PROGRAM = f"""
import logging, os, sys
from pegaref import log
lost = log.open_streams()
logging.basicConfig(stream=sys.stderr, format="%(message)s")
for number in range({LINES}):
    logging.warning("line %d %s", number, "x" * 80)
os.write(int(sys.argv[1]), b"%d\\n" % lost.total)
sys.stdin.buffer.read(1)  # which the test sends once somebody reads again
logging.warning("back")
"""


class Unread:
    """A descriptor that a program may write to, and how to read what came out at its other end."""

    def __init__(self, end: int, read: Callable[[int], bytes]) -> None:
        self.end = end
        self.read = read


@contextlib.contextmanager
def pipe() -> Iterator[Unread]:
    reader, writer = os.pipe()
    yield Unread(writer, lambda count: read_soon(reader, count))
    os.close(reader)


@contextlib.contextmanager
def stream_socket() -> Iterator[Unread]:
    near, far = socket.socketpair()
    with near, far:
        yield Unread(os.dup(far.fileno()), lambda count: read_soon(near.fileno(), count))


@contextlib.contextmanager
def stopped_terminal() -> Iterator[Unread]:
    """A terminal that ^S has stopped, until it is read for the first time."""
    master, slave = pty.openpty()
    os.write(master, b"\x13")
    eventually(lambda: not writable_soon(slave), what="the terminal is stopped")

    def read(count: int) -> bytes:
        termios.tcflow(slave, termios.TCOON)
        os.write(master, b"\x11")
        return read_soon(master, count)

    yield Unread(os.dup(slave), read)
    os.close(slave)
    os.close(master)


def read_soon(fd: int, count: int) -> bytes:
    """What there is to read, which must come within the deadline."""
    assert select.select([fd], [], [], DEADLINE_S)[0], "nothing more comes"
    return os.read(fd, count)


def writable_soon(fd: int) -> bool:
    return bool(select.select([], [fd], [], 0.05)[1])


@contextlib.contextmanager
def logging_to(end: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The program with its stderr there, once it has logged all its lines, and how many it lost of them."""
    told, tell = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tell)], stdin=subprocess.PIPE, stderr=end, pass_fds=[tell]
    ) as process:
        os.close(tell)
        os.close(end)
        os.set_blocking(told, False)
        try:
            lost = eventually(lambda: read_now(told), within_s=20, what="all its lines are logged")
            yield process, int(lost)
        finally:
            process.kill()
            os.close(told)


def read_now(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    except BlockingIOError:
        return b""


@pytest.mark.promise("log-waits-for-nobody")
@pytest.mark.parametrize("kind", [pipe, stream_socket, stopped_terminal])
def test_nobody_waits_for_a_reader_and_the_log_tells_what_it_lost(
    kind: Callable[[], contextlib.AbstractContextManager[Unread]],
) -> None:
    with kind() as unread, logging_to(unread.end) as (process, lost):
        assert lost > 0
        assert process.stdin is not None
        text = ""
        while "lines were lost" not in text:
            text += unread.read(1 << 16).decode()
        process.stdin.write(b"x")
        process.stdin.flush()
        while "back" not in text:
            more = unread.read(1 << 16)
            assert more, "it ended, and its last line is lost"
            text += more.decode()
        assert process.wait(DEADLINE_S) == 0
    lines = [line for line in re.split(r"[\r\n]+", text) if line.startswith("line ")]
    assert [int(line.split()[1]) for line in lines] == list(range(len(lines)))  # whole ones, in their order
    assert all(line.endswith("x" * 80) for line in lines)
    (told,) = re.findall(r"WARNING pegaref.log: (\d+) lines were lost", text)
    assert (int(told), len(lines) + int(told)) == (lost, LINES)


def test_a_log_that_somebody_reads_loses_nothing() -> None:
    with (
        pipe() as read,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=read.end,
        ) as process,
    ):
        os.close(read.end)
        text = b"".join(iter(lambda: read.read(1 << 16), b""))
        assert process.stdout is not None
        assert process.stdout.read() == b"0\n"
    assert text.count(b"\n") == LINES + 1


@pytest.mark.parametrize("gone", ["reader gone", "closed", "full"])
def test_a_log_that_nobody_will_ever_read_stops_nothing(gone: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    end = {"reader gone": writer, "full": os.open("/dev/full", os.O_WRONLY), "closed": os.dup(writer)}[gone]
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh"] if gone == "closed" else []
    done = subprocess.run(
        [*shell, sys.executable, "-c", PROGRAM, "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=end,
        timeout=DEADLINE_S,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0
    assert int(done.stdout) == (0 if gone == "closed" else LINES)


def test_whether_a_write_waits_stays_as_it_is_for_who_started_the_program() -> None:
    with pipe() as unread:
        ours = os.dup(unread.end)
        with logging_to(unread.end) as (_, lost):
            assert lost > 0
            assert os.get_blocking(ours)
        os.close(ours)


def test_a_child_counts_where_its_parent_reads() -> None:
    lost = LostLines()
    code = "import sys; from pegaref.log import LostLines; LostLines(int(sys.argv[1]), cell=1).add(3)"
    subprocess.run([sys.executable, "-c", code, str(lost.fd)], pass_fds=[lost.fd], check=True)
    lost.add(4)
    assert lost.total == 7


@pytest.mark.promise("log-waits-for-nobody")
@pytest.mark.torch
def test_a_server_whose_log_nobody_reads_stays_lit_and_ends(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    filler = os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(filler, b"x" * 4096)
    os.close(filler)
    command = [sys.executable, "-m", "pegaref", "serve", "--http-addr=127.0.0.1:0", "--addr=127.0.0.1:0"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writer, text=True
    ) as process:
        os.close(writer)
        try:
            assert process.stdout is not None
            server = Running(process, process.stdout.readline(), tmp_path)
            server.wait_ready()  # of which it logs a line, and the actor's libraries warn
            assert server.post("/cache/memory/cleanup").status_code == 200  # which is another line
            assert server.get("/health").text == "ok"
            children = server.children()
            began = time.monotonic()
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
            assert time.monotonic() - began < 10
            eventually(lambda: not any(map(alive, children)), what="its children are gone")
        finally:
            process.kill()
            os.close(reader)
