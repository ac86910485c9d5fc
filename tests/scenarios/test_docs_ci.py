"""The CI examples of `docs/ci.md`: their own steps are run, on a small project laid out as the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
import yaml

from scenarios.cli import cli

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ci.md"
WITHIN_S = 120
MANIFEST = re.compile(r"^<!-- file: deploy/deployment\.yaml -->\n```yaml\n(.*?)^```$", re.M | re.S)
YAML = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)

APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def ok(request):
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/health", ok), Route("/ready", ok)])
"""
TARGET = """
[target]
name = "server"
command = ["{python}", "-m", "uvicorn", "--app-dir", "{here}/..", "app:app", "--port", "{port:http}"]
ready = { url = "http://127.0.0.1:{port:http}/health" }

[[probe]]
name = "http /health"
kind = "http"
url = "http://127.0.0.1:{port:http}/health"

[[probe]]
name = "http /ready"
kind = "http"
url = "http://127.0.0.1:{port:http}/ready"
"""
SUITE = """
[suite]
name = "mine"
targets = ["server.toml"]

[[row]]
name = "gil.hold"
fault = "gil.hold"
expect = "dark"
because = "one process, one GIL"
"""


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def github() -> list[dict[str, Any]]:
    """The steps of the GitHub job."""
    (job,) = [found for text in YAML.findall(page()) if "runs-on" in text for found in [yaml.safe_load(text)]]
    steps: list[dict[str, Any]] = job["jobs"]["wedge"]["steps"]
    return steps


def gitlab() -> dict[str, Any]:
    """The GitLab job."""
    (job,) = [
        found for text in YAML.findall(page()) if "reports:" in text for found in [yaml.safe_load(text)]
    ]
    found: dict[str, Any] = job["wedge"]
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project laid out as the page says, with the page's own manifest."""
    manifest = MANIFEST.search(page())
    assert manifest is not None
    files = {"app.py": APP, "wedge/server.toml": TARGET, "wedge/suite.toml": SUITE}
    for name, text in {**files, "deploy/deployment.yaml": manifest[1]}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def run(project: Path, script: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHONPATH")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["GITHUB_STEP_SUMMARY"] = str(project / "step-summary.md")
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_the_steps_of_the_github_job_do_what_the_page_says(project: Path) -> None:
    scripts = [step["run"] for step in github() if "run" in step and "pip install" not in step["run"]]
    assert len(scripts) == 3

    for script in scripts:
        run(project, script)

    assert "gil.hold@server" in (project / "step-summary.md").read_text(encoding="utf-8")
    (upload,) = [step["with"]["path"] for step in github() if "upload-artifact" in step.get("uses", "")]
    assert [name for name in upload.split() if not (project / name).is_file()] == []
    cases = list(ElementTree.parse(project / "wedge.xml").iter("testcase"))
    assert len(cases) == 1
    (scenario,) = json.loads((project / "wedge.json").read_text(encoding="utf-8"))["scenarios"]
    assert scenario["kubelet"]["source"] == "deploy/deployment.yaml"
    assert scenario["kubelet"]["rules"]["period_s"] == 5.0
    assert scenario["kubelet"]["liveness_restarts"] >= 1


def test_the_gitlab_job_runs_the_same_commands_and_keeps_what_they_write(project: Path) -> None:
    job = gitlab()
    scripts = [line for line in job["script"] if "pip install" not in line]

    written = set(re.findall(r"--(?:junit|json|html|md) (\S+)", " ".join(scripts)))
    kept = {*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]}
    assert kept == written


@pytest.mark.parametrize("line", re.findall(r"wedge (?:run|report|compare|target check) [^\n`]*", page()))
def test_every_command_of_the_page_has_the_options_that_it_is_given(line: str) -> None:
    words = re.sub(r"\s*\\?$", "", line).split()[1:]
    context = cli.make_context("wedge", words, resilient_parsing=True)
    while isinstance(context.command, click.Group):
        name = words.pop(0)
        context = context.command.commands[name].make_context(name, [], context, resilient_parsing=True)
    known = {option for parameter in context.command.params for option in parameter.opts}

    assert [word for word in words if word.startswith("--") and word not in known] == []


def test_every_yaml_block_of_the_page_is_yaml() -> None:
    for text in YAML.findall(page()):
        assert yaml.safe_load(text)
