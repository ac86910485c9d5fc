"""What a person reads at the end of a run: at any width, nothing is cut off, and what is wrong stands out."""

from __future__ import annotations

import io

import pytest
from msgspec.structs import replace
from rich.console import Console

from scenarios.judge.pool import pool
from scenarios.record import FaultRecord, Report, ScenarioRecord
from scenarios.terminal import live
from scenarios.terminal.live import progress
from scenarios.terminal.table import show
from tests.scenarios.sample_reports import Server, many, one_of_each, report, scenario

PLACEMENTS = ("inline", "pool", "thread", "process", "alert", "respawn")
FAULTS = ("gil.hold", "call.stall-released", "call.stall-held", "object.finalizer_stall-held", "process.kill")


def seen(given: Report, width: int) -> list[str]:
    """The lines that a terminal of this width shows."""
    screen = io.StringIO()
    show(given, Console(file=screen, width=width, force_terminal=True, no_color=True, color_system=None))
    return screen.getvalue().splitlines()


def one_target(*names: str) -> tuple[ScenarioRecord, ...]:
    return tuple(scenario(f"{name}@pegaref-process", seed=n) for n, name in enumerate(names))


def several_targets() -> tuple[ScenarioRecord, ...]:
    """Every fault on every placement; what the last four do not survive is expected to go dark elsewhere."""
    servers: tuple[Server, ...] = ("stalled", "stalled", "lit", "lit", "lit", "lit")
    return tuple(
        scenario(
            f"{fault}@pegaref-{placement}",
            server=server,
            expected="dark" if server == "stalled" else "lit",
            fault=FaultRecord(name=fault.partition("-")[0]),
        )
        for fault in FAULTS
        for placement, server in zip(PLACEMENTS, servers, strict=True)
    )


@pytest.mark.parametrize("width", [80, 120, 200])
def test_at_any_width_no_line_is_longer_and_no_cell_is_cut(width: int) -> None:
    for given in (report(*several_targets()), report(*one_target(*FAULTS)), report(), many(64, 300)):
        told = [line for line in seen(given, width) if "wedge run" not in line]  # a command stays whole
        assert max(len(line.rstrip()) for line in told) <= width
        assert not [line for line in told if "…" in line.replace("pegaref-…", "")]


def test_several_targets_are_a_matrix_of_faults_by_targets() -> None:
    lines = seen(report(*several_targets()), 120)
    heading = lines[0].split()
    assert heading == ["pegaref-…", *PLACEMENTS]
    for line, fault in zip(lines[1:], FAULTS, strict=False):
        name, *cells = line.split()
        assert name == fault
        assert cells[:4] == ["○", "dark", "○", "dark"]
        assert cells[4] == "●"


def test_a_matrix_that_is_too_wide_goes_on_below() -> None:
    lines = seen(report(*several_targets()), 60)
    headings = [line.split()[1:] for line in lines if line.startswith("pegaref-…")]
    assert len(headings) > 1
    assert [name for block in headings for name in block] == list(PLACEMENTS)


def test_what_is_not_as_it_had_to_be_is_marked_and_told() -> None:
    lines = seen(report(*several_targets(), *one_of_each()[4:]), 120)
    assert any(line.startswith("call.stall ") and "✗ dark" in line for line in lines)
    assert any(line.startswith("call.drop ") and "? unproven" in line for line in lines)
    assert "fail call.stall@pegaref-pool" in lines
    assert "  no leaks: 1 shared memory mappings left" in lines
    assert "  wedge run call.stall@pegaref-pool --seed 0" in lines


def test_one_target_has_its_endpoints_where_there_is_room_and_the_worst_where_not() -> None:
    given = report(*one_target("gil.hold", "object.finalizer_stall-held"))
    wide, narrow = seen(given, 160), seen(given, 80)
    assert wide[0].split("  ")[0] == "scenario"
    assert all(word in wide[0] for word in ("http /health", "grpc health", "× p50/p99", "restarts", "took"))
    assert wide[1].startswith("gil.hold@pegaref-process")
    assert "worst endpoint" in narrow[0]
    assert "http /health" not in narrow[0]
    assert narrow[1].startswith("gil.hold ")


def test_the_runs_own_latencies_are_shown_baseline_against_fault_windows() -> None:
    lines = seen(report(*several_targets()), 80)
    at = next(n for n, line in enumerate(lines) if line.startswith("scenarios pooled"))
    assert [line.partition("   ")[0] for line in lines[at + 1 : at + 6]] == [
        "pegaref-thread (5)",
        "  http /health",
        "  http /metrics",
        "  grpc health",
        "pegaref-process (5)",
    ]
    figures = lines[at + 1].split()
    assert figures[-1].count("/") == 1
    answered, sent = figures[-1].split("/")
    assert answered == sent
    assert "/ –" in lines[at + 2]  # too few answers for a p99.9


def test_without_histograms_nothing_is_said_of_them() -> None:
    assert not [line for line in seen(replace(report(), pooled={}), 80) if "pooled" in line]
    assert pool([]) == {}


def test_the_probers_own_cost_is_said() -> None:
    (line,) = (line for line in seen(report(), 160) if line.startswith("probers: "))
    assert "at worst 2 ms late and 8% of a core" in line


def test_of_a_great_many_failures_the_first_say_why_and_the_others_are_named() -> None:
    bad = tuple(replace(scenario(server="stalled"), name=f"{n}@pegaref-process") for n in range(50))
    lines = seen(report(*bad), 100)
    assert sum(line.startswith("fail ") for line in lines) == 50
    assert sum(line.startswith("  had to stay lit: it went dark (") for line in lines) == 20


def test_while_it_runs_what_did_not_pass_is_said_at_once() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=True, color_system=None)
    with progress(console, 3) as told:
        told.phase("gil.hold@pegaref-process", "watch")
        told.finished(scenario())
        told.finished(scenario("gil.hold@pegaref-inline", server="stalled"))
    lines = screen.getvalue().splitlines()
    assert any("fail     gil.hold@pegaref-inline  dark" in line for line in lines)
    assert not [line for line in lines if "pass     gil.hold@pegaref-process" in line]


def test_what_takes_long_stands_below_the_board_until_something_moves_on() -> None:
    board, console = live._Board(Console(), 3), Console(width=60, record=True, file=io.StringIO())
    board.phase("noop@mine", "start")
    board.say("mine: Collecting little")
    console.print(board)
    assert console.export_text().splitlines()[-1] == "… mine: Collecting little"
    board.phase("noop@mine", "baseline")
    console.print(board)
    assert "Collecting" not in console.export_text()
