"""One server: the registry behind its handle, the endpoints in front of it, and a shutdown of bounded length.

Everything here runs in the control process, on one event loop, and nothing imports torch.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
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
    Connections,
    DirectAnswers,
    Endpoints,
    Engine,
    GenericHandler,
    Health,
    HealthService,
    HttpServer,
    Metrics,
    Reserve,
    Service,
    Sessions,
    Turns,
    Unimplemented,
    bind_grpc,
    bound_address,
    check_free,
    connections_within,
    explain,
    grpc_credentials,
    http_context,
    make_grpc_server,
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

    def __init__(self, config: ServerConfig, placement: Placement, clock: LoopClock) -> None:
        self._config = config
        self._stop = asyncio.Event()
        self._placement = placement
        self.line = ""  # the line that announces it, set once it listens
        self.handle = RegistryHandle(config.device_ids, placement, settings=config.registry, clock=clock)
        self.health = Health(self.handle.snapshot, clock)
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
        self.handle.on_lost = self.sessions.end_lost

    def shut_down(self, reason: str) -> None:
        """Begin to stop, and return at once."""
        if not self._stop.is_set():
            logger.info("shutting down: %s", reason)
            self._stop.set()

    async def wait_stopped(self) -> None:
        """Wait until a shutdown is requested; meanwhile measure the loop's lag and sweep connections."""
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
            self.connections.make_room(self.reserve.refill())
            due = loop.time() + _TICK_S

    def http_app(self) -> ASGIApp:
        """The ASGI application."""
        return self.endpoints.app(self._placement.dispatch)

    def grpc_handlers(self) -> Sequence[GenericHandler]:
        """The services, each handler counted and dispatched."""
        dispatch, requests = self._placement.dispatch, self.metrics.rpc
        bodies = Engine(
            self._config, self.handle, self.sessions, self.access, dispatch, self.shut_down
        ).bodies
        service = Service(ENGINE_SERVICE, bodies, dispatch=dispatch, requests=requests)
        probes = HealthService(self.health).bodies
        health = Service(HEALTH_SERVICE, probes, dispatch=dispatch, requests=requests)
        return (service.handler, health.handler, Unimplemented(ENGINE_SERVICE.full_name, UNIMPLEMENTED))

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
    connections = connections_within(raise_limit(), config.limits.connections)
    config = replace(config, limits=replace(config.limits, connections=connections))
    async with contextlib.AsyncExitStack() as life:
        http_tls = None if config.tls is None else http_context(config.tls)
        grpc_tls = None if config.tls is None else grpc_credentials(config.tls)
        http_socket = life.enter_context(open_socket(config.http, "--http-addr"))
        check_free(config.grpc, "--addr")
        placement = open_placement(config.placement, device_type=config.device_type, workers=config.workers)
        life.callback(placement.close)
        server = Server(config, placement, LoopClock(asyncio.get_running_loop()))
        life.callback(server.reserve.close)

        grpc_server = make_grpc_server(server.grpc_handlers(), config.limits)
        life.push_async_callback(grpc_server.stop, _GRPC_GRACE_S)
        reflection.enable_server_reflection(_REFLECTED, grpc_server)
        grpc_address = bind_grpc(grpc_server, config.grpc, "--addr", grpc_tls)

        # The contexts end in reverse order: readiness, the sessions, the actors, and only then the listeners,
        # so that probes are answered until the end.
        http_server = HttpServer(
            server.http_app(), server.connections, http_tls, config.limits, server.reserve.check
        )
        await life.enter_async_context(http_server.serving(http_socket))
        life.push_async_callback(server.end)
        await server.handle.start()
        await grpc_server.start()

        server.line = _listening_line(
            config, placement.device_type, bound_address(http_socket, config.http), grpc_address
        )
        if warning := explain(config):
            logger.warning("%s", warning)
        yield server


async def serve(config: ServerConfig, announce: Announce) -> None:
    """Run a server until SIGTERM, SIGINT or the Shutdown RPC. Raises as `listening` does.

    `announce` gets the line that says where the server listens, once signals can stop it.
    """
    loop = asyncio.get_running_loop()
    async with listening(config) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.shut_down, number.name)
        announce(server.line)
        await server.wait_stopped()
        # In C, so that it works whatever hangs, even under a held GIL.
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
