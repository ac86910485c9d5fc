"""A fixture for your own tests: `fault_controller`, an open Controller that releases everything at the end.

    @pytest.mark.asyncio
    async def test_health_survives(fault_controller):
        await fault_controller.launch([sys.executable, "server.py"])
        async with fault_controller.arm("gil.hold", process=Selector(cmdline="server.py")) as fault:
            await fault.wait_biting(5)
            ...

What was launched is ended, and every fault released, when the test is over, however it ends. Needs
pytest-asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec

import pytest

if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    @pytest_asyncio.fixture
    async def fault_controller() -> AsyncIterator[object]:
        """An open `faults.Controller`."""
        from faults import Controller  # not before a test asks for it: every pytest run loads this file

        async with Controller() as controller:
            yield controller

else:

    @pytest.fixture
    def fault_controller() -> object:
        """Says what is missing."""
        pytest.fail(
            "the fixture fault_controller needs pytest-asyncio: pip install pytest-asyncio", pytrace=False
        )
