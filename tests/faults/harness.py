"""A harness in a separate process, which the test kills: it breaks a workbench whose pipes belong to the
test.

Run as `python harness.py FD_IN FD_OUT FAULT PARAMETERS STATE LEASE`; prints one JSON line once the state is
reached.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from faults import Controller, Selector

_PROGRAM = Path(__file__).parent / "program" / "workbench.py"
_LIVES_FOR_S = 60.0


def say(**line: object) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def main(stdin: int, stdout: int, name: str, params: str, state: str, lease_s: float) -> None:
    """Start the workbench, arm the fault as far as `state` (connected, armed, biting), and wait to be
    killed.
    """
    bench = Selector(cmdline="workbench")
    async with Controller() as controller:
        target = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_PROGRAM),
            env=controller.environment(os.environ),
            stdin=stdin,
            stdout=stdout,
            start_new_session=True,
        )
        os.close(stdin)
        os.close(stdout)
        await controller.wait_process(bench)
        fault = controller.arm(name, process=bench, params=json.loads(params), lease_s=lease_s)
        if state != "connected":
            await fault.arm()
        say(armed=target.pid)
        if state == "biting":
            await fault.wait_biting(timeout_s=15)
        say(path=str(controller.path))
        await asyncio.sleep(_LIVES_FOR_S)


if __name__ == "__main__":
    _in, _out, _name, _params, _state, _lease = sys.argv[1:]
    asyncio.run(main(int(_in), int(_out), _name, _params, _state, float(_lease)))
