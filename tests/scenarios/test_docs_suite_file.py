"""The page on suite files names every kind of load, and its example is a suite (keys: test_target_schema)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from scenarios.spec import Suite
from scenarios.spec.document import Document
from scenarios.spec.loads import Load

PAGE = (Path(__file__).parents[2] / "docs" / "suite-file.md").read_text()


def test_every_kind_of_load_is_on_the_page() -> None:
    for struct in get_args(Load):
        assert f'`kind = "{struct.__struct_config__.tag}"`' in PAGE


def test_the_example_is_a_suite() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    suite = Document(Path("suite.toml"), example).convert(Suite)
    assert [row.name for row in suite.row] == ["gil.hold"]
