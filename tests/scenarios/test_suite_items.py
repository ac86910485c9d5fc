"""`pytest scenarios`: a scenario is a test item, and one that does not pass is a failing test with the
reasons.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "scenarios", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)


def test_the_default_suite_has_an_item_for_every_scenario() -> None:
    collected = run("--collect-only", "-q").stdout.splitlines()
    assert "scenarios/suites/default.toml::gil.hold@pegaref-process" in collected
    assert "scenarios/suites/default.toml::process.kill@pegaref-inline" in collected


def test_a_scenario_that_passes_is_a_passing_test_and_one_that_fails_tells_the_reasons(
    servers: Path, tmp_path: Path
) -> None:
    suite = tmp_path / "s.toml"
    suite.write_text(
        f"[suite]\nname = 's'\ntargets = ['{servers}/tiny-child.toml', '{servers}/tiny-loop.toml']\n"
        "[[row]]\nname = 'gil.hold'\nfault = 'gil.hold'\nprocess = 'registry'\n"
        "traffic = { call = 'keep' }\nexpect = 'lit'\nbecause = 'a test'\n"
    )
    done = run("--wedge-suite", str(suite), "-q")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "had to stay lit: it went dark (" in done.stdout
    assert "wedge run gil.hold@tiny-loop --suite" in done.stdout
    assert "Traceback" not in done.stdout
