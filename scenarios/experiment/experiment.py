"""One scenario on a running server: baseline → arm → prove the bite → pile up → watch → release → recover."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from faults import (
    BadParameter,
    BadTrigger,
    Fault,
    FaultsError,
    LeaseTooLong,
    NeverHit,
    NoSuchProcess,
    State,
    UnknownFault,
    UnknownParameter,
    UnknownSelector,
    UnknownSite,
)
from scenarios.errors import CouldNotRun, ProberFailed, SetupFailed
from scenarios.experiment import resources
from scenarios.experiment.facts import Facts
from scenarios.experiment.lanes import lanes
from scenarios.experiment.progress import Progress
from scenarios.experiment.rounds import Rounds
from scenarios.experiment.server import Server
from scenarios.experiment.watch import Watch, watching
from scenarios.judge.verdict import claim, proof
from scenarios.prober import ProberHandle
from scenarios.report.model import Leaks, Stack
from scenarios.report.model import Scenario as Record
from scenarios.suite import Scenario
from scenarios.traffic.pile import Pile

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
_LATE_SHARE = 0.5
"""A prober may be late by this share of a budget. Latency counts from the intended start, so a late probe
can only make a lit target look worse; and half a budget of lateness cannot make up a silence of more than
a whole one alone.
"""

_STACKS_WITHIN_S = 1.0


class Experiment:
    """Runs one scenario. Afterwards `server.usable` says whether another may run on the same server."""

    def __init__(
        self, scenario: Scenario, server: Server, prober: ProberHandle, seed: int, progress: Progress
    ) -> None:
        self._scenario, self._server, self._prober, self._progress = scenario, server, prober, progress
        self._row, self._timing, self._call = scenario.row, scenario.timing, scenario.call
        self._count = scenario.row.traffic.count if scenario.call is not None else 0
        self._rounds = Rounds(server.caller, scenario.call, self._count) if scenario.call else None
        self._facts = Facts(scenario, seed)

    async def run(self, reproduce: str, began_s: float) -> Record:
        """Run it and judge it; `began_s` is when its turn came. Raises `CouldNotRun` only for what the
        suite or the target file got wrong.
        """
        self._server.usable, recovered = False, False
        self._facts.began_s = self._facts.marks_s["start"] = began_s
        try:
            async with asyncio.timeout(_LIMIT_S):
                recovered = await self._phases()
        except WRONG_INPUT as error:
            raise CouldNotRun(f"{self._scenario.name}: {error}") from error
        except SetupFailed as error:
            self._prove("set up", False, str(error))
        except ProberFailed as error:
            self._prove("the prober", False, str(error))
        except NoSuchProcess as error:
            self._prove("the process is there", False, str(error))
        except FaultsError as error:
            self._prove("the fault layer", False, str(error))
        except TimeoutError:
            self._prove("in time", False, f"the scenario was not over within {_LIMIT_S:g} s")
        finally:
            if self._facts.pile is not None:
                await self._facts.pile.abandon()
            await self._server.caller.close()
        self._facts.log = tuple(self._server.log)
        record = self._facts.record(reproduce)
        self._server.usable = recovered
        self._progress.finished(record)
        return record

    async def _phases(self) -> bool:
        """Whether the server is as good as before."""
        await self._prepare()
        described = lanes(self._scenario.target.target, self._server.names, self._facts.seed)
        async with watching(self._prober, described) as watch:
            self._facts.samples = watch.samples
            self._enter("baseline")
            if not await self._baseline(watch):
                return False
            self._enter("arm")
            bit = await self._fault(watch)
            self._enter("release")
            await self._calls_end()
            self._enter("recover")
            if self._scenario.destroys:
                await self._gone()
                return False
            back = await self._back(watch)
        return back and await self._works_again() and await self._nothing_leaked() and bit

    async def _prepare(self) -> None:
        """Warm the server up and see what it holds, if it is new; then set up what the calls need."""
        server, rounds = self._server, self._rounds
        if server.before is None:
            if rounds is not None:
                await rounds.whole()
                await server.caller.close()
            server.before = await resources.settled(server.held, self._timing.settle_within_s)
        if rounds is not None:
            await rounds.set_up()

    async def _baseline(self, watch: Watch) -> bool:
        seen, self._facts.baseline_s = await watch.baseline(
            self._timing.baseline_s, self._timing.window_max_s
        )
        lit = seen.light == "lit" and not seen.too_few
        detail = seen.detail if lit else "; ".join([seen.detail, *seen.too_few])
        self._prove("the baseline was lit", lit, detail)
        return lit

    async def _fault(self, watch: Watch) -> bool:
        """Arm, prove, pile up, watch, release; whether the fault bit."""
        row, facts = self._row, self._facts
        controller = self._server.controller
        trigger = dict(row.trigger)
        if "p" in trigger:
            trigger.setdefault("seed", facts.seed)
        fault = controller.arm(
            row.fault, process=row.process, lease_s=self._timing.lease_s, params=row.params, trigger=trigger
        )
        async with fault:
            facts.mark("armed")
            self._enter("bite")
            if row.bites == "on-traffic":
                self._pile_up()
            bit = await self._bites(fault)
            if bit:
                if row.bites == "alone":
                    self._pile_up()
                self._enter("watch")
                await self._watch(watch, fault)
            facts.mark("releasing")
            await fault.release()
            facts.mark("released")
        facts.status = fault.status()
        return bit

    async def _bites(self, fault: Fault) -> bool:
        try:
            status = await fault.biting(self._timing.bite_within_s)
        except NeverHit as error:
            self._facts.status = fault.status()
            self._prove("the fault bit", False, str(error))
            return False
        evidence = "; ".join(status.evidence)
        self._prove("the fault bit", status.hits > 0 and bool(evidence), evidence or "it gave no evidence")
        return bool(evidence)

    def _pile_up(self) -> None:
        if self._call is not None and self._count:
            self._facts.pile = Pile(
                self._server.caller, self._call, self._count, self._row.traffic.deadline_s
            )
            self._facts.mark("piled up")

    async def _watch(self, watch: Watch, fault: Fault) -> None:
        facts, timing = self._facts, self._timing
        opened_s = facts.open(timing.window_s)
        reading = asyncio.create_task(self._stacks(fault))
        try:
            seen, closed_s = await watch.window(
                opened_s, timing.window_s, timing.window_max_s, self._calls_did
            )
            facts.stacks = await reading
        finally:
            reading.cancel()
        pile = facts.pile
        facts.seen, facts.closed_s = seen, closed_s
        facts.pending_in_window = pile.pending if pile is not None else 0
        state = fault.status().state
        self._prove("watched", True, seen.detail)
        self._prove("enough probes", not seen.too_few, "; ".join(seen.too_few) or "in every watched lane")
        self._prove("the fault lasted", state is State.BITING, f"it was {state} when the window closed")
        late_s = watch.samples.late_max_s(opened_s, closed_s)
        allowed_s = _LATE_SHARE * min(lane.budget_s for lane in watch.samples.lanes.described.values())
        self._prove("the prober was on time", late_s <= allowed_s, f"at worst {late_s * 1e3:.1f} ms late")
        if pile is not None:
            self._judge_calls(pile)

    async def _stacks(self, fault: Fault) -> tuple[Stack, ...]:
        """Where the wedged processes stand. Read while the window is open, and no reason to keep it open."""
        status = fault.status()
        texts: tuple[str, ...] = ()
        if status.inside:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STACKS_WITHIN_S):
                    texts = await fault.stacks()
        process = self._row.process or "main"
        return tuple(
            Stack(process=process, pid=pid, source="the fault layer", text=text)
            for pid, text in zip(status.pids, texts, strict=False)
        )

    def _calls_did(self) -> bool:
        """Whether the calls have done what the window has to stay open for."""
        pile = self._facts.pile
        return pile is None or self._scenario.calls in ("pending", "ended") or pile.pending == 0

    def _judge_calls(self, pile: Pile) -> None:
        counts = (
            f"of {pile.started}: {pile.pending} pending, {pile.answered} answered, {pile.errors} in error"
        )
        if errors := pile.errors_in_words():
            counts += f" ({errors})"
        wanted = self._scenario.calls
        if wanted == "pending":
            self._prove("the calls were stuck", pile.pending == pile.started, counts)
        elif wanted == "error":
            self._claim("the calls ended in an error", pile.errors == pile.started, counts)
        elif wanted == "answered":
            self._claim("the calls were answered", pile.answered == pile.started, counts)

    async def _calls_end(self) -> None:
        pile = self._facts.pile
        if pile is None:
            return
        ended = await pile.ended(self._timing.end_within_s)
        self._facts.mark("calls ended")
        detail = f"{pile.started - pile.pending} of {pile.started} ended"
        self._claim("the calls ended after release", ended, detail)

    async def _back(self, watch: Watch) -> bool:
        released_s = self._facts.marks_s["released"]
        if self._scenario.after == "respawns" and not await self._respawned():
            return False
        since_s = await watch.steady(released_s, self._timing.recover_within_s)
        if since_s is not None:
            self._facts.recovered_s = (since_s, watch.samples.known_until_s)
        waited = f"within {self._timing.recover_within_s:g} s"
        took = f"after {since_s - released_s:.2f} s" if since_s is not None else f"not {waited}"
        self._claim("the endpoints recovered", since_s is not None, f"steady {took}")
        return since_s is not None

    async def _respawned(self) -> bool:
        status = self._facts.status
        before = status.pids if status is not None else ()
        assert self._row.process is not None
        try:
            found = await self._server.controller.process(
                self._row.process, timeout_s=self._timing.recover_within_s
            )
        except NoSuchProcess as error:
            self._claim("respawned", False, str(error))
            return False
        self._claim("respawned", found.pid not in before, f"{before} became {found.pid}")
        return found.pid not in before

    async def _gone(self) -> None:
        """The process is gone for good: so must be all that hung on it."""
        pids = self._facts.status.pids if self._facts.status is not None else ()
        left = [pid for pid in pids if resources.alive(pid)]
        self._claim("the process is gone", bool(pids) and not left, f"{pids} killed, {left or 'none'} left")
        everyone = self._server.pids()
        await self._server.stop()
        survivors = [pid for pid in (*pids, *everyone) if resources.alive(pid)]
        self._facts.leaks = Leaks(
            processes=len(survivors),
            before=self._server.before.counts if self._server.before else None,
            after=resources.measure(survivors).counts,
            details=tuple(f"process {pid} survives" for pid in survivors),
        )
        self._claim(
            "nothing leaked", not survivors, "; ".join(self._facts.leaks.details) or "no process left"
        )

    async def _works_again(self) -> bool:
        """The same calls with the same keys work once more."""
        if self._rounds is None or self._call is None:
            return True
        records = self._facts.pile.records(0.0) if self._facts.pile is not None else ()
        answered = {record.n for record in records if record.outcome == "answered"}
        try:
            await self._rounds.again(answered, self._timing.recover_within_s)
        except SetupFailed as error:
            self._claim("works again", False, str(error))
            return False
        self._claim("works again", True, f"{self._call.name} with the same keys, {self._count} times")
        return True

    async def _nothing_leaked(self) -> bool:
        server = self._server
        await server.caller.close()
        assert server.before is not None
        found = await resources.leaks(
            server.before, server.held, self._scenario.target.target.leaks, self._timing.settle_within_s
        )
        self._facts.leaks = found
        self._claim("nothing leaked", not found.details, "; ".join(found.details) or "as before")
        return not found.details

    def _enter(self, phase: str) -> None:
        self._facts.mark(phase)
        self._progress.phase(self._scenario.name, phase)

    def _prove(self, name: str, held: bool, detail: str) -> None:
        self._facts.guards.append(proof(name, held, detail))

    def _claim(self, name: str, held: bool, detail: str) -> None:
        self._facts.guards.append(claim(name, held, detail))
