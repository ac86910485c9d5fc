"""Metrics: what a scrape tells, also while a device hangs, and that it waits for nothing."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from pegaref.client import ClientError, SharedTensor
from pegaref.registry import DeviceSnapshot, Hang, Phase
from pegaref.serving.exposition import Exposition, number
from pegaref.serving.metrics import Metrics
from tests.pegaref.running import DEADLINE_S, Running, eventually

needs_torch = pytest.mark.torch
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"
)

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(server: Running) -> Series:
    return parse(server.get("/metrics").text)


def value(series: Series, name: str, **labels: str) -> float:
    """The sample's value; 0.0 for one that is not there, as Prometheus' rate() would have it."""
    return series.get((f"pegaref_{name}", frozenset(labels.items())), 0.0)


def complaints(text: bytes) -> str:
    """What Prometheus' own judge says of a scrape; '' when it has nothing to say."""
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, timeout=DEADLINE_S
    )
    said = (check.stdout + check.stderr).decode()
    assert said or check.returncode == 0
    return said


def wedged(device_id: int = 0) -> DeviceSnapshot:
    """A device about which there is something to tell in every family."""
    return DeviceSnapshot(
        device_id=device_id,
        device_type="cuda",
        phase=Phase.WEDGED,
        ready=False,
        reason="hangs",
        hang=Hang.GIL_HELD,
        hang_age_s=1.5,
        traceback="",
        epoch=3,
        pid=1,
        mailbox_depth=4,
        mailbox_bytes=1000,
        cleanup_depth=1,
        oldest_command_age_s=2.5,
        contexts=5,
        tensors=6,
        bytes=7,
        in_flight={"register": 4},
        finished={("register", "done"): 8},
        respawns=2,
        rejected=9,
        rolled_back=10,
        lost_replies=11,
        unexpected_replies=13,
    )


class StillDevice:
    """A device that stays as it is until it is given another snapshot."""

    def __init__(self, snapshot: DeviceSnapshot | None = None) -> None:
        self.now = snapshot or wedged()

    @property
    def device_id(self) -> int:
        return self.now.device_id

    def mark(self) -> object:
        return id(self.now)

    def snapshot(self) -> DeviceSnapshot:
        return self.now


def test_everything_in_a_devices_snapshot_is_told() -> None:
    series = parse(Exposition(Metrics(lambda: [StillDevice()], lambda: 12)).text().decode())
    told = {
        "device_ready": 0.0,
        "mailbox_commands": 4,
        "mailbox_bytes": 1000,
        "mailbox_cleanups": 1,
        "oldest_command_age_seconds": 2.5,
        "wedged_seconds": 1.5,
        "contexts": 5,
        "tensors": 6,
        "tensor_bytes": 7,
        "actor_epoch": 3,
        "actor_respawns_total": 2,
        "commands_rejected_total": 9,
        "registers_rolled_back_total": 10,
        "replies_lost_total": 11,
        "replies_unexpected_total": 13,
    }
    assert {name: value(series, name, device="0") for name in told} == told
    assert value(series, "commands_in_flight", device="0", operation="register") == 4
    assert value(series, "commands_total", device="0", operation="register", outcome="done") == 8
    assert value(series, "device_info", device="0", type="cuda") == 1
    assert value(series, "sessions") == 12


def test_exactly_the_kind_of_hang_is_one() -> None:
    series = parse(Exposition(Metrics(lambda: [StillDevice()], lambda: 0)).text().decode())
    kinds = {str(kind): value(series, "wedged", device="0", kind=str(kind)) for kind in Hang}
    assert kinds == {"stalled": 0, "gil_held": 1, "stopped": 0, "unkillable": 0, "dead": 0}


def test_every_family_has_help_a_unit_and_counters_end_in_total() -> None:
    metrics = Metrics(lambda: [StillDevice()], lambda: 0)
    route = metrics.http.route("/x")
    route.end(route.begin(), "200")
    for family in text_string_to_metric_families(Exposition(metrics).text().decode()):
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith(("_ms", "_s")), family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        else:
            assert not family.name.endswith("_total"), family.name


@pytest.mark.parametrize(
    "figure",
    [0, 7, 999_999, 1_000_000, 1_048_576, 81_887_232, 2**53, 0.25, 1e-7, 123.456, 1_234_567.5, 10**17, -2],
)
def test_numbers_are_written_as_prometheus_own_library_does(figure: float) -> None:
    assert number(figure) == floatToGoString(figure)  # type: ignore[no-untyped-call]


@pytest.mark.promise("fresh-metrics")
def test_nothing_in_a_scrape_is_older_than_the_scrape() -> None:
    device, metrics = StillDevice(), Metrics(lambda: [device], lambda: 0)
    route, kept = metrics.http.route("/x"), Exposition(metrics)
    kept.text()
    route.end(route.begin(), "200")
    device.now = replace(wedged(), contexts=77)
    assert kept.text() == Exposition(metrics).text()
    route.begin()
    assert kept.text() == Exposition(metrics).text()
    assert b'pegaref_contexts{device="0"} 77.0' in kept.text()


