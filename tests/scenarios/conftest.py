"""Fixtures for the judge's tests: small real servers, suites of them, and runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from scenarios.cli import main
from scenarios.record import Report
from scenarios.run.progress import Progress, Silent
from scenarios.run.run import Plan
from scenarios.run.run import run as run_plan
from scenarios.spec import suite_file

SERVERS = Path(__file__).parent / "servers"
_RUN_WITHIN_S = 120.0

RunSuite = Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]


@pytest.fixture
def servers() -> Path:
    """The folder with the small servers, their targets and their suite."""
    return SERVERS


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `wedge`, called in this process, says on stderr to arguments that it refuses with exit code 2."""

    def refuse(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["wedge", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert said.out == ""
        return said.err

    return refuse


@pytest.fixture
def run_suite() -> RunSuite:
    """Run a suite file in this process: the report, and what could not run."""

    async def run(
        path: Path, *names: str, jobs: int = 3, progress: Progress | None = None, again: int = 0
    ) -> tuple[Report, tuple[str, ...]]:
        suite, scenarios, _ = suite_file.load(path)
        plan = Plan(suite_file.select(scenarios, names), 0, jobs, suite.suite.name, path, again=again)
        async with asyncio.timeout(_RUN_WITHIN_S):
            return await run_plan(plan, progress or Silent())

    return run
