"""A stranger's test project uses the plugin: real pytest with two workers of xdist, real servers, one run.

The project lies in a folder of its own and is run once; each test here looks at what became of one of its.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "shared-pool"
WITHIN_S = 240

PROJECT = """
import urllib.request
from pathlib import Path

import pytest

FULL = dict(fault="call.stall", site="gpu", control="shared-pool.toml")


@pytest.mark.xdist_group("one")
@pytest.mark.wedge(target="repaired.toml", count=40, **FULL)
def test_stays_lit(wedge):
    assert wedge.record.observed == "lit"
    assert wedge.record.stuck.pending_in_window == 40
    assert wedge.record.phases.faulted["http /health"].ok > 10


@pytest.mark.xdist_group("one")
@pytest.mark.wedge(target="repaired.toml", count=1, **FULL)
def test_control_stays_lit(): ...


@pytest.mark.xdist_group("two")
@pytest.mark.wedge(target="shared-pool.toml", fault="gil.hold")
def test_goes_dark():
    Path("the-body-ran").touch()


@pytest.mark.xdist_group("two")
@pytest.mark.wedge(target="shared-pool.toml", fault="gil.hold", expect="dark")
@pytest.mark.wedge(target="shared-pool.toml", fault="noop")
def test_two_marks(wedge):
    assert [record.name for record in wedge.records] == ["noop@shared-pool", "gil.hold@shared-pool"]


@pytest.mark.xdist_group("two")
def test_by_hand(wedge):
    def ask(within_s):
        try:
            return urllib.request.urlopen(url, timeout=within_s).read()
        except OSError:
            return None

    server = wedge.start("repaired.toml")
    url = server.fill("http://127.0.0.1:{port:http}/health")
    assert ask(5.0) == b"ok"
    with server.armed("gil.hold") as fault:
        assert fault.biting().hits == 1
        assert ask(1.0) is None
    assert ask(10.0) == b"ok"
    Path("pids").write_text(" ".join(map(str, server.pids)))


@pytest.mark.xdist_group("two")
@pytest.mark.wedge(target="broken.toml", fault="noop")
def test_server_does_not_start(): ...


@pytest.mark.xdist_group("two")
@pytest.mark.wedge(target="broken.toml", fault="gil.hold")
def test_server_does_not_start_again(): ...
"""

WRONG = {
    "no_target": ('target="repaird.toml", fault="noop"', "no target named 'repaird.toml'"),
    "no_fault": ('target="repaired.toml", fault="gil.hol"', "no fault is called 'gil.hol'; did you mean"),
    "no_parameter": ('target="repaired.toml", fault="call.stall", sit="model"', "has no parameter 'sit'"),
    "no_site": ('target="repaired.toml", fault="call.stall", site="gpuu"', "did you mean gpu?"),
    "no_call": ('target="repaired.toml", fault="noop", call="predicts"', "no call named 'predicts'; did you"),
    "no_process": ('target="repaired.toml", fault="noop", process="x"', "no process selector is called 'x'"),
    "no_value": ('target="repaired.toml", fault="noop", expect="bright"', "Invalid enum value 'bright'"),
    "no_timing": ('target="repaired.toml", fault="noop", timing={"windows_s": 1}', "did you mean window_s"),
    "too_little": ('target="repaired.toml"', "missing required field `fault`"),
    "no_keyword": ('"repaired.toml"', "wedge(…) takes keywords"),
}  # fmt: skip


class Case(NamedTuple):
    """What became of one of the project's tests."""

    outcome: str
    message: str


class Ran(NamedTuple):
    """The project's run: its folder, its tests by name, its report, and all that pytest printed."""

    folder: Path
    cases: dict[str, Case]
    report: dict[str, object]
    printed: str
    returncode: int


