"""The default suite's own guards on pegaref: the fix removed is found out, and a killed run leaves
nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from scenarios.record import Report
from scenarios.spec import suite_file

RunSuite = Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]
ROW = """
[suite]
name = "mutated"
targets = ["{target}"]

[[row]]
name = "gil.hold"
fault = "{fault}"
process = "registry"
traffic = {{ call = "register" }}
expect = "lit"
because = "a test of one guard"
"""
_WITHIN_S = 60.0

pytestmark = pytest.mark.torch


def mutated(tmp_path: Path, placement: str, fault: str) -> Path:
    """A suite of one row on the target `pegaref-process`, whose server runs in this placement."""
    target = tmp_path / "pegaref-process.toml"
    start = f'[target]\nname = "pegaref-process"\nargs = ["--placement", "{placement}"]\n'
    target.write_text(f'base = "pegaref-process"\n{start}')
    suite = tmp_path / "mutated.suite.toml"
    suite.write_text(ROW.format(target=target, fault=fault))
    return suite


async def test_with_the_child_replaced_by_inline_execution_the_run_fails_and_says_why(
    tmp_path: Path, run_suite: RunSuite
) -> None:
    report, _ = await run_suite(mutated(tmp_path, "inline", "gil.hold"))
    (found,) = report.scenarios
    assert (found.observed, found.verdict, report.suite.passed) == ("dark", "fail", False)
    assert any(reason.startswith("had to stay lit: it went dark (") for reason in found.reasons)


async def test_with_the_child_in_place_the_same_run_passes(tmp_path: Path, run_suite: RunSuite) -> None:
    report, _ = await run_suite(mutated(tmp_path, "process", "gil.hold"))
    assert [(s.observed, s.verdict) for s in report.scenarios] == [("lit", "pass")]


async def test_with_a_fault_that_silently_does_nothing_the_run_is_unproven_and_says_why(
    tmp_path: Path, run_suite: RunSuite
) -> None:
    report, _ = await run_suite(mutated(tmp_path, "process", "noop"))
    (found,) = report.scenarios
    assert (found.observed, found.verdict, report.suite.passed) == ("unproven", "unproven", False)
    assert any(reason.startswith("the calls were not all stuck: of 4: 0 pending") for reason in found.reasons)


def test_a_run_killed_in_mid_fault_leaves_no_process_and_no_shared_memory() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "scenarios", "run", "process.stop@pegaref-process"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    below = _stopped(run)
    shared = {path for process in below for path in _shared_files(process)}
    assert shared
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not [path for path in shared if Path(path).exists()]


def test_the_names_and_the_rows_of_the_default_suite_are_those_of_the_contract() -> None:
    _, scenarios, _ = suite_file.load(suite_file.find(suite_file.DEFAULT))
    names = {scenario.name for scenario in scenarios}
    assert {"gil.hold@pegaref-process", "call.stall-held@pegaref-pool", "call.drop@pegaref-inline"} <= names
    assert {s.row.fault for s in scenarios} >= {
        "noop", "call.stall", "gil.hold", "object.finalizer_stall", "process.stop", "process.kill",
        "call.drop",
    }  # fmt: skip


def _stopped(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every process below the run, once one of them is stopped."""
    give_up_s = time.monotonic() + _WITHIN_S
    while time.monotonic() < give_up_s:
        assert run.poll() is None
        below = psutil.Process(run.pid).children(recursive=True)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_STOPPED:
                    return below
        time.sleep(0.01)
    raise AssertionError("the fault never bit")


def _shared_files(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return [m.path for m in process.memory_maps() if m.path.startswith("/dev/shm/")]
    return []
