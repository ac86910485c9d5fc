"""What a test marked with `wedge(…)`, or given the fixture, does; the plugin's hooks call it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scenarios.errors import ScenariosError, TargetFailed
from scenarios.judge import conclude
from scenarios.record import Report, ScenarioRecord, SuiteRecord, write
from scenarios.server.needs import unmet_needs
from scenarios.spec import LoadedTarget, Scenario, target_file
from scenarios.spec.target_file import find
from scenarios.testing.arguments import ScenarioRequest, scenarios_for
from scenarios.testing.runner import RunningServer, ScenarioRunner

ATTRIBUTE = "wedge_records"
"""Where a test's report carries its records, as JSON: that is how they come from xdist's workers."""

_RUNNER = pytest.StashKey[ScenarioRunner]()
_REQUESTED = pytest.StashKey[list[tuple[ScenarioRequest, tuple[Scenario, ...]]]]()
_RECORDS = pytest.StashKey[list[ScenarioRecord]]()
_LOG_LINES = 40


def set_up(item: pytest.Item, marks: Sequence[pytest.Mark]) -> None:
    """Turn the marks into scenarios; skip what the machine cannot run."""
    wanted = []
    for mark in marks:
        if mark.args:
            pytest.fail("wedge(…) takes keywords: wedge(target='my.toml', fault='gil.hold')", pytrace=False)
        wanted.append(_scenarios(item, dict(mark.kwargs)))
    item.stash[_REQUESTED], item.stash[_RECORDS] = wanted, []


def call(item: pytest.Item) -> None:
    """Run the scenarios of the marks."""
    for request, scenarios in item.stash[_REQUESTED]:
        _passes(_run(item, request, scenarios))


def encoded(item: pytest.Item) -> list[str]:
    """The records of the test, as JSON."""
    return [msgspec.json.encode(record).decode() for record in item.stash[_RECORDS]]


def end(config: pytest.Config) -> None:
    """End every server that was kept."""
    runner = config.stash.get(_RUNNER, None)
    if runner is not None:
        runner.close()


class Wedge:
    """The fixture `wedge`: the records of a test's scenarios, further scenarios, and servers to break by
    hand.
    """

    def __init__(self, item: pytest.Item, stack: ExitStack) -> None:
        self._item, self._stack = item, stack

    @property
    def records(self) -> tuple[ScenarioRecord, ...]:
        """The records of every scenario that this test has run so far."""
        found = self._item.stash[_RECORDS]
        return tuple(found)

    @property
    def record(self) -> ScenarioRecord:
        """The record of the scenario that ran last."""
        if not self.records:
            pytest.fail(
                "no scenario has run: mark the test with wedge(…), or call wedge.run(…)", pytrace=False
            )
        return self.records[-1]

    def run(self, **keywords: Any) -> ScenarioRecord:
        """Run a scenario, in the marker's keywords, and fail unless its verdict is `pass`."""
        return _passes(self.judge(**keywords))

    def judge(self, **keywords: Any) -> ScenarioRecord:
        """Run a scenario and return its record, whatever the verdict."""
        return _run(self._item, *_scenarios(self._item, keywords))

    def start(self, target: str | Path) -> RunningServer:
        """A server of this test's own, ended with the test."""
        try:
            loaded = target_file.load(find(str(target), beside=self._item.path.parent))
            _skip_unmet(loaded)
            return self._stack.enter_context(_runner(self._item).running(loaded))
        except ScenariosError as error:
            raise _refused(error) from None


class Recorder:
    """Collects the records of all tests and writes them as a report."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._began_s = time.monotonic()
        self._records: dict[str, ScenarioRecord] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One test is over. Names stay unique: a second scenario of the same name gets its test's."""
        for text in getattr(report, ATTRIBUTE, []):
            record = msgspec.json.decode(text, type=ScenarioRecord)
            if record.name in self._records:
                record = msgspec.structs.replace(record, name=f"{record.name} ({report.nodeid})")
            self._records[record.name] = record

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the records as a report."""
        records = tuple(self._records.values())
        duration_s = round(time.monotonic() - self._began_s, 3)
        report = Report(scenarios=records, duration_s=duration_s, suite=SuiteRecord(name="pytest"))
        write(conclude(report), self._file)


def _scenarios(item: pytest.Item, keywords: dict[str, Any]) -> tuple[ScenarioRequest, tuple[Scenario, ...]]:
    try:
        request = ScenarioRequest.from_keywords(keywords)
        scenarios = scenarios_for(request, item.path.parent)
    except ScenariosError as error:
        raise _refused(error) from None
    for scenario in scenarios:
        _skip_unmet(scenario.target)
    return request, scenarios


def _skip_unmet(target: LoadedTarget) -> None:
    if reason := unmet_needs(target):
        pytest.skip(f"{target.name} {reason}")


def _runner(item: pytest.Item) -> ScenarioRunner:
    stash = item.config.stash
    if _RUNNER not in stash:
        stash[_RUNNER] = ScenarioRunner()
    return stash[_RUNNER]


def _run(item: pytest.Item, request: ScenarioRequest, scenarios: tuple[Scenario, ...]) -> ScenarioRecord:
    reproduce = f"pytest '{item.nodeid}'"
    try:
        record = _runner(item).run(scenarios, seed=request.seed, reproduce=reproduce)
    except ScenariosError as error:
        raise _refused(error) from None
    item.stash[_RECORDS].append(record)
    if record.target_log:
        item.add_report_section("call", f"log of {record.target}", "\n".join(record.target_log[-_LOG_LINES:]))
    return record


def _passes(record: ScenarioRecord) -> ScenarioRecord:
    if record.verdict != "pass":
        pytest.fail(failure_text(record), pytrace=False)
    return record


def failure_text(record: ScenarioRecord) -> str:
    """A verdict that is not `pass`, for the person whose test it is."""
    lines = [f"{record.name}: {record.verdict} (expected {record.expected}, observed {record.observed})"]
    lines += [f"  {reason}" for reason in record.reasons]
    for name, seen in record.phases.faulted.items():
        gap = f", silent for {seen.longest_gap_ms / 1e3:.1f} s" if seen.ok < seen.sent else ""
        p99 = f", p99 {seen.p99_ms:.1f} ms" if seen.p99_ms is not None else ""
        lines.append(f"  under the fault {name} answered {seen.ok} of {seen.sent}{p99}{gap}")
    lines += [f"  proof that it bit: {finding}" for finding in record.bite.evidence]
    return "\n".join([*lines, f"  again: {record.reproduce}"])


def _refused(error: ScenariosError) -> BaseException:
    """The test's failure, without the harness's own stack."""
    log = error.log[-_LOG_LINES:] if isinstance(error, TargetFailed) else ()
    return pytest.fail.Exception("\n".join([str(error), *(f"  | {line}" for line in log)]), pytrace=False)
