"""The HTTP endpoints but for liveness and the metrics. Two of the registry's five call sites are here: the
cleanups.

Every body runs through the placement's dispatch and returns a response, which the event loop sends.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pegaref.config import ServerConfig
from pegaref.errors import CleanupPending, RegistryError
from pegaref.messages import Dropped
from pegaref.placement import Dispatch
from pegaref.registry import RegistryHandle
from pegaref.serving.access import Access, Caller
from pegaref.serving.health import Health
from pegaref.serving.metrics import Metrics
from pegaref.serving.refusal import NotFound, as_json, http_headers, http_status
from pegaref.serving.requests import (
    check_name,
    context_cursor,
    context_key,
    only_parameters,
    page_limit,
    timeout_s,
)
from pegaref.serving.sessions import Sessions
from pegaref.serving.turns import Turns

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

CleanupOutcome = Dropped | RegistryError | None  # of one device; None while it is still to come

_AT_ONCE_S = 0.001
# What one answer has at most: it is made on the event loop, and a client that does not read it has the
# server keep it.
PAGE_CONTEXTS: Final = 1000
_PAGE_CHARACTERS: Final = 32 * 1024  # of names


class Endpoints:
    """The routes. Each endpoint runs through the placement's dispatch."""

    def __init__(
        self,
        config: ServerConfig,
        handle: RegistryHandle,
        sessions: Sessions,
        health: Health,
        metrics: Metrics,
        access: Access,
        turns: Turns,
    ) -> None:
        self._config = config
        self._handle = handle
        self._sessions = sessions
        self._health = health
        self._metrics = metrics
        self._access = access
        self._turns = turns
        self._waits = 0

    def app(self, dispatch: Dispatch) -> ASGIApp:
        """The ASGI application."""
        table: tuple[tuple[str, str, Endpoint], ...] = (
            ("GET", "/ready", self.ready),
            ("GET", "/readyz", self.ready),
            ("GET", "/startupz", self.startup),
            ("GET", "/instances", self.instances),
            ("POST", "/instances/cleanup", self.cleanup_instances),
            ("POST", "/cache/memory/cleanup", self.cleanup_memory),
            ("GET", "/operations/{operation_id}", self.operation),
        )
        routes = [
            Route(path, self._dispatched(path, endpoint, dispatch), methods=[method])
            for method, path, endpoint in table
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._unrouted})

    async def ready(self, request: Request) -> Response:
        """200 if every device takes commands, else 503 with the reason for each device that does not.

        Only callers on this machine or with credentials see tracebacks; the log has them too.
        """
        report = self._health.report(tracebacks=self._access.trusts(_caller(request)))
        return _json_response(200 if report["ready"] else 503, report)

    async def startup(self, request: Request) -> Response:
        """503 until every device has been ready once, with what each waits for; 200 from then on."""
        report = self._health.startup_report()
        return _json_response(200 if report["started"] else 503, report)

    async def instances(self, request: Request) -> Response:
        """A page of the contexts, as the control process knows them, and the instances that they are of.

        `?limit=` contexts at most (PAGE_CONTEXTS by default, and never more), those after `?after=`; what
        an answer has as `next` is the `after` of the next page, and null on the last one.
        """
        query = request.query_params
        only_parameters(query, ("limit", "after"))
        limit = page_limit(query.get("limit"), most=PAGE_CONTEXTS)
        after = None if (cursor := query.get("after")) is None else context_key(cursor)
        names: dict[str, None] = {}
        rows: list[dict[str, Any]] = []
        weight, last, following = 0, None, None
        for context in self._handle.contexts(after):
            if len(rows) == limit or weight > _PAGE_CHARACTERS:
                following = last
                break
            last = key = context.key
            names[key.instance_id] = None
            weight += len(key.instance_id)
            rows.append(
                {
                    "instance": key.instance_id,
                    "generation": key.generation,
                    "tp_rank": key.tp_rank,
                    "pp_rank": key.pp_rank,
                    "device": key.device_id,
                    "tensors": context.tensors,
                    "bytes": context.bytes,
                    "settled": context.settled,
                }
            )
        body = {
            "instances": list(names),
            "contexts": rows,
            "sessions": len(self._sessions),
            "total_contexts": self._handle.context_count,
            "next": None if following is None else context_cursor(following),
        }
        return _json_response(200, body)

    async def cleanup_instances(self, request: Request) -> Response:
        """Drops one instance (`?id=`) or all instances, on every device. 404 if there is no such instance."""
        deadline_s = self._admit(request, "id", "timeout")
        instance_id = request.query_params.get("id")
        if instance_id is None:
            return await self._clear(deadline_s)
        check_name(instance_id, "id")
        self._sessions.clear_sessionless(instance_id)
        with self._waiting(deadline_s) as within_s:
            dropped = await self._handle.drop_instance(instance_id, generation=None, deadline_s=within_s)
        if not dropped.contexts:
            raise NotFound(f"there is no instance {instance_id!r}: nothing was released", field="id")
        logger.info("instance %s: cleaned up, released %d tensors", instance_id, dropped.tensors)
        return _json_response(200, _released(dropped))

    async def cleanup_memory(self, request: Request) -> Response:
        """Releases everything; the server keeps no memory but the registry's tensors."""
        return await self._clear(self._admit(request, "timeout"))

    async def operation(self, request: Request) -> Response:
        """The outcome so far of a cleanup that was answered with 202."""
        operation_id = request.path_params["operation_id"]
        operation = self._handle.operation(operation_id)
        if operation is None:
            raise NotFound(f"no operation {operation_id!r}: it never was, or finished long ago")
        return _json_response(
            200,
            {"operation": operation_id, "target": operation.target, "done": operation.done}
            | _outcomes(operation.devices),
        )

    def _admit(self, request: Request, *parameters: str) -> float:
        """Checks the caller and the parameters; returns the seconds that the cleanup may take."""
        self._access.check(_caller(request))
        only_parameters(request.query_params, parameters)
        limits = self._config.limits
        return timeout_s(
            request.query_params.get("timeout"), default_s=limits.cleanup_timeout_s, most_s=limits.deadline_s
        )

    async def _clear(self, deadline_s: float) -> Response:
        self._sessions.clear_sessionless(None)
        with self._waiting(deadline_s) as within_s:
            devices = await self._handle.clear(deadline_s=within_s)
        pending = [outcome for outcome in devices.values() if isinstance(outcome, CleanupPending)]
        failed = [outcome for outcome in devices.values() if isinstance(outcome, RegistryError)]
        body = _outcomes(devices)
        logger.info("cleaned up everything: released %d tensors", body["removed_tensors"])
        if pending:
            return _accepted(pending[0], body)
        return _json_response(http_status(failed[0]) if failed else 200, body)

    @contextlib.contextmanager
    def _waiting(self, deadline_s: float) -> Iterator[float]:
        """How long a cleanup may wait, in seconds. Once waiting cleanups hold half of all connections it is
        0, and the caller gets a 202 at once: the other half is for probes."""
        self._waits += 1
        try:
            yield deadline_s if self._waits <= max(1, self._config.limits.connections // 2) else _AT_ONCE_S
        finally:
            self._waits -= 1

    def _dispatched(self, path: str, endpoint: Endpoint, dispatch: Dispatch) -> Endpoint:
        route = self._metrics.http.route(path)
        is_probe = path in ("/ready", "/readyz")

        async def answer(request: Request) -> Response:
            began = route.begin()
            status = 500
            try:
                if not is_probe:
                    await self._turns.wait_slow()
                response = await dispatch.run(lambda: endpoint(request))
                status = response.status_code
            except CleanupPending as pending:
                response = _accepted(pending, {})
                status = response.status_code
            except RegistryError as error:
                response = _json_response(http_status(error), as_json(error), http_headers(error))
                status = response.status_code
            finally:
                route.end(began, str(status))
            return response

        return answer

    async def _unrouted(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        route = self._metrics.http.route("other")
        route.end(route.begin(), str(error.status_code))
        return _json_response(error.status_code, {"error": error.detail}, error.headers)


def _caller(request: Request) -> Caller:
    client = request.client
    return Caller(
        host="" if client is None else client.host,
        authorization=request.headers.get("authorization"),
        certified=bool(request.scope.get("state", {}).get("certified")),
        origin=request.headers.get("origin"),
    )


def _json_response(
    status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """One JSON value and a newline."""
    return Response(
        msgspec.json.encode(body) + b"\n", status_code=status, headers=headers, media_type="application/json"
    )


def _released(*parts: Dropped) -> dict[str, Any]:
    """What a cleanup released, on all devices that are given; the first two keys are those of PegaFlow.

    Not more than a page of names is told; `removed_instances_cut` says that there are others.
    """
    names: set[str] = set()
    weight, cut = 0, False
    for name in (name for part in parts for name in part.instances):
        if name in names:
            continue
        if cut := len(names) == PAGE_CONTEXTS or weight > _PAGE_CHARACTERS:
            break
        names.add(name)
        weight += len(name)
    body: dict[str, Any] = {
        "removed_instances": sorted(names),
        "removed_tensors": sum(part.tensors for part in parts),
        "removed_contexts": sum(part.contexts for part in parts),
        "removed_bytes": sum(part.bytes for part in parts),
    }
    if cut:
        body["removed_instances_cut"] = True
    if note := "; ".join(part.note for part in parts if part.note):
        body["note"] = note
    return body


def _outcomes(devices: Mapping[int, CleanupOutcome]) -> dict[str, Any]:
    """What has been released so far in all, and how it stands on each device."""
    return _released(*(outcome for outcome in devices.values() if isinstance(outcome, Dropped))) | {
        "devices": {str(device_id): _outcome_json(devices[device_id]) for device_id in devices}
    }


def _outcome_json(outcome: CleanupOutcome) -> dict[str, Any]:
    if outcome is None or isinstance(outcome, CleanupPending):
        return {"state": "pending"}
    if isinstance(outcome, RegistryError):
        return {"state": "failed"} | as_json(outcome)
    return {"state": "done"} | _released(outcome)


def _accepted(pending: CleanupPending, body: Mapping[str, Any]) -> Response:
    """A 202: the cleanup is queued and will be carried out. Names the URL that tells its outcome."""
    where = f"/operations/{pending.operation_id}"
    content = {"operation": pending.operation_id, "outcome": where, "message": pending.message} | dict(body)
    return _json_response(202, content, {"location": where})
