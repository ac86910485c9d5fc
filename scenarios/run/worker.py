"""A worker: one prober, and one server that is kept from scenario to scenario while it is as good as new."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from scenarios.errors import CouldNotRun, ProberFailed
from scenarios.judge import judge, proof
from scenarios.prober import ProberHandle
from scenarios.record import ScenarioRecord
from scenarios.run.experiment import Experiment
from scenarios.run.progress import Progress
from scenarios.run.results import ScenarioResults, raw_record
from scenarios.server.environment import Say
from scenarios.server.server import Server, serving
from scenarios.spec import LoadedTarget, Scenario

log = logging.getLogger(__name__)


class ServerCache:
    """One server at a time (two may not fit on a GPU), ended with the context. It is replaced if it is no
    longer as good as new or another target is needed. `say` is called with a line about anything that takes
    long."""

    def __init__(self, say: Say | None = None) -> None:
        self._say = say
        self._stack = AsyncExitStack()
        self._server: Server | None = None
        self._failures: dict[Path, CouldNotRun] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._end()

    async def server(self, target: LoadedTarget) -> Server:
        """A server of the target, started if necessary. Raises `TargetFailed`, also if it failed to start
        before: a failed start is not repeated for every scenario.
        """
        kept = self._server
        if kept is not None and kept.usable and kept.target.path == target.path:
            return kept
        await self._end()
        if target.path in self._failures:
            raise self._failures[target.path]
        try:
            self._server = await self._stack.enter_async_context(serving(target, self._say))
        except CouldNotRun as error:
            self._failures[target.path] = error
            raise
        return self._server

    async def _end(self) -> None:
        self._server = None
        await self._stack.aclose()


class Worker:
    """Runs scenarios of one target, one after the other. `troubles`: what could not run at all, a line
    each."""

    def __init__(self, seed: int, progress: Progress, reproduce: Callable[[Scenario], str]) -> None:
        self._seed, self._progress, self._reproduce = seed, progress, reproduce
        self.troubles: list[str] = []

    async def run(self, scenarios: Iterable[Scenario]) -> list[ScenarioRecord]:
        """Run all of them. A scenario that cannot run is unproven, and its reason is in `troubles`."""
        records: list[ScenarioRecord] = []
        # Scenarios that end their server come last, so that no server has to be started again after them.
        ordered = sorted(scenarios, key=lambda scenario: scenario.destroys)
        async with ProberHandle() as prober, ServerCache(self._progress.say) as servers:
            for scenario in ordered:
                records.append(await self._run_one(scenario, servers, prober))
        return records

    async def _run_one(
        self, scenario: Scenario, servers: ServerCache, prober: ProberHandle
    ) -> ScenarioRecord:
        began_s = time.monotonic()
        reproduce = self._reproduce(scenario)
        try:
            self._progress.phase(scenario.name, "start")
            server = await servers.server(scenario.target)
            experiment = Experiment(scenario, server, prober, self._seed, self._progress)
            return await experiment.run(reproduce, began_s)
        except (CouldNotRun, ProberFailed) as error:
            log.info("%s could not run: %s", scenario.name, error)
            if str(error) not in self.troubles:
                self.troubles.append(str(error))
            results = ScenarioResults().with_guards(proof("could run", False, str(error)))
            record = judge(raw_record(scenario, results, reproduce, {"start": began_s}, time.monotonic()))
            self._progress.finished(record)
            return record
