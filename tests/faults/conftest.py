"""A controller and a process to break for each test; nothing may be left behind."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest

from faults import Controller, Selector
from tests.faults import gdb_here
from tests.faults.bench import LaunchedTarget, launched
from tests.faults.unaware import unaware


@pytest.fixture
async def controller() -> AsyncIterator[Controller]:
    """An open controller that knows the workbench by name."""
    selectors = {"bench": Selector(cmdline="workbench"), "child": Selector(parent="bench")}
    async with Controller(processes=selectors, sites={"work": "workshop:work"}) as opened:
        yield opened


@pytest.fixture
async def target(controller: Controller) -> AsyncIterator[LaunchedTarget]:
    """The workbench, running below the controller, its agent connected."""
    async with launched(controller) as bench:
        await controller.wait_process("bench")
        yield bench


@pytest.fixture
async def needs_gdb(controller: Controller) -> None:
    """A gdb that can attach. Without one the test checks that a process is refused and runs on, and is
    skipped."""
    why = await gdb_here.obstacle()
    if why is not None:
        async with unaware(controller) as target:
            await target.ticks()
            if sys.version_info < (3, 14):  # from then on attaching takes none
                await gdb_here.refused(controller, target.pid, why)
            await target.ticks()
        pytest.skip(f"gdb cannot attach here: {why}")


if sys.version_info >= (3, 14):

    @pytest.fixture
    def needs_a_way_in() -> None:
        """Attaching to this Python needs nothing, since it can run a script on request."""

else:

    @pytest.fixture
    def needs_a_way_in(needs_gdb: None) -> None:
        """Attaching to this Python needs a gdb that can attach."""
