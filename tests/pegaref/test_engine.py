"""gRPC: PegaFlow's Engine service, what it does and what it refuses, with the field at fault."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pegaref.client import SharedTensor
from pegaref.serving.engine import UNIMPLEMENTED
from pegaref.wire import engine_pb2
from tests.pegaref.conftest import Serve
from tests.pegaref.requests import Request, refusal, register_of
from tests.pegaref.running import DEADLINE_S, Running, eventually
from tests.pegaref.shared import mapped

pytestmark = pytest.mark.torch

Spoil = Callable[[Request], Any]


def test_what_was_registered_is_held_until_it_is_unregistered(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.stub() as stub:
        answer = stub.RegisterContextBatch(register_of(instance, tensor), timeout=DEADLINE_S)
        assert answer == engine_pb2.RegisterContextResponse(status=engine_pb2.ResponseStatus(ok=True))
        assert instance in server.instances()
        request = engine_pb2.UnregisterRequest(instance_id=instance)
        answer = stub.UnregisterContext(request, timeout=DEADLINE_S)
    assert (answer.status.ok, answer.status.message) == (True, "released 2 tensors of 1 contexts")
    assert instance not in server.instances()


def test_unregistering_what_is_not_there_is_no_error(server: Running) -> None:
    with server.stub() as stub:
        request = engine_pb2.UnregisterRequest(instance_id="nobody")
        assert stub.UnregisterContext(request, timeout=DEADLINE_S).status.ok


def test_registering_the_same_context_twice_is_already_exists(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.stub() as stub:
        request = register_of(instance, tensor)
        stub.RegisterContextBatch(request, timeout=DEADLINE_S)
        error = refusal(lambda: stub.RegisterContextBatch(request, timeout=DEADLINE_S))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        stub.UnregisterContext(engine_pb2.UnregisterRequest(instance_id=instance), timeout=DEADLINE_S)


def test_another_rank_of_the_same_instance_is_another_context(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.stub() as stub:
        for rank in range(2):
            request = register_of(instance, tensor)
            request.tp_size, request.world_size, request.tp_rank = 2, 2, rank
            assert stub.RegisterContextBatch(request, timeout=DEADLINE_S).status.ok
        answer = stub.UnregisterContext(
            engine_pb2.UnregisterRequest(instance_id=instance), timeout=DEADLINE_S
        )
        assert answer.status.message == "released 4 tensors of 2 contexts"


def spoil(**values: Any) -> Spoil:
    """Sets fields of a register, lists included."""

    def apply(request: Request) -> None:
        for name, value in values.items():
            if isinstance(value, list):
                del getattr(request, name)[:]
                getattr(request, name).extend(value)
            else:
                setattr(request, name, value)

    return apply


@pytest.mark.parametrize(
    ("apply", "field"),
    [
        (spoil(instance_id=""), "instance_id"),
        (spoil(instance_id="a\nb"), "instance_id"),
        (spoil(instance_id="x" * 600), "instance_id"),
        (spoil(namespace="a\x00b"), "namespace"),
        (spoil(tp_size=0), "tp_size"),
        (spoil(world_size=0), "world_size"),
        (spoil(tp_rank=1), "tp_rank"),
        (spoil(device_id=-1), "device_id"),
        (spoil(device_id=7), "device_id"),
        (spoil(layer_names=[]), "layer_names"),
        (spoil(layer_names=["a", "a"]), "layer_names"),
        (spoil(layer_names=["a", ""]), "layer_names"),
        (spoil(layer_names=["a", "b", "c"]), "wrapper_bytes"),
        (spoil(wrapper_bytes=[]), "wrapper_bytes"),
        (spoil(wrapper_bytes=[b"", b""]), "wrapper_bytes"),
        (spoil(wrapper_bytes=[b"no wrapper", b"no wrapper"]), "wrapper_bytes"),
        (spoil(num_blocks=[1]), "num_blocks"),
        (spoil(num_blocks=[1, 0]), "num_blocks"),
        (spoil(num_blocks=[1, 2**64 - 1]), "num_blocks"),
        (spoil(bytes_per_block=[1, 1, 1]), "bytes_per_block"),
        (spoil(bytes_per_block=[0, 1]), "bytes_per_block"),
        (spoil(kv_stride_bytes=[]), "kv_stride_bytes"),
        (spoil(segments=[1]), "segments"),
        (spoil(segments=[1, 3]), "segments"),
        (spoil(layer_group_ids=[1]), "layer_group_ids"),
    ],
)
def test_a_register_that_cannot_be_is_invalid_argument_naming_the_field_and_registers_nothing(
    server: Running, tensor: SharedTensor, instance: str, apply: Spoil, field: str
) -> None:
    request = register_of(instance, tensor)
    apply(request)
    with server.stub() as stub:
        error = refusal(lambda: stub.RegisterContextBatch(request, timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: ")
    assert dict(error.trailing_metadata())["field"] == field
    assert instance not in server.instances()


def test_group_ids_one_for_each_layer_are_taken(server: Running, tensor: SharedTensor, instance: str) -> None:
    request = register_of(instance, tensor)
    request.layer_group_ids.extend([0, 1])
    request.transfer_mode = 3  # type: ignore[assignment]  # an open enumeration: any number may come
    request.page_first = True
    with server.stub() as stub:
        assert stub.RegisterContextBatch(request, timeout=DEADLINE_S).status.ok
        stub.UnregisterContext(engine_pb2.UnregisterRequest(instance_id=instance), timeout=DEADLINE_S)


def test_a_batch_with_one_bad_layer_maps_none(server: Running, tensor: SharedTensor, instance: str) -> None:
    request = register_of(instance, tensor)
    request.wrapper_bytes[1] = b"no wrapper"
    with server.stub() as stub:
        refusal(lambda: stub.RegisterContextBatch(request, timeout=DEADLINE_S))
        assert instance not in server.instances()
        assert stub.RegisterContextBatch(register_of(instance, tensor), timeout=DEADLINE_S).status.ok
        stub.UnregisterContext(engine_pb2.UnregisterRequest(instance_id=instance), timeout=DEADLINE_S)


@pytest.mark.parametrize("field", ["instance_id", "namespace"])
def test_a_session_with_a_bad_name_is_invalid_argument(server: Running, field: str) -> None:
    request = engine_pb2.SessionRequest(instance_id="a")
    setattr(request, field, "a\x07")
    with server.stub() as stub:
        error = refusal(lambda: next(stub.Session(request, timeout=DEADLINE_S)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(error.trailing_metadata())["field"] == field


@pytest.mark.promise("no-orphans")
def test_a_caller_that_goes_away_leaves_nothing_registered(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.stub() as stub:
        with server.actor_stopped():
            running, waiting = (
                stub.RegisterContextBatch.future(
                    register_of(f"{instance}-{number}", tensor), timeout=DEADLINE_S
                )
                for number in range(2)
            )
            in_flight = 'pegaref_commands_in_flight{device="0",operation="register"} 2.0'
            eventually(lambda: in_flight in server.get("/metrics").text, what="both are in flight")
            running.cancel()
            waiting.cancel()
            noticed = 'pegaref_grpc_requests_in_flight{method="pegaflow.Engine/RegisterContextBatch"} 0.0'
            eventually(lambda: noticed in server.get("/metrics").text, what="the server has noticed")
    server.wait_ready()
    with server.client() as client:  # behind whatever was queued
        client.register(f"{instance}-last", {"a": tensor})
        client.unregister(f"{instance}-last")
    assert not [name for name in server.instances() if name.startswith(instance)]
    assert mapped(tensor.name, server.actor_pid()) == 0


def test_a_register_whose_session_ends_meanwhile_is_undone(
    server: Running, tensor: SharedTensor, instance: str
) -> None:
    with server.client() as holder, server.stub() as stub:
        session = holder.session(instance)
        with server.actor_stopped():
            register = stub.RegisterContextBatch.future(register_of(instance, tensor), timeout=DEADLINE_S)
            in_flight = 'pegaref_commands_in_flight{device="0",operation="register"} 1.0'
            eventually(lambda: in_flight in server.get("/metrics").text, what="it is in flight")
            session.close()
            eventually(lambda: server.get("/instances").json()["sessions"] == 0, what="the session is over")
        error = register.exception(timeout=DEADLINE_S)
    assert error.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE)
    server.wait_ready()
    eventually(lambda: instance not in server.instances(), what="nothing of it is left")


def test_health_is_ok(server: Running) -> None:
    with server.stub() as stub:
        assert stub.Health(engine_pb2.HealthRequest(), timeout=DEADLINE_S).status.ok


def raw(channel: grpc.Channel, method: str) -> Any:
    """A method called with bytes, and answered with bytes."""
    return channel.unary_unary(f"/pegaflow.Engine/{method}", None, None)


@pytest.mark.promise("unbuilt-methods")
@pytest.mark.parametrize("method", UNIMPLEMENTED)
def test_a_method_of_the_real_service_that_is_not_built_is_unimplemented_by_name(
    server: Running, method: str
) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        error = refusal(lambda: raw(channel, method)(b"", timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == f"pegaflow.Engine/{method} is not built in pegaref"


def test_an_unknown_method_is_unimplemented(server: Running) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        error = refusal(lambda: raw(channel, "Nothing")(b"", timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_lists_the_services_and_gives_the_proto(server: Running) -> None:
    ask = reflection_pb2.ServerReflectionRequest
    with grpc.insecure_channel(server.grpc) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [ask(list_services=""), ask(file_containing_symbol="pegaflow.Engine")]
        listed, described = stub.ServerReflectionInfo(iter(requests), timeout=DEADLINE_S)
    names = {service.name for service in listed.list_services_response.service}
    assert {"pegaflow.Engine", "grpc.health.v1.Health"} <= names
    file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    assert (file.package, file.service[0].name) == ("pegaflow", "Engine")


def test_only_accepted_client_versions_may_register(
    serve: Serve, tensor: SharedTensor, instance: str
) -> None:
    server = serve("--client-version=0.22.*", "--client-version=equal")
    request = register_of(instance, tensor)
    with server.stub() as stub:
        request.client_version = "0.21.9"
        error = refusal(lambda: stub.RegisterContextBatch(request, timeout=DEADLINE_S))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "PegaFlow version mismatch: '0.21.9'" in error.details()
        assert "0.22.*, 0.25.1" in error.details()
        for rank, version in enumerate(("0.22.4", "0.25.1")):
            request.client_version, request.pp_rank = version, rank
            assert stub.RegisterContextBatch(request, timeout=DEADLINE_S).status.ok


def test_a_hostile_pickle_is_invalid_argument_and_does_nothing(
    server: Running, tensor: SharedTensor, instance: str, tmp_path: Path
) -> None:
    """Every one of them is in test_pickled_wrapper.py; here, that the whole way is guarded."""

    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path}/done",)

    request = register_of(instance, tensor)
    request.wrapper_bytes[1] = pickle.dumps(Hostile())
    before = server.ready()["devices"]
    with server.stub() as stub:
        error = refusal(lambda: stub.RegisterContextBatch(request, timeout=DEADLINE_S))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(error.trailing_metadata())["field"] == "wrapper_bytes"
    assert not (tmp_path / "done").exists()
    assert instance not in server.instances()
    assert mapped(tensor.name, server.actor_pid()) == 0
    assert server.ready()["devices"] == before
