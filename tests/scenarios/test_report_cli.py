"""`wedge report` and `wedge compare` as a person or a CI job calls them."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from scenarios.cli import main
from scenarios.record import Report, decode, write
from tests.scenarios import sample_reports as samples

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `wedge` with arguments: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wedge", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def stored(folder: Path, given: Report, name: str = "report.json") -> Path:
    path = folder / name
    write(given, path)
    return path


def test_a_stored_report_is_rendered_in_every_format(run: Run, tmp_path: Path) -> None:
    file = stored(tmp_path, samples.report())
    page, xml, md = tmp_path / "r.html", tmp_path / "r.xml", tmp_path / "r.md"
    code, out, err = run("report", file, "--html", page, "--junit", xml, "--md", md)
    assert (code, out, err) == (0, "", "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert ET.parse(xml).getroot().tag == "testsuites"
    assert md.read_text(encoding="utf-8").startswith("## ❌ wedge:")


def test_a_rendering_goes_to_stdout_for_a_dash(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("report", stored(tmp_path, samples.report()), "--md", "-")
    assert code == 0
    assert out.startswith("## ❌ wedge: 1 failed, 1 unproven, 4 passed\n")


def test_without_an_output_the_table_is_printed(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("report", stored(tmp_path, samples.report()))
    assert code == 0
    assert out.startswith("pegaref-…")
    for given in samples.one_of_each():
        assert f"\n{given.name.partition('@')[0]} " in out
        assert (f"\n{given.verdict} {given.name}\n" in out) == (given.verdict != "pass")


def test_a_verdict_that_no_longer_stands_is_said_and_written(run: Run, tmp_path: Path) -> None:
    lie = replace(samples.scenario(server="stalled"), verdict="pass", observed="lit", reasons=())
    file, again = stored(tmp_path, samples.report(lie)), tmp_path / "again.json"
    code, _, err = run("report", file, "--json", again)
    assert code == 0
    assert err.startswith("judged again: gil.hold@pegaref-process was pass and is fail: ")
    assert decode(again.read_bytes()).scenarios[0].verdict == "fail"
    code, _, err = run("report", file, "--json", again, "--as-recorded")
    assert err == ""
    assert decode(again.read_bytes()).scenarios[0].verdict == "pass"


def test_the_exit_code_tells_the_verdict_when_asked_to(run: Run, tmp_path: Path) -> None:
    bad = stored(tmp_path, samples.report(), "bad.json")
    good = stored(tmp_path, samples.report(samples.scenario()), "good.json")
    assert run("report", bad)[0] == 0
    assert run("report", bad, "--exit-code")[0] == 1
    assert run("report", good, "--exit-code")[0] == 0


def test_comparing_exits_0_without_and_1_with_a_regression(run: Run, tmp_path: Path) -> None:
    old = stored(tmp_path, samples.report(samples.scenario()), "old.json")
    new = stored(tmp_path, samples.report(samples.scenario(server="stalled")), "new.json")
    assert run("compare", old, old)[0] == 0
    code, out, err = run("compare", old, new)
    assert (code, err) == (1, "")
    assert out.startswith("regressed  gil.hold@pegaref-process: pass (lit) → fail (dark)")
    code, out, _ = run("compare", old, new, "--json")
    assert code == 1
    assert msgspec.json.decode(out.encode())["regressed"] is True


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is not JSON: Input data was truncated"),
        (b"<html>", "is not JSON: "),
        (b"\xff\xfe\x00", "is not JSON: "),
        pytest.param(b'{"schema": ' + b"[" * 100_000, "is not JSON: ", id="very deep"),
        (b"[1]", "is not a wedge report: Expected `object`, got `array`"),
        (b"{}", 'is JSON, but not a wedge report: it has no "schema": "wedge-report/1"'),
        (b'{"schema": "wedge-report/2"}', "has schema 'wedge-report/2'; this version of wedge reads"),
        (b'{"schema": {"a": 1}}', "has schema {'a': 1}; this version of wedge reads 'wedge-report/1'"),
        (b'{"schema": "wedge-report/1", "scenarios": [{}]}', "does not follow wedge-report/1: "),
        (b'{"schema": "wedge-report/1", "seed": "x"}', "does not follow wedge-report/1: Expected `int`"),
    ],
)
def test_what_is_no_report_is_one_clear_line_and_exit_2(
    run: Run, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    good, bad = stored(tmp_path, samples.report(samples.scenario())), tmp_path / "bad.json"
    if content is not None:
        bad.write_bytes(content)
    for arguments in (("report", bad), ("compare", bad, good), ("compare", good, bad)):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"wedge: {bad}: {problem}")
        assert err.count("\n") == 1


def test_a_histogram_that_cannot_be_read_is_named(run: Run, tmp_path: Path) -> None:
    given = samples.scenario()
    lane = {"http /health": replace(given.phases.baseline["http /health"], hdr="nonsense")}
    broken = replace(given, phases=replace(given.phases, baseline=given.phases.baseline | lane))
    file = stored(tmp_path, replace(samples.report(given), scenarios=(broken,)))
    code, out, err = run("report", file)
    assert (code, out) == (2, "")
    assert "gil.hold@pegaref-process, baseline, http /health: `hdr` is not a histogram of this schema" in err


def test_an_output_that_cannot_be_written_is_one_clear_line_and_exit_2(run: Run, tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / "r.html"
    code, _, err = run("report", stored(tmp_path, samples.report()), "--html", nowhere)
    assert code == 2
    assert err == f"wedge: {nowhere}: cannot be written: No such file or directory\n"
