"""Try a target file once: start the server, ask every endpoint, make every call, look at its processes, and
see which sites resolve and which calls reach them.

A site is tried by arming `call.count` in it: the server runs as before, and each call that comes by is
counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, closing, suppress

import httpx
import msgspec
import psutil

from faults import Controller, Fault, FaultsError, ProcessInfo, Selector, UnknownSite
from scenarios.errors import CouldNotRun
from scenarios.onboarding.findings import Checked, MadeCall, ProbedLaneOnce, Seen, TriedSite
from scenarios.prober.messages import HttpLane, Probed, TcpLane, Watch
from scenarios.prober.messages import Lane as ProbedLane
from scenarios.prober.schedule import Schedule
from scenarios.prober.series import lanes
from scenarios.server.environment import interpreter
from scenarios.server.server import Server, serving
from scenarios.spec.target import Call
from scenarios.spec.target_file import LoadedTarget
from scenarios.traffic.caller import CallFailed

_SITE_KINDS = ("function", "class")
_LEASE_S = 120.0
_MATCH_WITHIN_S = 5.0
_ONCE_S = 1e6
_BODY_SHOWN = 80
_MOMENT_S = 0.5

Say = Callable[[str], None]


async def check(loaded: LoadedTarget, say: Say) -> Checked:
    """Try everything in the file once; `say` is told what goes on.

    Raises `CouldNotRun` when the server does not start: then nothing else can be said.
    """
    await interpreter(loaded, say)  # so that what has to be built is not counted as starting
    say(f"starting {loaded.name}")
    began_s = time.monotonic()
    async with serving(loaded) as server:
        ready_s = time.monotonic() - began_s
        say("asking every endpoint once")
        probes = await _probes(server)
        say("looking at its processes")
        processes, selected = await _processes(server)
        async with _Sites(server, processes) as sites:
            say("making every call once")
            calls = [await _call(server, call, sites) for call in loaded.target.call if call.check]
            tried = sites.tried()
        torch = await _have_imported(server.controller, "torch")
        stopping_s = time.monotonic()
        await server.stop()
        stop_s = time.monotonic() - stopping_s
    return Checked(
        target=loaded,
        ready_s=ready_s,
        stop_s=stop_s,
        probes=tuple(probes),
        processes=tuple(processes),
        selected=selected,
        sites=tried,
        calls=tuple(calls),
        torch=torch,
    )


async def _probes(server: Server) -> list[ProbedLaneOnce]:
    """Each endpoint once over each kind of connection, by the prober's own schedule and rules."""
    described = lanes(server.target.target, server.names, seed=0)
    once: list[ProbedLane] = [
        msgspec.structs.replace(lane, period_s=_ONCE_S, offset_s=0.0) for lane in described.probed
    ]
    found: dict[int, Probed] = {}
    all_in = asyncio.Event()

    def done(probed: Probed) -> None:
        found[probed.lane] = probed
        if len(found) == len(once):
            all_in.set()

    schedule = Schedule(Watch(tuple(once), time.monotonic()), lambda began: None, done)
    try:
        await all_in.wait()  # each lane gives up by itself
    finally:
        await schedule.stop()
    out = []
    for i, (name, lane) in enumerate(described.described.items()):
        probed = found[i]
        wanted = once[i]
        answered = ""
        if probed.outcome != "ok" and isinstance(wanted, HttpLane):
            answered = await _what_it_says(wanted)
        elif probed.outcome == "wrong" and isinstance(wanted, TcpLane):
            answered = await _what_comes_back(wanted)
        latency_s = (probed.ended_s or probed.at_s) - probed.at_s
        out.append(ProbedLaneOnce(name, lane, probed.outcome, probed.status, latency_s, answered))
    return out


async def _what_it_says(lane: HttpLane) -> str:
    """The answer itself, for a person to see what is wrong with it."""
    try:
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=lane.give_up_s) as http:
            response = await http.get(lane.url, headers=lane.headers)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    text = " ".join(response.text.split())
    return f"{response.status_code} {text[:_BODY_SHOWN]}".strip()


async def _what_comes_back(lane: TcpLane) -> str:
    """The answer itself; its end cannot be seen, so it is what came within a moment."""
    host, _, port = lane.address.rpartition(":")
    came = b""
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_MOMENT_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            with closing(writer):
                writer.write(lane.send)
                while (more := await reader.read(_BODY_SHOWN)) and len(came) < _BODY_SHOWN:
                    came += more
    return f"{came[:_BODY_SHOWN]!r} does not match {lane.expect!r}"


