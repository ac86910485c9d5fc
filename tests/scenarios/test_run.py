"""Whole runs on small real servers: the one with the bug goes dark, its repairs stay lit, every guard guards.

A run takes seconds of real wedging, so what one run shows is asserted together, a helper for each claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from scenarios.judge import judge_report, revised_verdicts
from scenarios.record import Report, ScenarioRecord, decode, encode
from scenarios.run.run import spread
from scenarios.spec import suite_file
from scenarios.spec.suite_file import find

RunSuite = Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]


def suite(servers: Path, tmp_path: Path, rows: str, *targets: str) -> Path:
    """A suite file with these rows on these targets (names of files in `servers`, or paths)."""
    paths = [str(servers / f"{target}.toml") if "/" not in target else target for target in targets]
    file = tmp_path / "made.suite.toml"
    file.write_text(f"[suite]\nname = 'made'\ntargets = {paths}\n{rows}")
    return file


def only(report: Report) -> ScenarioRecord:
    (scenario,) = report.scenarios
    return scenario


def row(name: str, fault: str, expect: str, *more: str) -> str:
    """A row with the traffic that the small servers take."""
    lines = [f"[[row]]\nname = '{name}'\nfault = '{fault}'\nprocess = 'registry'\nexpect = '{expect}'", *more]
    if not any(line.startswith("traffic") for line in more):
        lines.append("traffic = { call = 'keep' }")
    if not any(line.startswith("controls") for line in more):
        lines.append("because = 'a test of one guard'")
    return "\n".join(lines) + "\n"


async def test_the_bug_goes_dark_and_its_repair_stays_lit_with_every_proof(
    servers: Path, run_suite: RunSuite
) -> None:
    report, troubles = await run_suite(
        servers / "tiny.suite.toml", "gil.hold@*", "call.stall-held@tiny-child"
    )
    seen = {s.name: (s.observed, s.verdict, s.reasons) for s in report.scenarios}
    assert seen == {
        "gil.hold@tiny-loop": ("dark", "pass", ()),
        "gil.hold@tiny-thread": ("dark", "pass", ()),
        "gil.hold@tiny-child": ("lit", "pass", ()),
        "call.stall-held@tiny-child": ("lit", "pass", ()),
    }
    assert not troubles
    for scenario in report.scenarios:
        assert scenario.bite.hits >= 1
        assert scenario.bite.evidence
        assert (scenario.stuck.started, scenario.stuck.pending_in_window) == (4, 4)
        assert scenario.stuck.ended_after_release == 4
        assert scenario.stacks
        assert any("its threads waited for a core" in guard.detail for guard in scenario.guards)
        assert scenario.leaks.details == ()
        assert scenario.phases.baseline
        assert scenario.phases.recovered
        assert scenario.kubelet.liveness_restarts == (1 if scenario.observed == "dark" else 0)
        lit = scenario.observed == "lit"
        assert all((latency.ok == latency.sent) == lit for latency in scenario.phases.faulted.values())
    stored = decode(encode(report))
    assert stored == report
    assert revised_verdicts(stored, judge_report(stored)) == ()


async def test_a_killed_worker_respawns_and_a_killed_server_is_gone(
    servers: Path, run_suite: RunSuite
) -> None:
    others = children()
    report, _ = await run_suite(
        servers / "tiny.suite.toml", "process.kill@tiny-loop", "process.kill@tiny-child"
    )
    assert children() <= others
    assert [(s.observed, s.verdict, s.after) for s in report.scenarios] == [
        ("dark", "pass", "gone"),
        ("lit", "pass", "respawns"),
    ]


def children() -> set[psutil.Process]:
    """The processes below this one; other tests in it may have left some that last as long as it does, such
    as multiprocessing's resource tracker.
    """
    return set(psutil.Process().children(recursive=True))


async def test_a_fault_that_is_never_hit_is_unproven_and_says_that_it_never_bit(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    rows = row("missed", "call.stall", "lit", "params = { site = 'release' }", "bites = 'on-traffic'")
    report, _ = await run_suite(
        suite(servers, tmp_path, f"[timing]\nbite_within_s = 0.5\n{rows}", "tiny-child")
    )
    found = only(report)
    assert (found.observed, found.verdict) == ("unproven", "unproven")
    assert any(
        reason.startswith("the fault did not bite: call.stall did not bite") for reason in found.reasons
    )
    assert not report.suite.passed


async def test_a_fault_that_does_nothing_is_unproven_since_no_call_was_stuck(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    report, _ = await run_suite(suite(servers, tmp_path, row("hollow", "noop", "lit"), "tiny-child"))
    found = only(report)
    assert (found.observed, found.verdict) == ("unproven", "unproven")
    assert any(reason.startswith("the calls were not all stuck: of 4: 0 pending") for reason in found.reasons)


async def test_a_control_that_stays_lit_fails_the_suite_and_unproves_its_wedges(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    rows = row("gil.hold", "gil.hold", "dark") + row(
        "good", "gil.hold", "lit", "controls = ['tiny-child']", "controls_row = 'gil.hold'"
    )
    report, _ = await run_suite(suite(servers, tmp_path, rows, "tiny-child"))
    assert [s.verdict for s in report.scenarios] == ["fail", "unproven"]
    assert report.suite.failures
    assert "was lit, not dark" in report.suite.failures[0]
    assert not report.suite.passed


@asynccontextmanager
async def always_good() -> AsyncIterator[int]:
    """A server that answers every probe at once, whatever happens to the target."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()


