"""What is left out of a run is listed with the reason, wherever the run is shown."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from rich.console import Console

from scenarios.cli.run import plan_for, quickened
from scenarios.record import NotRun, decode, encode
from scenarios.report import html, junit, markdown
from scenarios.report.compare import compare, lines
from scenarios.terminal.table import show
from tests.scenarios import sample_reports

REASON = "target tiny has no site named spare"
NAME = "call.stall@tiny"
REPORT = msgspec.structs.replace(
    sample_reports.report(*sample_reports.one_of_each()),
    not_run=(NotRun(name=NAME, target="tiny", reason=REASON),),
)


def terminal() -> str:
    """The report as a terminal shows it."""
    console = Console(file=io.StringIO(), width=200)
    show(REPORT, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "shown",
    [terminal, lambda: html.render(REPORT), lambda: markdown.render(REPORT).replace("\\", "")],
    ids=["terminal", "html", "markdown"],
)
def test_what_was_not_run_is_shown_with_the_reason(shown) -> None:  # type: ignore[no-untyped-def]
    text = shown()
    assert NAME in text
    assert REASON in text


def test_what_was_not_run_is_a_skipped_case_of_its_target() -> None:
    suite = ElementTree.fromstring(junit.render(REPORT)).find("testsuite[@name='tiny']")
    assert suite is not None
    assert (suite.get("tests"), suite.get("skipped"), suite.get("failures")) == ("1", "1", "0")
    skipped = suite.find("testcase/skipped")
    assert skipped is not None
    assert skipped.get("message") == REASON


def test_what_was_not_run_is_in_the_report_and_stays_there() -> None:
    assert decode(encode(REPORT)).not_run == REPORT.not_run
    assert json.loads(encode(REPORT))["not_run"] == [{"name": NAME, "target": "tiny", "reason": REASON}]


def test_a_comparison_says_why_a_scenario_is_gone() -> None:
    left = REPORT.scenarios[0]
    now = msgspec.structs.replace(
        REPORT,
        scenarios=REPORT.scenarios[1:],
        not_run=(NotRun(name=left.name, target=left.target, reason=REASON),),
    )
    assert any(left.name in line and f"not run: {REASON}" in line for line in lines(compare(REPORT, now)))


def test_a_run_of_one_target_lists_the_rows_that_are_for_others(servers: Path, tmp_path: Path) -> None:
    suite = tmp_path / "s.toml"
    rows = (
        f"[suite]\nname = 's'\ntargets = ['{servers}/tiny-loop.toml', '{servers}/tiny-child.toml']\n"
        "[[row]]\nname = 'noop'\nfault = 'noop'\ntraffic = { count = 0 }\nexpect = 'lit'\nbecause = 'x'\n"
        "[[row]]\nname = 'other'\nfault = 'noop'\ntargets = ['tiny-loop']\nexpect = 'lit'\nbecause = 'x'\n"
    )
    suite.write_text(rows)
    done = subprocess.run(
        [sys.executable, "-m", "scenarios", "run", "--suite", str(suite), "--target",
         str(servers / "tiny-child.toml"), "--json", str(tmp_path / "r.json")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run: other@tiny-child: its row is for tiny-loop" in done.stdout
    left = json.loads((tmp_path / "r.json").read_bytes())["not_run"]
    assert left == [
        {"name": "other@tiny-child", "target": "tiny-child", "reason": "its row is for tiny-loop"}
    ]


def test_quick_runs_a_few_rows_of_each_target_and_lists_the_rest() -> None:
    whole = plan_for((), None, "pegaref-process", None, 0)

    plan = quickened(whole)

    assert [s.row.fault for s in plan.scenarios] == ["noop", "call.stall", "gil.hold"]
    left = {left.name for left in plan.not_run if left.reason == "left out by --quick"}
    assert left == {s.name for s in whole.scenarios} - {s.name for s in plan.scenarios}
