"""The endpoints of the control process. Nothing here can block: work goes to the registry's handle, and
health and metrics read memory."""

from pegaref.serving.access import Access, explain
from pegaref.serving.calls import CallServer
from pegaref.serving.connections import Connections
from pegaref.serving.descriptors import Reserve, connections_within, raise_limit
from pegaref.serving.direct import DirectAnswers
from pegaref.serving.engine import SERVICE as ENGINE_SERVICE
from pegaref.serving.engine import UNIMPLEMENTED, Engine
from pegaref.serving.health import SERVICE as HEALTH_SERVICE
from pegaref.serving.health import Health, HealthService
from pegaref.serving.http import Endpoints
from pegaref.serving.listening import HttpServer, bound_address, grpc_context, http_context, open_socket
from pegaref.serving.metrics import Metrics
from pegaref.serving.parts import PartLost, Parts
from pegaref.serving.relay import Relay
from pegaref.serving.rpc import Service
from pegaref.serving.sessions import Sessions
from pegaref.serving.turns import Turns

__all__ = [
    "ENGINE_SERVICE",
    "HEALTH_SERVICE",
    "UNIMPLEMENTED",
    "Access",
    "CallServer",
    "Connections",
    "DirectAnswers",
    "Endpoints",
    "Engine",
    "Health",
    "HealthService",
    "HttpServer",
    "Metrics",
    "PartLost",
    "Parts",
    "Relay",
    "Reserve",
    "Service",
    "Sessions",
    "Turns",
    "bound_address",
    "connections_within",
    "explain",
    "grpc_context",
    "http_context",
    "open_socket",
    "raise_limit",
]