async def test_probes_that_always_succeed_never_pass(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    async with always_good() as port:
        paths = []
        for name in ("tiny-loop", "tiny-child"):
            text = (servers / f"{name}.toml").read_text().replace("{here}", str(servers))
            start, rest = text.split("[[probe]]", 1)
            fake = (
                f'[[probe]]\nkind = "http"\nname = "http /health"\nurl = "http://127.0.0.1:{port}/health"\n'
            )
            path = tmp_path / f"{name}.toml"
            path.write_text(start + fake + rest[rest.index("[[call]]") :])
            paths.append(str(path))
        rows = row("gil.hold", "gil.hold", "lit", "controls = ['tiny-loop']").replace(
            "expect = 'lit'", "expect = { tiny-loop = 'dark', '*' = 'lit' }"
        )
        report, _ = await run_suite(suite(servers, tmp_path, rows, *paths))
    verdicts = {s.name: s.verdict for s in report.scenarios}
    assert verdicts == {"gil.hold@tiny-loop": "fail", "gil.hold@tiny-child": "unproven"}
    assert report.suite.failures


async def test_the_fix_removed_is_a_fail_that_says_dark_instead_of_lit(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    report, _ = await run_suite(suite(servers, tmp_path, row("gil.hold", "gil.hold", "lit"), "tiny-loop"))
    found = only(report)
    assert (found.observed, found.verdict) == ("dark", "fail")
    assert any("it went dark" in reason for reason in found.reasons)


async def test_memory_that_stays_mapped_is_a_leak_that_fails(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    rows = row("noop", "noop", "lit", "traffic = { call = 'keep', calls = 'answered' }")
    report, _ = await run_suite(
        suite(servers, tmp_path, f"[timing]\nsettle_within_s = 0.5\n{rows}", "tiny-leaky")
    )
    found = only(report)
    assert (found.observed, found.verdict) == ("lit", "fail")
    assert found.leaks.mappings > 0
    assert found.leaks.fds == 0


async def test_a_baseline_that_is_not_lit_proves_nothing(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    text = (servers / "tiny-child.toml").read_text().replace("{here}", str(servers))
    target = tmp_path / "tiny-child.toml"
    target.write_text(text.replace('body = "^ok$"', 'body = "^never$"'))
    rows = "[timing]\nwindow_max_s = 3\n" + row("gil.hold", "gil.hold", "lit")
    report, _ = await run_suite(suite(servers, tmp_path, rows, str(target)))
    found = only(report)
    assert (found.observed, found.verdict) == ("unproven", "unproven")
    assert found.reasons[0].startswith("the baseline was not lit: http /health")


async def test_a_target_that_does_not_start_is_told_once_and_the_others_run(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    text = (servers / "tiny-child.toml").read_text().replace("{here}", str(servers))
    broken = tmp_path / "tiny-broken.toml"
    broken.write_text(text.replace("tiny-child", "tiny-broken").replace('"child"]', '"nowhere"]'))
    rows = "".join(
        row(name, "noop", "lit", "traffic = { call = 'keep', calls = 'answered' }") for name in ("a", "b")
    )
    report, troubles = await run_suite(suite(servers, tmp_path, rows, str(broken), "tiny-child"))
    assert [s.verdict for s in report.scenarios] == ["unproven", "unproven", "pass", "pass"]
    (trouble,) = troubles
    assert trouble.startswith("target tiny-broken: ended with exit code 2 before ready")
    assert "invalid choice: 'nowhere'" in trouble


async def test_an_unknown_fault_or_site_could_not_run(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    rows = row("a", "gil.hodl", "lit") + row(
        "b", "call.stall", "lit", "params = { site = 'gpu:synchronise' }"
    )
    _, troubles = await run_suite(suite(servers, tmp_path, rows, "tiny-child"))
    assert any("did you mean gil.hold" in trouble for trouble in troubles)
    assert any("gpu:synchronise" in trouble for trouble in troubles)


def test_scenarios_are_spread_by_target_and_those_that_end_their_server_come_last(servers: Path) -> None:
    scenarios = suite_file.load(servers / "tiny.suite.toml").scenarios
    groups = spread(scenarios, jobs=4)
    assert sorted(len(group) for group in groups) == [6, 6, 6]  # a part of three is not worth a server
    assert sorted(s.name for group in groups for s in group) == sorted(s.name for s in scenarios)
    for group in groups:
        assert len({s.target.name for s in group}) == 1
        assert [s.destroys for s in group] == sorted(s.destroys for s in group)


@pytest.mark.parametrize("jobs", [1, 2, 4, 6, 8, 64])
def test_a_target_that_takes_long_is_split_and_what_ends_its_servers_is_dealt_out(jobs: int) -> None:
    scenarios = suite_file.load(find("default")).scenarios
    groups = spread(scenarios, jobs)
    assert sorted(s.name for group in groups for s in group) == sorted(s.name for s in scenarios)
    parts = [group for group in groups if group[0].target.name == "pegaref-process"]
    assert len(parts) <= jobs
    assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 2
    ends = [sum(s.destroys for s in part) for part in parts]
    assert max(ends) - min(ends) <= 1
    for group in groups:
        assert len({s.target.name for s in group}) == 1
        assert [s.destroys for s in group] == sorted(s.destroys for s in group)
