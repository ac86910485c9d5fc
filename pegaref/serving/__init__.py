"""The endpoints of the control process. Nothing here can block: work goes to the registry's handle, and
health and metrics read memory."""

from pegaref.serving.access import Access, explain
from pegaref.serving.connections import Connections
from pegaref.serving.descriptors import Reserve, connections_within, raise_limit
from pegaref.serving.direct import DirectAnswers
from pegaref.serving.engine import SERVICE as ENGINE_SERVICE
from pegaref.serving.engine import UNIMPLEMENTED, Engine
from pegaref.serving.health import SERVICE as HEALTH_SERVICE
from pegaref.serving.health import Health, HealthService
from pegaref.serving.http import Endpoints
from pegaref.serving.listening import (
    HttpServer,
    bind_grpc,
    bound_address,
    check_free,
    grpc_credentials,
    http_context,
    make_grpc_server,
    open_socket,
)
from pegaref.serving.metrics import Metrics
from pegaref.serving.rpc import GenericHandler, Service, Unimplemented
from pegaref.serving.sessions import Sessions
from pegaref.serving.turns import Turns

__all__ = [
    "ENGINE_SERVICE",
    "HEALTH_SERVICE",
    "UNIMPLEMENTED",
    "Access",
    "Connections",
    "DirectAnswers",
    "Endpoints",
    "Engine",
    "GenericHandler",
    "Health",
    "HealthService",
    "HttpServer",
    "Metrics",
    "Reserve",
    "Service",
    "Sessions",
    "Turns",
    "Unimplemented",
    "bind_grpc",
    "bound_address",
    "check_free",
    "connections_within",
    "explain",
    "grpc_credentials",
    "http_context",
    "make_grpc_server",
    "open_socket",
    "raise_limit",
]
