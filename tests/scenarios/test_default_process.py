"""What a test means that does not say which process to break: those that have the site, or the main one."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from faults import Selector
from scenarios import ScenarioRequest
from scenarios.server.server import serving
from scenarios.spec import target_file
from scenarios.testing.arguments import scenarios_for

pytestmark = pytest.mark.once

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORKERS = """
base = "shared-pool.toml"

[target]
name = "workers"
args = ["--workers", "2"]

[processes]
worker = { main = 0, port = "{port:http}" }
"""


async def test_the_workers_have_the_site_and_no_helper_of_multiprocessing_is_one(tmp_path: Path) -> None:
    for file in ("app.py", "shared-pool.toml"):
        shutil.copy(DOCS / "examples" / "shared-pool" / file, tmp_path)
    (tmp_path / "workers.toml").write_text(WORKERS)
    loaded = target_file.load(tmp_path / "workers.toml")
    request = ScenarioRequest.from_keywords({"target": "workers.toml", "fault": "call.stall", "site": "gpu"})

    (scenario,) = scenarios_for(request, tmp_path)
    async with serving(loaded) as server:
        await server.matching("worker", within_s=10)  # main = 0, and listens on the server's port
        having = await server.having("gpu")
        assert having is not None
        workers = set(await server.matching(having))
        assert workers
        assert server.launched.pid not in workers
        assert workers <= set(await server.matching("worker"))
        assert set(await server.matching("worker")) <= set(await server.matching(Selector(main=False)))
        assert await server.having("no.such.module:place") is None
        assert await server.having(None) is None

    assert scenario.seeks_site


def test_every_keyword_of_the_marker_is_documented() -> None:
    page = (DOCS / "test-your-own-server.md").read_text(encoding="utf-8")

    for field in msgspec.structs.fields(ScenarioRequest):
        assert f"\n| `{field.name}`" in page
