"""A controller that other processes of the same user can talk to: what `wedge arm`, `release` and `status`
reach.

One request a connection, one line of JSON each way. The socket (0600) lies beside the agents' in the
controller's private directory.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from faults import directory
from faults.agent_link import peer
from faults.controller import Controller
from faults.errors import FaultsError, NeverHit, SessionError
from faults.model import DEFAULT_LEASE_S, FaultStatus, Newcomers, ProcessInfo, Selector

_REQUEST_LIMIT_BYTES = 1 << 20
_CONDITIONS = ("cmdline", "imports", "parent", "port", "pid", "main")
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")

A = TypeVar("A", bound="ControlAnswer")


class ControlRequest(msgspec.Struct, frozen=True, tag_field="do", tag=str.lower, forbid_unknown_fields=True):
    """A request of a command to a session."""


class ControlAnswer(msgspec.Struct, frozen=True, tag_field="answer", tag=str.lower):
    """A session's answer to one."""


class ShowStatus(ControlRequest, frozen=True):
    """Answered `SessionStatus`, with the broken processes' stacks if `stacks` is set."""

    stacks: bool = False


class ArmFault(ControlRequest, frozen=True):
    """Answered `ArmedFault`, after `wait_s` at most: arm a fault, and see whether it bites.

    `process` is a selector in the command line's form; the rest is as in `Controller.arm`.
    """

    fault: str
    process: str | int | None = None
    lease_s: float = DEFAULT_LEASE_S
    params: Mapping[str, Any] = {}
    trigger: Mapping[str, Any] = {}
    newcomers: Newcomers = "tell"
    wait_s: float = 0.0


class ReleaseFaults(ControlRequest, frozen=True):
    """Answered `ReleasedFaults`: release the faults with these ids, or all if no id is given."""

    ids: tuple[str, ...] = ()


class SessionStatus(ControlAnswer, frozen=True):
    """The processes with an agent, the faults, and by a fault's id the stacks of its processes as text."""

    session: str
    processes: tuple[ProcessInfo, ...]
    faults: tuple[FaultStatus, ...]
    stacks: dict[str, tuple[str, ...]]


class ArmedFault(ControlAnswer, frozen=True):
    """An armed fault. `why` says why it does not bite yet, and is empty if it does."""

    bites: bool
    status: FaultStatus
    why: str = ""


class ReleasedFaults(ControlAnswer, frozen=True):
    """The faults that were released, in the order in which they were named."""

    released: tuple[FaultStatus, ...]


class Rejected(ControlAnswer, frozen=True):
    """The request was refused; the reason is one sentence for a person."""

    error: str


class ControlServer:
    """Answers requests for one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._requests = msgspec.json.Decoder(ShowStatus | ArmFault | ReleaseFaults)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; requests of another user get no answer."""
        try:
            if peer(writer.get_extra_info("socket"))[1] in (os.getuid(), 0):
                writer.write(msgspec.json.encode(await self._answer(await reader.readline())) + b"\n")
                await writer.drain()
        except (OSError, ValueError):  # it disconnected, or sent something that is not a line
            return
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> ControlAnswer:
        try:
            request = self._requests.decode(line)
            if isinstance(request, ArmFault):
                return await self._arm(request)
            if isinstance(request, ReleaseFaults):
                return await self._release(request)
            return await self._status(request)
        except FaultsError as error:
            return Rejected(str(error))
        except msgspec.DecodeError as error:
            return Rejected(
                f"the request {line.decode(errors='replace').strip()} cannot be understood: {error}"
            )

    async def _status(self, request: ShowStatus) -> SessionStatus:
        faults = self._controller.faults() if request.stacks else ()
        return SessionStatus(
            session=self._controller.path.name,
            processes=self._controller.processes(),
            faults=self._controller.statuses(),
            stacks={fault.id: await fault.stacks() for fault in faults},
        )

    async def _arm(self, request: ArmFault) -> ArmedFault:
        fault = self._controller.arm(
            request.fault,
            process=selector_from(request.process),
            lease_s=request.lease_s,
            params=request.params,
            trigger=request.trigger,
            newcomers=request.newcomers,
        )
        await fault.arm()
        try:
            await fault.wait_biting(request.wait_s)
        except NeverHit as not_yet:
            return ArmedFault(False, fault.status(), str(not_yet))
        return ArmedFault(True, fault.status())

    async def _release(self, request: ReleaseFaults) -> ReleasedFaults:
        armed = {fault.id: fault for fault in self._controller.faults()}
        wanted = request.ids or tuple(armed)
        for identity in wanted:
            if identity not in armed:
                there = f"armed are {', '.join(armed)}" if armed else "none is armed"
                raise SessionError(f"no armed fault is called {identity!r}; {there}")
        return ReleasedFaults(tuple([await armed[identity].release() for identity in wanted]))


@asynccontextmanager
async def control_server(controller: Controller) -> AsyncIterator[str]:
    """Serve requests to the controller inside the block; yields the session's name."""
    path = controller.path / directory.CONTROL_SOCKET
    answering = ControlServer(controller)
    server = await asyncio.start_unix_server(answering.serve, path, limit=_REQUEST_LIMIT_BYTES)
    path.chmod(0o600)
    try:
        yield controller.path.name
    finally:
        server.close()
        await server.wait_closed()


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
    for name in ("pid", "port"):
        if name in conditions and not conditions[name].isdigit():
            raise SessionError(f"{name}={conditions[name]} selects no process: it is a number")
        if name in conditions:
            conditions[name] = int(conditions[name])
    if "main" in conditions:
        if conditions["main"] not in _YES + _NO:
            raise SessionError(
                f"main={conditions['main']} says neither: main=1 is the main process, main=0 any other"
            )
        conditions["main"] = conditions["main"] in _YES
    return Selector(**conditions)


def ask(session: Path, request: ControlRequest, expected: type[A], *, within_s: float) -> A:
    """Send a session a request and wait for its answer, of the type `expected`.

    Raises SessionError: with the answer's own error, or when there is no answer.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(within_s)
        try:
            sock.connect(str(session / directory.CONTROL_SOCKET))
            sock.sendall(msgspec.json.encode(request) + b"\n")
            with sock.makefile("rb") as answers:
                line = answers.readline()
        except OSError as error:
            raise _no_answer(session, str(error)) from None
    try:
        answer: A | Rejected = msgspec.json.decode(line, type=Rejected | expected)
    except msgspec.DecodeError as error:
        raise _no_answer(session, str(error) if line else "") from None
    if isinstance(answer, Rejected):
        raise SessionError(answer.error)
    return answer


def _no_answer(session: Path, reason: str) -> SessionError:
    return SessionError(f"session {session.name} does not answer ({reason or 'no answer'}); is it ending?")


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
