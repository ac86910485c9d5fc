"""What a row may ask for besides its fault: each thing once where it holds, and once where it is broken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from faults import Fault, FaultStatus, NeverHit
from scenarios.record import Report, ScenarioRecord, decode, encode
from tests.scenarios.test_run import row, suite

RunSuite = Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]

TIMING = "[timing]\nbaseline_s = 0.5\nwindow_max_s = 3\nbite_within_s = 1\nrecover_within_s = 5\n"
ANSWERED = "traffic = { call = 'keep', calls = 'answered' }"
BY_SIGNAL = -15
"""The exit code of the small servers: uvicorn hands the signal on when it has ended in order."""

STUCK = "traffic = { call = 'keep' }"


def by_row(report: Report) -> dict[str, ScenarioRecord]:
    return {scenario.name.partition("@")[0]: scenario for scenario in report.scenarios}


def broken(scenario: ScenarioRecord) -> set[str]:
    """The guards that did not hold."""
    return {guard.name for guard in scenario.guards if not guard.held}


async def test_calls_beside_what_is_said_two_faults_a_flap_a_load_and_an_end_pass_where_they_hold(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    rows = [
        row(
            "beside",
            "process.stop",
            "lit",
            STUCK,
            "beside = [{ call = 'drop', count = 2, calls = 'error', deadline_s = 0.3, error = 'no answer',"
            " within_s = 2 }]",
            "says = [{ probe = 'http /health', status = 200, body = '^ok$', when = 'always' },"
            " { probe = 'grpc health', status = 'SERVING' },"
            " { probe = 'http /metrics', status = 200, when = 'after' }]",
        ),
        row(
            "said",
            "noop",
            "lit",
            ANSWERED,
            "says = [{ probe = 'http /health' }]",
            "beside = [{ call = 'keep', count = 2, calls = 'answered', starts = 'said', within_s = 2 }]",
        ),
        row("also", "gil.hold", "lit", STUCK, "also = [{ fault = 'process.stop', process = 'registry' }]"),
        row("flap", "process.stop", "lit", ANSWERED, "flap = { held_s = 0.2, free_s = 0.2 }"),
        row(
            "load",
            "process.stop",
            "lit",
            STUCK,
            "load = [{ kind = 'idle', probe = 'http /health', count = 20 }]",
        ),
        row(
            "end",
            "noop",
            "lit",
            ANSWERED,
            f"stop = {{ within_s = 10, code = {BY_SIGNAL} }}",
            "after = 'gone'",
        ),
    ]
    report, troubles = await run_suite(suite(servers, tmp_path, TIMING + "".join(rows), "tiny-child"))
    found = by_row(report)
    assert {name: (s.verdict, s.reasons) for name, s in found.items()} == dict.fromkeys(found, ("pass", ()))
    assert not troubles
    assert {call.outcome for call in found["beside"].beside} == {"error"}
    assert {call.n for call in found["beside"].beside} == {5, 6}
    assert [said.when for said in found["beside"].said] == ["always", "eventually", "after"]
    assert all(said.met for said in found["beside"].said)
    assert [broken.fault.name for broken in found["also"].also] == ["process.stop"]
    assert found["also"].also[0].bite.evidence
    assert found["flap"].bite.hits >= 2
    assert len(found["flap"].bite.evidence) == found["flap"].bite.hits
    assert [(load.kind, load.open, load.there) for load in found["load"].loads] == [("idle", 20, True)]
    assert found["end"].stopped is not None
    assert (found["end"].stopped.code, found["end"].stopped.left) == (BY_SIGNAL, 0)
    assert decode(encode(report)) == report


async def test_each_of_them_is_found_out_where_it_does_not_hold(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    beside = "beside = [{{ call = 'drop', count = 1, {} }}]"
    rows = {
        "unanswered": (STUCK, beside.format("calls = 'answered'")),
        "slow": (STUCK, beside.format("calls = 'error', deadline_s = 0.5, within_s = 0.1")),
        "other-error": (STUCK, beside.format("calls = 'error', deadline_s = 0.5, error = 'wedged'")),
        "unsaid": (STUCK, "says = [{ probe = 'http /health', status = 503 }]"),
        "not-always": (STUCK, "says = [{ probe = 'http /health', body = 'never', when = 'always' }]"),
        "not-after": (STUCK, "says = [{ probe = 'grpc health', status = 'NOT_SERVING', when = 'after' }]"),
        "never-began": (
            STUCK,
            "says = [{ probe = 'http /health', status = 503 }]",
            beside.format("calls = 'answered', starts = 'said'"),
        ),
        "left-behind": (STUCK, "beside = [{ call = 'keep', calls = 'error', deadline_s = 0.3 }]"),
        "not-replaced": (STUCK, "ends_by = 'server'"),
    }
    text = TIMING + "".join(row(name, "process.stop", "lit", *more) for name, more in rows.items())
    report, _ = await run_suite(suite(servers, tmp_path, text, "tiny-child"))
    found = by_row(report)
    assert {name: (s.verdict, broken(s)) for name, s in found.items()} == {
        "unanswered": ("fail", {"drop beside them were answered"}),
        "slow": ("fail", {"drop beside them ended soon"}),
        "other-error": ("fail", {"drop beside them were told why"}),
        "unsaid": ("fail", {"http /health said 503"}),
        "not-always": ("fail", {"http /health always said 200 with 'never'"}),
        "not-after": ("fail", {"grpc health said after release NOT_SERVING"}),
        "never-began": ("fail", {"http /health said 503", "drop beside them began"}),
        "left-behind": ("fail", {"nothing was left behind"}),
        "not-replaced": ("fail", {"the server replaced what was wedged"}),
    }


async def test_a_second_fault_that_does_not_bite_and_a_load_that_is_not_there_prove_nothing(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    text = (servers / "tiny-child.toml").read_text().replace("{here}", str(servers))
    target = tmp_path / "tiny-child.toml"
    nowhere = "[[probe]]\nkind = 'http'\nname = 'nowhere'\nurl = 'http://127.0.0.1:9/'\nwatched = false\n\n"
    target.write_text(text.replace("[[call]]", nowhere + "[[call]]", 1))
    never = "also = [{ fault = 'call.stall', params = { site = 'release' }, process = 'registry' }]"
    rows = row("also", "gil.contend", "lit", ANSWERED, never) + row(
        "load", "noop", "lit", ANSWERED, "load = [{ kind = 'idle', probe = 'nowhere', count = 5 }]"
    )
    report, _ = await run_suite(suite(servers, tmp_path, TIMING + rows, str(target)))
    found = by_row(report)
    assert {name: (s.observed, s.verdict, broken(s)) for name, s in found.items()} == {
        "also": ("unproven", "unproven", {"call.stall bit at the same time"}),
        "load": ("unproven", "unproven", {"the idle of nowhere was there"}),
    }


async def test_a_flap_that_bites_only_once_proves_nothing(
    servers: Path, tmp_path: Path, run_suite: RunSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    biting, bitten = Fault.wait_biting, 0

    async def only_once(fault: Fault, timeout_s: float = 10.0) -> FaultStatus:
        nonlocal bitten
        bitten += 1
        if bitten > 1:
            raise NeverHit(fault.name, timeout_s, ["kept from it by a test"])
        return await biting(fault, timeout_s)

    monkeypatch.setattr(Fault, "wait_biting", only_once)
    rows = row("flap", "process.stop", "lit", ANSWERED, "flap = { held_s = 0.2, free_s = 0.2 }")
    report, _ = await run_suite(suite(servers, tmp_path, TIMING + rows, "tiny-child"))
    (found,) = report.scenarios
    assert (found.observed, found.verdict) == ("unproven", "unproven")
    (reason,) = found.reasons
    assert reason.startswith("the fault did not come and go: its coming number 2 did not bite")


async def test_a_server_that_does_not_end_under_the_wedge_or_leaves_a_process_behind_fails(
    servers: Path, tmp_path: Path, run_suite: RunSuite
) -> None:
    stop = f"stop = {{ within_s = 4, code = {BY_SIGNAL} }}"
    rows = row("end", "gil.hold", "lit", STUCK, stop, "after = 'gone'").replace(
        "expect = 'lit'", "expect = { tiny-loop = 'dark', '*' = 'lit' }"
    )
    report, _ = await run_suite(suite(servers, tmp_path, TIMING + rows, "tiny-loop", "tiny-child"))
    loop, child = report.scenarios
    assert [(s.verdict, broken(s)) for s in (loop, child)] == [("fail", {"it stopped under the wedge"})] * 2
    assert loop.stopped is not None
    assert loop.stopped.code is None
    assert child.stopped is not None
    assert (child.stopped.code, child.stopped.left) == (BY_SIGNAL, 1)
