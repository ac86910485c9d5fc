"""Whether gdb can attach on this machine, and how `attach` refuses if it cannot."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from faults import Controller
from faults.attach import NotAllowed, NotAttachable, ToolMissing, ToolUnfit, attach, rehearsal
from tests.faults.unaware import tracer

GDB_UNDER_AMX = Path(__file__).parent / "program" / "gdb_under_amx.py"
AMX_SAYS = "Couldn't write extended state status: Bad address."


async def obstacle() -> str | None:
    """Why gdb cannot attach here, as `attach` finds it; None where it can."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return "gdb is not installed"
    try:
        await rehearsal.check(gdb, os.getpid())
    except NotAttachable as error:
        return error.reason
    return None


async def refused(controller: Controller, pid: int, why: str) -> None:
    """Check that `attach` refuses the process for this reason; the caller then checks that it runs on."""
    with pytest.raises(NotAttachable, match=re.escape(why)) as refusal:
        await attach(controller, pid)
    assert isinstance(refusal.value, (ToolMissing, ToolUnfit, NotAllowed))
    assert (refusal.value.pid, tracer(pid)) == (pid, 0)
    assert controller.processes() == ()


def put_in_the_way(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Path:
    """Put a gdb that behaves as under AMX first on the PATH; returns the file that lists the processes it
    enters."""
    noted = directory / "entered"
    noted.touch()
    gdb = directory / "gdb"
    gdb.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {GDB_UNDER_AMX} {noted} "$@"\n')
    gdb.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=os.pathsep)
    return noted
