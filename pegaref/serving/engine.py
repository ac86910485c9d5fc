"""PegaFlow's Engine service. RegisterContextBatch, UnregisterContext and the end of a Session are three of
the five places that call the registry. Shutdown touches no tensor."""

import logging
from collections.abc import Callable, Mapping
from typing import NoReturn, Protocol

from pegaref.config import ServerConfig
from pegaref.errors import Superseded
from pegaref.placement import Dispatch
from pegaref.registry import RegistryHandle
from pegaref.serving.access import Access, Caller
from pegaref.serving.refusal import VersionRefused
from pegaref.serving.requests import check_name, register_command
from pegaref.serving.rpc import CallContext, RpcBody
from pegaref.serving.sessions import OpenSession, Sessions
from pegaref.wire import engine_pb2

logger = logging.getLogger(__name__)

SERVICE = engine_pb2.DESCRIPTOR.services_by_name["Engine"]

# Methods of the real service that are not served; see engine.proto. The last four are gone since 0.25.
UNIMPLEMENTED = (
    "Save",
    "Load",
    "QueryPrefetch",
    "Release",
    "QueryBlocksForTransfer",
    "ReleaseTransferLock",
    "RdmaHandshake",
    "LoadPdReceive",
    "Unpin",
    "PreparePdReceive",
    "GetPdReceiveDescriptor",
)

_OK = engine_pb2.ResponseStatus(ok=True)


class Peer(Protocol):
    """Where a call comes from."""

    host: str  # '' where it has none
    address: str  # with its port


class Engine:
    """The methods of the service. `client` says whose call it is, by grpc's name for its peer: None when the
    client has gone. `shut_down` is told who asked, and returns at once."""

    def __init__(
        self,
        config: ServerConfig,
        handle: RegistryHandle,
        sessions: Sessions,
        access: Access,
        dispatch: Dispatch,
        client: Callable[[str], Peer | None],
        shut_down: Callable[[str], None],
    ) -> None:
        self._config = config
        self._handle = handle
        self._sessions = sessions
        self._access = access
        self._dispatch = dispatch
        self._client = client
        self._shut_down = shut_down

    @property
    def bodies(self) -> Mapping[str, RpcBody]:
        """The methods by name, for `Service`."""
        return {
            "RegisterContextBatch": self.register_context_batch,
            "UnregisterContext": self.unregister_context,
            "Session": self.session,
            "Shutdown": self.shutdown,
            "Health": self.health,
        }

    async def register_context_batch(
        self, request: engine_pb2.RegisterContextRequest, context: CallContext
    ) -> engine_pb2.RegisterContextResponse:
        """Maps all layers of one context or none. Raises RegistryError."""
        self._access.check_client(self._caller(context))
        if not self._config.accepts(request.client_version):
            accepted = ", ".join(self._config.client_versions)
            raise VersionRefused(
                # PegaFlow's connector looks for the first three words.
                f"PegaFlow version mismatch: {request.client_version!r} is not accepted here; "
                f"accepted: {accepted}",
                field="client_version",
            )
        instance_id = request.instance_id
        generation = self._sessions.generation_of(instance_id)
        command = register_command(request, generation=generation, device_ids=self._config.device_ids)
        registered = await self._handle.register(command, deadline_s=self._deadline_s(context))
        if not self._sessions.add_registered(instance_id, generation):
            await self._handle.drop_context(command.key, deadline_s=self._deadline_s(context))
            raise Superseded("the instance's session ended meanwhile: the register was undone")
        logger.info(
            "instance %s, generation %d, device %d: registered %d tensors of %d bytes",
            instance_id, generation, request.device_id, registered.tensors, registered.bytes,
        )  # fmt: skip
        return engine_pb2.RegisterContextResponse(status=_OK)

    async def unregister_context(
        self, request: engine_pb2.UnregisterRequest, context: CallContext
    ) -> engine_pb2.UnregisterResponse:
        """Drops every generation of an instance on every device. Raises RegistryError."""
        self._access.check_client(self._caller(context))
        check_name(request.instance_id, "instance_id")
        self._sessions.clear_sessionless(request.instance_id)
        dropped = await self._handle.drop_instance(
            request.instance_id, generation=None, deadline_s=self._deadline_s(context)
        )
        logger.info("instance %s: unregistered, released %d tensors", request.instance_id, dropped.tensors)
        message = f"released {dropped.tensors} tensors of {dropped.contexts} contexts"
        status = engine_pb2.ResponseStatus(
            ok=True, message=f"{message}; {dropped.note}" if dropped.note else message
        )
        return engine_pb2.UnregisterResponse(status=status)

    async def session(self, request: engine_pb2.SessionRequest, context: CallContext) -> NoReturn:
        """Holds an instance's session while the stream lives. Waiting occupies no worker.

        The initial metadata tells the client that the session is open. Raises SessionEnded, RegistryError.
        """
        self._access.check_client(self._caller(context))
        check_name(request.instance_id, "instance_id")
        check_name(request.namespace, "namespace", may_be_empty=True)
        session: OpenSession | None = None
        here = True

        async def open_session() -> None:
            nonlocal session
            if here:  # a body that had to wait for a worker may start after its stream has ended
                session = self._sessions.open(request.instance_id, request.namespace)

        try:
            await self._dispatch.run(open_session)
            assert session is not None
            await context.send_initial_metadata(())
            raise await session.ended
        finally:
            here = False
            if session is not None:
                self._sessions.close(session)

    async def shutdown(
        self, request: engine_pb2.ShutdownRequest, context: CallContext
    ) -> engine_pb2.ShutdownResponse:
        """Begins to stop the server, and answers first. Raises Unauthenticated, Forbidden."""
        self._access.check(self._caller(context))
        client = self._client(context.peer())
        self._shut_down(f"Shutdown from {'a client that has gone' if client is None else client.address}")
        return engine_pb2.ShutdownResponse(status=_OK)

    async def health(
        self, request: engine_pb2.HealthRequest, context: CallContext
    ) -> engine_pb2.HealthResponse:
        """Liveness: any answer means that the control process runs."""
        return engine_pb2.HealthResponse(status=_OK)

    def _caller(self, context: CallContext) -> Caller:
        metadata = dict(context.invocation_metadata() or ())
        authorization = metadata.get("authorization")
        client = self._client(context.peer())
        return Caller(
            host="" if client is None else client.host,
            authorization=authorization if isinstance(authorization, str) else None,
            certified=self._config.mutual_tls,  # gRPC admits no one else then
        )

    def _deadline_s(self, context: CallContext) -> float:
        remaining = context.time_remaining()
        most = self._config.limits.deadline_s
        return most if remaining is None else max(0.0, min(remaining, most))