async def _processes(server: Server) -> tuple[list[Seen], dict[str, tuple[int, ...]]]:
    """Every process of the target, and which of them each name of the file selects."""
    selected: dict[str, tuple[int, ...]] = {}
    for name, wanted in server.target.target.processes.items():
        selector = Selector(wanted.cmdline, wanted.imports, wanted.parent, wanted.main)
        found = await server.controller.find_processes(selector, timeout_s=_MATCH_WITHIN_S)
        selected[name] = tuple(info.pid for info in found)
    agents = {info.pid: info for info in server.controller.processes()}
    seen = []
    for pid in server.pids():
        info = agents.get(pid)
        names = tuple(name for name, pids in selected.items() if pid in pids)
        seen.append(Seen(pid, _command(pid, info), info.python if info is not None else None, names))
    return seen, selected


async def _have_imported(controller: Controller, module: str, pid: int | None = None) -> tuple[int, ...]:
    """The processes that have imported a module."""
    found = await controller.find_processes(Selector(imports=module, pid=pid))
    return tuple(info.pid for info in found)


async def _call(server: Server, call: Call, sites: _Sites) -> MadeCall:
    """The call, after those it needs; then all of it is taken back."""
    error = None
    before = sites.counts()
    began_s = time.monotonic()
    try:
        for needed in server.caller.chain(call):
            await server.caller.make(needed, 1)
        before, began_s = sites.counts(), time.monotonic()
        answer = await server.caller.make(call, 1)
    except (CallFailed, CouldNotRun) as failed:
        answer, error = "", str(failed)
    took_s = time.monotonic() - began_s
    after = sites.counts()
    await server.caller.undo(call, 1, call.deadline_s)
    reached = tuple(name for name, count in after.items() if count > before[name])
    for name in reached:
        sites.reached[name].append(call.name)
    return MadeCall(call.name, answer, error, took_s)


class _Sites:
    """Every site of the file, armed in every process in which it resolves, to be counted."""

    def __init__(self, server: Server, processes: list[Seen]) -> None:
        self._server = server
        self._pids = [seen.pid for seen in processes if seen.agent]
        self._sites: Mapping[str, str] = server.target.target.sites
        self._armed: dict[str, dict[int, Fault]] = {name: {} for name in self._sites}
        self._refusals: dict[str, str] = {}
        self._sure: dict[str, str] = {}
        self.reached: dict[str, list[str]] = {name: [] for name in self._sites}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> _Sites:
        try:
            for name in self._sites:
                for pid in self._pids:
                    await self._arm(name, pid)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _arm(self, name: str, pid: int) -> None:
        """As a callable, or as a class whose objects die; what both refuse is told as the first did."""
        refusals: list[str] = []
        for kind in _SITE_KINDS:
            fault = self._server.controller.arm(
                "call.count", process=pid, lease_s=_LEASE_S, params={"site": name, "kind": kind}
            )
            try:
                self._armed[name][pid] = await self._stack.enter_async_context(fault)
                return
            except UnknownSite as error:
                near = f"; did you mean {' or '.join(error.near)}?" if error.near else ""
                refusals.append(f"{error.reason}{near}")
            except FaultsError as error:
                refusals.append(str(error))
        self._refusals[name] = refusals[0]
        module = self._sites[name].partition(":")[0]
        if await _have_imported(self._server.controller, module, pid):
            self._sure[name] = refusals[0]

    def counts(self) -> dict[str, int]:
        """How often each site was called so far."""
        return {
            name: sum(fault.status().calls for fault in armed.values()) for name, armed in self._armed.items()
        }

    def tried(self) -> tuple[TriedSite, ...]:
        """What came of each site. One that a process could import but has not is `late` there, and counts
        unless a process that has imported the module has said no."""
        return tuple(self._tried(name, armed) for name, armed in self._armed.items())

    def _tried(self, name: str, armed: Mapping[int, Fault]) -> TriedSite:
        now = tuple(pid for pid, fault in armed.items() if not _is_late(fault))
        late = tuple(pid for pid, fault in armed.items() if _is_late(fault))
        refusal = ""
        if not armed:
            refusal = self._refusals.get(name, "no process has an agent")
        elif not now:
            refusal = self._sure.get(name, "")
        reached_by = tuple(dict.fromkeys(self.reached[name]))
        return TriedSite(name, self._sites[name], now, late, refusal, reached_by)


def _is_late(fault: Fault) -> bool:
    return "awaits_import" in fault.status().details


def _command(pid: int, info: ProcessInfo | None) -> str:
    """Its command line; it may have ended meanwhile."""
    if info is not None:
        return " ".join(info.argv)
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return "(ended)"
