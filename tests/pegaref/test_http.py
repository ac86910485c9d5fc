"""HTTP: what the routes answer, and that cleanups are carried out, wedged or not."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from pegaref.client import SharedTensor
from tests.pegaref.conftest import Serve
from tests.pegaref.running import DEADLINE_S, Running, eventually, request, running

pytestmark = pytest.mark.torch


@pytest.mark.promise("readiness")
@pytest.mark.parametrize("path", ["/ready", "/readyz"])
def test_ready_is_200_with_every_device(server: Running, path: str) -> None:
    answer = server.get(path)
    assert answer.status_code == 200
    report = answer.json()
    assert (report["ready"], report["stage"], sorted(report["devices"])) == (True, "serving", ["0", "1"])


def test_an_unknown_route_is_404_in_json(server: Running) -> None:
    answer = server.get("/nothing")
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


@pytest.mark.parametrize(("method", "path"), [("POST", "/metrics"), ("GET", "/instances/cleanup")])
def test_a_wrong_method_is_405(server: Running, method: str, path: str) -> None:
    assert request(method, server.url(path)).status_code == 405


def test_instances_shows_who_holds_what(server: Running, tensor: SharedTensor, instance: str) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor, "b": tensor}, device_id=1)
        answer = server.get("/instances").json()
        (context,) = [context for context in answer["contexts"] if context["instance"] == instance]
        client.unregister(instance)
    assert instance in answer["instances"]
    assert (context["device"], context["tensors"], context["bytes"]) == (1, 2, 2 * tensor.nbytes)
    assert instance not in server.instances()


@pytest.mark.promise("pages")
def test_instances_come_in_pages_in_the_order_of_their_keys(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    names = [f"{instance}:{number}" for number in range(5)]
    with server.client() as client:
        for number, name in enumerate(reversed(names)):
            client.register(name, {"a": tensor}, device_id=number % 2)
        pages, after = [], None
        while True:
            page = server.get(
                "/instances", params={"limit": 2} | ({} if after is None else {"after": after})
            ).json()
            pages.append(page["instances"])
            assert (len(page["contexts"]) <= 2, page["total_contexts"]) == (True, 5)
            if (after := page["next"]) is None:
                break
        assert pages == [names[:2], names[2:4], names[4:]]
        assert server.get("/instances").json()["instances"] == names
        for name in names:
            client.unregister(name)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "after=nowhere", "after=a:b:0:0:0", "limits=1"]
)
def test_a_page_that_was_asked_for_wrongly_is_400(server: Running, query: str) -> None:
    answer = server.get(f"/instances?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, query.partition("=")[0])


def test_a_cleanup_by_id_drops_that_instance_and_not_one_whose_name_begins_with_it(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    longer = f"{instance}:b"
    with server.client() as client:
        client.register(instance, {"a": tensor})
        client.register(longer, {"a": tensor})
        answer = server.post("/instances/cleanup", params={"id": instance})
        assert answer.status_code == 200
        assert (answer.json()["removed_instances"], answer.json()["removed_tensors"]) == ([instance], 1)
        assert longer in server.instances()
        assert instance not in server.instances()
        client.unregister(longer)


@pytest.mark.parametrize("path", ["/instances/cleanup", "/cache/memory/cleanup"])
def test_a_cleanup_of_everything_says_what_each_device_released(
    server: Running, tensor: SharedTensor, instance: str, path: str
) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor}, device_id=0)
        client.register(f"{instance}-other", {"a": tensor, "b": tensor}, device_id=1)
        answer = server.post(path)
    assert answer.status_code == 200
    body = answer.json()
    assert body["removed_tensors"] == 3
    assert {number: device["removed_tensors"] for number, device in body["devices"].items()} == {
        "0": 1,
        "1": 2,
    }
    assert server.instances() == []


@pytest.mark.promise("cleanup-operations")
def test_a_cleanup_of_an_instance_that_is_not_there_is_404(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor}, device_id=1)
    for status in (200, 404):
        answer = server.post("/instances/cleanup", params={"id": instance})
        assert answer.status_code == status
    assert (answer.json()["code"], answer.json()["field"]) == ("NOT_FOUND", "id")
    assert instance in answer.json()["error"]


def test_a_cleanup_of_everything_where_there_is_nothing_is_no_error(server: Running) -> None:
    server.post("/instances/cleanup")
    answer = server.post("/instances/cleanup")
    assert (answer.status_code, answer.json()["removed_tensors"]) == (200, 0)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?ids=a", "ids"),
        ("?id=", "id"),
        ("?timeout=0", "timeout"),
        ("?timeout=-1", "timeout"),
        ("?timeout=nan", "timeout"),
        ("?timeout=inf", "timeout"),
        ("?timeout=soon", "timeout"),
    ],
)
def test_a_cleanup_that_was_asked_for_wrongly_drops_nothing(
    server: Running, tensor: SharedTensor, instance: str, query: str, field: str
) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor})
        answer = server.post(f"/instances/cleanup{query}")
        assert (answer.status_code, answer.json()["field"]) == (400, field)
        assert instance in server.instances()
        client.unregister(instance)


@pytest.mark.promise("cleanup-operations")
def test_a_cleanup_under_a_wedge_is_202_and_carried_out_when_the_actor_is_back(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor})
        with server.actor_stopped():
            began = time.monotonic()
            answer = server.post("/instances/cleanup", params={"id": instance, "timeout": "0.3"})
            assert time.monotonic() - began < 5
            assert answer.status_code == 202
            where = answer.headers["location"]
            assert where == f"/operations/{answer.json()['operation']}"
            assert server.get(where).json()["done"] is False
        outcome = eventually(lambda: (o := server.get(where).json())["done"] and o, what="carried out")
    assert outcome["removed_tensors"] == 1
    assert instance not in server.instances()


def test_a_cleanup_of_everything_answers_for_the_healthy_device_while_the_other_is_wedged(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor}, device_id=0)
        client.register(instance, {"a": tensor}, device_id=1)
        with server.actor_stopped(device=0):
            answer = server.post("/instances/cleanup?timeout=0.3")
        assert answer.status_code == 202
        devices = answer.json()["devices"]
        assert (devices["0"]["state"], devices["1"]["state"]) == ("pending", "done")
        assert devices["1"]["removed_tensors"] == 1
        eventually(lambda: instance not in server.instances(), what="device 0 released too")
    server.wait_ready()


def test_cleanups_that_wait_take_no_more_than_half_of_the_connections(
    serve: Serve, tensor: SharedTensor, instance: str
) -> None:
    server = serve("--max-connections=8", "--wedge-after=60", "--max-deadline=20")
    with server.client() as client, ThreadPoolExecutor(8) as threads:
        client.register(instance, {"a": tensor})
        with server.actor_stopped():
            asked = [
                threads.submit(server.post, f"/instances/cleanup?id={instance}&timeout=20") for _ in range(8)
            ]
            eventually(lambda: sum(answer.done() for answer in asked) == 4, what="half are told to come back")
            assert server.get("/health").text == "ok"
        assert sorted(answer.result(DEADLINE_S).status_code for answer in asked) == [200] * 4 + [202] * 4


def test_the_twin_without_a_wedge_is_200(server: Running, tensor: SharedTensor, instance: str) -> None:
    with server.client() as client:
        client.register(instance, {"a": tensor})
    assert server.post("/instances/cleanup", params={"id": instance, "timeout": "5"}).status_code == 200


def test_an_unknown_operation_is_404(server: Running) -> None:
    assert server.get("/operations/none").status_code == 404


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_kept_alive_request_is_not_delayed_by_nagles_algorithm(tmp_path: Path, loop: str) -> None:
    environment = {}
    if loop == "asyncio":
        (tmp_path / "uvloop.py").write_text("raise ImportError('not here')\n")
        environment = {"PYTHONPATH": str(tmp_path)}
    with (
        running(tmp_path, environment=environment, loads=False) as server,
        httpx.Client(base_url=server.url("")) as client,
    ):
        client.get("/metrics")
        took_s = []
        for _ in range(20):
            began = time.monotonic()
            assert client.get("/metrics").status_code == 200
            took_s.append(time.monotonic() - began)
    assert statistics.median(took_s) < 0.03, "44 ms each is Nagle's algorithm waiting for an acknowledgement"
