"""A synchronous client of a server. Every call has a deadline."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from pegaref import __version__
from pegaref.client.tensors import Shared
from pegaref.errors import ClientError
from pegaref.wire import engine_pb2
from pegaref.wire.engine_pb2_grpc import EngineStub

DEADLINE_S = 10.0


class Client:
    """A connection to one server. Threads may share it.

    `token`, if any, is sent with every call; `credentials` (see grpc.ssl_channel_credentials) make it a TLS
    connection.
    """

    def __init__(
        self,
        address: str,
        *,
        deadline_s: float = DEADLINE_S,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        # Find a restarted server within a second; gRPC's default is two minutes.
        options = [("grpc.max_reconnect_backoff_ms", 1000)]
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=options)
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._stub = EngineStub(self._channel)
        self._deadline_s = deadline_s

    def register(
        self,
        instance_id: str,
        layers: Mapping[str, Shared],
        *,
        device_id: int = 0,
        tp_rank: int = 0,
        tp_size: int = 1,
        namespace: str = "",
        num_blocks: int = 1,
        deadline_s: float | None = None,
    ) -> None:
        """Register memory as an instance's layers, all or none. Raises ClientError."""
        request = engine_pb2.RegisterContextRequest(
            instance_id=instance_id,
            namespace=namespace,
            tp_rank=tp_rank,
            tp_size=tp_size,
            world_size=tp_size,
            device_id=device_id,
            layer_names=list(layers),
            wrapper_bytes=[tensor.wrapper for tensor in layers.values()],
            num_blocks=[num_blocks for _ in layers],
            bytes_per_block=[tensor.nbytes // num_blocks for tensor in layers.values()],
            kv_stride_bytes=[0 for _ in layers],
            segments=[1 for _ in layers],
            client_version=__version__,
        )
        self._call(self._stub.RegisterContextBatch, request, deadline_s)

    def unregister(self, instance_id: str, *, deadline_s: float | None = None) -> None:
        """Drop everything that an instance registered, on every device. Raises ClientError."""
        request = engine_pb2.UnregisterRequest(instance_id=instance_id)
        self._call(self._stub.UnregisterContext, request, deadline_s)

    def session(
        self, instance_id: str, *, namespace: str = "", tp_size: int = 1, deadline_s: float | None = None
    ) -> Session:
        """Open an instance's session; returns once the server has accepted it. Raises ClientError."""
        request = engine_pb2.SessionRequest(
            instance_id=instance_id, namespace=namespace, tp_size=tp_size, world_size=tp_size
        )
        session = Session(self._stub.Session(request, metadata=self._metadata))
        session.wait_open(self._deadline_s if deadline_s is None else deadline_s)
        return session

    def health(self, *, deadline_s: float | None = None) -> None:
        """Return if the server is alive; otherwise raise ClientError."""
        self._call(self._stub.Health, engine_pb2.HealthRequest(), deadline_s)

    def shut_down(self, *, deadline_s: float | None = None) -> None:
        """Ask the server to stop; returns before it has stopped. Raises ClientError."""
        self._call(self._stub.Shutdown, engine_pb2.ShutdownRequest(), deadline_s)

    def close(self) -> None:
        """Close the connection, which ends its sessions."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, deadline_s: float | None) -> None:
        timeout_s = self._deadline_s if deadline_s is None else deadline_s
        try:
            response = method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error) from None
        if not response.status.ok:
            raise ClientError("FAILED", response.status.message)


class Session:
    """An open session. It ends with its `with` block, `close`, this process, or when the server ends it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._opened = threading.Event()  # also set when the session failed to open
        self._ended = threading.Event()
        self._failure: ClientError | None = None
        threading.Thread(target=self._follow, name="pegaref-session", daemon=True).start()

    @property
    def failure(self) -> ClientError | None:
        """Why the server ended the session; None while it is open or if this side ended it."""
        return self._failure

    def wait_open(self, deadline_s: float) -> None:
        """Return once the server has accepted the session. Raises ClientError."""
        if not self._opened.wait(deadline_s):
            self.close()
            raise ClientError("DEADLINE_EXCEEDED", f"no session was opened within {deadline_s:g} s")
        if self._failure is not None:
            raise self._failure

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Wait until either side has ended the session; False if the time ran out first (None: no limit)."""
        return self._ended.wait(timeout_s)

    def close(self) -> None:
        """End the session. The server drops what was registered in it."""
        self._stream.cancel()
        self._ended.wait(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self) -> None:
        try:
            self._stream.initial_metadata()
            if self._stream.is_active():
                self._opened.set()
            for _ in self._stream:
                continue
        except grpc.RpcError as error:
            if self._stream.code() is not grpc.StatusCode.CANCELLED:
                self._failure = _failure(error)
        finally:
            self._ended.set()
            self._opened.set()


def _failure(error: grpc.RpcError) -> ClientError:
    # The exception that grpc raises is also the call, with its status.
    call: Any = error
    return ClientError(call.code().name, call.details() or "")
