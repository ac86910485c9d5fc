"""Target files: how a server is started, watched, made to work, and broken."""

from scenarios.target.layers import shipped
from scenarios.target.load import LoadedTarget, find, load
from scenarios.target.model import (
    Call,
    Client,
    GrpcCall,
    GrpcProbe,
    HttpCall,
    HttpProbe,
    Probe,
    Target,
    TcpProbe,
    place,
)

__all__ = [
    "Call",
    "Client",
    "GrpcCall",
    "GrpcProbe",
    "HttpCall",
    "HttpProbe",
    "LoadedTarget",
    "Probe",
    "Target",
    "TcpProbe",
    "find",
    "load",
    "place",
    "shipped",
]
