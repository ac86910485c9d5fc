"""Guards that only a run can break: each is broken once, on a real server, and nothing else is.

Beside the server stands one of the test's own, which knows what phase the run is in, and so does the wrong
thing at the right moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from scenarios.record import Report
from scenarios.report import summary
from scenarios.run.progress import Silent
from tests.scenarios.test_run import row, suite
from tests.scenarios.test_run_beside import broken

RunSuite = Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]

TARGET = r"""
[target]
name = "counting"
command = ["{python}", "SERVERS/counting.py"]

[target.ready]
line = 'counting http=(?P<http>\S+)'

[[probe]]
kind = "http"
name = "http /health"
url = "http://{http}/health"

[[probe]]
kind = "http"
name = "other"
url = "http://127.0.0.1:PORT/"
watched = WATCHED

[[call]]
name = "work"
kind = "http"
url = "http://{http}/work"

[[call]]
name = "held"
kind = "http"
url = "http://127.0.0.1:PORT/held"

[processes]
registry = { main = true }
"""
TIMING = "[timing]\nbaseline_s = 0.5\nrecover_within_s = 5\n"
WORK = "traffic = { call = 'work', calls = 'answered' }"
LATE_S = 1.5
"""More than half a budget, and less than a whole one."""


class Other(Silent):
    """A server that answers "ok" to all, unless a test says otherwise; it is told of the run's phases."""

    def __init__(self) -> None:
        self.now = ""

    def phase(self, scenario: str, phase: str) -> None:
        self.now = phase

    def answer(self, head: str) -> str | None:
        """The body that answers this request; None is no answer at all."""
        return "ok"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if (body := self.answer(head.decode())) is not None:
                    writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def there(other: Other, servers: Path, tmp_path: Path, *, watched: bool = False) -> AsyncIterator[str]:
    """The path of a target with that other server beside it."""
    async with await asyncio.start_server(other.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = TARGET.replace("SERVERS", str(servers)).replace("PORT", str(port))
        path = tmp_path / "counting.toml"
        path.write_text(text.replace("WATCHED", str(watched).lower()))
        yield str(path)
        server.close()


class LateProber(Other):
    """So often, stops the prober just before the window opens, and lets it go on some time after."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.stopped = times, False

    def phase(self, scenario: str, phase: str) -> None:
        super().phase(scenario, phase)
        if phase == "watch" and self.times:
            self.times -= 1
            (self.prober,) = [
                child for child in psutil.Process().children() if "scenarios.prober" in child.cmdline()
            ]
            self.prober.suspend()
            self.stopped = True

    def answer(self, head: str) -> str | None:
        if self.stopped and "/held" in head:  # the call that is made as soon as the window is open
            self.stopped = False
            asyncio.get_running_loop().call_later(LATE_S, self.prober.resume)
        return "ok"


async def late(times: int, again: int, servers: Path, tmp_path: Path, run_suite: RunSuite) -> Report:
    """A run of one scenario whose prober is late so many times."""
    other = LateProber(times)
    async with there(other, servers, tmp_path) as target:
        opened = "beside = [{ call = 'held', count = 1, calls = 'answered' }]"
        rows = TIMING + row("late", "noop", "lit", WORK, opened)
        report, _ = await run_suite(suite(servers, tmp_path, rows, target), progress=other, again=again)
    return report


@pytest.mark.parametrize(("late_times", "again", "tries"), [(1, 0, 1), (2, 1, 2)])
async def test_a_prober_that_was_late_proves_nothing(
    servers: Path, tmp_path: Path, run_suite: RunSuite, late_times: int, again: int, tries: int
) -> None:
    (found,) = (await late(late_times, again, servers, tmp_path, run_suite)).scenarios
    assert found.tries == tries
    assert "the prober was on time" in broken(found)
    assert (found.observed, found.verdict) == ("unproven", "unproven")


async def test_what_a_busy_machine_told_nothing_of_is_run_once_more_and_the_report_says_so(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    report = await late(1, 1, servers, tmp_path, run_suite)
    (found,) = report.scenarios
    assert (found.verdict, found.tries, report.suite.passed) == ("pass", 2, True)
    assert any("run again, alone" in remark and found.name in remark for remark in summary.remarks(report))


class LateJudge(Other):
    """Holds up the event loop of the judge, once, while the window is open."""

    def __init__(self) -> None:
        super().__init__()
        self.held_up = False

    def phase(self, scenario: str, phase: str) -> None:
        super().phase(scenario, phase)
        if phase == "watch" and not self.held_up:
            self.held_up = True
            asyncio.get_running_loop().call_later(0.3, time.sleep, 2.5)  # more than a budget


@pytest.mark.parametrize(("again", "verdict"), [(0, "unproven"), (1, "pass")])
async def test_a_judge_that_was_late_itself_blames_no_target(
    servers: Path, tmp_path: Path, run_suite: RunSuite, again: int, verdict: str
) -> None:
    other = LateJudge()
    async with there(other, servers, tmp_path) as target:
        says = "says = [{ probe = 'http /health', status = 200, when = 'always' }]"
        rows = TIMING + row("late", "noop", "lit", WORK, says)
        report, _ = await run_suite(suite(servers, tmp_path, rows, target), progress=other, again=again)
    (found,) = report.scenarios
    assert (found.verdict, found.tries) == (verdict, again + 1)
    assert ("the judge itself was on time" in broken(found)) == (verdict == "unproven")


class WrongOnce(Other):
    """Of all that it is asked in the window beside the probes, it answers the third wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def answer(self, head: str) -> str | None:
        if self.now == "watch" and "wedge-prober" not in head:
            self.asked += 1
            return "not ok" if self.asked == 3 else "ok"
        return "ok"


async def test_what_must_always_be_said_and_is_not_once_is_a_fail(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    other = WrongOnce()
    async with there(other, servers, tmp_path) as target:
        says = "says = [{ probe = 'other', body = '^ok$', when = 'always' }]"
        rows = TIMING + row("once", "noop", "lit", WORK, says)
        report, _ = await run_suite(suite(servers, tmp_path, rows, target), progress=other)
    (found,) = report.scenarios
    assert (found.verdict, broken(found)) == ("fail", {"other always said 200 with '^ok$'"}), found.reasons
    (said,) = found.said
    assert said.met == said.asked - 1


async def test_a_fault_that_ends_while_the_window_is_open_proves_nothing(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    async with there(Other(), servers, tmp_path) as target:
        rows = row("short", "noop", "lit", WORK, "also = [{ fault = 'noop', process = 'registry' }]")
        report, _ = await run_suite(suite(servers, tmp_path, f"{TIMING}lease_s = 1.5\n{rows}", target))
    (found,) = report.scenarios
    assert (found.verdict, broken(found)) == ("unproven", {"the fault lasted", "noop lasted"}), found.reasons
    assert found.bite.hits == 1


class NeverAnswers(Other):
    """Never answers the calls that came while the fault was there; those that come later it does."""

    def answer(self, head: str) -> str | None:
        return None if self.now in ("bite", "watch", "release") and "/held" in head else "ok"


@pytest.mark.parametrize("whose", ["the row's own", "those beside them"])
async def test_a_call_that_does_not_end_after_release_is_a_fail_though_others_do(
    servers: Path, tmp_path: Path, run_suite: RunSuite, whose: str
) -> None:
    traffic, beside = "{ call = 'held', count = 2 }", "{ call = 'work', count = 2, calls = 'answered' }"
    if whose == "those beside them":
        traffic, beside = beside, traffic
    other = NeverAnswers()
    async with there(other, servers, tmp_path) as target:
        rows = row("held", "noop", "lit", f"traffic = {traffic}", f"beside = [{beside}]")
        path = suite(servers, tmp_path, f"{TIMING}end_within_s = 0.2\n{rows}", target)
        report, _ = await run_suite(path, progress=other)
    (found,) = report.scenarios
    assert (found.verdict, broken(found)) == ("fail", {"the calls ended after release"}), found.reasons


async def test_a_process_that_had_to_be_replaced_and_is_the_same_is_a_fail(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    async with there(Other(), servers, tmp_path) as target:
        rows = row("same", "noop", "lit", WORK, "after = 'respawns'")
        report, _ = await run_suite(suite(servers, tmp_path, TIMING + rows, target))
    (found,) = report.scenarios
    assert (found.verdict, broken(found)) == ("fail", {"respawned"}), found.reasons


async def test_an_endpoint_that_does_not_come_back_is_a_fail_though_another_answers(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    async with there(Other(), servers, tmp_path, watched=True) as target:
        timing = TIMING.replace("recover_within_s = 5", "recover_within_s = 1")
        rows = row("dead", "process.kill", "dark", "traffic = { call = 'work', calls = 'ended' }")
        report, _ = await run_suite(suite(servers, tmp_path, timing + rows, target))
    (found,) = report.scenarios
    assert (found.verdict, broken(found)) == ("fail", {"the endpoints recovered"}), found.reasons
