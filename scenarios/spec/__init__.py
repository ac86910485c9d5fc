"""What a user writes. A target file: how a server is started, watched, made to work and broken. A suite file:
which faults on which targets, and what must be seen.
"""

from scenarios.spec import overlay, suite_file, target_file
from scenarios.spec.scenario import Scenario
from scenarios.spec.suite import Row, Suite, Timing
from scenarios.spec.target import (
    Call,
    Client,
    CommandProbe,
    GrpcCall,
    GrpcProbe,
    HttpCall,
    HttpProbe,
    Probe,
    Target,
    TcpProbe,
    address,
)
from scenarios.spec.target_file import LoadedTarget

__all__ = [
    "Call",
    "Client",
    "CommandProbe",
    "GrpcCall",
    "GrpcProbe",
    "HttpCall",
    "HttpProbe",
    "LoadedTarget",
    "Probe",
    "Row",
    "Scenario",
    "Suite",
    "Target",
    "TcpProbe",
    "Timing",
    "address",
    "overlay",
    "suite_file",
    "target_file",
]
