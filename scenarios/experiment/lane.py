"""A lane: one prober and one target, whose server is kept from scenario to scenario while it is as good
as new.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack

from scenarios.errors import CouldNotRun, ProberFailed
from scenarios.experiment.experiment import Experiment
from scenarios.experiment.facts import Facts
from scenarios.experiment.progress import Progress
from scenarios.experiment.server import Server, serving
from scenarios.judge.verdict import proof
from scenarios.prober import ProberHandle
from scenarios.report.model import Scenario as Record
from scenarios.suite import Scenario

log = logging.getLogger(__name__)


class Lane:
    """Runs scenarios of one target, one after the other."""

    def __init__(self, seed: int, progress: Progress, reproduce: Callable[[Scenario], str]) -> None:
        self._seed, self._progress, self._reproduce = seed, progress, reproduce
        self.troubles: list[str] = []

    async def run(self, scenarios: Iterable[Scenario]) -> list[Record]:
        """Run them all. What cannot run is unproven, and its reason is in `troubles`."""
        records: list[Record] = []
        # Those that leave nothing to go on with come last, so that no server is started for their sake.
        ordered = sorted(scenarios, key=lambda scenario: scenario.destroys)
        async with ProberHandle() as probing, _Held(self._progress) as held:
            for scenario in ordered:
                records.append(await self._one(scenario, held, probing))
        return records

    async def _one(self, scenario: Scenario, held: _Held, probing: ProberHandle) -> Record:
        began_s = time.monotonic()
        try:
            self._progress.phase(scenario.name, "start")
            server = await held.server(scenario)
            experiment = Experiment(scenario, server, probing, self._seed, self._progress)
            return await experiment.run(self._reproduce(scenario), began_s)
        except (CouldNotRun, ProberFailed) as error:
            log.info("%s could not run: %s", scenario.name, error)
            if str(error) not in self.troubles:
                self.troubles.append(str(error))
            facts = Facts(scenario, self._seed, began_s)
            facts.guards.append(proof("could run", False, str(error)))
            record = facts.record(self._reproduce(scenario))
            self._progress.finished(record)
            return record


class _Held:
    """The server in use, replaced when it is not usable any more."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stack: AsyncExitStack | None = None
        self._server: Server | None = None
        self._failure: CouldNotRun | None = None

    async def __aenter__(self) -> _Held:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._let_go()

    async def server(self, scenario: Scenario) -> Server:
        """A server that is as good as new. Raises `TargetFailed`, also when it failed to start before:
        what did not start once is not tried again for every scenario.
        """
        if self._server is not None and self._server.usable:
            return self._server
        await self._let_go()
        if self._failure is not None:
            raise self._failure
        stack = AsyncExitStack()
        try:
            self._server = await stack.enter_async_context(serving(scenario.target, self._progress.say))
        except CouldNotRun as error:
            self._failure = error
            raise
        self._stack = stack
        return self._server

    async def _let_go(self) -> None:
        stack, self._stack, self._server = self._stack, None, None
        if stack is not None:
            await stack.aclose()
