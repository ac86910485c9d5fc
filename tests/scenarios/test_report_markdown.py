"""The Markdown summary of a CI job: failures first, nothing that a table or a page could take for markup."""

from __future__ import annotations

import re

from msgspec.structs import replace

from scenarios.record import Report, SuiteRecord
from scenarios.report import markdown
from tests.scenarios.sample_reports import one_of_each, report, scenario


def cells(line: str) -> list[str]:
    """The cells of a table's row: bars with a backslash before them do not part cells."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def rows(text: str) -> list[list[str]]:
    return [cells(line) for line in text.splitlines() if line.startswith("|")]


def test_the_heading_says_how_it_ended() -> None:
    assert markdown.render(report()).startswith("## ❌ wedge: 1 failed, 1 unproven, 4 passed\n")
    passed = report(*(s for s in one_of_each() if s.verdict == "pass"))
    assert markdown.render(passed).startswith("## ✅ wedge: 4 passed\n")
    assert markdown.render(Report()).startswith("## ⚠️ wedge: no scenario ran\n")


def test_failures_come_first_then_what_is_unproven_then_what_passed() -> None:
    signs = [row[0] for row in rows(markdown.render(report())) if row[0] in markdown.SIGNS.values()]
    assert signs == ["❌", "⚠️", "✅", "✅", "✅", "✅"]


def test_what_did_not_pass_has_its_reasons_and_its_command() -> None:
    text = markdown.render(report())
    fenced = text[text.index("```sh") :]
    for given in one_of_each():
        assert (given.reproduce in fenced) == (given.verdict != "pass")
    assert "- no leaks: 1 shared memory mappings left" in text


def test_passes_are_folded_beside_failures_and_open_alone() -> None:
    assert "<details><summary>4 scenarios passed</summary>" in markdown.render(report())
    assert "<details open><summary>1 scenario passed</summary>" in markdown.render(report(scenario()))


def test_a_broken_control_and_a_missing_one_are_said() -> None:
    suite = SuiteRecord(failures=("the control x stayed lit",), missing_controls=("y",))
    text = markdown.render(report(scenario(), suite=suite))
    assert "- ❌ the control x stayed lit" in text
    assert "- ⚠️ 1 control not selected for this run" in text


def test_names_cannot_break_the_table_or_bring_in_markup() -> None:
    name = "a|b`c``<script>alert(1)</script>\n## heading ![x](http://x) @somebody"
    given = replace(scenario(server="stalled"), name=name, reasons=(name,), reproduce=name)
    text = markdown.render(report(given))
    assert {len(row) for row in rows(text)} == {9, 4}  # the scenarios' table and that of the whole run
    assert "\n## heading" not in text
    outside = re.sub(r"(`+).*?(?<!`)\1(?!`)", "", text)
    assert not re.search(
        r"(?<!\\)<script|(?<!\\)!\[|(?<!\\)@", re.sub(r"```+sh.*?```+", "", outside, flags=re.S)
    )


def test_a_summary_never_exceeds_what_a_ci_service_takes_and_says_that_it_was_cut() -> None:
    plain = scenario(samples={})
    lots = tuple(replace(plain, name=f"{n}@{'x' * 300}", verdict="fail") for n in range(4_000))
    text = markdown.render(report(*lots))
    assert len(text.encode()) < 1024 * 1024
    assert re.search(r"^Cut here: [\d,]+ more lines; see the HTML or JSON report\.$", text, re.MULTILINE)
    assert "Cut here" not in markdown.render(report())


def test_scenarios_on_several_targets_are_crossed_first() -> None:
    table = rows(markdown.render(report()))
    assert table[0] == ["`pegaref-…`", "process", "inline", "thread", "pool"]
    crossed = {row[0]: row[1:] for row in table[2:6]}
    assert crossed["`gil.hold`"][1:] == ["✅ dark", "", ""]
    assert crossed["`process.kill`"][1] == "✅ gone"
    assert crossed["`call.stall`"][2].startswith("✅ ")
    assert crossed["`call.stall`"][3] == "❌ **dark**"
    assert crossed["`call.drop`"][0] == "⚠️ **unproven**"


def test_the_latencies_of_the_whole_run_are_shown_with_what_was_answered() -> None:
    table = rows(markdown.render(report(*(scenario(seed=n) for n in range(12)))))
    at = next(n for n, row in enumerate(table) if row[0].startswith("all scenarios"))
    whole, health = table[at + 2], table[at + 3]
    assert whole[0] == "`pegaref-process`, 12 scenarios"
    assert health[0] == "&emsp;http /health"
    answered, sent = whole[1].split(" / ")
    assert answered == sent
    assert len(health[2].split(" / ")) == len(health[3].split(" / ")) == 3


def test_the_probers_cost_is_said() -> None:
    assert "at worst 2 ms late and 8% of a core" in markdown.render(report()).splitlines()[2]
