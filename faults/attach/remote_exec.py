"""Load the agent with `sys.remote_exec`, which makes a Python from 3.14 on run a script.

The caller has to be an interpreter of the same version (Python documentation, `sys.remote_exec`): the
target's own program, or one of that version on the PATH.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from pathlib import Path

from faults.attach.refusals import NeverLoaded, NotAllowed, NotAttachable, ToolMissing
from faults.attach.target import Target

log = logging.getLogger(__name__)

FIRST_VERSION = (3, 14)
_ASK_WITHIN_S = 10.0
_CODE = "import sys; sys.remote_exec(int(sys.argv[1]), sys.argv[2])"


async def load(target: Target, script: Path) -> None:
    """Have the process run `script` as soon as its main thread runs Python code; it may not have when this
    returns.

    Raises ToolMissing, NotAllowed, NotAttachable, NeverLoaded.
    """
    asker = await _asker(target)
    process = await asyncio.create_subprocess_exec(
        asker, "-I", "-S", "-c", _CODE, str(target.pid), str(script),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_ASK_WITHIN_S):
            output = (await process.communicate())[1].decode(errors="replace")
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NeverLoaded(
            target.pid, f"sys.remote_exec was not done within {_ASK_WITHIN_S:g} s", "try once more"
        ) from None
    if process.returncode != 0:
        raise refusal(target, asker, output)


async def _asker(target: Target) -> str:
    wanted = target.python or FIRST_VERSION
    if sys.version_info[:2] == wanted:
        return sys.executable
    name = "python{}.{}".format(*wanted)
    for candidate in (target.executable, shutil.which(name)):
        if candidate and await _is_python(candidate, wanted):
            return candidate
    raise ToolMissing(
        target.pid,
        f"only {name} can ask it to load a script, and there is none on the PATH",
        "install that version, or start the target with `wedge exec`",
    )


async def _is_python(program: str, wanted: tuple[int, int]) -> bool:
    """Whether it is an interpreter of that version. A program that only embeds one is not run to find out."""
    if not Path(program).name.startswith("python"):
        return False
    code = "import sys; print(*sys.version_info[:2])"
    try:
        process = await asyncio.create_subprocess_exec(
            program, "-I", "-S", "-c", code, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return False
    output, _ = await process.communicate()
    return output.decode().split() == [str(part) for part in wanted]


def refusal(target: Target, asker: str, output: str) -> NotAttachable:
    """The refusal for the calling interpreter's output."""
    last = (output.strip().splitlines() or ["nothing"])[-1]
    if "has no attribute 'remote_exec'" in output:
        return ToolMissing(
            target.pid, f"{asker} has no sys.remote_exec", "use a Python built with remote debugging"
        )
    if "PermissionError" in output or "permitted" in output:
        return NotAllowed(
            target.pid, f"the kernel does not let {asker} write to it", "run as root, or give it SYS_PTRACE"
        )
    if "remote debugging is not enabled" in output.lower():
        return NotAllowed(
            target.pid,
            "remote debugging is switched off in it (PYTHON_DISABLE_REMOTE_DEBUG or -X disable-remote-debug)",
            "start it without that, or with `wedge exec`",
        )
    return NotAttachable(target.pid, f"sys.remote_exec failed: {last}", "start the target with `wedge exec`")
