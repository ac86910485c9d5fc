"""The page on suite files knows every key, and its example is one."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from scenarios.spec import Row, Suite, Timing, loads
from scenarios.spec.document import Document
from scenarios.spec.suite import Assertion, Flap, FurtherFault, Stop, SuiteHeader, Traffic

PAGE = (Path(__file__).parents[2] / "docs" / "suite-file.md").read_text()
STRUCTS = [
    SuiteHeader, Timing, Row, Traffic, FurtherFault, Flap, Assertion, Stop,
    loads.Storm, loads.Scrape, loads.Idle, loads.SlowLoris, loads.Clients,
]  # fmt: skip


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_key_is_on_the_page(struct: type[msgspec.Struct]) -> None:
    told = set(re.findall(r"`(\w+)`", PAGE))
    assert {field.encode_name for field in msgspec.structs.fields(struct)} <= told


def test_every_kind_of_load_is_on_the_page() -> None:
    for struct in STRUCTS:
        tag = struct.__struct_config__.tag
        assert tag is None or f"| `{tag}` |" in PAGE


def test_the_example_is_a_suite() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    suite = Document(Path("suite.toml"), example).convert(Suite)
    assert [row.name for row in suite.row] == ["gil.hold"]
