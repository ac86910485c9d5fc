"""The pipes to a child: nothing is lost or out of order, whatever they take; and their end is noticed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pegaref.placement.pipes import RECEIVE_BYTES, Pipes
from tests.pegaref.shared import running, until

COMMANDS = 400


@dataclass(slots=True)
class Child:
    """The child's ends, in this process's hands, and what the control side was told."""

    pipes: Pipes
    reads_fd: int
    writes_fd: int
    answers: bytearray = field(default_factory=bytearray)
    broken: list[str] = field(default_factory=list)
    open: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.open = [self.reads_fd, self.writes_fd]

    def close(self, fd: int) -> None:
        """Close one of the two ends."""
        os.close(fd)
        self.open.remove(fd)

    async def reads(self, most: int) -> bytes:
        """What is there, as soon as anything is; b'' when the other side has closed."""
        while True:
            with suppress(BlockingIOError):
                return os.read(self.reads_fd, most)
            await asyncio.sleep(0)


@asynccontextmanager
async def child() -> AsyncIterator[Child]:
    def on_data(data: bytes) -> None:
        made.answers += data

    pipes = Pipes(asyncio.get_running_loop(), on_data, lambda why: made.broken.append(why))
    requests_fd, answers_fd = pipes.childs_fds
    made = Child(pipes, os.dup(requests_fd), os.dup(answers_fd))
    os.set_blocking(made.reads_fd, False)
    pipes.watch()
    try:
        yield made
    finally:
        pipes.close()
        for fd in made.open:
            os.close(fd)


SIZES = st.lists(st.integers(1, 3 * RECEIVE_BYTES), min_size=1, max_size=6)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 2 * RECEIVE_BYTES))
async def test_requests_arrive_whole_and_in_order_however_slowly_they_are_read(
    sizes: list[int], most: int
) -> None:
    sent = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    async with child() as c:
        for number, size in enumerate(sizes):
            c.pipes.write(bytes([number]) * size)
        got = b""
        while len(got) < len(sent):
            got += await c.reads(max(most, 512))
        assert got == sent
        c.pipes.write(b"one more")  # by now nothing waits
        assert await c.reads(100) == b"one more"


async def test_answers_are_handed_on_as_they_come() -> None:
    async with child() as c:
        for part in (b"an", b"swer"):
            os.write(c.writes_fd, part)
            await until(lambda: c.answers.endswith(part))  # noqa: B023
        assert (bytes(c.answers), c.broken) == (b"answer", [])


async def test_a_child_that_closes_its_answers_is_told_of_once() -> None:
    async with child() as c:
        os.write(c.writes_fd, b"last words")
        c.close(c.writes_fd)
        await until(lambda: bool(c.broken))
        assert (bytes(c.answers), c.broken) == (b"last words", [""])
        assert await c.reads(1) == b""


async def test_a_child_that_reads_no_more_is_told_of_with_the_next_request() -> None:
    async with child() as c:
        c.close(c.reads_fd)
        c.pipes.write(b"request")
        c.pipes.write(b"and another")
        assert c.broken == ["it takes no requests: Broken pipe"]


async def test_a_child_that_reads_no_more_is_told_of_while_a_request_waits() -> None:
    async with child() as c:
        c.pipes.write(b"x" * 3 * RECEIVE_BYTES)
        c.close(c.reads_fd)
        await until(lambda: bool(c.broken))
        assert c.broken == ["it takes no requests: Broken pipe"]


async def test_closing_tells_the_child_and_holds_nothing() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    async with child() as c:
        c.pipes.write(b"x" * 3 * RECEIVE_BYTES)
        c.pipes.close()
        c.pipes.close()
        with pytest.raises(BrokenPipeError):
            os.write(c.writes_fd, b"x")
        while await c.reads(RECEIVE_BYTES):
            pass
        c.pipes.write(b"nobody reads this")
        assert c.broken == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.torch
async def test_a_child_is_switched_to_once_for_each_command() -> None:
    """A pair of stream sockets woke it a second time, when its answer was read."""

    def switches(pid: int) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("voluntary_ctxt_switches:")).split()[1])

    async with running("process") as r:
        pid = r.pid()
        before = switches(pid)
        for _ in range(COMMANDS):
            await r.handle.clear(deadline_s=60)
        assert switches(pid) - before < 1.3 * COMMANDS
