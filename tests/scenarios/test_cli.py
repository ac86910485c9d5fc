"""`wedge` as a command: exit codes, clear lines, and nothing left behind however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scenarios.record import decode

WEDGE = [sys.executable, "-m", "scenarios"]
_WITHIN_S = 90


def wedge(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WEDGE, *arguments], capture_output=True, text=True, timeout=_WITHIN_S, check=False
    )


def test_a_run_whose_verdicts_pass_exits_0_and_prints_its_duration(servers: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    done = wedge("run", "noop@tiny-child", "--suite", f"{servers}/tiny.suite.toml", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    report = decode(file.read_bytes())
    assert [(s.name, s.verdict) for s in report.scenarios] == [("noop@tiny-child", "pass")]
    assert f"{report.duration_s:.1f} s" in done.stdout


def test_a_verdict_that_is_not_pass_exits_1_with_the_reason(servers: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        f"[suite]\nname = 's'\ntargets = ['{servers}/tiny-child.toml']\n"
        "[[row]]\nname = 'hollow'\nfault = 'noop'\nprocess = 'registry'\ntraffic = { call = 'keep' }\n"
        "expect = 'lit'\nbecause = 'a test'\n"
    )
    done = wedge("run", "--suite", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the calls were not all stuck: of 4: 0 pending" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "gil.hodl@pegaref-process"], "did you mean gil.hold@pegaref-process"),
        (["run", "--target", "pegaref-proces"], "did you mean pegaref-process"),
        (["run", "--target", "/no/such.toml"], "no target named '/no/such.toml'"),
        (["run", "--suite", "defualt"], "did you mean default"),
        (["run", "noop@pegaref-process", "--json", "/no/such/r.json"], "there is no folder /no/such"),
        (["run", "--sed", "1"], "No such option '--sed'"),
        (["list", "nothing*"], "no scenario named 'nothing*'"),
    ],
)  # fmt: skip
def test_what_cannot_run_exits_2_with_one_clear_line(
    refused: Callable[..., str], arguments: list[str], says: str
) -> None:
    lines = refused(*arguments).splitlines()
    assert len([line for line in lines if says in line]) == 1


def test_a_malformed_target_exits_2_with_file_line_and_key(servers: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.toml"
    target.write_text((servers / "tiny-child.toml").read_text().replace("role =", "rolle =", 1))
    done = wedge("run", "--target", str(target))
    assert done.returncode == 2
    assert done.stderr.startswith(f"wedge: {target}:14: probe[0].rolle: unknown key; did you mean role")


def test_a_target_that_does_not_start_exits_2_with_its_last_words(servers: Path, tmp_path: Path) -> None:
    target = tmp_path / "t.toml"
    text = (servers / "tiny-child.toml").read_text().replace("{here}", str(servers))
    target.write_text(text.replace('"child"]', '"nowhere"]'))
    done = wedge("run", "noop*", "--suite", "any", "--target", str(target))
    assert done.returncode == 2
    assert "invalid choice: 'nowhere'" in done.stderr.splitlines()[-1]


def test_the_list_names_every_scenario_and_what_must_be_seen() -> None:
    listed = json.loads(wedge("list", "--json").stdout)
    by_name = {scenario["name"]: scenario for scenario in listed}
    assert by_name["gil.hold@pegaref-process"]["expected"] == "lit"
    assert by_name["gil.hold@pegaref-inline"]["expected"] == "dark"
    assert len(wedge("list").stdout.splitlines()) == len(listed)


def test_the_faults_commands_are_there_too() -> None:
    told = wedge("--help").stdout
    assert all(
        f"\n  {name} " in told for name in ("run", "list", "exec", "arm", "release", "status", "faults")
    )


def in_mid_fault(servers: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A run whose target is wedged right now, and every process below the run."""
    run = subprocess.Popen(
        [*WEDGE, "run", "process.stop@tiny-loop", "--suite", f"{servers}/tiny.suite.toml"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    give_up_s = time.monotonic() + _WITHIN_S
    while time.monotonic() < give_up_s:
        assert run.poll() is None
        below = psutil.Process(run.pid).children(recursive=True)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() == psutil.STATUS_STOPPED:
                    return run, below
        time.sleep(0.01)
    raise AssertionError("the fault never bit")


def gone(processes: list[psutil.Process], within_s: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_mid_fault_exits_130_and_leaves_nothing(servers: Path, number: signal.Signals) -> None:
    run, below = in_mid_fault(servers)
    os.kill(run.pid, number)
    _, told = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "interrupted; everything is released and ended" in told
    assert "Traceback" not in told
    assert gone(below, within_s=0)


def test_a_kill_in_mid_fault_leaves_nothing(servers: Path) -> None:
    run, below = in_mid_fault(servers)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=30)
    assert gone(below, within_s=10)
