"""`grpc.health.v1` over the server's own health: Check, List and Watch."""

from collections.abc import Mapping

from grpc_health.v1 import health_pb2

from pegaref.serving.health import LIVENESS_SERVICES, READINESS_SERVICES, SERVICE_UNKNOWN, Health
from pegaref.serving.refusal import NotFound
from pegaref.serving.rpc import Body, Context

DESCRIPTOR = health_pb2.DESCRIPTOR.services_by_name["Health"]


class HealthService:
    """The bodies of the service's methods."""

    def __init__(self, health: Health) -> None:
        self._health = health

    @property
    def bodies(self) -> Mapping[str, Body]:
        """What `Service` wraps."""
        return {"Check": self.check, "List": self.list, "Watch": self.watch}

    async def check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service. Raises NotFound."""
        status = self._health.status(request.service)
        if status is None:
            known = ", ".join(sorted(repr(name) for name in LIVENESS_SERVICES | READINESS_SERVICES))
            raise NotFound(f"no service {request.service!r} here; known: {known}", field="service")
        return health_pb2.HealthCheckResponse(status=status)

    async def list(
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """The status of every service."""
        names = LIVENESS_SERVICES | READINESS_SERVICES
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=self._health.status(name))
                for name in sorted(names)
            }
        )

    async def watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Writes the status now and at each change, for as long as the client listens.

        An unknown name is SERVICE_UNKNOWN here and not an error: the protocol has it so, since the service
        may come later.
        """
        async for status in self._health.watch(request.service):
            known = SERVICE_UNKNOWN if status is None else status
            await context.write(health_pb2.HealthCheckResponse(status=known))
