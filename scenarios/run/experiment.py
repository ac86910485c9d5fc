"""One scenario on a running server: baseline → arm → prove the bite → make calls → watch → release →
recover."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from faults import (
    BadParameter,
    BadTrigger,
    FaultsError,
    LeaseTooLong,
    NoSuchProcess,
    UnknownFault,
    UnknownParameter,
    UnknownSelector,
    UnknownSite,
    process_stacks,
)
from scenarios.errors import CouldNotRun, ProberFailed, SetupFailed, TargetEnded
from scenarios.judge import claim, judge, proof
from scenarios.judge.admission import admission, readiness_series, with_admission
from scenarios.judge.observation import MIN_FRESH, Observation
from scenarios.prober.handle import ProberHandle
from scenarios.prober.series import series_set
from scenarios.record import Admission, Guard, ProcessesBroken, ScenarioRecord, Stack, microsecond
from scenarios.run import machine
from scenarios.run.assertions import EndpointAssertions
from scenarios.run.calls import ScenarioCalls
from scenarios.run.injection import Injection
from scenarios.run.processes import Serving, find_serving, wait_serving
from scenarios.run.progress import Progress
from scenarios.run.recovery import LeakCheck, Recovery, stop_under_fault
from scenarios.run.results import ScenarioResults, WindowClosing, WindowOpening, raw_record
from scenarios.run.watch import Samples, TargetWatch, watching
from scenarios.server import resources
from scenarios.server.server import Server, command_of
from scenarios.server.settling import Settling, wait_settled
from scenarios.spec import Scenario
from scenarios.traffic.load.facts import LoadFacts
from scenarios.traffic.load.running import RunningLoads, loading

WRONG_INPUT = (
    BadParameter,
    BadTrigger,
    LeaseTooLong,
    UnknownFault,
    UnknownParameter,
    UnknownSelector,
    UnknownSite,
)
"""What the fault layer says when the suite or the target file asks for something that does not exist."""

_LIMIT_S = 120.0
_FRESH, _FRESH_AT_MOST = 12, 240
"""So many fresh connections for each process among which the kernel spreads them: that none of them leads to
the one that is broken has a probability of e^-12."""
_STACKS_OF = 8
_NAME_CHARACTERS = 40
_LATE_SHARE = 0.5
"""A prober may be late, and a target wait for a core, by this share of a budget. Latency counts from the
intended start, so a late probe can only make a lit target look worse; and half a budget of lateness cannot
make up a silence of more than a whole one alone.
"""


class _Unsettled(Exception):
    """The server changed while the baseline was watched."""


class Experiment:
    """Runs one scenario. Afterwards `server.usable` says whether another may run on the same server.

    Each phase returns its findings; only the experiment itself combines them, in `_results`.
    """

    def __init__(
        self, scenario: Scenario, server: Server, prober: ProberHandle, seed: int, progress: Progress
    ) -> None:
        self._scenario, self._server, self._prober, self._progress = scenario, server, prober, progress
        self._row, self._timing, self._seed = scenario.row, scenario.timing, seed
        self._calls = ScenarioCalls(scenario, server.caller)
        self._loop_lag = machine.LoopLag()
        self._results = ScenarioResults()
        self._marks_s: dict[str, float] = {}
        self._samples: Samples | None = None
        self._serving = Serving()

    async def run(self, reproduce: str, began_s: float) -> ScenarioRecord:
        """Run and judge the scenario; `began_s` is when its turn came. Raises `CouldNotRun` only for mistakes
        in the suite or the target file.
        """
        self._server.usable, good_as_before = False, False
        self._marks_s["start"] = began_s
        settles_s = 0.0 if self._server.before is not None else self._scenario.target.start.ready_within_s
        try:
            async with asyncio.timeout(_LIMIT_S + settles_s):
                good_as_before = await self._run_phases()
        except WRONG_INPUT as error:
            raise CouldNotRun(f"{self._scenario.name}: {error}") from error
        except TargetEnded as error:
            guard = proof if self._results.faults is None else claim
            self._file(guard("the server is there", False, f"it {error.detail}"))
        except SetupFailed as error:
            self._file(proof("set up", False, str(error)))
        except ProberFailed as error:
            self._file(proof("the prober", False, str(error)))
        except NoSuchProcess as error:
            self._file(proof("the process is there", False, str(error)))
        except FaultsError as error:
            self._file(proof("the fault layer", False, str(error)))
        except TimeoutError:
            self._file(proof("in time", False, f"the scenario was not over within {_LIMIT_S:g} s"))
        finally:
            await self._calls.abandon()
            await self._server.caller.close()
        raw = raw_record(
            self._scenario,
            self._results,
            reproduce,
            self._marks_s,
            time.monotonic(),
            self._calls,
            self._samples,
        )
        record = judge(raw)
        if record.verdict != "pass":
            record = msgspec.structs.replace(record, target_log=tuple(self._server.log))
        self._server.usable = good_as_before
        self._progress.finished(record)
        return record

    async def _run_phases(self) -> bool:
        """Run all phases; returns whether the server is as good as before.

        On a new server the baseline is also the time in which it shows that it has settled. Where it has not,
        it is left in peace until it has, and everything begins again.
        """
        server = self._server
        if server.before is not None:
            return await self._run_from_baseline(None)
        await server.unless_ended(self._calls.warm_up())
        await server.caller.close()
        lanes = series_set(self._scenario.target.spec, server.names, self._seed)
        await server.unless_ended(wait_serving(server.pids, lanes.described))
        server.before = await resources.wait_agreeing(server.held, self._timing.settle_within_s)
        try:
            settling = Settling(server.held, connections=False, processes=server.before.counts.processes)
            return await self._run_from_baseline(settling)
        except _Unsettled:
            await self._calls.undo()
            await server.caller.close()
        self._progress.phase(self._scenario.name, "start")
        within_s = self._scenario.target.start.ready_within_s
        server.before = await server.unless_ended(wait_settled(server.held, within_s))
        return await self._run_from_baseline(None)

    async def _run_from_baseline(self, settling: Settling | None) -> bool:
        """Run the phases from the set-up on. Raises `_Unsettled`, before anything is filed, where the server
        changes in the baseline."""
        await self._server.unless_ended(self._calls.set_up())
        target, names = self._scenario.target.spec, self._server.names
        lanes = series_set(target, names, self._seed)
        self._serving = await find_serving(self._server.pids(), lanes.described)
        if (processes := len(self._serving.pids)) > 1:
            fresh = _FRESH * processes if self._serving.spread else 0
            period_s = self._timing.window_s / min(_FRESH_AT_MOST, max(MIN_FRESH + 1, fresh))
            lanes = series_set(target, names, self._seed, period_s)
        async with (
            watching(self._prober, lanes) as watch,
            EndpointAssertions(self._scenario.says, names) as assertions,
            self._loop_lag,
        ):
            self._samples = watch.samples
            self._enter("baseline")
            if not await self._server.unless_ended(self._wait_baseline(watch, settling)):
                return False
            self._serving = await find_serving(self._server.pids(), lanes.described)
            self._enter("arm")
            async with loading(self._row.load, self._server) as loads:
                bit = await self._inject(watch, assertions, loads)
                self._enter("release")
                await loads.clean_up()
                self._results = replace(self._results, loads=loads.facts())
                self._file(*_load_guards(self._results.loads))
            faults = self._results.faults
            wedged = faults.own.pids if faults is not None else ()
            recovery = Recovery(self._scenario, self._server, self._calls, wedged)
            if self._scenario.hangs_by_itself and await self._hangs(recovery, watch):
                await self._calls.abandon()
                await self._terminate(recovery)
                return False
            if (ended := await self._calls.wait_ended()) is not None:
                self._mark("calls ended")
                self._file(ended)
            self._enter("recover")
            if self._scenario.destroys:
                await self._terminate(recovery)
                return False
            recovering = self._wait_recovered(recovery, watch)
            if self._row.fault == "process.kill" and self._server.launched.pid in wedged:
                recovered = await recovering  # whoever killed it need not be told that it ended
            else:
                recovered = await self._server.unless_ended(recovering)
            recovered = await self._wait_asserted(assertions) and recovered
        return recovered and await self._server.unless_ended(self._verify(recovery)) and bit

    async def _wait_baseline(self, watch: TargetWatch, settling: Settling | None) -> bool:
        """Watch the target before the fault; returns whether it was lit. Raises `_Unsettled`."""
        timing = self._timing
        if settling is None:
            seen, stretch_s = await watch.wait_baseline(timing.baseline_s, timing.window_max_s, lambda: True)
        else:
            async with settling:
                seen, stretch_s = await watch.wait_baseline(
                    timing.baseline_s, timing.window_max_s, lambda: settling.quiet or bool(settling.changes)
                )
                if settling.disturbed():
                    raise _Unsettled
        self._results = replace(self._results, baseline_s=stretch_s)
        lit = seen.observed == "lit" and not seen.too_few
        detail = seen.detail if lit else "; ".join([seen.detail, *seen.too_few])
        self._file(proof("the baseline was lit", lit, detail))
        return lit

    async def _inject(self, watch: TargetWatch, assertions: EndpointAssertions, loads: RunningLoads) -> bool:
        """Arm the faults, prove that they bite, make the calls, watch, release; returns whether the faults
        bit."""
        bit = True
        seeks = self._scenario.seeks_site and self._row.process is None
        process = await self._server.having(self._row.params.get("site")) if seeks else None
        async with Injection(self._scenario, self._server.controller, self._seed, process) as injection:
            try:
                self._mark("armed")
                self._enter("bite")
                if self._row.bites == "on-traffic":
                    self._start_stuck_calls()
                async for bite in injection.wait_bites():
                    self._file(bite)
                    bit = bit and bite.held
                if bit:
                    if self._row.bites == "alone":
                        self._start_stuck_calls()
                    self._enter("watch")
                    await self._watch_window(watch, injection, assertions, loads)
                    await loads.stop()
                    await self._stop_server()
                self._mark("releasing")
            finally:
                self._results = replace(self._results, faults=await injection.release())
            self._mark("released")
        return bit

    async def _watch_window(
        self, watch: TargetWatch, injection: Injection, assertions: EndpointAssertions, loads: RunningLoads
    ) -> None:
        """Open the fault window, watch until it is decided, and record the findings."""
        await loads.open_window()
        processes = ProcessesBroken(
            serving=tuple(sorted(self._serving.pids)), broken=tuple(sorted(injection.broken()))
        )
        watch.in_part = processes.in_part
        self._results = replace(self._results, processes=processes)
        before = machine.read_counters(self._server.pids())
        opening = self._open_window()
        assertions.open()
        self._calls.start_extra(asserted=False)
        reading = asyncio.create_task(injection.read_stacks())
        flapping = asyncio.create_task(injection.flap())
        looking = asyncio.create_task(injection.watch_processes())
        try:
            seen, closed_s = await self._wait_decided(opening, watch, injection, assertions, loads)
            admitted = self._admission(watch, injection, closed_s)
            seen = with_admission(seen, admitted)
            self._results = replace(self._results, admission=admitted)
            use = machine.cpu_use(before, machine.read_counters(self._server.pids()))
            injection.stop_flapping()
            stacks = await reading
            if self._scenario.hangs_by_itself and seen.observed != "lit":
                stacks = await self._read_all_stacks()
            self._results = replace(self._results, closing=WindowClosing(closed_s, seen, stacks))
            await flapping
        finally:
            for task in (reading, flapping, looking):
                task.cancel()
            await asyncio.gather(reading, flapping, looking, return_exceptions=True)
        serves = await find_serving(self._server.pids(), watch.samples.series)
        known = serves.pids if serves.seen_waiting == self._serving.seen_waiting else frozenset()
        there = await injection.there(self._serving.pids, known, opening.opened_s)
        self._file(*injection.window_guards(), there)
        late_s = watch.samples.late_max_s(opening.opened_s, closed_s)
        allowed_s = _LATE_SHARE * min(series.budget_s for series in watch.samples.series.values())
        in_part = processes.words if processes.in_part else ""
        self._file(machine.prober_guard(late_s, allowed_s), *self._calls.window_guards(in_part))
        asserted = assertions.close(opening.opened_s)
        self._results = replace(self._results, pending_calls=self._calls.pending, assertions=asserted.records)
        self._file(*asserted.guards)
        lag_s = self._loop_lag.worst_s(opening.opened_s, closed_s)
        as_expected = self._results.as_expected(self._scenario.expected)
        timed = self._scenario.timed_by_judge
        self._file(
            machine.cores_guard(use, allowed_s, self._row, as_expected=as_expected),
            machine.judge_guard(lag_s, allowed_s, timed_by_judge=timed, as_expected=as_expected),
        )

    async def _read_all_stacks(self) -> tuple[Stack, ...]:
        """Where every thread of the server stands, as far as that can be read."""
        texts = await process_stacks(self._server.pids()[:_STACKS_OF])
        return tuple(
            Stack(process=command_of(pid)[:_NAME_CHARACTERS], pid=pid, source="py-spy", text=text)
            for pid, text in texts.items()
        )

    def _open_window(self) -> WindowOpening:
        opened_s = microsecond(time.monotonic())
        opening = WindowOpening(
            opened_s=opened_s,
            judged_until_s=microsecond(opened_s + self._timing.window_s),
            opened_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        )
        self._results = replace(self._results, opening=opening)
        return opening

    async def _wait_decided(
        self,
        opening: WindowOpening,
        watch: TargetWatch,
        injection: Injection,
        assertions: EndpointAssertions,
        loads: RunningLoads,
    ) -> tuple[Observation, float]:
        """Watch until it is decided whether the target is lit or dark, and everything that the window has to
        stay open for has happened. Returns what was seen, and when. Extra calls that wait for the assertions
        start once these are met."""

        def advance() -> bool:
            met = assertions.met
            if met:
                self._calls.start_extra(asserted=True)
            if not (met and self._calls.done and injection.done and not loads.pending):
                return False
            known_s = watch.samples.known_until_s
            admitted = self._admission(watch, injection, known_s)
            tells_s = (admitted.stuck_s or 0.0) + admitted.within_s
            return admitted.outcome != "undecided" or not known_s < tells_s < opening.opened_s + within_s

        # A server that replaces a process gets as much time as one that recovers by itself.
        replaces = self._row.ends_by == "server"
        within_s = self._timing.recover_within_s if replaces else self._timing.window_max_s
        return await watch.wait_window(opening.opened_s, self._timing.window_s, within_s, advance)

    def _admission(self, watch: TargetWatch, injection: Injection, known_until_s: float) -> Admission:
        """What the server has admitted until now: that its calls hang."""
        began_s = self._calls.stuck_since_s
        samples = watch.samples
        given = Admission(
            within_s=self._scenario.admits_within_s,
            series=readiness_series(samples.series),
            armed_s=microsecond(self._marks_s["arm"]),
            stuck_s=None
            if began_s is None or watch.in_part
            else microsecond(max(began_s, injection.biting_since_s)),
        )
        return admission(given, samples.series, samples.so_far(), known_until_s)

    async def _stop_server(self) -> None:
        """Ask the server to end, if the row says so, with the fault still biting."""
        if self._row.stop is not None:
            stopped, guard = await stop_under_fault(self._server, self._row.stop)
            self._results = replace(self._results, stopped=stopped)
            self._file(guard)

    async def _hangs(self, recovery: Recovery, watch: TargetWatch) -> bool:
        """Whether a server in which nothing is broken has gone dark for good, or is ended in any case."""
        closing = self._results.closing
        if closing is None or closing.seen.observed == "lit":
            return False
        self._enter("recover")
        if self._scenario.destroys:
            return True
        hung = await recovery.wait_hung(watch, self._marks_s["released"])
        if hung is not None:
            self._file(hung)
        return hung is not None

    async def _terminate(self, recovery: Recovery) -> None:
        """The server is gone for good: check that everything that belonged to it is gone too."""
        if self._row.stop is None and not self._scenario.hangs_by_itself:
            self._file(recovery.wedged_gone())
        self._file_leaks(await recovery.verify_terminated())

    async def _wait_recovered(self, recovery: Recovery, watch: TargetWatch) -> bool:
        """Wait until a killed process was replaced and the endpoints answer; returns whether they do."""
        if self._scenario.after == "respawns":
            respawned = await recovery.wait_respawned()
            self._file(respawned)
            if not respawned.held:
                return False
        found = await recovery.wait_recovered(watch, self._marks_s["released"])
        self._results = replace(self._results, recovered_s=found.stretch_s)
        self._file(found.guard)
        return found.guard.held

    async def _wait_asserted(self, assertions: EndpointAssertions) -> bool:
        """Wait for the assertions after the release; returns whether all were met."""
        opening, met = self._results.opening, True
        opened_s = opening.opened_s if opening is not None else 0.0
        async for found in assertions.wait_met_after(opened_s, self._timing.recover_within_s):
            self._file(*found.guards)
            self._results = replace(self._results, assertions=(*self._results.assertions, *found.records))
            met = met and all(guard.held for guard in found.guards)
        return met

    async def _verify(self, recovery: Recovery) -> bool:
        """Whether nothing is left of the calls, the same calls work once more, and nothing leaked."""
        if not self._file_leaks(await recovery.verify_nothing_left()):
            return False
        if (works := await recovery.verify_functional()) is not None:
            self._file(works)
            if not works.held:
                return False
        return self._file_leaks(await recovery.verify_no_leaks())

    def _start_stuck_calls(self) -> None:
        if self._calls.start_stuck():
            self._mark("piled up")

    def _file_leaks(self, check: LeakCheck) -> bool:
        """Record what the target holds; returns whether it is no more than it should be."""
        self._results = replace(self._results, leaks=check.leaks)
        self._file(check.guard)
        return check.guard.held

    def _file(self, *guards: Guard) -> None:
        self._results = self._results.with_guards(*guards)

    def _mark(self, name: str) -> None:
        self._marks_s[name] = time.monotonic()

    def _enter(self, phase: str) -> None:
        self._mark(phase)
        self._progress.phase(self._scenario.name, phase)


def _load_guards(loads: tuple[LoadFacts, ...]) -> Iterator[Guard]:
    """The guards that each load was there while the window was open and left nothing behind."""
    for load in loads:
        yield proof(f"the {load.kind} of {load.name} was there", load.sustained, load.detail)
        if load.left or load.left_detail:
            detail = "; ".join(load.left) or load.left_detail
            yield claim(f"the {load.kind} of {load.name} left nothing", not load.left, detail)
