"""A controller, and a process of its own to break, for each test; nothing may be left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from faults import Controller, Selector
from tests.faults.bench import LaunchedTarget, launched


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
        await controller.process("bench")
        yield bench
