"""The HTTP endpoints. Two of the registry's five call sites are here: the clean-ups.

Every body runs through the placement's dispatch and gives a response back; sending it is the loop's work.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pegaref.config import ServerConfig
from pegaref.errors import CleanupPending, RegistryError
from pegaref.placement import Dispatch
from pegaref.registry.handle import RegistryHandle
from pegaref.serving.access import Access, Caller
from pegaref.serving.answers import accepted, json_response, outcomes, released
from pegaref.serving.health import Health
from pegaref.serving.liveness import Liveness
from pegaref.serving.metrics import CONTENT_TYPE, Metrics
from pegaref.serving.refusal import NotFound, as_json, http_headers, http_status
from pegaref.serving.requests import check_name, only_parameters, timeout_s
from pegaref.serving.sessions import Sessions

log = logging.getLogger(__name__)

Body = Callable[[Request], Awaitable[Response]]

_AT_ONCE_S = 0.001


class Endpoints:
    """The bodies of the routes."""

    def __init__(
        self,
        config: ServerConfig,
        handle: RegistryHandle,
        sessions: Sessions,
        health: Health,
        metrics: Metrics,
        access: Access,
    ) -> None:
        self._config = config
        self._handle = handle
        self._sessions = sessions
        self._health = health
        self._metrics = metrics
        self._access = access
        self._waits = 0

    def app(self, dispatch: Dispatch) -> ASGIApp:
        """The application. Liveness is answered before any routing: it is asked most, and must cost least."""
        table: tuple[tuple[str, str, Body], ...] = (
            ("GET", "/ready", self.ready),
            ("GET", "/readyz", self.ready),
            ("GET", "/metrics", self.exposition),
            ("GET", "/instances", self.instances),
            ("POST", "/instances/cleanup", self.cleanup_instances),
            ("POST", "/cache/memory/cleanup", self.cleanup_memory),
            ("GET", "/operations/{operation_id}", self.operation),
        )
        routes = [
            Route(path, self._endpoint(path, body, dispatch), methods=[method])
            for method, path, body in table
        ]
        inner = Starlette(routes=routes, exception_handlers={HTTPException: self._unrouted})
        return Liveness(inner, dispatch, self._metrics)

    async def ready(self, request: Request) -> Response:
        """200 when every device takes work; else 503, with the reason for each device that does not.

        Tracebacks are for callers on this machine, and those that may change things; the log has them too.
        """
        report = self._health.report(tracebacks=self._access.trusts(_caller(request)))
        return json_response(200 if report["ready"] else 503, report)

    async def exposition(self, request: Request) -> Response:
        """Prometheus text, from memory."""
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)

    async def instances(self, request: Request) -> Response:
        """Who holds what, as the control process knows it."""
        contexts = self._handle.contexts()
        return json_response(
            200,
            {
                "instances": sorted({context.key.instance_id for context in contexts}),
                "contexts": [
                    {
                        "instance": context.key.instance_id,
                        "generation": context.key.generation,
                        "tp_rank": context.key.tp_rank,
                        "pp_rank": context.key.pp_rank,
                        "device": context.key.device_id,
                        "tensors": context.tensors,
                        "bytes": context.bytes,
                        "settled": context.settled,
                    }
                    for context in contexts
                ],
                "sessions": len(self._sessions),
            },
        )

    async def cleanup_instances(self, request: Request) -> Response:
        """Drops one instance (`?id=`), or all, on every device. An instance that is not there is a 404."""
        deadline_s = self._admit(request, "id", "timeout")
        instance_id = request.query_params.get("id")
        if instance_id is None:
            return await self._clear(deadline_s)
        check_name(instance_id, "id")
        self._sessions.forget_loose(instance_id)
        with self._waiting(deadline_s) as within_s:
            dropped = await self._handle.drop_instance(instance_id, generation=None, deadline_s=within_s)
        if not dropped.contexts:
            raise NotFound(f"there is no instance {instance_id!r}: nothing was released", field="id")
        log.info("instance %s: cleaned up, released %d tensors", instance_id, dropped.tensors)
        return json_response(200, released(dropped))

    async def cleanup_memory(self, request: Request) -> Response:
        """Releases everything: the registry's tensors are all the memory that this server keeps."""
        return await self._clear(self._admit(request, "timeout"))

    async def operation(self, request: Request) -> Response:
        """The outcome, so far, of a clean-up that was answered with 202."""
        operation_id = request.path_params["operation_id"]
        operation = self._handle.operation(operation_id)
        if operation is None:
            raise NotFound(f"no operation {operation_id!r}: it never was, or finished long ago")
        return json_response(
            200,
            {"operation": operation_id, "target": operation.target, "done": operation.done}
            | outcomes(operation.devices),
        )

    def _admit(self, request: Request, *parameters: str) -> float:
        """Checks who asks and with which parameters; returns the seconds that the clean-up may take."""
        self._access.check(_caller(request))
        only_parameters(request.query_params, parameters)
        limits = self._config.limits
        return timeout_s(
            request.query_params.get("timeout"), default_s=limits.cleanup_timeout_s, most_s=limits.deadline_s
        )

    async def _clear(self, deadline_s: float) -> Response:
        self._sessions.forget_loose(None)
        with self._waiting(deadline_s) as within_s:
            devices = await self._handle.clear(deadline_s=within_s)
        pending = [outcome for outcome in devices.values() if isinstance(outcome, CleanupPending)]
        failed = [outcome for outcome in devices.values() if isinstance(outcome, RegistryError)]
        body = outcomes(devices)
        log.info("cleaned up everything: released %d tensors", body["removed_tensors"])
        if pending:
            return accepted(pending[0], body)
        return json_response(http_status(failed[0]) if failed else 200, body)

    @contextlib.contextmanager
    def _waiting(self, deadline_s: float) -> Iterator[float]:
        """How long a clean-up may wait. Not at all, and its caller gets a 202, once half of all connections
        are held by those that wait: the other half is the probes'."""
        self._waits += 1
        try:
            yield deadline_s if self._waits <= max(1, self._config.limits.connections // 2) else _AT_ONCE_S
        finally:
            self._waits -= 1

    def _endpoint(self, path: str, body: Body, dispatch: Dispatch) -> Body:
        route = self._metrics.http.route(path)

        async def answer(request: Request) -> Response:
            began = route.begin()
            status = 500
            try:
                response = await dispatch.run(lambda: body(request))
                status = response.status_code
            except CleanupPending as pending:
                response = accepted(pending, {})
                status = response.status_code
            except RegistryError as error:
                response = json_response(http_status(error), as_json(error), http_headers(error))
                status = response.status_code
            finally:
                route.end(began, str(status))
            return response

        return answer

    async def _unrouted(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        route = self._metrics.http.route("other")
        route.end(route.begin(), str(error.status_code))
        return json_response(error.status_code, {"error": error.detail}, error.headers)


def _caller(request: Request) -> Caller:
    client = request.client
    return Caller(
        host="" if client is None else client.host,
        authorization=request.headers.get("authorization"),
        certified=bool(request.scope.get("state", {}).get("certified")),
        origin=request.headers.get("origin"),
    )
