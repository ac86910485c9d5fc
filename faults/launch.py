"""Launch a command so that no process of it outlives this one."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from faults import procfs
from faults.errors import LaunchFailed

log = logging.getLogger(__name__)

Stream = int | IO[Any] | None
"""As for asyncio.create_subprocess_exec: PIPE, DEVNULL, a descriptor, an open file, or None to inherit."""

_GUARD = Path(__file__).parent / "guard.py"
_START_WITHIN_S = 10.0
_END_WITHIN_S = 10.0
_CLOSE_GRACE_S = 2.0


class Launched:
    """A command that runs under its guard. `stdin`, `stdout` and `stderr` are streams where PIPE was asked
    for.
    """

    def __init__(self, pid: int, guard: asyncio.subprocess.Process, reader: asyncio.StreamReader,
                 writer: asyncio.StreamWriter) -> None:  # fmt: skip
        self.pid = pid
        self.stdin, self.stdout, self.stderr = guard.stdin, guard.stdout, guard.stderr
        self.returncode: int | None = None
        self._guard, self._reader, self._writer = guard, reader, writer
        self._ended = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                word, _, rest = line.decode().strip().partition(" ")
                if word == "exit":
                    self.returncode = int(rest)
                    self._ended.set()
        except OSError as error:
            log.info("guard of process %d: connection ended: %s", self.pid, error)
        finally:
            self._ended.set()

    def pids(self) -> tuple[int, ...]:
        """Every live process that the command is or started, daemons included."""
        return procfs.descendants(self._guard.pid)

    async def wait(self) -> int | None:
        """The exit code of the command, negative for a signal; None if its guard was killed before it
        ended.
        """
        await self._ended.wait()
        return self.returncode

    async def terminate(self, grace_s: float = _CLOSE_GRACE_S) -> int | None:
        """Send SIGTERM to the command, after `grace_s` to what is left of it, then SIGKILL. Returns the exit
        code.
        """
        if self._guard.returncode is None:
            with suppress(OSError):
                self._writer.write(f"end {grace_s}\n".encode())
                await self._writer.drain()
            try:
                async with asyncio.timeout(grace_s + _END_WITHIN_S):
                    await self._guard.wait()
            except TimeoutError:
                log.error("processes %s below the guard %d cannot be ended", self.pids(), self._guard.pid)
        async with asyncio.timeout(_END_WITHIN_S):
            await self._listening
        self._writer.close()
        if self.stdin is not None:
            self.stdin.close()
        return self.returncode

    async def close(self) -> None:
        """End it if it still runs, and all that it started."""
        await self.terminate(_CLOSE_GRACE_S)


async def launch(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | Path | None, stdin: Stream, stdout: Stream,
    stderr: Stream, private: Path,
) -> Launched:  # fmt: skip
    """Start the command below a guard. Raises LaunchFailed."""
    if not command:
        raise LaunchFailed(command, "name a program")
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            guard = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(_GUARD), str(theirs.fileno()), str(private), *command,
                pass_fds=(theirs.fileno(),), start_new_session=True,
                env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr,
            )  # fmt: skip
    except OSError as error:
        ours.close()
        raise LaunchFailed(command, str(error)) from None
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        async with asyncio.timeout(_START_WITHIN_S):
            word, _, rest = (await reader.readline()).decode().strip().partition(" ")
    except TimeoutError:
        word, rest = "failed", f"its guard said nothing within {_START_WITHIN_S:g} s"
    if word != "started":
        writer.close()
        await guard.wait()
        raise LaunchFailed(command, f"{rest or 'its guard ended'}; is {command[0]!r} a program on the PATH?")
    return Launched(int(rest), guard, reader, writer)
