"""gRPC methods without generated code: from a `.proto` compiled now, or from a server's reflection."""

from __future__ import annotations

import base64
import functools
import importlib.resources
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from scenarios.errors import CouldNotRun, did_you_mean, nearest


class Method(NamedTuple):
    """A method: its path on the wire, the classes of its messages, and whether it takes or gives streams."""

    path: str
    request: type[Message]
    response: type[Message]
    takes_many: bool = False
    gives_many: bool = False

    def serialize(self, request: Message) -> bytes:
        """A request as bytes."""
        return request.SerializeToString()

    def parse(self, response: bytes) -> Any:
        """A response from bytes."""
        return self.response.FromString(response)


class RawMethod(NamedTuple):
    """A method of which only the path is known: it takes bytes and gives bytes, any number of times."""

    path: str
    takes_many: bool = False
    gives_many: bool = True

    def serialize(self, request: bytes) -> bytes:
        """A request is its bytes."""
        return request

    def parse(self, response: bytes) -> Any:
        """A response is its bytes."""
        return response


@functools.cache
def compiled(proto: Path) -> descriptor_pool.DescriptorPool:
    """The descriptors of a `.proto` and all it imports (its folder and Google's own are searched).

    Raises `CouldNotRun` when it does not compile; protoc has said why on stderr.
    """
    from grpc_tools import protoc

    google = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory(prefix="wedge-proto-") as folder:
        out = Path(folder) / "descriptors"
        arguments = ["protoc", f"-I{proto.parent}", f"-I{google}", "--include_imports"]
        if protoc.main([*arguments, f"--descriptor_set_out={out}", str(proto)]) != 0:
            raise CouldNotRun(f"{proto} does not compile; protoc's message is above")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def reflected(address: str, name: str) -> Method:
    """The method as the server itself describes it by reflection. Blocks: call it in a thread.

    Raises `CouldNotRun` like `method`, and when the server has no reflection.
    """
    from grpc_reflection.v1alpha import proto_reflection_descriptor_database as reflection

    with grpc.insecure_channel(address) as channel:
        try:
            return method(
                descriptor_pool.DescriptorPool(reflection.ProtoReflectionDescriptorDatabase(channel)), name
            )
        except grpc.RpcError as error:
            raise CouldNotRun(
                f"{address} does not describe {name!r} by reflection; give the call a `proto`"
            ) from error


def method(pool: descriptor_pool.DescriptorPool, name: str) -> Method:
    """The method `package.Service/Method`. Raises `CouldNotRun` for one that is not there."""
    service_name, _, method_name = name.strip("/").partition("/")
    try:
        service = pool.FindServiceByName(service_name)
    except KeyError:
        raise CouldNotRun(
            f"no gRPC service {service_name!r} in the .proto (or the server's reflection)"
        ) from None
    found = service.methods_by_name.get(method_name)
    if found is None:
        hint = did_you_mean(nearest(method_name, service.methods_by_name))
        raise CouldNotRun(f"service {service_name} has no method {method_name!r}{hint}")
    return Method(
        f"/{service_name}/{method_name}",
        message_factory.GetMessageClass(found.input_type),
        message_factory.GetMessageClass(found.output_type),
        takes_many=found.client_streaming,
        gives_many=found.server_streaming,
    )


def build(kind: type[Message], table: Mapping[str, Any]) -> Message:
    """A message from a table. A `bytes` field takes `base64:…`, or text that is sent as UTF-8.

    Raises `CouldNotRun` for a field or a value that does not fit.
    """
    try:
        return json_format.ParseDict(_spelled(cast(Descriptor, kind.DESCRIPTOR), table), kind())
    except json_format.ParseError as error:
        raise CouldNotRun(f"message {kind.DESCRIPTOR.full_name}: {error}") from error


def contains(message: Message, wanted: Mapping[str, Any]) -> bool:
    """Whether the message has all the values in `wanted`, tables compared key by key."""
    found = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _within(wanted, found)


def _within(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_within(v, found.get(k)) for k, v in wanted.items())
    return bool(wanted == found)


def _spelled(kind: Descriptor, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table as protobuf's JSON mapping wants it, where all bytes are base64."""
    out: dict[str, Any] = {}
    for name, value in table.items():
        field = kind.fields_by_name.get(name)
        if field is None:
            hint = did_you_mean(nearest(name, kind.fields_by_name))
            raise CouldNotRun(f"message {kind.full_name} has no field {name!r}{hint}")
        out[name] = [_one(field, v) for v in value] if isinstance(value, list) else _one(field, value)
    return out


def _one(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and isinstance(value, Mapping):
        return _spelled(field.message_type, value)
    if field.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str):
        if value.startswith("base64:"):
            return value.removeprefix("base64:")
        return base64.b64encode(value.encode()).decode()
    return value
