"""One server: the registry behind its handle, the endpoints in front of it, and a shutdown of bounded length.

Everything here runs in the control process, on one event loop, and nothing imports torch.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from grpc_reflection.v1alpha import reflection
from starlette.types import ASGIApp

from pegaref import log
from pegaref.clock import LoopClock
from pegaref.config import Address, ServerConfig
from pegaref.messages import Dropped
from pegaref.placement import Placement, open_placement
from pegaref.registry import RegistryHandle
from pegaref.serving import (
    ENGINE_SERVICE,
    HEALTH_SERVICE,
    UNIMPLEMENTED,
    Access,
    CallServer,
    Connections,
    DirectAnswers,
    Endpoints,
    Engine,
    Health,
    HealthService,
    HttpServer,
    Metrics,
    Parts,
    Relay,
    Reserve,
    Service,
    Sessions,
    Turns,
    bound_address,
    connections_within,
    explain,
    grpc_context,
    http_context,
    open_socket,
    raise_limit,
)

logger = logging.getLogger(__name__)

# how often the loop's lag is measured, connections are swept and the descriptor reserve is refilled
_TICK_S = 0.25
_STOP_WITHIN_S = 9.5  # after this the process is ended as it is
_GRPC_GRACE_S = 1.0  # for answers in progress, once no call waits for an actor
_REFLECTED = (ENGINE_SERVICE.full_name, HEALTH_SERVICE.full_name, reflection.SERVICE_NAME)

Announce = Callable[[str], None]


class Server:
    """The parts of one server. `listening` starts it and `shut_down` begins to stop it."""

    def __init__(
        self,
        config: ServerConfig,
        placement: Placement,
        clock: LoopClock,
        grpc_connections: int,
        grpc_descriptors: int,
    ) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._placement = placement
        self.line = ""  # the line that announces it, set once it listens
        self.handle = RegistryHandle(config.device_ids, placement, settings=config.registry, clock=clock)
        self.parts = Parts()
        self.health = Health(self.handle.snapshot, clock, self.parts.lost)
        self.sessions = Sessions(self._drop, most=config.limits.sessions)
        self.metrics = Metrics(self.handle.devices, lambda: len(self.sessions), log.lost_lines)
        turns = Turns()
        answers = DirectAnswers(placement.dispatch, self.metrics)
        self.connections = Connections(config.limits, clock, answers, self.metrics.http.route("other"), turns)
        self.access = Access(config)
        self.endpoints = Endpoints(
            config, self.handle, self.sessions, self.health, self.metrics, self.access, turns
        )
        self.reserve = Reserve()
        self.relay = Relay(
            config.limits,
            grpc_connections,
            grpc_descriptors,
            clock,
            self.metrics.relay,
            self.reserve,
        )
        self.http: HttpServer | None = None
        self.handle.on_lost = self.sessions.end_lost

    def shut_down(self, reason: str) -> None:
        """Begin to stop, and return at once."""
        if not self._stop.is_set():
            logger.info("shutting down: %s", reason)
            self._stop.set()

    async def wait_stopped(self) -> None:
        """Return once the end has been asked for; measure the loop's lag and sweep connections meanwhile.

        Raises PartLost.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + _TICK_S
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._stop.wait()
            lag = max(0.0, loop.time() - due)
            self.metrics.loop_lag_s = lag
            self.metrics.loop_lag_most_s = max(lag, self.metrics.loop_lag_most_s)
            self.connections.sweep()
            self.relay.sweep()
            wanting = self.reserve.refill()
            self.connections.make_room(wanting)
            self.relay.make_room(wanting)
            self.parts.check()
            due = loop.time() + _TICK_S

    def http_app(self) -> ASGIApp:
        """The ASGI application."""
        return self.endpoints.app(self._placement.dispatch)

    def call_server(self) -> CallServer:
        """What takes up gRPC calls: the services, each handler counted and dispatched."""
        dispatch, requests = self._placement.dispatch, self.metrics.rpc
        engine = Engine(
            self._config,
            self.handle,
            self.sessions,
            self.access,
            dispatch,
            self.relay.client,
            self.shut_down,
        )
        calls = CallServer(self._config.limits, self.relay)
        for descriptor, bodies, unbuilt in (
            (ENGINE_SERVICE, engine.bodies, UNIMPLEMENTED),
            (HEALTH_SERVICE, HealthService(self.health).bodies, ()),
        ):
            calls.add(
                Service(
                    descriptor,
                    bodies,
                    dispatch=dispatch,
                    requests=requests,
                    admission=self.relay,
                    unbuilt=unbuilt,
                )
            )
        reflection.enable_server_reflection(_REFLECTED, calls)  # type: ignore[arg-type]  # as good as one
        return calls

    def watch(self, calls: CallServer) -> None:
        """Watch the parts that the server lives on, now that they live."""
        http = self.http
        assert http is not None
        self.parts.watch("HTTP listener", lambda: http.is_accepting)
        self.parts.watch("gRPC listener", lambda: self.relay.is_accepting)
        self.parts.watch("task that takes up gRPC calls", lambda: calls.is_taking_up_calls)

    async def end(self) -> None:
        """End readiness first, then the sessions, then the actors. Every call that waits is answered."""
        self.health.stop()
        await self.sessions.end_all()
        await self.handle.close(grace_s=self._config.shutdown_grace_s)

    async def _drop(self, instance_id: str, generation: int) -> Dropped:
        return await self._placement.dispatch.run(
            lambda: self.handle.drop_instance(
                instance_id, generation=generation, deadline_s=self._config.limits.cleanup_timeout_s
            )
        )


