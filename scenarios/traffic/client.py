"""Client processes beside a server: they share memory, hold a session, and can be killed.

A client prints one JSON line when it is ready and lives until its stdin closes. It runs under a guard,
without the agent: it ends with the harness, however that ends, and no fault is ever armed in it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import msgspec

from faults import Controller, FaultsError, Launched
from scenarios.errors import TargetFailed
from scenarios.spec import Client, LoadedTarget
from scenarios.spec.placeholders import fill

_STOP_WITHIN_S = 5.0
_KILL_AFTER_S = 0.5
_LOG_LINES = 40


class ClientProcess:
    """A client that is ready. `names`: the placeholders that its line gives, `{NAME.KEY: value}`. `lines`:
    what it printed after that line. `log`: what it wrote on stderr.
    """

    def __init__(self, launched: Launched, names: dict[str, str], log: deque[str]) -> None:
        self.names, self.log = names, log
        self.lines: deque[str] = deque(maxlen=_LOG_LINES)
        self._launched = launched

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._launched.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, negative for a signal; None while it lives."""
        return self._launched.returncode

    async def kill(self) -> int | None:
        """Send SIGKILL and wait for the end; returns the exit code, negative for a signal."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return await self._launched.wait()


@asynccontextmanager
async def client_process(
    controller: Controller, target: LoadedTarget, client: Client, names: Mapping[str, str]
) -> AsyncIterator[ClientProcess]:
    """Start a client and yield it once it has printed its line; ended, with all that it started, on the way
    out. Raises `TargetFailed`."""
    try:
        process = await controller.launch(
            fill(client.command, names),
            env={**os.environ, **fill(client.env, names)},
            cwd=target.path.parent,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except (FaultsError, OSError) as error:
        raise TargetFailed(target.name, f"client {client.name}: {error}") from error
    log: deque[str] = deque(maxlen=_LOG_LINES)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    drains = [asyncio.create_task(_drain(process.stderr, log))]
    try:
        try:
            async with asyncio.timeout(client.ready_within_s):
                line = await process.stdout.readline()
        except TimeoutError:
            raise TargetFailed(
                target.name, f"client {client.name} said nothing within {client.ready_within_s:g} s", log
            ) from None
        except ValueError as error:
            raise TargetFailed(
                target.name, f"client {client.name} printed a line that is too long"
            ) from error
        ready = ClientProcess(process, _names(target, client, line, log), log)
        drains.append(asyncio.create_task(_drain(process.stdout, ready.lines)))
        yield ready
    finally:
        process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_WITHIN_S):
                await process.wait()
        await process.terminate(_KILL_AFTER_S)
        await asyncio.gather(*drains)


def _names(target: LoadedTarget, client: Client, line: bytes, log: deque[str]) -> dict[str, str]:
    try:
        told = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError as error:
        said = line[:80].decode(errors="replace").strip() or "nothing"
        raise TargetFailed(
            target.name, f"client {client.name} must print one JSON object, and printed {said}", log
        ) from error
    return {
        f"{client.name}.{key}": value if isinstance(value, str) else str(value) for key, value in told.items()
    }


async def _drain(stream: asyncio.StreamReader, log: deque[str]) -> None:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than any line that is looked at; the reader has dropped it
            continue
        if not line:
            return
        log.append(line.decode(errors="replace").rstrip())
