"""docs/server.md, for operators, names every flag, metric and endpoint of the real program, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Route

from pegaref.cli import cli
from pegaref.config import ServerConfig
from pegaref.placement import Dispatch
from pegaref.placement.dispatch import DirectDispatch
from pegaref.registry import Hang
from pegaref.serving import ENGINE_SERVICE, UNIMPLEMENTED, Access, Endpoints, Metrics, Turns
from pegaref.serving.direct import DirectAnswers
from pegaref.serving.exposition import Exposition
from pegaref.serving.refusal import _HTTP_STATUS
from tests.pegaref.test_metrics import StillDevice

PAGE = Path(__file__).parents[2] / "docs" / "server.md"


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of each row of the table under a heading."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]


def test_every_flag_is_there_with_its_default() -> None:
    options = [option for option in cli.commands["serve"].params if isinstance(option, click.Option)]
    real = {
        option.opts[0]: "any"
        if option.multiple
        else "none"
        if option.default is None
        else str(option.default)
        for option in options
    }
    assert {flag: default for flag, default, _ in rows("Flags")} == real


def test_every_metric_is_there_with_its_type_and_labels() -> None:
    metrics = Metrics(lambda: [StillDevice()], lambda: 0)
    for requests in (metrics.http, metrics.rpc):
        route = requests.route("/x")
        route.end(route.begin(), "200")
    real = {}
    for family in text_string_to_metric_families(Exposition(metrics).text().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        real[name] = (family.type, labels)
    told = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels, _ in rows("Metrics")}
    assert told == real


@pytest.mark.parametrize("kind", Hang)
def test_every_kind_of_hang_is_explained(kind: Hang) -> None:
    assert str(kind) in [cells[0] for cells in rows("What a hang looks like")]


@pytest.mark.promise("routes")
def test_every_route_is_there() -> None:
    dispatch: Dispatch = DirectDispatch()
    metrics = Metrics(lambda: [StillDevice()], lambda: 0)
    # Routes are made of the endpoints' names; nothing else of the server is asked for.
    app = Endpoints(ServerConfig(), None, None, None, metrics, Access(ServerConfig()), Turns()).app(dispatch)  # type: ignore[arg-type]
    assert isinstance(app, Starlette)
    real = set(DirectAnswers(dispatch, metrics).paths)
    real |= {route.path.replace("{operation_id}", "ID") for route in app.routes if isinstance(route, Route)}
    told = {path for cells in rows("HTTP") for path in re.findall(r"(?:GET|POST) (/[\w/]+)", cells[0])}
    assert told == real


def test_every_method_of_the_service_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    served = {method.name for method in ENGINE_SERVICE.methods} - set(UNIMPLEMENTED)
    assert {cells[0] for cells in rows("gRPC")} >= served
    assert all(f"`{method}`" in text for method in UNIMPLEMENTED)


def test_every_status_is_there_with_its_http_status() -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = {
        name: int(status) for name, status in re.findall(r"^\| ([A-Z_]+) \| (\d+) \|", text, re.MULTILINE)
    }
    assert told.items() <= {**_HTTP_STATUS, "INTERNAL": 500}.items()
    assert set(_HTTP_STATUS) - set(told) == {"OUT_OF_RANGE", "CANCELLED"}  # nothing here refuses with these
