"""The wire is PegaFlow's by number, and the committed code is what the `.proto` says."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from pegaref.wire import engine_pb2, generate

# Field numbers as PegaFlow's public protocol has them.
REGISTER_CONTEXT_REQUEST = {
    "instance_id": 1,
    "namespace": 2,
    "tp_rank": 3,
    "tp_size": 4,
    "world_size": 5,
    "device_id": 6,
    "layer_names": 8,
    "wrapper_bytes": 9,
    "num_blocks": 10,
    "bytes_per_block": 11,
    "kv_stride_bytes": 12,
    "segments": 13,
    "pp_rank": 14,
    "client_version": 15,
    "transfer_mode": 17,
    "page_first": 18,
    "layer_group_ids": 19,
}


def embedded_descriptor(generated: Path) -> descriptor_pb2.FileDescriptorProto:
    """The descriptor that a generated `engine_pb2.py` carries, read without importing it: importing a second
    copy would clash with the first in protobuf's one pool."""
    source = generated.read_text()
    start = source.index("AddSerializedFile(") + len("AddSerializedFile(")
    literal = source[start : source.index("\n", start) - 1]
    serialized = eval(literal, {"__builtins__": {}})
    return descriptor_pb2.FileDescriptorProto.FromString(serialized)


def test_the_committed_code_says_what_the_proto_says(tmp_path: Path) -> None:
    generate.generate(tmp_path)
    fresh = embedded_descriptor(tmp_path / "pegaref" / "wire" / "engine_pb2.py")
    committed = descriptor_pb2.FileDescriptorProto.FromString(engine_pb2.DESCRIPTOR.serialized_pb)
    assert fresh == committed


def test_the_same_generator_writes_the_same_files(tmp_path: Path) -> None:
    wire = Path(generate.__file__).parent
    for fresh in generate.generate(tmp_path):
        committed = (wire / fresh.name).read_text()
        if stamps(fresh.read_text()) != stamps(committed):
            pytest.skip(f"another version of grpcio-tools wrote {fresh.name}; the descriptor test covers it")
        assert fresh.read_text() == committed, fresh.name


def stamps(generated: str) -> list[str]:
    """The lines in which a generated file names its generator's version."""
    return [
        line for line in generated.splitlines() if line.startswith(("# Protobuf Python V", "GRPC_GENERATED"))
    ]


def test_a_proto_that_does_not_compile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "PROTO", "pegaref/wire/none.proto")
    with pytest.raises(generate.GenerationFailed, match=r"none\.proto"):
        generate.generate(tmp_path)


@pytest.mark.promise("pegaflow-wire")
def test_register_fields_have_pegaflows_numbers_and_leave_its_reserved_ones() -> None:
    message = engine_pb2.RegisterContextRequest.DESCRIPTOR
    assert {field.name: field.number for field in message.fields} == REGISTER_CONTEXT_REQUEST
    proto = descriptor_pb2.DescriptorProto()
    message.CopyToProto(proto)
    assert [(r.start, r.end) for r in proto.reserved_range] == [(7, 8), (16, 17)]
    assert proto.reserved_name == ["num_layers", "layer_ids"]
    assert dict(engine_pb2.TransferMode.items()) == {"TRANSFER_MODE_DIRECT": 0, "TRANSFER_MODE_KERNEL": 1}


@pytest.mark.promise("pegaflow-wire")
def test_the_service_is_pegaflows_engine_with_the_five_methods() -> None:
    service = engine_pb2.DESCRIPTOR.services_by_name["Engine"]
    assert service.full_name == "pegaflow.Engine"
    assert {method.name: (method.input_type.name, method.output_type.name) for method in service.methods} == {
        "RegisterContextBatch": ("RegisterContextRequest", "RegisterContextResponse"),
        "UnregisterContext": ("UnregisterRequest", "UnregisterResponse"),
        "Session": ("SessionRequest", "SessionEvent"),
        "Shutdown": ("ShutdownRequest", "ShutdownResponse"),
        "Health": ("HealthRequest", "HealthResponse"),
    }


@pytest.mark.parametrize(
    "response", ["RegisterContextResponse", "UnregisterResponse", "ShutdownResponse", "HealthResponse"]
)
def test_every_response_carries_its_status_in_field_one(response: str) -> None:
    field = engine_pb2.DESCRIPTOR.message_types_by_name[response].fields_by_number[1]
    assert field.name == "status"
    assert field.message_type is engine_pb2.ResponseStatus.DESCRIPTOR


def test_a_status_is_ok_in_field_one_and_message_in_field_two() -> None:
    assert engine_pb2.ResponseStatus(ok=True, message="m").SerializeToString() == b"\x08\x01\x12\x01m"
