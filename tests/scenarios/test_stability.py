"""`--repeat`: the same suite again and again, and the verdicts that were not the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from scenarios.record import Report, SuiteRecord, decode
from scenarios.record.stability import in_words, stability, turn
from tests.scenarios import sample_reports as samples

_WITHIN_S = 120


def runs(*verdicts: str) -> list[Report]:
    """One scenario, judged so in each of the runs."""
    (scenario, *_) = samples.report().scenarios
    return [
        Report(
            seed=seed,
            duration_s=50.0 + seed,
            scenarios=(replace(scenario, name="one@server", verdict=verdict),),
            suite=SuiteRecord(passed=verdict == "pass"),
        )
        for seed, verdict in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("verdicts", "flips", "failing"),
    [
        (["pass"], {}, {}),
        (["pass", "pass", "pass"], {}, {}),
        (["fail", "fail"], {}, {"one@server": 2}),
        (["pass", "unproven", "pass"], {"one@server": 2}, {"one@server": 1}),
        (["pass", "pass", "fail"], {"one@server": 1}, {"one@server": 1}),
    ],
)
def test_a_flip_is_a_verdict_that_differs_from_the_run_before(
    verdicts: list[str], flips: dict[str, int], failing: dict[str, int]
) -> None:
    found = stability([turn(report, load=1.0) for report in runs(*verdicts)])
    assert (found.flips, found.failing, found.verdicts) == (flips, failing, len(verdicts))


def test_the_words_say_how_much_was_run_how_long_and_under_which_load() -> None:
    loads = zip(runs("pass", "fail"), (3.14, 9.8), strict=True)
    found = stability([turn(report, load) for report, load in loads])
    assert in_words(found) == (
        "2 runs × 1 scenarios, 2 verdicts: 1 flips, 1 not pass · 50 to 51 s a run · load 3.1 to 9.8"
    )


def test_a_verdict_that_hangs_on_a_coin_is_found_out(servers: Path, tmp_path: Path) -> None:
    """The stall's trigger tosses a coin with the run's seed: some runs bite, some prove nothing."""
    file, report = tmp_path / "coin.toml", tmp_path / "r.json"
    file.write_text(
        f"[suite]\nname = 'coin'\ntargets = ['{servers}/tiny-child.toml']\n[timing]\nbite_within_s = 0.5\n"
        "[[row]]\nname = 'coin'\nfault = 'call.stall'\nparams = { site = 'release', gil = 'released' }\n"
        "trigger = { p = 0.5 }\nprocess = 'registry'\nbites = 'on-traffic'\n"
        "traffic = { call = 'drop', count = 1 }\nexpect = 'lit'\nbecause = 'a test'\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "scenarios", "run", "--suite", file, "--repeat", "4", "--json", report],
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    written = decode(report.read_bytes())
    assert written.stability is not None
    seen = [one.verdicts["coin@tiny-child"] for one in written.stability.turns]
    assert set(seen) == {"pass", "unproven"}
    assert written.seed == seen.index("unproven")  # the report kept is of the first run that did not pass
    assert "not steady: coin@tiny-child" in done.stdout
    assert "run 4 of 4: " in done.stderr
