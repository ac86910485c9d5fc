"""Regressions that once went unnoticed, each with the test that notices it now.

Every `NAME.patch` here begins with `What:`, one sentence, and `Noticed-by:`, the test that has to fail under
it. `python -m tests.mutants` proves that they do.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WEDGE_RUN = "wedge run "
"""How `noticed_by` begins where a row of the default suite notices, and no test."""


class DoesNotApply(Exception):
    """A patch no longer fits the tree, or is none."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One patch: the regression that it plants, and the test that notices."""

    path: Path
    what: str
    noticed_by: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.path.stem

    def apply(self, tree: Path, *, only_check: bool = False) -> None:
        """Plant it in a tree. Raises `DoesNotApply`."""
        command = ["git", "apply", *(["--check"] if only_check else []), str(self.path)]
        # A tree inside a repository that is not its own would have every file of the patch skipped.
        apart = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
        done = subprocess.run(command, cwd=tree, env=apart, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DoesNotApply(f"{self.name}: {done.stderr.strip()}")


def load(path: Path) -> Mutant:
    """Read a patch's header. Raises `DoesNotApply` when it is not complete."""
    head, _, diff = path.read_text(encoding="utf-8").partition("diff --git ")
    said = {key: value.strip() for key, _, value in (line.partition(":") for line in head.splitlines())}
    for key in ("What", "Noticed-by"):
        if not said.get(key):
            raise DoesNotApply(f"{path.stem}: its header has no line `{key}: …`")
    if not diff:
        raise DoesNotApply(f"{path.stem}: no `diff --git` follows its header")
    return Mutant(path, said["What"], said["Noticed-by"])


def paths() -> list[Path]:
    """Every patch."""
    return sorted(HERE.glob("*.patch"))
