"""The schema that editors use says what the loader says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest

from scenarios.onboarding.manual import with_tables
from scenarios.onboarding.schema import encoded, schema, structs
from scenarios.spec.suite import Suite
from scenarios.spec.target import Target

ROOT = Path(__file__).resolve().parents[2]
TARGETS = sorted(
    path
    for folder in ("docs/examples", "scenarios/targets", "tests/scenarios/servers")
    for path in (ROOT / folder).rglob("*.toml")
    if "suite" not in path.name and "[target]" in path.read_text(encoding="utf-8")
)
MINIMAL = """
[target]
name = "mine"
command = ["server"]
ready = { url = "http://127.0.0.1:1/" }

[[probe]]
kind = "http"
name = "health"
url = "http://127.0.0.1:1/"
"""


def errors(text: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema())
    return [error.message for error in validator.iter_errors(tomllib.loads(text))]


def test_the_committed_schema_is_current() -> None:
    committed = (ROOT / "docs" / "target.schema.json").read_bytes()

    assert committed == encoded(), "write it anew: wedge target schema > docs/target.schema.json"


def test_the_schema_is_itself_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("root", [Target, Suite])
def test_every_key_is_explained(root: type[msgspec.Struct]) -> None:
    missing = [
        f"{struct}.{key}"
        for struct, value in structs(root).items()
        for key, inner in value["properties"].items()
        if not inner.get("description")
    ]

    assert missing == [], "give these fields of scenarios/spec a description"


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.stem)
def test_every_target_file_of_the_project_satisfies_the_schema(path: Path) -> None:
    assert errors(path.read_text(encoding="utf-8")) == []


def test_a_minimal_file_satisfies_it() -> None:
    assert errors(MINIMAL) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (MINIMAL.replace('name = "mine"', 'nmae = "mine"'), "'nmae' was unexpected"),
        (MINIMAL.replace('command = ["server"]', 'command = "server"'), "is not of type 'array'"),
        (MINIMAL.partition("[[probe]]")[0], "'probe' is a required property"),
        (MINIMAL + '[leaks]\nthreads = "many"\n', "is not of type 'integer'"),
    ],
)
def test_what_the_loader_refuses_the_schema_refuses_too(wrong: str, said: str) -> None:
    assert any(said in message for message in errors(wrong))


@pytest.mark.parametrize(("page", "root"), [("target-file.md", Target), ("suite-file.md", Suite)])
def test_the_reference_page_is_current_and_has_every_key(page: str, root: type[msgspec.Struct]) -> None:
    committed = (ROOT / "docs" / page).read_text(encoding="utf-8")

    assert committed == with_tables(committed), f"python -m scenarios.onboarding.manual docs/{page}"
    for name, struct in structs(root).items():
        for key in struct["properties"] if name != root.__name__ else ():
            assert key == "kind" or f"| `{key}` |" in committed