@contextmanager
def started(project: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """This environment's pytest in the project's folder; killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:asyncio", *options],
        cwd=project,
        env={k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The project, run once with this environment's pytest."""
    project = tmp_path_factory.mktemp("project") / "mine"
    shutil.copytree(EXAMPLE, project)
    (project / "broken.py").write_text("raise RuntimeError('no model here')\n")
    target = (project / "repaired.toml").read_text().replace('"repaired', '"broken')
    (project / "broken.toml").write_text(target)
    wrong = [f"@pytest.mark.wedge({words})\ndef test_{name}(): ...\n" for name, (words, _) in WRONG.items()]
    (project / "test_mine.py").write_text("\n\n".join([PROJECT, *wrong]), encoding="utf-8")
    (project / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n")
    options = ["-n", "2", "--dist", "loadgroup", "--junitxml", "junit.xml", "--wedge-json", "report.json"]
    with started(project, *options) as pytest_process:
        printed, _ = pytest_process.communicate(timeout=WITHIN_S)
    assert (project / "junit.xml").exists(), printed
    cases = {}
    for case in ElementTree.parse(project / "junit.xml").iter("testcase"):
        trouble = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        cases[case.attrib["name"].partition("@")[0]] = Case(
            trouble.tag if trouble is not None else "passed",
            (trouble.text or "") if trouble is not None else "",
        )
    report = json.loads((project / "report.json").read_text(encoding="utf-8"))
    return Ran(project, cases, report, printed, pytest_process.returncode)


def test_a_marked_test_passes_when_the_server_stays_lit_and_its_control_goes_dark(ran: Ran) -> None:
    assert ran.cases["test_stays_lit"].outcome == "passed", ran.printed


def test_a_marked_test_fails_with_the_verdicts_reasons(ran: Ran) -> None:
    case = ran.cases["test_goes_dark"]

    assert case.outcome == "failure"
    assert "gil.hold@shared-pool: fail (expected lit, observed dark)" in case.message
    assert "under the fault http /health answered 0 of" in case.message
    assert "its GIL is held" in case.message
    assert "again: pytest 'test_mine.py::test_goes_dark" in case.message


def test_the_failure_is_no_traceback_and_the_body_has_not_run(ran: Ran) -> None:
    case = ran.cases["test_goes_dark"]

    assert "Traceback" not in case.message
    assert "scenarios/" not in case.message
    assert not (ran.folder / "the-body-ran").exists()


def test_a_lit_verdict_whose_control_stays_lit_is_unproven(ran: Ran) -> None:
    case = ran.cases["test_control_stays_lit"]

    assert case.outcome == "failure"
    assert "call.stall@repaired: unproven" in case.message
    assert re.search(r"the control call\.stall@shared-pool was (lit|unproven), not dark", case.message)


def test_a_test_with_two_marks_runs_both_the_nearest_first(ran: Ran) -> None:
    assert ran.cases["test_two_marks"].outcome == "passed", ran.printed


def test_a_test_can_start_a_server_break_it_and_give_it_back(ran: Ran) -> None:
    assert ran.cases["test_by_hand"].outcome == "passed", ran.printed


def test_no_server_outlives_its_test(ran: Ran) -> None:
    pids = [int(pid) for pid in (ran.folder / "pids").read_text().split()]

    assert pids
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.parametrize("name", WRONG)
def test_a_word_that_is_wrong_is_one_line_before_anything_starts(ran: Ran, name: str) -> None:
    case = ran.cases[f"test_{name}"]

    assert case.outcome == "error"
    assert WRONG[name][1] in case.message
    assert len(case.message.strip().splitlines()) == 1


def test_a_server_that_does_not_start_fails_every_test_that_wants_it_with_its_log(ran: Ran) -> None:
    for name in ("test_server_does_not_start", "test_server_does_not_start_again"):
        case = ran.cases[name]
        assert case.outcome == "failure"
        assert "target broken: ended with exit code 1 before ready" in case.message
        assert "| RuntimeError: no model here" in case.message


def test_the_records_of_both_workers_come_together_in_one_report(ran: Ran) -> None:
    scenarios = ran.report["scenarios"]
    assert isinstance(scenarios, list)

    names = {str(scenario["name"]).partition(" ")[0] for scenario in scenarios}
    assert ran.report["schema"] == "wedge-report/1"
    assert names == {"call.stall@repaired", "gil.hold@shared-pool", "noop@shared-pool"}
    assert len(scenarios) == 5


def test_the_run_fails_as_a_whole(ran: Ran) -> None:
    assert ran.returncode == 1


def test_ctrl_c_in_the_middle_of_a_wedge_leaves_no_server_behind(tmp_path: Path) -> None:
    project = tmp_path / "mine"
    shutil.copytree(EXAMPLE, project)
    told = project / "stuck"
    os.mkfifo(told)
    define = "def predict(request: Request) -> Response:\n"
    head, _, rest = (project / "app.py").read_text().partition(define)
    tell = "    calls.append(1)\n    if len(calls) == 5:\n        told.write_text(str(os.getpid()))\n"
    names = f"import os\nfrom pathlib import Path\n\ncalls = []\ntold = Path({str(told)!r})\n\n\n"
    (project / "app.py").write_text(f"{head}{names}{define}{tell}{rest}")
    mark = "wedge(target='shared-pool.toml', fault='call.stall', site='gpu')"
    (project / "test_mine.py").write_text(f"import pytest\n\n@pytest.mark.{mark}\ndef test(): ...\n")

    with started(project, "-p", "no:cacheprovider") as pytest_process:
        pid = int(told.read_text())  # waits for the fifth call: four warm the server up, then they pile up
        pytest_process.send_signal(signal.SIGINT)
        printed, _ = pytest_process.communicate(timeout=WITHIN_S)

    assert "KeyboardInterrupt" in printed
    assert "Task was destroyed" not in printed
    assert not Path(f"/proc/{pid}").exists()


def test_the_plugin_costs_a_pytest_that_has_no_wedge_nothing() -> None:
    code = """
import sys
import pytest
before = set(sys.modules)
import scenarios.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.split() == ["scenarios", "scenarios.pytest_plugin"]