def test_a_route_without_a_request_has_no_series() -> None:
    metrics = Metrics(tuple, lambda: 0)
    metrics.http.route("/never")
    assert b"/never" not in Exposition(metrics).text()


@needs_promtool
def test_promtool_finds_nothing() -> None:
    metrics = Metrics(lambda: [StillDevice()], lambda: 0)
    for requests in (metrics.http, metrics.rpc):
        route = requests.route("/x")
        route.end(route.begin(), "200")
    assert complaints(Exposition(metrics).text()) == ""


@needs_promtool
def test_promtool_finds_what_is_wrong() -> None:
    assert "counter metrics should have" in complaints(b"# HELP x Things.\n# TYPE x counter\nx 1\n")


@needs_torch
@needs_promtool
def test_promtool_finds_nothing_in_a_real_scrape_under_a_wedge(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client:
        session = client.session(instance)
        client.register(instance, {"a": tensor}, device_id=1)
        with pytest.raises(ClientError):
            client.register(instance, {"a": tensor}, device_id=1)
        server.get("/nothing")
        with server.actor_stopped():
            stuck = threading.Thread(target=_register, args=(server, instance, tensor))
            stuck.start()
            eventually(lambda: value(scrape(server), "wedged", device="0", kind="stopped"), what="wedged")
            text = server.get("/metrics").text
        stuck.join(DEADLINE_S)
        session.close()
    filled = {name for name, _ in parse(text)}
    for name in ("commands_in_flight", "commands_total", "grpc_requests_total", "http_requests_total"):
        assert f"pegaref_{name}" in filled
    assert complaints(text.encode()) == ""


@needs_torch
def test_a_scrape_has_prometheus_content_type(server: Running) -> None:
    assert server.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@needs_torch
def test_calls_are_counted_by_method_and_status(server: Running, tensor: SharedTensor, instance: str) -> None:
    method = "pegaflow.Engine/RegisterContextBatch"
    before = scrape(server)
    with server.client() as client:
        client.register(instance, {"a": tensor})
        with pytest.raises(ClientError):
            client.register(instance, {"a": tensor})
        held = scrape(server)
        client.unregister(instance)
    after = scrape(server)

    def counted(code: str) -> float:
        return value(after, "grpc_requests_total", method=method, code=code) - value(
            before, "grpc_requests_total", method=method, code=code
        )

    assert (counted("OK"), counted("ALREADY_EXISTS")) == (1, 1)
    assert value(held, "tensors", device="0") - value(before, "tensors", device="0") == 1
    assert (
        value(held, "tensor_bytes", device="0") - value(before, "tensor_bytes", device="0") == tensor.nbytes
    )
    assert value(after, "tensors", device="0") == value(before, "tensors", device="0")


@needs_torch
def test_requests_are_counted_by_route_and_never_by_what_a_caller_wrote(server: Running) -> None:
    before = scrape(server)
    server.get("/health")
    server.get("/operations/secret-name")
    server.get("/nothing/at-all")
    text = server.get("/metrics").text
    after = parse(text)
    for route, status in (("/health", "200"), ("/operations/{operation_id}", "404"), ("other", "404")):
        counted = value(after, "http_requests_total", route=route, status=status)
        assert counted == value(before, "http_requests_total", route=route, status=status) + 1
    assert "secret-name" not in text
    assert "at-all" not in text


@needs_torch
def test_a_stuck_command_is_seen_while_it_is_stuck_and_the_scrape_does_not_wait(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.actor_stopped():
        began = time.monotonic()
        stuck = threading.Thread(target=_register, args=(server, instance, tensor))
        stuck.start()
        eventually(lambda: value(scrape(server), "wedged", device="0", kind="stopped"), what="wedged")
        series = scrape(server)
        assert value(series, "commands_in_flight", device="0", operation="register") == 1
        assert value(series, "grpc_requests_in_flight", method="pegaflow.Engine/RegisterContextBatch") == 1
        assert 0 < value(series, "oldest_command_age_seconds", device="0") <= time.monotonic() - began
        assert value(series, "device_ready", device="0") == 0
        assert value(series, "wedged", device="1", kind="stopped") == 0
        took = time.monotonic()
        scrape(server)
        assert time.monotonic() - took < 1.0
    stuck.join(DEADLINE_S)
    assert not stuck.is_alive()
    server.wait_ready()
    series = scrape(server)
    assert value(series, "commands_in_flight", device="0", operation="register") == 0
    assert value(series, "wedged", device="0", kind="stopped") == 0
    server.post("/instances/cleanup", params={"id": instance})


def _register(server: Running, instance: str, tensor: SharedTensor) -> None:
    with server.client() as client:
        with suppress(ClientError):  # by then the device counts as wedged
            client.register(instance, {"a": tensor})


@needs_torch
def test_the_event_loops_lag_is_told(server: Running) -> None:
    series = scrape(server)
    assert 0 <= value(series, "event_loop_lag_seconds") <= value(series, "event_loop_lag_max_seconds")
