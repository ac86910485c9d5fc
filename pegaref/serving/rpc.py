"""gRPC handlers made from a service's descriptor: each runs its body through the placement's dispatch, is
counted and timed, and says a refusal as a status.

A request is read as the bytes that came. How many objects they would be is looked at first, and a refusal
lets go of what it refused at once: an exception that grpc keeps would keep the request with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from pegaref.errors import InvalidCommand, RegistryError
from pegaref.placement import Dispatch
from pegaref.serving.metrics import RequestCounters
from pegaref.serving.refusal import NotBuilt, detail, grpc_status, trailers

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # generic in its stubs only
    CallContext: TypeAlias = grpc.aio.ServicerContext[Any, Any]
else:
    CallContext = grpc.aio.ServicerContext

# The body of a unary method returns the response; a stream's writes to the context and returns None.
RpcBody = Callable[[Any, CallContext], Awaitable[Any]]

_SMALL_BYTES: Final = 64 * 1024  # as objects, such a message is never more than a few MiB
_MOST_FIELDS: Final = 32 * 1024  # a register of 4,096 layers, which is the most, has some 8,200
_MOST_FIELD_BYTES: Final = 1024 * 1024  # as a list of numbers, 8 MiB


class Admission(Protocol):
    """Whether a peer may have another call."""

    def take_up(self, peer: str) -> Any:
        """Count a call of the peer, as long as it is open. Raises TooMany."""
        ...

    def note_call(self, peer: str) -> object:
        """Note a call of the peer that is answered at once."""
        ...

    def end_call(self, connection: Any) -> None:
        """Count it no more; `connection` is what `take_up` returned."""
        ...


class Service:
    """One gRPC service, with a body for each method that is served, and the names of those that are not.

    A stream's body is not dispatched, since it mostly waits. It dispatches its working parts itself.
    """

    def __init__(
        self,
        descriptor: ServiceDescriptor,
        bodies: Mapping[str, RpcBody],
        *,
        dispatch: Dispatch,
        requests: RequestCounters,
        admission: Admission,
        unbuilt: Collection[str] = (),
    ) -> None:
        self.name = descriptor.full_name
        self._dispatch = dispatch
        self._requests = requests
        self._admission = admission
        self.handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]] = {
            method.name: self._handler(method, bodies[method.name])
            for method in descriptor.methods
            if method.name in bodies
        } | {name: grpc.stream_stream_rpc_method_handler(self._refusal(name)) for name in unbuilt}

    def _handler(self, method: MethodDescriptor, body: RpcBody) -> grpc.RpcMethodHandler[Any, Any]:
        name = f"{self.name}/{method.name}"
        kind = GetMessageClass(method.input_type)
        serialize = GetMessageClass(method.output_type).SerializeToString
        # As streams of requests, since grpc.aio calls the handler of one before it has read anything.
        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._counted(name, kind, body), response_serializer=serialize
            )
        run = self._dispatch.run

        async def serialized(request: Any, context: CallContext) -> bytes:
            return serialize(await run(lambda: body(request, context)))

        return grpc.stream_unary_rpc_method_handler(self._counted(name, kind, serialized))

    def _counted(self, name: str, kind: type[Message], body: RpcBody) -> Any:
        route = self._requests.route(name)
        admission = self._admission

        async def answer(requests: object, context: CallContext) -> Any:
            began = route.begin()
            code = "UNKNOWN"  # what gRPC answers to an exception of any other kind
            connection = None
            try:
                connection = admission.take_up(context.peer())
                request = await context.read()
                if not isinstance(request, bytes):
                    raise InvalidCommand("no message was sent")
                response = await body(parse(kind, request), context)
                code = "OK"
                return response
            except RegistryError as error:
                code = error.code
                refuse(context, error)
                return b""
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            finally:
                if connection is not None:
                    admission.end_call(connection)
                route.end(began, code)

        return answer

    def _refusal(self, method: str) -> Any:
        async def answer(requests: object, context: CallContext) -> None:
            self._admission.note_call(context.peer())
            refuse(context, NotBuilt(f"{self.name}/{method} is not built in pegaref"))

        return answer


def refuse(context: CallContext, error: RegistryError) -> None:
    """Have the call end with the refusal's status, detail and trailing metadata, once its handler returns."""
    context.set_code(grpc_status(error))
    context.set_details(detail(error))
    context.set_trailing_metadata(trailers(error))
    # What raised it had the request in its variables, and may be waited for by what the error is kept in.
    error.__traceback__ = error.__context__ = error.__cause__ = None


def parse(kind: type[Message], request: bytes) -> Message:
    """The message that was sent. Raises InvalidCommand for what is none, or has too many fields."""
    if len(request) > _SMALL_BYTES:
        _check_fields(request)
    try:
        return kind.FromString(request)
    except DecodeError:
        raise InvalidCommand(f"these {len(request)} bytes are no {kind.DESCRIPTOR.name}") from None


def _check_fields(request: bytes) -> None:
    """Raises InvalidCommand if the fields are too many, or one is larger than any that could be taken.

    Four MiB of the smallest fields would be a hundred as objects. What are no fields, protobuf refuses.
    """
    at, end = 0, len(request)
    for _ in range(_MOST_FIELDS):
        tag, at = _varint(request, at)
        match tag & 7:
            case 0:
                _, at = _varint(request, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(request, at)
                if length > _MOST_FIELD_BYTES:
                    raise InvalidCommand(
                        f"field {tag >> 3} has {length} bytes; at most {_MOST_FIELD_BYTES} are taken"
                    )
                at += length
            case 5:
                at += 4
        if at >= end:
            return
    raise InvalidCommand(f"the request has more than {_MOST_FIELDS} fields")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    for byte in data[at : at + 10]:
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return value, at
    return 0, len(data)
