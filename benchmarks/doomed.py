"""Controllers that are made to be killed: each breaks one process, says so, and waits for its end.

Run as `python -m benchmarks.doomed`: for each line `{"fault": …, "params": …, "port": …}` it forks a
controller, which prints `{"controller": PID, "target": PID}` as soon as its fault bites. To fork spares the
second that it would take to import all of it each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from faults import Controller, Selector

TICKER = Path(__file__).parent / "ticker.py"
_LIVES_FOR_S = 60.0


async def _break(order: dict[str, Any]) -> None:
    async with Controller() as controller:
        target = await asyncio.create_subprocess_exec(
            sys.executable, str(TICKER), str(order["port"]),
            env=controller.environment(os.environ), start_new_session=True,
        )  # fmt: skip
        ticker = Selector(pid=target.pid)
        await controller.wait_process(ticker)
        async with controller.arm(
            order["fault"], process=ticker, params=order["params"], lease_s=_LIVES_FOR_S
        ) as fault:
            await fault.wait_biting(timeout_s=10)
            print(json.dumps({"controller": os.getpid(), "target": target.pid}), flush=True)
            await asyncio.sleep(_LIVES_FOR_S)


def main() -> None:
    """One controller a line, one after the other."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(_break(json.loads(line)))
            finally:
                os._exit(1)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
