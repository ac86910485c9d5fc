"""What a report says: each guard by what happened, and one sentence for somebody who passes by."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import scenarios
from scenarios.judge import claim, judge, proof
from scenarios.judge.wording import in_words, title
from scenarios.record import Admission, FaultRecord, ProcessesBroken, Report, ScenarioRecord
from scenarios.report import html, junit, markdown
from scenarios.report.headline import sentence

LIT = ScenarioRecord(
    name="gil.hold@a",
    target="a",
    fault=FaultRecord(name="gil.hold"),
    expected="lit",
    observed="lit",
    verdict="pass",
)
UNPROVEN = replace(LIT, observed="unproven", verdict="unproven")
NOOP = replace(LIT, fault=FaultRecord(name="noop", is_control=True))
DARK = replace(LIT, target="b", expected="dark", observed="dark")


def names() -> Iterator[str]:
    """The name of every guard in the source; what it is about is an x."""
    for path in Path(scenarios.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and called in ("claim", "proof", "_lasted"):
                named = node.args[called == "_lasted"]
                if isinstance(named, ast.Constant | ast.JoinedStr):
                    yield _text(named)


def _text(node: ast.AST) -> str:
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts)


def test_every_guard_that_does_not_hold_is_told_by_what_happened() -> None:
    found = set(names())
    assert {"nothing leaked", "x were stuck", "the fault lasted", "x lasted"} <= found
    assert len(found) > 25
    for name in (
        *found,
        "http /ready always said 200",
        "http /ready said after release 200",
        "enough probes",
    ):
        broken = claim(name, False, "")
        assert title(broken) != name
        assert not re.search(r"\bnothing\b", title(broken))
        assert title(replace(broken, held=True)) == name


def test_a_leak_is_told_by_what_is_left() -> None:
    leak = claim("nothing was left behind", False, "8 threads left, 5 before; new: a")
    assert in_words(leak) == "something was left behind: 8 threads left, 5 before; new: a"
    record = judge(replace(LIT, guards=(proof("the fault bit", True, ""), leak)))
    assert in_words(leak) in record.reasons


ADMITTED = Admission(within_s=2.0, stuck_s=0.0, took_s=1.16, outcome="admitted")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([LIT, DARK], "a stayed lit under 1 of 1 fault; b went dark under 1 of 1 fault."),
        ([DARK, replace(LIT, target="b")], "b went dark under 1 of 2 faults."),
        (
            [replace(LIT, admission=ADMITTED)] * 2,
            "a stayed lit under 2 of 2 faults and admitted each of the 2 whose calls hung within 1.2 s.",
        ),
        ([replace(LIT, observed="lying", verdict="fail")], "a lied under 1 of 1 fault."),
        ([replace(LIT, observed="partial"), replace(DARK, target="a")],
         "a went dark under 1 of 2 faults and answered in part under 1."),
        (
            [replace(LIT, processes=ProcessesBroken(serving=(1, 2), broken=(2,)))],
            "a stayed lit under 1 of 1 fault with 1 of its 2 processes broken.",
        ),
        ([LIT, UNPROVEN], "a stayed lit under 1 of 1 fault (1 unproven)."),
        ([UNPROVEN], "of a nothing is proven under 1 fault."),
        (
            [replace(LIT, verdict="fail")],
            "a stayed lit under 1 of 1 fault, and did not come out of 1 as it had to.",
        ),
        ([NOOP], "a stayed lit with nothing broken."),
        ([], ""),
    ],
)  # fmt: skip
def test_one_sentence_says_what_the_servers_did(records: list[ScenarioRecord], said: str) -> None:
    report = Report(scenarios=tuple(records))
    assert sentence(report) == said
    if records:
        for shown in (html.render(report), markdown.render(report), junit.render(report)):
            assert said in shown
