"""Client processes beside a server: they share memory, hold a session, and can be killed.

A client prints one JSON line when it is ready and lives until its stdin closes. It runs under a guard,
without the agent: it ends with the harness, however that ends, and no fault is ever armed in it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec

from faults import Controller, FaultsError
from scenarios.errors import TargetFailed
from scenarios.target import Client, LoadedTarget
from scenarios.target.placeholders import fill

_STOP_WITHIN_S = 5.0
_KILL_AFTER_S = 0.5
_LOG_LINES = 40


@asynccontextmanager
async def client(
    controller: Controller, target: LoadedTarget, client: Client, names: Mapping[str, str]
) -> AsyncIterator[dict[str, str]]:
    """Start a client and yield `{NAME.KEY: value}` from its line. Raises `TargetFailed`."""
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
    drain = asyncio.create_task(_drain(process.stderr, log))
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
        yield _told(target, client, line, log)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_WITHIN_S):
                await process.wait()
        except TimeoutError:
            await process.terminate(_KILL_AFTER_S)
        await drain


def _told(target: LoadedTarget, client: Client, line: bytes, log: deque[str]) -> dict[str, str]:
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
    while line := await stream.readline():
        log.append(line.decode(errors="replace").rstrip())
