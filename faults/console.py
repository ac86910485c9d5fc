"""A controller that other processes of the same user can talk to: what `wedge arm`, `release` and `status`
reach.

One request a connection, one line of JSON each way. The socket (0600) lies beside the agents' in the
controller's private directory.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from faults import directory
from faults.agents import peer
from faults.controller import Controller
from faults.errors import FaultsError, NeverHit, SessionError
from faults.model import DEFAULT_LEASE_S, FaultStatus, Selector

_REQUEST_LIMIT_BYTES = 1 << 20
_CONDITIONS = ("cmdline", "imports", "parent", "pid", "main")


@asynccontextmanager
async def console(controller: Controller) -> AsyncIterator[str]:
    """Serve requests about the controller meanwhile; gives the session's name."""
    desk = Desk(controller)
    path = controller.path / directory.CONTROL_SOCKET
    server = await asyncio.start_unix_server(desk.serve, path, limit=_REQUEST_LIMIT_BYTES)
    path.chmod(0o600)
    try:
        yield controller.path.name
    finally:
        server.close()
        await server.wait_closed()


class Desk:
    """Answers requests for one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer; one from another user gets none."""
        try:
            if peer(writer.get_extra_info("socket"))[1] in (os.getuid(), 0):
                writer.write(json.dumps(await self._answer(await reader.readline())).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # it went away, or sent what is no request
            return
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        request = json.loads(line)
        try:
            return await _REQUESTS[request["do"]](self, request)
        except FaultsError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"the request {request!r} cannot be understood: {type(error).__name__}: {error}"}

    async def status(self, request: dict[str, Any]) -> dict[str, Any]:
        """The processes with an agent, and the faults."""
        return {
            "session": self._controller.path.name,
            "processes": [dataclasses.asdict(info) for info in self._controller.processes()],
            "faults": [_as_table(status) for status in self._controller.statuses()],
            "stacks": await self._stacks() if request.get("stacks") else {},
        }

    async def _stacks(self) -> dict[str, tuple[str, ...]]:
        return {fault.id: await fault.stacks() for fault in self._controller.faults()}

    async def arm(self, request: dict[str, Any]) -> dict[str, Any]:
        """Arm a fault, and see for `wait_s` whether it bites."""
        fault = self._controller.arm(
            request["fault"],
            process=selector_from(request.get("process")),
            lease_s=request.get("lease_s", DEFAULT_LEASE_S),
            params=request.get("params"),
            trigger=request.get("trigger"),
            newcomers=request.get("newcomers", "tell"),
        )
        await fault.arm()
        answer: dict[str, Any] = {"bites": True}
        try:
            await fault.biting(request.get("wait_s", 0.0))
        except NeverHit as not_yet:
            answer = {"bites": False, "why": str(not_yet)}
        return {**answer, "status": _as_table(fault.status())}

    async def release(self, request: dict[str, Any]) -> dict[str, Any]:
        """Release faults by id, or all."""
        armed = {fault.id: fault for fault in self._controller.faults()}
        wanted = request.get("ids") or list(armed)
        for identity in wanted:
            if identity not in armed:
                there = f"armed are {', '.join(armed)}" if armed else "none is armed"
                raise SessionError(f"no armed fault is called {identity!r}; {there}")
        return {"released": [_as_table(await armed[identity].release()) for identity in wanted]}


_REQUESTS = {"status": Desk.status, "arm": Desk.arm, "release": Desk.release}


def selector_from(text: str | int | None) -> str | int | Selector | None:
    """What a command line's selector means: a name, a pid, or conditions such as
    `cmdline=worker,imports=torch`.

    Raises SessionError.
    """
    if not isinstance(text, str) or "=" not in text:
        return int(text) if isinstance(text, str) and text.isdigit() else text
    conditions: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in _CONDITIONS:
            raise SessionError(
                f"{part!r} selects no process; write {', '.join(f'{c}=…' for c in _CONDITIONS)}"
            )
        conditions[name] = value
    if "pid" in conditions:
        conditions["pid"] = int(conditions["pid"])
    if "main" in conditions:
        conditions["main"] = conditions["main"] in ("1", "true", "yes")
    return Selector(**conditions)


def _as_table(status: FaultStatus) -> dict[str, Any]:
    return dataclasses.asdict(status)


def ask(session: Path, request: dict[str, Any], *, within_s: float) -> dict[str, Any]:
    """The answer of a session's console. Raises SessionError: with the answer's own error, or when there is
    none.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(within_s)
        try:
            sock.connect(str(session / directory.CONTROL_SOCKET))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as answers:
                answer: dict[str, Any] = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise SessionError(
                f"session {session.name} does not answer ({error or 'no answer'}); is it ending?"
            ) from None
    if "error" in answer:
        raise SessionError(answer["error"])
    return answer


def find(name: str | None) -> Path:
    """The session of that name or beginning, or the only one. Raises SessionError, naming what there is."""
    found = [path for path in directory.sessions() if (path / directory.CONTROL_SOCKET).exists()]
    names = [path.name for path in found]
    chosen = [path for path in found if name is None or path.name.startswith(name)]
    if len(chosen) == 1:
        return chosen[0]
    if not found:
        raise SessionError("no session is open; start the target with `wedge exec -- COMMAND…`")
    if not chosen:
        raise SessionError(f"no session is called {name!r}; open are {', '.join(names)}", names)
    raise SessionError(
        f"{len(chosen)} sessions are open; choose one with --session: {', '.join(names)}", names
    )
