"""Try a target file once: start the server, probe every endpoint, make every call, look at its processes, and
see which sites resolve and which calls reach them.

A site is tried by arming `call.count` on it: the server runs as before, and each call of the site is counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace

import h11
import msgspec

from faults import Fault, FaultsError, ProcessInfo, Selector, UnknownSite
from scenarios.address import place
from scenarios.errors import CallFailed, CouldNotRun
from scenarios.onboarding.findings import CallCheck, ProbeCheck, ProcessCheck, SiteCheck, TargetCheck
from scenarios.prober.command import said_by
from scenarios.prober.http import HttpProber
from scenarios.prober.messages import (
    CommandSeries,
    HttpSeries,
    Outcome,
    Probed,
    ProbedSeries,
    StartWatch,
    TcpSeries,
)
from scenarios.prober.schedule import Schedule
from scenarios.prober.series import series_set
from scenarios.server.environment import Say, prepare_interpreter
from scenarios.server.server import Server, command_of, serving
from scenarios.spec.target import REDIRECTS, Call
from scenarios.spec.target_file import LoadedTarget

_SITE_KINDS = ("function", "class")
_LEASE_S = 120.0
_MATCH_WITHIN_S = 5.0
_ONCE_S = 1e6
_BODY_SHOWN = 80
_MOMENT_S = 0.5


async def check(loaded: LoadedTarget, say: Say) -> TargetCheck:
    """Try everything in the file once. `say` is called with a line for each step.

    Raises `CouldNotRun` if the server does not start or ends by itself: nothing else can be tried then.
    """
    await prepare_interpreter(loaded, say)  # so that building the environment does not count as starting
    say(f"starting {loaded.name}")
    began_s = time.monotonic()
    async with serving(loaded) as server:
        checked = TargetCheck(target=loaded, ready_s=time.monotonic() - began_s)
        checked = await server.unless_ended(_try_everything(server, checked, say))
        stopping_s = time.monotonic()
        await server.stop()
        return replace(checked, stop_s=time.monotonic() - stopping_s)


async def _try_everything(server: Server, checked: TargetCheck, say: Say) -> TargetCheck:
    say("asking every endpoint once")
    probes = await _probes(server)
    say("looking at its processes")
    processes, selected = await _processes(server)
    async with _Sites(server, processes) as sites:
        say("making every call once")
        calls = [await _call(server, call, sites) for call in server.target.spec.call if call.check]
        tried = sites.tried()
    await asyncio.sleep(_MOMENT_S)  # one that cannot stand what was asked of it may end only now
    return replace(
        checked,
        probes=tuple(probes),
        processes=tuple(processes),
        selected=selected,
        sites=tried,
        calls=tuple(calls),
        torch=await server.matching(Selector(imports="torch")),
        left_running=server.left_running,
    )


async def _probes(server: Server) -> list[ProbeCheck]:
    """Each endpoint once over each kind of connection, by the prober's own schedule and rules."""
    described = series_set(server.target.spec, server.names, seed=0)
    once: list[ProbedSeries] = [
        msgspec.structs.replace(one, period_s=_ONCE_S, offset_s=0.0) for one in described.probed
    ]
    found: dict[int, Probed] = {}
    all_in = asyncio.Event()

    def done(probed: Probed) -> None:
        found[probed.series] = probed
        if len(found) == len(once):
            all_in.set()

    schedule = Schedule(StartWatch(tuple(once), time.monotonic()), lambda began: None, done)
    try:
        await all_in.wait()  # each series gives up by itself
    finally:
        await schedule.stop()
    out = []
    for i, (name, lane) in enumerate(described.described.items()):
        probed = found[i]
        answered = "" if probed.outcome == "ok" else await _what_it_says(once[i], probed.outcome)
        latency_s = (probed.ended_s or probed.at_s) - probed.at_s
        out.append(ProbeCheck(name, lane, probed.outcome, probed.status, latency_s, answered))
    return out


async def _what_it_says(series: ProbedSeries, outcome: Outcome) -> str:
    """The answer itself, for a person to see what is wrong with it."""
    match series:
        case HttpSeries():
            return await _response(series)
        case TcpSeries() if outcome == "wrong":
            return await _what_comes_back(series)
        case CommandSeries():
            return await said_by(series)
    return ""