@contextlib.asynccontextmanager
async def listening(config: ServerConfig) -> AsyncIterator[Server]:
    """A server that listens inside the block and is gone after it, wedged or not.

    Raises ConfigError and RegistryError (TorchMissing) before anything listens.
    """
    grpc_connections = config.limits.connections
    http_connections, grpc_descriptors = connections_within(raise_limit(), grpc_connections)
    config = replace(config, limits=replace(config.limits, connections=http_connections))
    async with contextlib.AsyncExitStack() as life:
        http_tls = None if config.tls is None else http_context(config.tls)
        grpc_tls = None if config.tls is None else grpc_context(config.tls)
        http_socket = life.enter_context(open_socket(config.http, "--http-addr"))
        grpc_socket = life.enter_context(open_socket(config.grpc, "--addr"))
        placement = open_placement(config.placement, device_type=config.device_type, workers=config.workers)
        life.callback(placement.close)
        clock = LoopClock(asyncio.get_running_loop())
        server = Server(config, placement, clock, grpc_connections, grpc_descriptors)
        life.callback(server.reserve.close)

        calls = server.call_server()
        life.enter_context(server.relay.behind(calls.add_insecure_port))
        # What is entered last ends first: readiness, the sessions, the actors, and only then the listeners,
        # so that the probes tell what happens until the end.
        await life.enter_async_context(server.relay.serving(grpc_socket, grpc_tls))
        life.push_async_callback(calls.stop, _GRPC_GRACE_S)
        life.callback(server.relay.close_spares)
        server.http = HttpServer(
            server.http_app(), server.connections, http_tls, config.limits, server.reserve.check
        )
        await life.enter_async_context(server.http.serving(http_socket))
        life.push_async_callback(server.end)
        await server.handle.start()
        await calls.start()
        server.watch(calls)

        server.line = _listening_line(
            config,
            placement.device_type,
            bound_address(http_socket, config.http),
            bound_address(grpc_socket, config.grpc),
        )
        if warning := explain(config):
            logger.warning("%s", warning)
        yield server


async def serve(config: ServerConfig, announce: Announce) -> None:
    """Run a server until SIGTERM, SIGINT or the Shutdown RPC. Raises as `listening` does, and PartLost.

    `announce` gets the line that says where the server listens, once signals can stop it.
    """
    loop = asyncio.get_running_loop()
    async with listening(config) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.shut_down, number.name)
        announce(server.line)
        try:
            await server.wait_stopped()
        finally:
            # From C, so that it happens whatever hangs, a held GIL included.
            faulthandler.dump_traceback_later(_STOP_WITHIN_S, exit=True)
    logger.info("stopped")


def run(config: ServerConfig, announce: Announce) -> None:
    """Run a server until it stops, in a new event loop (uvloop's if it is installed)."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        from uvloop import new_event_loop

        loop_factory = new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(config, announce))


def _listening_line(config: ServerConfig, device_type: str, http: Address, grpc_address: Address) -> str:
    devices = ",".join(str(device_id) for device_id in config.device_ids)
    types = ",".join(device_type for _ in config.device_ids)
    return (
        f"pegaref listening http={http} grpc={grpc_address} pid={os.getpid()} "
        f"placement={config.placement} devices={devices} device_types={types}"
    )
