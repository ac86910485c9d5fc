"""The control: it goes all the way in, and nothing changes."""

from __future__ import annotations

from faults import Controller, State
from tests.faults.bench import Target


async def test_noop_bites_by_proof_and_the_process_works_on(controller: Controller, target: Target) -> None:
    async with controller.arm("noop", process="bench") as fault:
        status = await fault.wait_biting(timeout_s=5)
        assert status.hits == 1
        assert "answered" in status.evidence[0]
        await target.ticks()
    assert fault.status().state is State.RELEASED
