"""One scenario on a running server: baseline → arm → prove the bite → pile up → watch → release → recover."""

from __future__ import annotations

import asyncio

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
)
from scenarios.errors import CouldNotRun, ProberFailed, SetupFailed
from scenarios.prober import ProberHandle
from scenarios.prober.series import series_set
from scenarios.record.model import Scenario as Record
from scenarios.run import cores, loop_lag
from scenarios.run.assertions import Listening
from scenarios.run.calls import Calls
from scenarios.run.facts import Facts
from scenarios.run.injection import Breakage
from scenarios.run.loop_lag import LoopLag
from scenarios.run.progress import Progress
from scenarios.run.recovery import Recovery
from scenarios.run.watch import Watch, watching
from scenarios.server import resources
from scenarios.server.server import Server
from scenarios.spec import Scenario
from scenarios.traffic.load import RunningLoads, loading

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
"""A prober may be late, and a target wait for a core, by this share of a budget. Latency counts from the
intended start, so a late probe can only make a lit target look worse; and half a budget of lateness cannot
make up a silence of more than a whole one alone.
"""


ON_TIME = "the prober was on time"
"""The proof that the machine let the prober ask when it meant to."""


class Experiment:
    """Runs one scenario. Afterwards `server.usable` says whether another may run on the same server."""

    def __init__(
        self, scenario: Scenario, server: Server, prober: ProberHandle, seed: int, progress: Progress
    ) -> None:
        self._scenario, self._server, self._prober, self._progress = scenario, server, prober, progress
        self._row, self._timing = scenario.row, scenario.timing
        self._facts = Facts(scenario, seed)
        self._calls = Calls(scenario, server.caller, self._facts)
        self._recovery = Recovery(scenario, server, self._calls, self._facts)
        self._loop_lag = LoopLag()

    async def run(self, reproduce: str, began_s: float) -> Record:
        """Run it and judge it; `began_s` is when its turn came. Raises `CouldNotRun` only for what the
        suite or the target file got wrong.
        """
        facts = self._facts
        self._server.usable, recovered = False, False
        facts.began_s = facts.marks_s["start"] = began_s
        try:
            async with asyncio.timeout(_LIMIT_S):
                recovered = await self._phases()
        except WRONG_INPUT as error:
            raise CouldNotRun(f"{self._scenario.name}: {error}") from error
        except SetupFailed as error:
            facts.prove("set up", False, str(error))
        except ProberFailed as error:
            facts.prove("the prober", False, str(error))
        except NoSuchProcess as error:
            facts.prove("the process is there", False, str(error))
        except FaultsError as error:
            facts.prove("the fault layer", False, str(error))
        except TimeoutError:
            facts.prove("in time", False, f"the scenario was not over within {_LIMIT_S:g} s")
        finally:
            await self._calls.abandon()
            await self._server.caller.close()
        facts.log = tuple(self._server.log)
        record = facts.record(reproduce)
        self._server.usable = recovered
        self._progress.finished(record)
        return record

    async def _phases(self) -> bool:
        """Whether the server is as good as before."""
        await self._prepare()
        target, names = self._scenario.target.spec, self._server.names
        async with (
            watching(self._prober, series_set(target, names, self._facts.seed)) as watch,
            Listening(self._scenario.says, names) as listening,
            self._loop_lag,
        ):
            self._facts.samples = watch.samples
            self._enter("baseline")
            if not await self._baseline(watch):
                return False
            self._enter("arm")
            async with loading(self._row.load, self._server) as loads:
                bit = await self._fault(watch, listening, loads)
                self._enter("release")
                await loads.clean_up()
                self._judge_loads(loads)
            await self._calls.ended()
            self._enter("recover")
            if self._scenario.destroys:
                await self._recovery.gone()
                return False
            back = await self._recovery.back(watch)
            back = await listening.after(self._facts, self._timing.recover_within_s) and back
        recovery = self._recovery
        return back and await recovery.works_again() and await recovery.nothing_leaked() and bit

    async def _prepare(self) -> None:
        """Warm the server up and see what it holds, if it is new; then set up what the calls need."""
        server = self._server
        if server.before is None:
            await self._calls.warm_up()
            await server.caller.close()
            server.before = await resources.wait_settled(server.held, self._timing.settle_within_s)
        await self._calls.set_up()

    async def _baseline(self, watch: Watch) -> bool:
        seen, self._facts.baseline_s = await watch.baseline(
            self._timing.baseline_s, self._timing.window_max_s
        )
        lit = seen.light == "lit" and not seen.too_few
        detail = seen.detail if lit else "; ".join([seen.detail, *seen.too_few])
        self._facts.prove("the baseline was lit", lit, detail)
        return lit

    async def _fault(self, watch: Watch, listening: Listening, loads: RunningLoads) -> bool:
        """Arm, prove, pile up, watch, release; whether the fault bit."""
        facts = self._facts
        async with Breakage(self._scenario, self._server.controller, facts) as breakage:
            facts.mark("armed")
            self._enter("bite")
            if self._row.bites == "on-traffic":
                self._calls.pile_up()
            bit = await breakage.bites()
            if bit:
                if self._row.bites == "alone":
                    self._calls.pile_up()
                self._enter("watch")
                await self._window(watch, breakage, listening, loads)
                await loads.stop()
                await self._recovery.stops()
            facts.mark("releasing")
            await breakage.release()
            facts.mark("released")
        return bit

    async def _window(
        self, watch: Watch, breakage: Breakage, listening: Listening, loads: RunningLoads
    ) -> None:
        facts, timing = self._facts, self._timing
        await loads.open_window()
        before = cores.look(self._server.pids())
        opened_s = facts.open(timing.window_s)
        listening.open()
        self._calls.start_beside(said=False)
        # A server that replaces a process is given as long as one that comes back by itself.
        replaces = self._row.ends_by == "server"
        within_s = timing.recover_within_s if replaces else timing.window_max_s

        def decided() -> bool:
            said = listening.met()
            if said:
                self._calls.start_beside(said=True)
            return said and self._calls.done() and breakage.done() and not loads.pending

        reading = asyncio.create_task(breakage.stacks())
        flapping = asyncio.create_task(breakage.come_and_go())
        try:
            seen, closed_s = await watch.window(opened_s, timing.window_s, within_s, decided)
            after = cores.look(self._server.pids())
            breakage.stay()
            facts.seen, facts.closed_s, facts.stacks = seen, closed_s, await reading
            await flapping
        finally:
            reading.cancel()
            flapping.cancel()
            await asyncio.gather(reading, flapping, return_exceptions=True)
        facts.prove("watched", True, seen.detail)
        facts.prove("enough probes", not seen.too_few, seen.probes)
        breakage.judge()
        late_s = watch.samples.late_max_s(opened_s, closed_s)
        allowed_s = _LATE_SHARE * min(lane.budget_s for lane in watch.samples.lanes.described.values())
        facts.prove(ON_TIME, late_s <= allowed_s, f"at worst {late_s * 1e3:.1f} ms late")
        self._calls.judge()
        listening.judge(facts)
        lag_s = self._loop_lag.worst_s(opened_s, closed_s)
        on_time = facts.as_expected or lag_s <= allowed_s or not self._scenario.timed_by_judge
        cores.judge(cores.between(before, after), facts, allowed_s)
        facts.prove(loop_lag.GUARD, on_time, f"its event loop was {lag_s * 1e3:.1f} ms late at worst")

    def _judge_loads(self, loads: RunningLoads) -> None:
        self._facts.loads = loads.facts()
        for load in self._facts.loads:
            self._facts.prove(f"the {load.kind} of {load.name} was there", load.sustained, load.detail)
            if load.left or load.left_detail:
                detail = "; ".join(load.left) or load.left_detail
                self._facts.claim(f"the {load.kind} of {load.name} left nothing", not load.left, detail)

    def _enter(self, phase: str) -> None:
        self._facts.mark(phase)
        self._progress.phase(self._scenario.name, phase)
