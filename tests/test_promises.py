"""What docs/design.md promises of the server is held by a test or a scenario, each promise by its name."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACEMENTS = ("inline", "pool", "thread", "process")


@cache
def server_section() -> str:
    """Section 3 of the design: the server, its table of faults, and its promises."""
    page = (ROOT / "docs/design.md").read_text()
    return page[page.index("\n## 3.") : page.index("\n## 4.")]


@cache
def guards() -> dict[str, list[str]]:
    """By promise, the tests that bear its name: a function's, a class's, or one set of parameters'."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.promise":
                for name in node.args:
                    found[ast.literal_eval(name)].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_every_promise_of_the_design_has_a_guard_and_every_guard_a_promise() -> None:
    promised = re.findall(r"^- `([\w-]+)`: ", server_section(), re.MULTILINE)
    assert len(promised) == len(set(promised)) > 20
    without = [name for name in promised if name not in guards()]
    assert not without, f"promises that no test or scenario would miss: {', '.join(without)}"
    unknown = {name: where for name, where in guards().items() if name not in promised}
    assert not unknown, f"guards of what docs/design.md does not promise: {unknown}"


def test_the_table_of_faults_is_what_the_default_suite_expects() -> None:
    suite = tomllib.loads((ROOT / "scenarios/suites/default.toml").read_text())
    rows = {row["name"]: row for row in suite["row"]}
    cells = re.findall(r"^\| `([\w.-]+)` \|.*?\|((?: \w[\w, ]* \|){4})$", server_section(), re.MULTILINE)
    assert len(cells) >= 9

    def says(value: object, target: str) -> str:
        return str(value.get(target, value.get("*", ""))) if isinstance(value, dict) else str(value)

    for name, seen in cells:
        for placement, cell in zip(PLACEMENTS, seen.strip(" |").split("|"), strict=True):
            target = f"pegaref-{placement}"
            assert target in rows[name].get("targets", suite["suite"]["targets"]), f"{name}@{target}"
            after = says(rows[name].get("after", ""), target)
            expected = [says(rows[name]["expect"], target), *([after] if after else [])]
            assert [word.strip() for word in cell.split(",")] == expected, f"{name}@{target}"
