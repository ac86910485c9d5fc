"""gRPC handlers made from a service's descriptor. Each runs its body through the placement's dispatch, is
counted and timed, and turns a refusal into a status."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from pegaref.errors import RegistryError
from pegaref.placement import Dispatch
from pegaref.serving.metrics import RequestCounters
from pegaref.serving.refusal import detail, grpc_status, trailers

logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # generic in their stubs only
    CallContext: TypeAlias = grpc.aio.ServicerContext[Any, Any]
    GenericHandler: TypeAlias = grpc.GenericRpcHandler[Any, Any]
else:
    CallContext = grpc.aio.ServicerContext
    GenericHandler = grpc.GenericRpcHandler

# The body of a unary method returns the response; a stream's writes to the context and returns None.
RpcBody = Callable[[Any, CallContext], Awaitable[Any]]


class Service:
    """One gRPC service, with a body for each method that is served.

    A stream's body is not dispatched, since it mostly waits. It dispatches its working parts itself.
    """

    def __init__(
        self,
        descriptor: ServiceDescriptor,
        bodies: Mapping[str, RpcBody],
        *,
        dispatch: Dispatch,
        requests: RequestCounters,
    ) -> None:
        self._dispatch = dispatch
        self._requests = requests
        handlers = {
            method.name: self._handler(method, bodies[method.name])
            for method in descriptor.methods
            if method.name in bodies
        }
        self.handler = grpc.method_handlers_generic_handler(descriptor.full_name, handlers)

    def _handler(self, method: MethodDescriptor, body: RpcBody) -> grpc.RpcMethodHandler[Any, Any]:
        make: Any = grpc.unary_stream_rpc_method_handler
        if not method.server_streaming:
            make, body = grpc.unary_unary_rpc_method_handler, self._dispatched(body)
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            self._counted(f"{method.containing_service.full_name}/{method.name}", body),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        return handler

    def _dispatched(self, body: RpcBody) -> RpcBody:
        run = self._dispatch.run
        return lambda request, context: run(lambda: body(request, context))

    def _counted(self, name: str, body: RpcBody) -> RpcBody:
        route = self._requests.route(name)

        async def answer(request: Any, context: CallContext) -> Any:
            began = route.begin()
            code = "UNKNOWN"  # gRPC's answer to any other exception
            try:
                response = await body(request, context)
                code = "OK"
                return response
            except RegistryError as error:
                code = error.code
                await refuse(context, error)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            finally:
                route.end(began, code)

        return answer


async def refuse(context: CallContext, error: RegistryError) -> NoReturn:
    """Ends the call with the refusal's status, detail and trailing metadata."""
    await context.abort(grpc_status(error), detail(error), trailers(error))


class Unimplemented(GenericHandler):
    """Answers UNIMPLEMENTED, with the method's name, to methods of a known service that are not served."""

    def __init__(self, service: str, methods: Collection[str]) -> None:
        self._service = service
        self._paths = {f"/{service}/{method}": method for method in methods}
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(self._refusal(method))
            for path, method in self._paths.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler for a method that is not served; None for any other method."""
        return self._handlers.get(handler_call_details.method)

    def _refusal(self, method: str) -> Any:
        async def answer(request: bytes, context: CallContext) -> bytes:
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED, f"{self._service}/{method} is not built in pegaref"
            )

        return answer
