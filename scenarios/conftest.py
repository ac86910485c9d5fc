"""`pytest scenarios`: the default suite, one test item a scenario. A failing scenario is a failing test.

The items share one run, spread over lanes as `wedge run` does it: it starts with the first item, in a
thread of its own, for exactly the scenarios that were selected (`-k`, node ids). Each item waits for its
own verdict and for those of its controls.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest

from scenarios.errors import CouldNotRun, ScenariosError
from scenarios.judge import with_controls
from scenarios.record import Report, ScenarioRecord
from scenarios.run.run import Plan, default_jobs
from scenarios.run.run import run as run_plan
from scenarios.server.needs import unmet
from scenarios.spec import Scenario, suite_file

log = logging.getLogger(__name__)

_END_WITHIN_S = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """The choices of `wedge run` that make sense here."""
    group = parser.getgroup("wedge")
    group.addoption("--wedge-jobs", type=int, default=None, help="lanes at a time")
    group.addoption(
        "--wedge-suite", default=suite_file.DEFAULT, help="a suite's file or name, for the default one"
    )
    group.addoption("--wedge-seed", type=int, default=0, help="seed of probe times and random triggers")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The default suite's file stands for the suite that is run."""
    if file_path != suite_file.find(suite_file.DEFAULT):
        return None
    collected: pytest.Collector = SuiteFile.from_parent(parent, path=file_path)
    return collected


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the run with the session, however that ends."""
    shared = session.config.stash.get(SHARED, None)
    if shared is not None:
        shared.end()


class SuiteFile(pytest.File):
    """A suite as a collector."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item a scenario."""
        try:
            _, scenarios, _ = suite_file.load(suite_file.find(self.config.getoption("--wedge-suite")))
        except CouldNotRun as error:
            raise self.CollectError(str(error)) from error
        for scenario in scenarios:
            yield ScenarioItem.from_parent(self, name=scenario.name, scenario=scenario)


class ScenarioItem(pytest.Item):
    """A scenario as a test."""

    def __init__(self, *, scenario: Scenario, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]  # name and parent, as pytest gives them
        self.scenario = scenario

    def runtest(self) -> None:
        """Fails with the reasons when the verdict is not pass."""
        if (reason := unmet(self.scenario.target)) is not None:
            pytest.skip(reason)
        stash = self.config.stash
        if SHARED not in stash:
            items = [item for item in self.session.items if isinstance(item, ScenarioItem)]
            selected = [item for item in items if unmet(item.scenario.target) is None]
            stash[SHARED] = SharedRun(_plan(self.config, selected))
        record = stash[SHARED].verdict(self.scenario)
        for title, lines in (("target log", record.target_log), ("bite evidence", record.bite.evidence)):
            if lines:
                self.add_report_section("call", title, "\n".join(lines))
        if record.verdict != "pass":
            raise NotPassed(record)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        """The reasons, not a stack of the harness."""
        if isinstance(excinfo.value, ScenariosError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where it comes from."""
        return self.path, None, self.name


class NotPassed(ScenariosError):
    """A verdict that is not `pass`."""

    def __init__(self, record: ScenarioRecord) -> None:
        self.record = record
        lines = [f"{record.name}: {record.verdict} (expected {record.expected}, observed {record.observed})"]
        lines += [f"  {reason}" for reason in record.reasons]
        super().__init__("\n".join([*lines, f"  {record.reproduce}"]))


class SharedRun:
    """The one run behind all items, in a thread of its own."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._records: dict[str, Future[ScenarioRecord]] = {
            scenario.name: Future() for scenario in plan.scenarios
        }
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="wedge-run", daemon=True)
        self._task: asyncio.Task[tuple[Report, tuple[str, ...]]] | None = None
        self._thread.start()

    def verdict(self, scenario: Scenario) -> ScenarioRecord:
        """Wait for the scenario and its controls, and judge it in their light."""
        own = self._records[scenario.name].result()
        controls = [self._records[name].result() for name in scenario.controls if name in self._records]
        return with_controls([own, *controls]).scenarios[0]

    def end(self) -> None:
        """Cancel what still runs, wait until everything is released and ended."""
        if self._task is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # it ended just now
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(_END_WITHIN_S)

    def say(self, text: str) -> None:
        """Into the log, which pytest shows where a test fails."""
        log.info("%s", text)

    def phase(self, scenario: str, phase: str) -> None:
        """Not shown."""

    def finished(self, scenario: ScenarioRecord) -> None:
        """Its item may go on."""
        self._records[scenario.name].set_result(scenario)

    def _run(self) -> None:
        try:
            self._task = self._loop.create_task(run_plan(self._plan, self))
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            self._fail(CouldNotRun("the run was interrupted"))
        except BaseException as error:  # noqa: BLE001  # every item waits for a result: it must be told
            self._fail(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _fail(self, error: BaseException) -> None:
        for record in self._records.values():
            if not record.done():
                record.set_exception(error)


SHARED = pytest.StashKey[SharedRun]()


def _plan(config: pytest.Config, items: list[ScenarioItem]) -> Plan:
    name = config.getoption("--wedge-suite")
    return Plan(
        scenarios=tuple(item.scenario for item in items),
        seed=config.getoption("--wedge-seed"),
        jobs=config.getoption("--wedge-jobs") or default_jobs(),
        suite_name=name,
        suite_file=suite_file.find(name),
        options=() if name == suite_file.DEFAULT else ("--suite", name),
    )
