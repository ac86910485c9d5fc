"""The planted regressions keep up with the code: each still applies, and its test is there."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from scenarios.spec import suite_file
from tests.mutants import ROOT, WEDGE_RUN, load, paths


def _row(command: str) -> str:
    return command.removeprefix(WEDGE_RUN)


@pytest.mark.skipif(shutil.which("git") is None, reason="patches are tried with git, and there is none")
@pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
def test_a_planted_regression_still_applies_and_the_test_that_notices_it_is_there(path: Path) -> None:
    mutant = load(path)
    mutant.apply(ROOT, only_check=True)
    if mutant.noticed_by.startswith(WEDGE_RUN):
        assert suite_file.select(
            suite_file.load(suite_file.find(suite_file.DEFAULT)).scenarios, [_row(mutant.noticed_by)]
        )
        return
    file, _, name = mutant.noticed_by.partition("::")
    defined = ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    functions = {node.name for node in defined if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions, f"{mutant.name}: {file} has no {name}"
