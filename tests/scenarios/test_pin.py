"""`wedge pin`: what a server does today is written into its file, with date and reason; all else stays."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from scenarios.judge import judge
from scenarios.record import Expectation, FaultRecord, Report, ScenarioRecord, encode
from scenarios.spec import target_file
from scenarios.spec.pins import CannotPin, changed, pin
from scenarios.spec.target import Pin
from tests.scenarios.sample_reports import scenario
from tests.scenarios.test_cli import wedge

DAY = datetime.date(2025, 11, 27)
DARK = Pin("dark", DAY, "it answered nothing for 2.0 s")
LINE = '"gil.hold" = { seen = "dark", since = 2025-11-27, because = "it answered nothing for 2.0 s" }'
FILE = Path("wedge.toml")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a = 1\n", f"a = 1\n\n[expect]\n{LINE}\n"),
        ("a = 1", f"a = 1\n\n[expect]\n{LINE}\n"),
        ("a = 1\r\n", f"a = 1\r\n\r\n[expect]\r\n{LINE}\r\n"),
        (
            "[expect]  # known\n# why\n\n[leaks]\nfds = 1\n",
            f"[expect]  # known\n# why\n{LINE}\n\n[leaks]\nfds = 1\n",
        ),
        ('[expect]\n"b" = "lit"\n', f'[expect]\n"b" = "lit"\n{LINE}\n'),
        (
            "[ expect ]\n'gil.hold'   = \"lit\"  # ticket #7\nb = 'dark'\n[[probe]]\n",
            f"[ expect ]\n{LINE}  # ticket #7\nb = 'dark'\n[[probe]]\n",
        ),
    ],
)
def test_a_pin_is_a_line_and_all_else_stays(before: str, after: str) -> None:
    assert changed(before, {"gil.hold": DARK}, FILE) == after
    assert changed(after, {"gil.hold": DARK}, FILE) == after
    assert LINE not in changed(after, {"gil.hold": None}, FILE)


@pytest.mark.parametrize(
    "before",
    [
        'expect = { "gil.hold" = "lit" }\n',
        'expect."gil.hold" = "lit"\n',
        '[expect."gil.hold"]\nseen = "lit"\n',
        '[a]\nb = """\n[expect]\n"""\n',
    ],
)
def test_a_file_whose_expect_is_no_table_of_lines_is_refused_with_what_to_write(before: str) -> None:
    with pytest.raises(CannotPin, match="so nothing was changed") as refused:
        changed(before, {"gil.hold": DARK}, FILE)
    assert LINE in str(refused.value)


def test_a_reason_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("")
    odd = Pin("lying", DAY, 'a "quote", a \\, a # and\na line, \x7f ü')
    pin(path, {'ro"w': odd})
    assert tomllib.loads(path.read_text())["expect"]['ro"w']["because"] == odd.because
    assert changed(path.read_text(), {'ro"w': odd}, path) == path.read_text()


TARGET = """\
# a server of somebody's
[target]
name = "mine"
command = ["{python}", "-c", "pass"]   # as it is
ready = { url = "http://127.0.0.1:{port:http}/" }

[[probe]]
kind = "http"
name = "/"
url = "http://127.0.0.1:{port:http}/"

[processes]
server = { main = true }
worker = { main = true }
"""


def record(row: str, observed: Expectation) -> ScenarioRecord:
    """A record as an older report stores it."""
    return ScenarioRecord(
        name=f"{row}@mine",
        target="mine",
        fault=FaultRecord(name=row),
        expected="lit",
        observed=observed,
        verdict="pass" if observed == "lit" else "fail",
    )


def test_what_is_seen_is_pinned_once_and_taken_out_when_it_is_as_expected(tmp_path: Path) -> None:
    path, report = tmp_path / "mine.toml", tmp_path / "r.json"
    path.write_text(TARGET)

    def pinned(*records: ScenarioRecord) -> str:
        report.write_bytes(encode(Report(scenarios=records)))
        done = wedge("pin", "--target", str(path), "--report", str(report), "--because", "known since May")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "1 pinned, 0 taken out" in pinned(record("gil.hold", "dark"), record("process.stop", "lit"))
    text = path.read_text()
    today = datetime.datetime.now().astimezone().date()
    line = f'"gil.hold" = {{ seen = "dark", since = {today}, because = "known since May" }}'
    assert text == f"{TARGET}\n[expect]\n{line}\n"
    loaded = target_file.load(path).spec.expect
    assert loaded == {"gil.hold": Pin("dark", today, "known since May")}
    assert "as it was" in pinned(record("gil.hold", "dark"))
    assert path.read_text() == text
    assert "0 pinned, 1 taken out" in pinned(record("gil.hold", "lit"))
    assert path.read_text() == f"{TARGET}\n[expect]\n"


def test_what_is_unproven_is_not_pinned_and_the_shipped_targets_are_nobody_s_to_write(tmp_path: Path) -> None:
    path, report = tmp_path / "mine.toml", tmp_path / "r.json"
    path.write_text(TARGET)
    unproven = replace(record("gil.hold", "dark"), observed="unproven", reasons=("the fault did not bite",))
    report.write_bytes(encode(Report(scenarios=(unproven,))))
    done = wedge("pin", "--target", str(path), "--report", str(report))
    assert done.returncode == 1
    assert "not pinned  gil.hold@mine: it is unproven (the fault did not bite)" in done.stderr
    assert path.read_text() == TARGET
    refused = wedge("pin", "--target", "pegaref-process", "--report", str(report))
    assert refused.returncode == 2
    assert "is shipped with wedge and is not written to" in refused.stderr


@pytest.mark.parametrize(("expected", "seen"), [("dark", "lit"), ("lit", "dark")])
def test_a_pin_that_no_longer_matches_fails_in_either_direction_and_says_so(
    expected: Expectation, seen: Expectation
) -> None:
    pinned = replace(
        scenario(server="lit" if seen == "lit" else "stalled"),
        expected=expected,
        pinned=f"{expected} since 2025-11-27 (known)",
    )
    found = judge(pinned)
    assert (found.observed, found.verdict) == (seen, "fail")
    (reason,) = found.reasons
    assert f"[expect] of its target file says {expected} since 2025-11-27 (known)" in reason
