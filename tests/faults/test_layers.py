"""The agent's own imports, lazy ones and those for the type checker included, go one way."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from faults.agent import AGENT_DIRECTORY

PACKAGE = AGENT_DIRECTORY / "wedge_agent"


def imports_of(file: Path) -> set[str]:
    """The modules of the agent that a module of it names in an import, wherever that stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {name if (PACKAGE / f"{name}.py").is_file() else "__init__" for name in names}
    return found


def test_no_module_of_the_agent_is_imported_by_what_it_imports() -> None:
    graph = {file.stem: imports_of(file) for file in PACKAGE.glob("*.py")}
    assert graph["sidecar"] == {"__init__"}
    assert "service" in graph["__init__"]
    assert list(TopologicalSorter(graph).static_order())[-1] == "sidecar"  # raises CycleError for a circle


def test_the_agent_imports_nothing_of_the_fault_layer() -> None:
    for file in (*PACKAGE.glob("*.py"), AGENT_DIRECTORY / "sitecustomize.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name and name.split(".")[0] == "faults"], file.name
