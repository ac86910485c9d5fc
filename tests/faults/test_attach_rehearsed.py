"""A gdb that breaks processes is noticed on a process of our own and never enters a target."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults import Controller, procfs
from faults.attach import NotAllowed, NotAttachable, ToolUnfit, attach, gdb_process, rehearsal
from tests.faults import gdb_here
from tests.faults.bench import DEADLINE_S, LaunchedTarget, until
from tests.faults.unaware import descriptors, tracer, unaware

pytestmark = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="from 3.14 on, the tests' own Python is attached to without gdb"
)
OTHER_WORDS = """\
warning: Could not load shared library symbols for 4 libraries
GDB will be unable to debug shared library initializers
0x00007f27e18c32ad in ?? ()
"""


@pytest.fixture
async def target(controller: Controller) -> AsyncIterator[LaunchedTarget]:
    """A workbench without an agent."""
    async with unaware(controller) as bench:
        yield bench


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a gdb as under AMX, first on the PATH, notes the processes that it enters."""
    return gdb_here.put_in_the_way(monkeypatch, tmp_path)


def interruptions(pid: int) -> list[str]:
    """How often its main thread has been made to stop waiting: every ptrace stop is one switch more."""
    return re.findall(r"voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/task/{pid}/status").read_text())


async def test_it_is_refused_with_the_cause_and_a_remedy(
    controller: Controller, target: LaunchedTarget, entered: Path
) -> None:
    await target.ticks()
    before = interruptions(target.pid)  # its main thread waits for orders
    with pytest.raises(ToolUnfit, match=re.escape(gdb_here.AMX_SAYS)) as refusal:
        await attach(controller, target.pid)
    assert refusal.value.pid == target.pid
    for remedy in ("a newer gdb", "`wedge exec`", "`wedge attach --outside`"):
        assert remedy in str(refusal.value)
    assert interruptions(target.pid) == before
    assert (tracer(target.pid), controller.processes()) == (0, ())
    await target.ticks()
    (other,) = map(int, entered.read_text().split())
    assert other != target.pid
    assert procfs.stat(other) is None


async def test_it_is_found_out_once(controller: Controller, target: LaunchedTarget, entered: Path) -> None:
    for _ in range(3):
        with pytest.raises(ToolUnfit):
            await attach(controller, target.pid)
    assert len(entered.read_text().split()) == 1


async def test_another_gdb_at_the_same_place_is_tried_anew(
    controller: Controller, target: LaunchedTarget, entered: Path
) -> None:
    for modified_s in (1, 2):
        os.utime(entered.parent / "gdb", (modified_s, modified_s))
        with pytest.raises(ToolUnfit):
            await attach(controller, target.pid)
    assert len(entered.read_text().split()) == 2


async def test_nothing_is_left_behind(controller: Controller, target: LaunchedTarget, entered: Path) -> None:
    before = descriptors(os.getpid())
    children = set(procfs.descendants(os.getpid()))
    with pytest.raises(ToolUnfit):
        await attach(controller, target.pid)
    await until(lambda: descriptors(os.getpid()) == before)
    assert set(procfs.descendants(os.getpid())) == children
    assert [path.name for path in controller.path.iterdir()] == ["agent.sock"]


async def test_nothing_is_left_of_one_who_gives_up_meanwhile(
    controller: Controller, target: LaunchedTarget, entered: Path
) -> None:
    before = descriptors(os.getpid())
    children = set(procfs.descendants(os.getpid()))
    for number, after_s in enumerate((0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07)):
        os.utime(entered.parent / "gdb", (number, number))
        attaching = asyncio.create_task(attach(controller, target.pid))
        await asyncio.sleep(after_s)
        attaching.cancel()
        await asyncio.gather(attaching, return_exceptions=True)
        await until(lambda: set(procfs.descendants(os.getpid())) == children)
    await until(lambda: descriptors(os.getpid()) == before)
    assert str(target.pid) not in entered.read_text().split()
    await target.ticks()


@pytest.mark.parametrize(
    ("says", "refusal", "reason"),
    [
        ("Cannot do anything.", ToolUnfit, r"gdb failed on another process: 'Cannot do anything\.'"),
        ("ptrace: Operation not permitted.", NotAllowed, "the kernel does not let gdb trace it"),
    ],
)
async def test_a_gdb_that_does_nothing_is_refused_and_tried_again(
    controller: Controller,
    target: LaunchedTarget,
    entered: Path,
    says: str,
    refusal: type[NotAttachable],
    reason: str,
) -> None:
    (entered.parent / "gdb").write_text(f"#!/bin/sh\necho >> {entered}\necho '{says}'\nexit 1\n")
    for _ in range(2):
        with pytest.raises(refusal, match=reason) as told:
            await attach(controller, target.pid)
        assert told.value.pid == target.pid
    assert entered.read_text() == "\n\n"


async def test_what_is_found_is_what_gdb_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gdb = shutil.which("gdb")
    if gdb is None:
        pytest.skip("gdb is not installed")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        await until(lambda: "pipe" in Path(f"/proc/{cat.pid}/wchan").read_text())
        subprocess.run(
            [gdb, "-nx", "-q", "-batch", "-p", str(cat.pid), "-ex", "print ((int (*)(void)) getpid)()"],
            stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        try:
            out, _ = cat.communicate(b"still here", timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            cat.kill()
            out = b""
    copy = tmp_path / "gdb"  # not found out about yet
    copy.symlink_to(gdb)
    caplog.set_level(logging.INFO, rehearsal.__name__)
    obstacle = None
    try:
        await rehearsal.check(str(copy), os.getpid())
    except NotAttachable as error:
        obstacle = error.reason
    assert (obstacle is None) == ((out, cat.returncode) == (b"still here", 0)), obstacle
    assert "ms: " in caplog.text


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (
            "/proc/self/fd/6:24: Error in sourced command file:\n"
            f"{gdb_here.AMX_SAYS}\nCannot go on.\n[Inferior 1 (process 7) detached]\n",
            gdb_here.AMX_SAYS,
        ),
        (f"Cannot insert breakpoint 1.\n{gdb_here.AMX_SAYS}\n", gdb_here.AMX_SAYS),
        (
            "No symbol table: it failed to load.\n[Inferior 1 detached]\n",
            "No symbol table: it failed to load.",
        ),
        ("[Inferior 1 detached]\n", "[Inferior 1 detached]"),
    ],
)
def test_the_cause_told_is_the_line_that_tells_it(output: str, cause: str) -> None:
    assert gdb_process.complaint(OTHER_WORDS + output) == cause
    refusal = gdb_process.refusal(os.getpid(), "", OTHER_WORDS + output)
    assert (type(refusal), refusal.reason) == (NotAttachable, f"gdb failed: {cause!r}")


def test_registers_of_a_process_that_has_ended_are_no_fault_of_gdb() -> None:
    refusal = gdb_process.refusal(os.getpid(), "", "Couldn't get registers: No such process.\n")
    assert refusal.reason == "it ended while gdb attached to it"
