"""Probes by a command: status 0 in time is good, and nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scenarios.prober.command import CommandProber, said_by
from scenarios.prober.handle import ProberHandle, soon
from scenarios.prober.messages import CommandSeries, Probed

WITHIN_S = 30.0


def series(*command: str, give_up_s: float = 10.0, cwd: Path | None = None) -> CommandSeries:
    return CommandSeries(command, 0.1, 0.0, give_up_s, str(cwd) if cwd else None)


async def probed(one: CommandSeries) -> Probed:
    async with asyncio.timeout(WITHIN_S):
        return await CommandProber(0, one).probe(time.monotonic())


def sh(script: str, give_up_s: float = 10.0, cwd: Path | None = None) -> CommandSeries:
    return series("sh", "-c", script, give_up_s=give_up_s, cwd=cwd)


def written(path: Path) -> int:
    """The process id that a command writes, as soon as it has."""
    deadline_s = time.monotonic() + WITHIN_S
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return int(path.read_text())


def gone(pid: int) -> bool:
    """Whether the process ends; one that nobody has reaped yet has."""
    deadline_s = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("script", "outcome", "status"),
    [("exit 0", "ok", 0), ("exit 3", "wrong", 3), ("kill -9 $$", "wrong", 137), ("yes", "timeout", 0)],
)
async def test_the_status_in_time_decides(script: str, outcome: str, status: int) -> None:
    found = await probed(sh(script, give_up_s=0.5 if outcome == "timeout" else 10.0))
    assert (found.outcome, found.status) == (outcome, status)


async def test_a_command_that_cannot_be_started_is_an_error() -> None:
    assert (await probed(series("/no/such/program"))).outcome == "error"


async def test_it_runs_in_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    assert (await probed(sh("test -e here", cwd=tmp_path))).outcome == "ok"


@pytest.mark.parametrize("ends", ["exit 0", "sleep 60"])
async def test_its_children_end_with_it(tmp_path: Path, ends: str) -> None:
    found = await probed(sh(f"sleep 60 & echo $! > child; {ends}", give_up_s=3.0, cwd=tmp_path))
    assert found.outcome == ("ok" if ends == "exit 0" else "timeout")
    assert gone(written(tmp_path / "child"))


async def test_the_prober_s_process_ends_commands_and_the_daemons_that_they_made(tmp_path: Path) -> None:
    command = sh(
        "echo $$ > own; setsid sh -c 'echo $$ > daemon; exec sleep 60' & exec sleep 60", 60.0, tmp_path
    )
    async with asyncio.timeout(WITHIN_S), ProberHandle() as handle:
        await handle.news()
        await handle.watch((command,), soon())
        pids = [await asyncio.to_thread(written, tmp_path / name) for name in ("own", "daemon")]
        await handle.pause()
        assert [gone(pid) for pid in pids] == [True, True]


RUNNER = """
import asyncio, sys
from scenarios.prober.handle import ProberHandle, soon
from scenarios.prober.messages import CommandSeries

async def main():
    async with ProberHandle() as handle:
        await handle.news()
        command = ("sh", "-c", "echo $$ > own; exec sleep 60")
        await handle.watch((CommandSeries(command, 60.0, 0.0, 60.0, sys.argv[1]),), soon())
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_command_dies_with_a_runner_that_is_killed(tmp_path: Path) -> None:
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)])
    try:
        pid = written(tmp_path / "own")
    finally:
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait()
    assert gone(pid)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo no  gpu >&2; exit 3", "it ended with status 3: no gpu"),
        ("sleep 60", "it has not ended within 1 s"),
    ],
)
async def test_what_it_says_is_shown_to_people(script: str, words: str) -> None:
    assert await said_by(sh(script, give_up_s=1.0)) == words
    assert "No such file" in await said_by(series("/no/such/program"))
