"""The tree is what docs/design.md says it is: layers, arrows that go down, no circles, one meaning a name."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pegaref", "faults", "scenarios")
GENERATED = ("_pb2", "_pb2_grpc")


@cache
def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name; the agent's by the name it has in a target.

    The programs that targets run lie beside their files, and are no modules.
    """
    found = {}
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        if path.parent == ROOT / "scenarios/targets":
            continue
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if not parts[-1].endswith(GENERATED):
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """What each module imports of these packages: at its top, inside functions, and for types alone."""
    return {name: frozenset(_imported(name, path)) for name, path in modules().items()}


def _imported(name: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            base = above[: len(above) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            wanted = [f"{source}.{alias.name}" for alias in node.names]
            wanted = [one if one in modules() else source for one in wanted]
        else:
            continue
        yield from (one for one in wanted if one in modules() and one != name)


def circles() -> list[list[str]]:
    """Groups of modules that import each other, the long way round too (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in imports()[name]:
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = list(iter(stack.pop, name))
            found.append([name, *group])

    for name in imports():
        if name not in number:
            visit(name)
    return [group for group in found if len(group) > 1]


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles() == []


def test_no_two_folders_import_each_other() -> None:
    def folder(name: str) -> str:
        return str(modules()[name].parent.relative_to(ROOT))

    arrows = {(folder(name), folder(other)) for name, wanted in imports().items() for other in wanted}
    # A package's own root has its commands and its errors, which lie at both ends of the layers.
    both = {(a, b) for a, b in arrows if a < b and (b, a) in arrows and "/" in a}
    assert both == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_class_name_has_one_meaning_in_a_package(package: str) -> None:
    defined = Counter(
        node.name
        for name, path in modules().items()
        if name.split(".")[0] == package
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in defined.items() if times > 1] == []


@cache
def layers(package: str) -> list[set[str]]:
    """The layers of a package from the top down, as the import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = (one["layers"] for one in contracts if one.get("containers") == [package])
    rows = [set(re.split(r"\s*[|:]\s*", layer)) - {"__main__"} for layer in found]
    return [row for row in rows if row]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_of_a_package_has_its_layer(package: str) -> None:
    below = {name.split(".")[1] for name in modules() if name.startswith(package + ".")} - {"__main__"}
    assert set().union(*layers(package)) == below


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_shows_the_layers_of_the_contract(package: str) -> None:
    page = (ROOT / "docs/design.md").read_text()
    picture = re.search(rf"subgraph {package}\b.*?\n(.*?)\n\s*end\n", page, re.DOTALL)
    assert picture, f"no picture of {package}"
    rows = [set(re.findall(r"[\w.]+", row)) for row in re.findall(r'\["(.*?)"\]', picture[1])]
    assert rows == layers(package)
    arrows = re.findall(r"(\w+) --> (\w+)", picture[1])
    names = re.findall(r'(\w+)\["', picture[1])
    assert arrows == list(itertools.pairwise(names))


def test_the_judge_uses_the_public_names_of_the_fault_layer_alone() -> None:
    private = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if name.startswith("scenarios") and isinstance(node, ast.ImportFrom) and node.level == 0:
                source = str(node.module)
                if source.split(".")[0] == "faults":
                    public = importlib.import_module(source).__all__
                    private += [f"{name}: {source}.{a.name}" for a in node.names if a.name not in public]
    assert private == []
