"""docs/faults.md says what the code does: its table is current, its examples run, its names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from faults import attach, catalogue
from faults.attach import NotAttachable
from faults.evidence import PROVERS
from faults.parameters import TRIGGER_WORDS
from tests.faults.catalogue_table import DOCUMENT, parts, table

_WITHIN_S = 60
TEXT = DOCUMENT.read_text() if DOCUMENT.is_file() else ""
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_table_of_faults_is_current() -> None:
    assert parts(TEXT)[1] == table(), "run `python -m tests.faults.catalogue_table`"


def test_every_summary_is_a_sentence() -> None:
    assert [fault.name for fault in catalogue() if not fault.summary.endswith(".")] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_run(example: str, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=_WITHIN_S,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


def test_every_refusal_of_attach_is_explained() -> None:
    refusals = [
        name for name in attach.__all__
        if isinstance(kind := getattr(attach, name), type) and issubclass(kind, NotAttachable)
    ]  # fmt: skip
    assert [name for name in refusals if f"| `{name}` |" not in TEXT] == ["NotAttachable"]


def test_every_trigger_and_every_proof_is_explained() -> None:
    words = re.findall(r"\b(\w+)=", TEXT.partition("## When")[2])
    assert set(TRIGGER_WORDS) <= set(words)
    assert [proof for proof in PROVERS if f"`{proof}`" not in TEXT] == []