async def _response(series: HttpSeries) -> str:
    prober = HttpProber(0, series)
    try:
        async with asyncio.timeout(series.give_up_s):
            answer = await prober.answer()
    except (OSError, h11.ProtocolError) as error:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    finally:
        await prober.close()
    if answer.location is not None and answer.status in REDIRECTS:
        place = answer.location[:_BODY_SHOWN]
        return f"{answer.status}, not followed to {place}; a kubelet takes a redirect to another host as good"
    text = " ".join(answer.body.decode(errors="replace").split())
    return f"{answer.status} {text[:_BODY_SHOWN]}".strip()


async def _what_comes_back(series: TcpSeries) -> str:
    """The answer itself; its end cannot be seen, so it is what came within a moment."""
    host, port, path = place(series.address)
    came = b""
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_MOMENT_S):
            opening = asyncio.open_unix_connection(path) if path else asyncio.open_connection(host, port)
            reader, writer = await opening
            with closing(writer):
                writer.write(series.send)
                while (more := await reader.read(_BODY_SHOWN)) and len(came) < _BODY_SHOWN:
                    came += more
    return f"{came[:_BODY_SHOWN]!r} does not match {series.expect!r}"


async def _processes(server: Server) -> tuple[list[ProcessCheck], dict[str, tuple[int, ...]]]:
    """Every process of the target, and which of them each name of the file selects."""
    selected = {
        name: await server.matching(name, within_s=_MATCH_WITHIN_S) for name in server.target.spec.processes
    }
    agents = {info.pid: info for info in server.controller.processes()}
    no_helpers = await server.matching(Selector())
    seen = []
    for pid in server.pids():
        info = agents.get(pid)
        names = tuple(name for name, pids in selected.items() if pid in pids)
        helper = info is not None and pid not in no_helpers and not names
        python = info.python if info is not None else None
        seen.append(ProcessCheck(pid, _command(pid, info), python, names, helper))
    return seen, selected


async def _call(server: Server, call: Call, sites: _Sites) -> CallCheck:
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
    return CallCheck(call.name, answer, error, took_s)


class _Sites:
    """Every site of the file, armed in every process in which it resolves, to be counted."""

    def __init__(self, server: Server, processes: list[ProcessCheck]) -> None:
        self._server = server
        self._pids = [seen.pid for seen in processes if seen.agent]
        self._sites: Mapping[str, str] = server.target.spec.sites
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
        """Arm the site as a callable or, failing that, as a class whose objects die. When both are refused,
        the first refusal is kept.
        """
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
        if await self._server.matching(Selector(imports=module, pid=pid)):
            self._sure[name] = refusals[0]

    def counts(self) -> dict[str, int]:
        """How often each site was called so far."""
        return {
            name: sum(fault.status().calls for fault in armed.values()) for name, armed in self._armed.items()
        }

    def tried(self) -> tuple[SiteCheck, ...]:
        """The result for each site. A site that a process could import but has not is `late` there; it counts
        as good unless a process that has imported the module refused it."""
        return tuple(self._tried(name, armed) for name, armed in self._armed.items())

    def _tried(self, name: str, armed: Mapping[int, Fault]) -> SiteCheck:
        now = tuple(pid for pid, fault in armed.items() if not _is_late(fault))
        late = tuple(pid for pid, fault in armed.items() if _is_late(fault))
        refusal = ""
        if not armed:
            refusal = self._refusals.get(name, "no process has an agent")
        elif not now:
            refusal = self._sure.get(name, "")
        reached_by = tuple(dict.fromkeys(self.reached[name]))
        said = [
            remark for fault in armed.values() if not _is_late(fault) for remark in fault.status().evidence
        ]
        remarks = tuple(dict.fromkeys(said))
        return SiteCheck(name, self._sites[name], now, late, refusal, reached_by, remarks)


def _is_late(fault: Fault) -> bool:
    return "awaits_import" in fault.status().details


def _command(pid: int, info: ProcessInfo | None) -> str:
    return " ".join(info.argv) if info is not None else command_of(pid)
