"""What rows of the default suite stand for can go dark: each on a small server that lacks the one thing which
the row is there to see, beside its twin that has it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from scenarios.record import Report, ScenarioRecord
from scenarios.spec import suite_file
from tests.scenarios.conftest import SERVERS

RunSuite = Callable[..., Awaitable[tuple[Report, tuple[str, ...]]]]


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def the_row(name: str, **changed: object) -> dict[str, Any]:
    """A row of the default suite as it stands there, but for these keys and its targets."""
    rows = tomllib.loads(suite_file.find(suite_file.DEFAULT).read_text())["row"]
    (row,) = (row for row in rows if row["name"] == name)
    kept = {key: value for key, value in row.items() if not key.startswith("controls") and key != "targets"}
    return {**kept, "because": "its control is in the same run", **changed}


def variant(tmp_path: Path, name: str, base: str, *args: str, open_files: int = 0) -> str:
    """A target file: one of the small servers with further arguments, and its limit on open files."""
    limit = f"open_files = {open_files}\n" if open_files else ""
    path = tmp_path / f"{name}.toml"
    path.write_text(
        f'base = "{SERVERS / base}"\n[target]\nname = "{name}"\nargs = {toml(list(args))}\n{limit}'
    )
    return str(path)


async def on_both(
    run_suite: RunSuite, tmp_path: Path, row: Mapping[str, Any], *targets: str
) -> tuple[ScenarioRecord, ScenarioRecord]:
    """What the row showed on the server that lacks it, and on the one that has it."""
    suite = tmp_path / "controls.suite.toml"
    head = f'[suite]\nname = "controls"\ntargets = {toml(list(targets))}\n[timing]\nbaseline_s = 0.5\n'
    keys = "\n".join(f"{key} = {toml(value)}" for key, value in row.items())
    suite.write_text(f"{head}[[row]]\n{keys}\n")
    report, troubles = await run_suite(suite)
    assert troubles == ()
    lacks, has = report.scenarios
    return lacks, has


@pytest.mark.parametrize(
    ("name", "lacks", "args", "open_files"),
    [
        ("idle-2000", "eviction", (), 1800),
        ("slow-loris", "timeout", ("--patience", "1"), 800),
        ("fd.exhaust-control", "reserve", (), 0),
    ],
)
async def test_a_server_that_lacks_what_the_row_is_about_goes_dark_and_its_twin_stays_lit(
    tmp_path: Path, run_suite: RunSuite, name: str, lacks: str, args: tuple[str, ...], open_files: int
) -> None:
    row = the_row(name, traffic={"count": 0}, expect={"lacks": "dark", "*": "lit"})
    without, twin = await on_both(
        run_suite, tmp_path, row,
        variant(tmp_path, "lacks", "guarded.toml", *args, "--without", lacks, open_files=open_files),
        variant(tmp_path, "has", "guarded.toml", *args, open_files=open_files),
    )  # fmt: skip
    assert (twin.observed, twin.verdict) == ("lit", "pass"), twin.reasons
    assert without.observed == "dark", without.reasons


async def test_a_server_with_the_limit_of_grpc_on_pending_calls_cancels_calls_and_its_twin_stays_lit(
    tmp_path: Path, run_suite: RunSuite
) -> None:
    row = the_row("registers-1000", fault="noop", traffic={"count": 0})
    limited, twin = await on_both(
        run_suite, tmp_path, row,
        variant(tmp_path, "limited", "taking-up.toml", "--with-limit"),
        variant(tmp_path, "has", "taking-up.toml"),
    )  # fmt: skip
    assert (twin.observed, twin.verdict) == ("lit", "pass"), twin.reasons
    assert limited.verdict != "pass"  # on a busy machine it may be unproven besides
    broken = [guard for guard in limited.guards if guard.kind == "claim" and not guard.held]
    assert any("CANCELLED" in guard.detail for guard in broken), limited.reasons


async def test_a_server_whose_workers_are_all_taken_by_registers_goes_dark_and_its_twin_stays_lit(
    tmp_path: Path, run_suite: RunSuite
) -> None:
    stalled = {"fault": "call.stall", "params": {"site": "__main__:work"}, "bites": "on-traffic"}
    row = the_row("registers-1000", beside=[], expect={"shared": "dark", "*": "lit"}, **stalled)
    shared, twin = await on_both(
        run_suite, tmp_path, row,
        variant(tmp_path, "shared", "taking-up.toml", "--shared-workers"),
        variant(tmp_path, "has", "taking-up.toml"),
    )  # fmt: skip
    assert (twin.observed, twin.stuck.pending_in_window) == ("lit", 1000), twin.reasons
    assert shared.observed == "dark", shared.reasons
