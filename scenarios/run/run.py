"""A whole run: scenarios spread over workers, then judged together with their controls. A worker has one
prober, and one server that is kept from scenario to scenario while it is as good as new."""

from __future__ import annotations

import asyncio
import datetime
import importlib.metadata
import itertools
import logging
import math
import os
import platform
import shlex
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from scenarios.errors import CouldNotRun, ProberFailed
from scenarios.judge import conclude, judge, proof
from scenarios.prober.handle import ProberHandle
from scenarios.record import Host, NotRun, Report, ScenarioRecord, SuiteRecord
from scenarios.run.experiment import Experiment
from scenarios.run.progress import Progress
from scenarios.run.results import ScenarioResults, raw_record
from scenarios.server.environment import Say
from scenarios.server.server import Server, serving
from scenarios.spec import LoadedTarget, Scenario

log = logging.getLogger(__name__)

_START_S, _SCENARIO_S = 5.0, 3.5
"""About how long a server's start and a scenario on it take: the estimate that the work is shared out by."""

_OVER = 0.2
"""A group may be longer than its share by this part of it before it is split."""

_SPLIT_FROM = 4
"""A part with fewer scenarios than this is not worth a server: its start costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `options` are those that `reproduce` has to repeat; `not_run` is what was left out, a
    scenario each, with the reason. When all scenarios have run, those for which the machine was too busy to
    tell anything are run once more, alone, unless there are more than `again` of them."""

    scenarios: tuple[Scenario, ...]
    seed: int
    jobs: int
    suite_name: str
    suite_file: Path
    options: tuple[str, ...] = ()
    not_run: tuple[NotRun, ...] = ()
    again: int = 0

    def reproduce(self, scenario: Scenario) -> str:
        """The command that runs this scenario alone."""
        return shlex.join(["wedge", "run", scenario.name, *self.options, "--seed", str(self.seed)])


class ServerCache:
    """One server at a time (two may not fit on a GPU), ended with the context. It is replaced when it is not
    as good as new any more, or when another target is asked for. `say` is told what takes long."""

    def __init__(self, say: Say | None = None) -> None:
        self._say = say
        self._stack = AsyncExitStack()
        self._server: Server | None = None
        self._failures: dict[Path, CouldNotRun] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def server(self, target: LoadedTarget) -> Server:
        """A server of the target, started if need be. Raises `TargetFailed`, also when it failed to start
        before: what did not start once is not tried again for every scenario.
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


async def _run_group(
    plan: Plan, scenarios: Iterable[Scenario], progress: Progress, troubles: dict[str, None]
) -> list[ScenarioRecord]:
    """A worker: it runs scenarios of one target, one after the other. One that cannot run is unproven, and
    its reason is added to `troubles`.
    """
    # Those that leave nothing to go on with come last, so that no server is started for their sake.
    ordered = sorted(scenarios, key=lambda scenario: scenario.destroys)
    records: list[ScenarioRecord] = []
    async with ProberHandle() as prober, ServerCache(progress.say) as servers:
        for scenario in ordered:
            began_s, reproduce = time.monotonic(), plan.reproduce(scenario)
            try:
                progress.phase(scenario.name, "start")
                server = await servers.server(scenario.target)
                experiment = Experiment(scenario, server, prober, plan.seed, progress)
                records.append(await experiment.run(reproduce, began_s))
            except (CouldNotRun, ProberFailed) as error:
                log.info("%s could not run: %s", scenario.name, error)
                troubles[str(error)] = None
                results = ScenarioResults().with_guards(proof("could run", False, str(error)))
                raw = raw_record(scenario, results, reproduce, {"start": began_s}, time.monotonic())
                records.append(judge(raw))
                progress.finished(records[-1])
    return records


async def run(plan: Plan, progress: Progress) -> tuple[Report, tuple[str, ...]]:
    """Run the plan. Returns the report, and what could not run at all, a line each."""
    began_s = time.monotonic()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    groups = spread(plan.scenarios, plan.jobs)
    slots = asyncio.Semaphore(plan.jobs)
    troubles: dict[str, None] = {}

    async def run_group(group: Sequence[Scenario]) -> list[ScenarioRecord]:
        async with slots:
            return await _run_group(plan, group, progress, troubles)

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(run_group(group)) for group in groups]
    records = {record.name: record for task in running for record in task.result()}
    busy = [scenario for scenario in plan.scenarios if _machine_was_busy(records[scenario.name])]
    if 0 < len(busy) <= plan.again:
        progress.say(f"the machine was too busy to tell of {len(busy)}: run again, one after the other")
        for group in spread(busy, jobs=1):
            for record in await run_group(group):
                records[record.name] = msgspec.structs.replace(record, tries=2)
    report = Report(
        seed=plan.seed,
        duration_s=round(time.monotonic() - began_s, 3),
        scenarios=tuple(records[scenario.name] for scenario in plan.scenarios),
        not_run=plan.not_run,
        suite=SuiteRecord(
            name=plan.suite_name,
            file=str(plan.suite_file),
            jobs=plan.jobs,
            not_run=tuple(f"{left.name}: {left.reason}" for left in plan.not_run),
        ),
        host=Host(platform=platform.platform(), python=platform.python_version(), cores=os.cpu_count() or 0),
        started_at=started_at,
        version=importlib.metadata.version("pegaref"),
    )
    return conclude(report), tuple(troubles)


def _machine_was_busy(record: ScenarioRecord) -> bool:
    """Whether nothing can be said of it because this machine let the target, the prober or the judge wait for
    a core."""
    return any(not guard.held and guard.about == "machine" for guard in record.guards)


def spread(scenarios: Sequence[Scenario], jobs: int) -> list[tuple[Scenario, ...]]:
    """Group scenarios by target, and split what would take longer than its share of the whole; the longest
    group first.

    Scenarios that end their server stay at the end, and are dealt out among the parts of their target.
    """
    by_target: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        by_target.setdefault(scenario.target.name, []).append(scenario)
    share_s = sum(map(_estimated_s, by_target.values())) / jobs
    groups: list[tuple[Scenario, ...]] = []
    for group in by_target.values():
        most = min(jobs, max(1, len(group) // _SPLIT_FROM))
        groups += _parts(group, min(most, max(1, math.ceil(_estimated_s(group) / share_s - _OVER))))
    return sorted(groups, key=_estimated_s, reverse=True)


def _parts(group: Sequence[Scenario], count: int) -> list[tuple[Scenario, ...]]:
    going_on = [scenario for scenario in group if not scenario.destroys]
    ending = [scenario for scenario in group if scenario.destroys]
    bounds = [len(going_on) * i // count for i in range(count + 1)]
    parts = [(*going_on[a:b], *ending[i::count]) for i, (a, b) in enumerate(itertools.pairwise(bounds))]
    return [part for part in parts if part]


def _estimated_s(group: Sequence[Scenario]) -> float:
    starts = max(1, sum(scenario.destroys for scenario in group))
    return _START_S * starts + _SCENARIO_S * len(group)


def default_jobs() -> int:
    """Workers at a time: a few for each core, since a worker mostly waits, but at most 8."""
    return min(8, 3 * (os.cpu_count() or 1) + 1)
