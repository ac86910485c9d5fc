"""The examples in `docs/examples` do what their suites say, run as a reader would run them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scenarios.cli.run import run_command
from scenarios.server.needs import unmet_needs
from scenarios.spec import suite_file, target_file

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
WITHIN_S = 540


def wedge(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scenarios", *arguments],
        cwd=EXAMPLES / folder,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def observed(folder: str, report: Path) -> dict[str, str]:
    """What each scenario of the folder's suite was seen to do; every verdict was a pass."""
    done = wedge(folder, "run", "--suite", "suite.toml", "--json", str(report))
    if "no package index can be reached" in done.stderr:
        pytest.skip(f"the example requires packages from an index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        scenario["name"]: scenario["observed"] for scenario in json.loads(report.read_text())["scenarios"]
    }


def test_health_on_the_pool_of_the_work_goes_dark_and_the_one_word_repair_stays_lit(tmp_path: Path) -> None:
    found = observed("shared-pool", tmp_path / "report.json")

    assert found["pool-full@shared-pool"] == "dark"
    assert found["pool-full@repaired"] == "lit"
    assert found["one-stuck@shared-pool"] == "lit"  # why the bug is not found by hand
    assert found["gil-held@repaired"] == "dark"  # what the repair cannot do


def test_the_repair_is_one_word() -> None:
    def code(name: str) -> str:
        return (EXAMPLES / "shared-pool" / name).read_text(encoding="utf-8").split('"""', 2)[2]

    assert code("repaired.py") == code("app.py").replace("def health", "async def health")


@pytest.mark.torch
def test_quick_start_servers_go_dark_at_as_many_stuck_calls_as_they_have_workers(tmp_path: Path) -> None:
    found = observed("quickstarts", tmp_path / "report.json")

    assert found["gpu-stalls@fastapi-uvicorn-1"] == "dark"
    assert found["gpu-stalls-1@flask-gunicorn-2"] == "lit"
    assert found["gpu-stalls-2@flask-gunicorn-2"] == "dark"
    assert found["gil-held-in-workers@flask-gunicorn-2"] == "dark"
    assert found["gil-held-above@flask-gunicorn-2"] == "lit"


@pytest.mark.gpu
def test_pegaflow_goes_dark_before_its_fix_and_stays_lit_with_it(tmp_path: Path) -> None:
    if reason := unmet_needs(target_file.load(EXAMPLES / "pegaflow" / "pegaflow-0.22.3.toml")):
        pytest.skip(reason)

    found = observed("pegaflow", tmp_path / "report.json")

    assert found["gil.hold@pegaflow-0.22.3"] == "dark"
    assert found["gil.hold@pegaflow-0.22.4"] == found["gil.hold@pegaflow-0.25.1"] == "lit"


def test_the_workflow_for_pegaflow_runs_its_gate_on_the_files_that_it_names() -> None:
    folder = EXAMPLES / "pegaflow"
    text = (folder / "workflow.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["wedge"]["steps"]
    (run,) = [step["run"] for step in steps if step.get("run", "").startswith("wedge run")]
    words = run.split()[2:]
    known = {option for parameter in run_command.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in known] == []
    assert words[words.index("--suite") + 1] == "wedge/gate.toml"

    _, scenarios, _ = suite_file.load(folder / "gate.toml")
    needed = {"gate.toml", "engine.proto", "serve.py", "share.py"}
    needed |= {scenario.target.path.name for scenario in scenarios}
    named = set(re.findall(r"[\w.-]+\.(?:toml|proto|py)\b", text.split("\nname:")[0]))
    assert named == needed
    assert {scenario.name for scenario in scenarios if scenario.expected == "dark"} == {
        "gil.hold@pegaflow-0.22.3",
        "cuda.stream_stall@pegaflow-0.22.3",
    }


def test_a_suite_whose_machine_is_not_here_says_what_is_missing() -> None:
    if unmet_needs(target_file.load(EXAMPLES / "pegaflow" / "pegaflow-0.22.3.toml")) is None:
        pytest.skip("there is a GPU here: the suite would run")

    done = wedge("pegaflow", "run", "--suite", "suite.toml")

    assert done.returncode == 2
    assert "needs an NVIDIA GPU, and there is none here" in done.stderr


@pytest.mark.parametrize(
    "path",
    [*sorted(EXAMPLES.glob("*/suite.toml")), EXAMPLES / "pegaflow" / "gate.toml"],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_every_lit_verdict_of_an_example_has_a_control_or_says_why_not(path: Path) -> None:
    _, scenarios, _ = suite_file.load(path)

    for scenario in scenarios:
        assert scenario.expected == "dark" or scenario.controls or scenario.row.because, scenario.name
