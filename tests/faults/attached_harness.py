"""A harness in a separate process, which the test kills: it attaches to a process and holds its GIL.

Run as `python attached_harness.py PID`; prints one JSON line once the fault bites.
"""

from __future__ import annotations

import asyncio
import json
import sys

from faults import Controller
from faults.attach import attach

_LIVES_FOR_S = 60.0


async def main(pid: int) -> None:
    """Attach, break the process, and wait to be killed."""
    async with Controller() as controller:
        await attach(controller, pid)
        async with controller.arm("gil.hold", process=pid, lease_s=_LIVES_FOR_S) as fault:
            await fault.wait_biting(timeout_s=15)
            sys.stdout.write(json.dumps({"biting": pid}) + "\n")
            sys.stdout.flush()
            await asyncio.sleep(_LIVES_FOR_S)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
